"""SDS with SAM 3 as judge by names: its instances are the library's, and the mask is held against them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from maskmill.curation.sds.asf import asf_score
from maskmill.curation.sds.scorer import SdsScorer
from maskmill.vision.concepts import Concepts
from maskmill.vision.pretrained import ModelError
from tests.curation.sds_samples import SPACE, config, image_of, mask_of, table
from tests.labelers.model_folders import sam2, sam3

torch.set_num_threads(1)
LEAST = 0.3
library: Any = transformers  # carries no types


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sam3(tmp_path_factory.mktemp("judge") / "sam3")


@pytest.fixture(scope="module")
def model(folder: Path) -> Concepts:
    return Concepts.load(folder, "cpu", "fp32")


def answers(model: Concepts, image: np.ndarray, word: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n,) and masks bool (n, H, W) above LEAST as the library's own road gives them."""
    processor = library.Sam3Processor(model.processor, model.tokenizer)
    inputs = processor(images=Image.fromarray(image), text=word, return_tensors="pt")
    size = inputs.pop("original_sizes").tolist()
    with torch.no_grad():
        found = model.model(**inputs)
    (done,) = processor.post_process_instance_segmentation(found, threshold=LEAST, target_sizes=size)
    return done["scores"].numpy(), done["masks"].numpy() > 0


@pytest.mark.parametrize("size", [(64, 64), (40, 90)])
def test_instances_are_those_of_the_library(model: Concepts, size: tuple[int, int]) -> None:
    image, words = image_of(1, *size), ["cat", "horse"]
    found = list(model.find(image, words, LEAST))
    assert found
    for number, word in enumerate(words):
        scores, masks = answers(model, image, word)
        own = [one for one in found if one.word == number]
        np.testing.assert_allclose([one.score for one in own], scores, atol=1e-4)
        for one, mask in zip(own, masks, strict=True):
            assert one.mask().shape == size
            assert (one.mask() != mask).mean() < 0.002


def test_a_thin_photo_has_masks_of_its_own_size(model: Concepts) -> None:
    assert {one.mask().shape for one in model.find(image_of(2, 3, 120), ["dog"], 0.0)} == {(3, 120)}


def test_the_score_is_the_overlap_with_what_lies_under_the_words(model: Concepts, folder: Path) -> None:
    by_boxes = {"model": str(folder), "prompts": "names", "threshold": LEAST}
    options = config(judge="promptable", by_boxes=by_boxes, mask_score="asf")
    image, ids = image_of(2), (1, 3)
    (row,) = SdsScorer(options, SPACE).score(table([(image, ids)]), 0).to_pylist()
    label, best = np.zeros((64, 64), np.uint8), np.zeros((64, 64))
    for class_id in ids:
        for score, mask in zip(*answers(model, image, SPACE.by_id[class_id].name), strict=True):
            won = mask & (score > best)
            label[won], best[won] = class_id, score
    assert set(ids) & set(np.unique(label).tolist())
    expected = asf_score(mask_of(ids), label, ids, options.ignore_policy)
    assert row["asf"] == pytest.approx(expected.pooled, abs=0.01)


def test_a_model_that_reads_no_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"masks from words \(sam3, sam3_video\), found 'sam2"):
        Concepts.load(sam2(tmp_path / "m"), "cpu", "fp32")
