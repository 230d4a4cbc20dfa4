"""The scribble labeler by hand: a predictor whose answers are known, and every number that comes of them."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, LabelSpace, Reason
from maskmill.labelers import LabelItem
from maskmill.labelers.scribble import Config, ScribbleLabeler
from maskmill.labelers.scribble.labeler import surest
from maskmill.trainers.engine import PredictConfig, Prediction

SPACE = LabelSpace.from_names(["a", "b"])  # background 0, a = 1, b = 2
WHOLE = np.array([[[0.7, 0.1, 0.2]], [[0.2, 0.8, 0.35]], [[0.1, 0.1, 0.45]]], np.float32)  # (classes, 1, 3)
HALF = np.array([[[0.7, 0.5, 0.2]], [[0.2, 0.4, 0.35]], [[0.1, 0.1, 0.45]]], np.float32)


@dataclass
class Known:
    """Gives `WHOLE`, and `HALF` for the image at half its size; remembers how it was asked."""

    asked: list[PredictConfig] = field(default_factory=list)

    def predict(self, images: list[Any], config: PredictConfig) -> list[Prediction]:
        self.asked.append(config)
        p = HALF if config.scales == (0.5,) else WHOLE
        return [Prediction(np.log(p)) for _ in images]


def item(scribble: list[int] | None, class_ids: tuple[int, ...] = ()) -> LabelItem:
    strokes = None if scribble is None else np.array([scribble], np.uint8)
    return LabelItem("x", np.zeros((1, 3, 3), np.uint8), class_ids=class_ids, scribble=strokes)


def engine(**settings: Any) -> tuple[ScribbleLabeler, Known]:
    known = Known()
    config = Config(artifact="none", **{"confidence": 0.0, "class_filter": False, **settings})
    return ScribbleLabeler(config, SPACE, known, PredictConfig(batch=1)), known


def test_mask_confidence_and_quality_by_hand() -> None:
    labeler, known = engine()
    (found,) = labeler.label([item([IGNORE, 2, IGNORE])])
    assert found.mask is not None
    assert found.confidence is not None
    assert found.mask.tolist() == [[0, 2, 2]], "the stroke wins, the rest is the likeliest class"
    assert found.confidence.tolist() == [[round(255 * 0.7), 255, round(255 * 0.45)]]
    quality = json.loads(str(found.detail))
    assert quality["scribble_agreement"] == 0.0, "before the strokes are laid over"
    assert quality["entropy"] == pytest.approx(float(-(WHOLE * np.log(WHOLE)).sum(axis=0).mean()), abs=1e-4)
    assert quality["scale_residual"] == pytest.approx(0.4 / 3, abs=1e-4)
    assert quality["kept"] == 1.0
    assert [(c.scales, c.flip) for c in known.asked] == [((0.75, 1.0, 1.25), True), ((0.5,), False)]


def test_doubt_is_left_open_and_counted() -> None:
    (found,) = engine(confidence=0.5)[0].label([item(None)])
    assert found.mask is not None
    assert found.mask.tolist() == [[0, 1, IGNORE]]
    assert json.loads(str(found.detail))["kept"] == pytest.approx(2 / 3, abs=1e-4)
    (at,) = engine(confidence=0.4)[0].label([item(None)])
    assert at.mask is not None
    assert at.mask.tolist() == [[0, 1, 2]]
    (gone,) = engine(confidence=0.5, min_decided=0.7)[0].label([item(None)])
    assert gone.reason is Reason.LOW_CONFIDENCE
    assert "expected 70% of the pixels above 0.5, found 66.7%" in str(gone.detail)


def test_strokes_that_the_model_does_not_agree_with() -> None:
    for wanted, refused in ((0.5, False), (0.51, True)):
        (found,) = engine(min_agreement=wanted)[0].label([item([0, 2, IGNORE])])
        assert (found.reason is Reason.LOW_CONFIDENCE) == refused
    (without,) = engine(min_agreement=1.0)[0].label([item(None)])
    assert without.mask is not None


@pytest.mark.parametrize(
    ("scribble", "tags", "allowed"),
    [
        ([IGNORE, 1, IGNORE], (), {0, 1}),
        ([IGNORE] * 3, (2,), {0, 2}),
        (None, (), {0, 1, 2}),
        ([1, 2, 1], (), {0, 1, 2}),
    ],
)
def test_classes_that_are_neither_drawn_nor_tagged(
    scribble: list[int] | None, tags: tuple[int, ...], allowed: set[int]
) -> None:
    p: NDArray[np.float32] = engine(class_filter=True)[0]._filtered(WHOLE, item(scribble, tags))
    assert {c for c in range(3) if p[c].max() > 0} == allowed
    np.testing.assert_allclose(p.sum(axis=0), 1, rtol=1e-6)
    kept = np.where(np.isin(np.arange(3), list(allowed))[:, None, None], WHOLE, 0)
    np.testing.assert_allclose(p, kept / kept.sum(axis=0), rtol=1e-5)


def test_the_surest_share_of_each_class() -> None:
    labels = np.array([[1, 1, 1, 1, 2, 2]], np.uint8)
    sure = np.array([[10, 20, 30, 40, 5, 6]], np.uint8)
    assert surest(labels, sure, 1.0).all()
    assert surest(labels, sure, 0.5).tolist() == [[False, False, True, True, False, True]]
    (found,) = engine(keep_share=0.4)[0].label([item(None)])
    assert found.mask is not None
    assert found.mask.tolist() == [[0, 1, 2]], "one pixel of a class is its surest"


def test_defaults() -> None:
    config = Config(artifact="x")
    found = (config.scales, config.flip, config.class_filter, config.confidence, config.keep_share)
    assert found == ((0.75, 1.0, 1.25), True, True, 0.7, 1.0)
    assert (config.min_agreement, config.min_decided) == (0.0, 0.05)


def test_a_quarter_of_each_class_is_the_surest_quarter() -> None:
    labels = np.array([[0] * 4 + [1] * 4], np.uint8)
    certainty = np.array([[1, 2, 3, 4, 40, 30, 20, 10]], np.uint8)
    assert surest(labels, certainty, 0.25).tolist() == [[False] * 3 + [True, True] + [False] * 3]
