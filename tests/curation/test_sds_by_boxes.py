"""SDS with a promptable model as judge: what it draws for a mask's boxes, and that the mask is held against it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from maskmill.curation.sds.asf import asf_score
from maskmill.curation.sds.by_boxes import MOST, drawn, part_boxes
from maskmill.curation.sds.config import SdsConfig
from maskmill.curation.sds.scorer import SdsScorer, identity
from maskmill.data_contracts import FOR_HASH
from maskmill.vision.promptable import load_family
from maskmill.vision.promptable.ask import Question, ask
from tests.curation.sds_samples import SPACE, config, image_of, mask_of, table
from tests.labelers.model_folders import sam2

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sam2(tmp_path_factory.mktemp("judge") / "sam2")


def test_parts_have_boxes_and_each_class_its_largest() -> None:
    mask = np.zeros((40, 50), np.uint8)
    mask[2:10, 3:20] = 1
    mask[20:26, 5:12] = 1
    mask[30:33, 40:43] = 2  # all that there is of it, 9 pixels
    mask[38, 0:3] = 1  # a crumb
    classes, boxes = part_boxes(mask, (1, 2))
    found = {(i, *(int(v) for v in box)) for i, box in zip(classes, boxes, strict=True)}
    assert found == {(1, 3, 2, 20, 10), (1, 5, 20, 12, 26), (2, 40, 30, 43, 33)}


def test_no_more_boxes_than_a_call_can_pay_for() -> None:
    mask = np.zeros((160, 160), np.uint8)
    for number in range(100):
        y, x = divmod(number, 10)
        mask[16 * y : 16 * y + 5, 16 * x : 16 * x + 5] = 1
    mask[150:154, 150:154] = 2
    classes, boxes = part_boxes(mask, (1, 2))
    assert len(classes) == len(boxes) == MOST
    assert 2 in classes


def test_the_better_scored_box_owns_a_pixel(folder: Path) -> None:
    family = load_family(folder, torch.device("cpu"), "fp32")
    image = image_of(3)
    boxes = np.array([[2, 2, 30, 30], [10, 8, 40, 44], [4, 20, 28, 50]], np.float32)
    (asked,) = ask(family, [Question(image, boxes)], 1)
    masks = [(asked.restored(one.logits) > 0).numpy() for one in asked.found]
    label = drawn(asked, [1, 2, 3], 0)
    scores = np.array([one.score for one in asked.found])
    for y, x in np.ndindex(*label.shape):
        holders = [i for i in range(3) if masks[i][y, x]]
        assert label[y, x] == (1 + max(holders, key=lambda i: scores[i]) if holders else 0)


def test_the_score_is_the_overlap_with_the_models_mask(folder: Path) -> None:
    options = config(judge="promptable", by_boxes={"model": str(folder)}, mask_score="asf")
    image, ids = image_of(2), (1, 3)
    (row,) = SdsScorer(options, SPACE).score(table([(image, ids)]), 0).to_pylist()
    mask = mask_of(ids)
    classes, boxes = part_boxes(mask, ids)
    family = load_family(folder, torch.device("cpu"), "fp32")
    (asked,) = ask(family, [Question(image, boxes)], 1)
    expected = asf_score(mask, drawn(asked, classes, 0), ids, options.ignore_policy)
    assert row["asf"] == pytest.approx(expected.pooled, abs=1e-6)
    assert row["ignore_fraction"] == 0


def test_photos_are_asked_together_and_none_depends_on_its_companions(folder: Path) -> None:
    options = config(judge="promptable", by_boxes={"model": str(folder)}, mask_score="asf")
    scorer = SdsScorer(options, SPACE)
    scorer._batches.size = 3
    samples = table([(image_of(2), (1, 3)), (image_of(3), (2,)), (image_of(4), (1,)), (image_of(5), (2, 3))])
    together = scorer.score(samples, 0).to_pylist()
    assert together == [row for at in range(4) for row in scorer.score(samples.slice(at, 1), 0).to_pylist()]


def test_a_judge_changes_the_hash_and_no_judge_does_not(folder: Path) -> None:
    assert not {"judge", "by_boxes"} & set(SdsConfig().model_dump(mode="json", context=FOR_HASH))
    judged = config(judge="promptable", by_boxes={"model": str(folder)})
    assert "judge weights" in identity(judged)


def test_a_judge_without_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected `by_boxes\.model`"):
        SdsConfig.model_validate({"judge": "promptable"})
