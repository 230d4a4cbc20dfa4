"""scribble: conformance, strokes kept as given, class filter, doubt, quality, and foreign label spaces."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from maskmill.data_contracts import IGNORE, LabelSpace, Reason
from maskmill.labelers import Labeler, LabelItem, get_labeler
from maskmill.labelers.scribble import Config, ScribbleLabeler, load
from maskmill.labelers.scribble.labeler import agreement, surest
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.vision.scribbles import simulate_scribble
from tests.labelers.conformance import LabelerConformance
from tests.trainers import shapes
from tests.trainers.scribble_data import write_scribbled


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that has hardly been trained: its answers are doubtful everywhere."""
    folder = tmp_path_factory.mktemp("model")
    settings = {
        "segmenter": {"encoder": "mobilenetv3_small_050", "weights": "random"},
        "augment": {"size": 32},
        "steps": 2,
        "batch": 2,
        "head_widths": (4, 4, 8, 8),
        "runtime": {"threads": 1, "progress": False},
    }
    data = write_scribbled(folder / "data", 3, shapes.SPACE)
    config = TrainConfig(trainer="dfr", label_space=shapes.SPACE, data=data, settings=settings)
    return train(config, str(folder / "run"), str(folder / "artifact"))


class TestScribble(LabelerConformance):
    name = "scribble"
    settings: ClassVar = {"confidence": 0.0, "scales": (1.0,)}

    def item(self, number: int, height: int = 48, width: int = 56) -> LabelItem:
        image, mask = shapes.draw_scene(number, height, width)
        scribble = simulate_scribble(mask, str(number)) if number % 2 == 0 else None
        return LabelItem(f"scene {number}", image, scribble=scribble)

    @pytest.fixture(autouse=True, scope="class")
    def _trained(self, artifact: str) -> None:
        type(self).settings = {**TestScribble.settings, "artifact": artifact}

    @pytest.fixture(scope="class")
    def engine(self, artifact: str) -> Labeler:
        return load(Config(artifact=artifact, confidence=0.0, scales=(1.0,)), self.space)


def engine(artifact: str, **settings: Any) -> ScribbleLabeler:
    return load(Config(**{"artifact": artifact, "confidence": 0.0, "scales": (1.0,), **settings}), shapes.SPACE)


def scene(number: int) -> LabelItem:
    image, mask = shapes.draw_scene(number)
    return LabelItem(str(number), image, scribble=simulate_scribble(mask, str(number)))


def test_strokes_stay_as_given_and_labels_repeat_to_the_byte(artifact: str) -> None:
    item = scene(1)
    assert item.scribble is not None
    drawn = item.scribble != IGNORE
    for settings in ({}, {"keep_share": 0.5}):
        first, again = (engine(artifact, **settings).label([item])[0] for _ in range(2))
        assert first.mask is not None
        assert first.confidence is not None
        assert again.mask is not None
        np.testing.assert_array_equal(first.mask[drawn], item.scribble[drawn])
        assert (first.confidence[drawn] == 255).all()
        np.testing.assert_array_equal(first.mask, again.mask)


def test_classes_that_nobody_drew_cannot_occur(artifact: str) -> None:
    item = scene(1)
    assert item.scribble is not None
    drawn = set(np.unique(item.scribble).tolist()) - {IGNORE}
    assert drawn < {0, 1, 2, 3}
    mask = engine(artifact).label([item])[0].mask
    assert mask is not None
    assert set(np.unique(mask).tolist()) <= drawn
    p = engine(artifact, class_filter=False)._filtered(np.full((4, 2, 2), 0.25, np.float32), item)
    np.testing.assert_allclose(p, 0.25)


def test_doubtful_pixels_become_255_and_too_many_an_abstention(artifact: str) -> None:
    item = scene(1)
    assert item.scribble is not None
    doubtful = engine(artifact, confidence=0.999, min_decided=0.0).label([item])[0]
    assert doubtful.mask is not None
    np.testing.assert_array_equal(doubtful.mask, item.scribble)
    gone = engine(artifact, confidence=0.999, min_decided=0.9).label([item])[0]
    assert gone.reason is Reason.LOW_CONFIDENCE
    disagrees = engine(artifact, min_agreement=1.0).label([item])[0]
    assert disagrees.reason is Reason.LOW_CONFIDENCE
    assert "of the strokes' pixels" in str(disagrees.detail)


def test_quality_is_told_in_detail(artifact: str) -> None:
    quality = json.loads(str(engine(artifact).label([scene(1)])[0].detail))
    assert set(quality) == {"scribble_agreement", "entropy", "scale_residual", "kept"}
    assert quality["kept"] == 1.0
    bare = json.loads(str(engine(artifact).label([LabelItem("a", scene(1).image)])[0].detail))
    assert bare["scribble_agreement"] is None


def test_agreement_and_surest() -> None:
    labels = np.array([[0, 1, 1, 1]], np.uint8)
    assert agreement(labels, np.array([[0, 0, IGNORE, 1]], np.uint8)) == pytest.approx(2 / 3, abs=1e-4)
    assert agreement(labels, np.full((1, 4), IGNORE, np.uint8)) is None
    kept = surest(labels, np.array([[10, 200, 100, 150]], np.uint8), 0.5)
    assert kept.tolist() == [[True, True, False, True]]


def test_foreign_label_spaces_are_refused(artifact: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="label in the space that it was trained in"):
        load(Config(artifact=artifact), LabelSpace.from_names(["x"]))
    with pytest.raises(FileNotFoundError, match="train it first"):
        get_labeler("scribble").stamps(Config(artifact=str(tmp_path)))
