"""The co-saliency labeler by hand: maps that are known, and the masks, reasons and groups that come of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from maskmill.data_contracts import IGNORE, LabelSpace, Reason
from maskmill.labelers import LabelItem
from maskmill.labelers.co_saliency import Config, CoSaliency
from maskmill.trainers.dcfm.predict import GroupMap
from maskmill.trainers.engine import PredictConfig

SPACE = LabelSpace.from_names(["a", "b"])
SHARE = np.array([[0.2, 0.5, 0.9, 0.6]], np.float64)


@dataclass
class Known:
    """`SHARE` for every image; `agreements` says how each image of a group agrees, by the group's size."""

    agreements: Callable[[int], list[float]] = lambda n: [0.8] * n
    config: PredictConfig = field(default_factory=PredictConfig)
    asked: list[list[int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def predict_group(self, images: list[Any], config: PredictConfig) -> list[GroupMap]:
        self.asked.append([int(image[0, 0, 0]) for image in images])
        self.batches.append(config.batch)
        logits = np.log(SHARE / (1 - SHARE)).astype(np.float32)
        return [GroupMap(logits, one) for one in self.agreements(len(images))]


def item(number: int, group: str | None = "g", *class_ids: int) -> LabelItem:
    return LabelItem(f"{number}", np.full((1, 4, 3), number, np.uint8), class_ids=class_ids, group=group)


def engine(known: Known | None = None, space: LabelSpace = SPACE, **settings: Any) -> tuple[CoSaliency, Any]:
    predictor: Any = known or Known()
    return CoSaliency(Config(artifact="none", **settings), space, predictor), predictor


def test_mask_and_confidence_by_hand() -> None:
    (found,) = engine()[0].label([item(0)])
    assert found.mask is not None
    assert found.confidence is not None
    assert found.mask.tolist() == [[0, 1, 1, 1]], "the threshold itself is object"
    assert found.confidence.tolist() == [[204, 128, 230, 153]]
    assert found.detail == "agreement with its group 0.80"
    (strict,) = engine(threshold=0.55, confidence=0.65)[0].label([item(0)])
    assert strict.mask is not None
    assert strict.mask.tolist() == [[0, IGNORE, 1, IGNORE]]


def test_a_space_without_background_leaves_the_rest_open() -> None:
    bare = LabelSpace(name="bare", classes=SPACE.classes, background_id=None)
    (found,) = engine(space=bare)[0].label([item(0)])
    assert found.mask is not None
    assert found.mask.tolist() == [[IGNORE, 1, 1, 1]]


def test_groups_go_whole_in_order_of_ids_and_images_without_one_alone() -> None:
    labeler, known = engine(batch=3)
    found = labeler.label([item(3, "x"), item(7, None), item(1, "y"), item(2, "x"), item(8, None), item(0, "x")])
    assert known.asked == [[0, 2, 3], [7], [1], [8]]
    assert set(known.batches) == {3}
    assert all(label.mask is not None for label in found)


@pytest.mark.parametrize(
    ("tags", "class_id"),
    [(((2,), (2, 1)), 2), (((1, 2), (1, 2)), 1), (((2,), (1,)), 1), (((), ()), 1), (((2, 9), (2, 9)), 2)],
)
def test_the_class_that_all_are_tagged_with(tags: tuple[tuple[int, ...], ...], class_id: int) -> None:
    found = engine()[0].label([item(n, "g", *ids) for n, ids in enumerate(tags)])
    assert [int(label.mask.max()) for label in found if label.mask is not None] == [class_id] * 2


def test_strangers_are_put_out_where_two_are_left() -> None:
    def third_disagrees(count: int) -> list[float]:
        return [0.9, 0.9, 0.2] if count == 3 else [0.7] * count

    labeler, known = engine(Known(third_disagrees), min_agreement=0.5)
    found = labeler.label([item(n) for n in range(3)])
    assert known.asked == [[0, 1, 2], [0, 1]]
    assert [label.reason for label in found] == [None, None, Reason.LOW_CONFIDENCE]
    assert found[0].detail == "agreement with its group 0.70", "of the group without the stranger"
    assert "found 0.20" in str(found[2].detail)
    at, known = engine(Known(lambda n: [0.5] * n), min_agreement=0.5)
    at.label([item(n) for n in range(3)])
    assert known.asked == [[0, 1, 2]], "as much as is asked for is enough"
    alone, known = engine(Known(lambda n: [0.9] + [0.1] * (n - 1)), min_agreement=0.5)
    kept = alone.label([item(n) for n in range(3)])
    assert known.asked == [[0, 1, 2]], "one image is no group: nobody is put out"
    assert all(label.mask is not None for label in kept)


@pytest.mark.parametrize(("least", "refused"), [(0.75, False), (0.76, True)])
def test_too_little_of_the_object(least: float, refused: bool) -> None:
    (found,) = engine(min_area=least)[0].label([item(0)])
    assert (found.reason is Reason.LOW_CONFIDENCE) == refused
    if refused:
        assert "expected 76.0% of the image to be object, found 75.0%" in str(found.detail)


def test_defaults() -> None:
    config = Config(artifact="x")
    found = (config.threshold, config.confidence, config.refine, config.min_area, config.min_agreement, config.batch)
    assert found == (0.5, 0.0, "none", 0.0, -1.0, 8)


def test_refined_maps_are_shares_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a refiner's two maps sum up to, the object's share of them is what counts."""
    monkeypatch.setattr("maskmill.labelers.co_saliency.labeler.par", lambda pixels, stack: 3 * stack)
    labeler, _ = engine(refine="par")
    share = SHARE.astype(np.float32)
    np.testing.assert_allclose(labeler._refined(item(0), share), share, rtol=1e-6)
    doubled = (lambda items, options: [np.stack([0 * items[0][1][0], 2 * items[0][1][1]])],)
    monkeypatch.setattr("maskmill.labelers.co_saliency.labeler.refine_many", doubled[0])
    np.testing.assert_allclose(engine(refine="crf")[0]._refined(item(0), share), 1, rtol=1e-6)
