"""few_shot: what is made of a map: shares of both priors, thresholds, edges, confidence, what lies outside."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskmill.data_contracts import IGNORE, LabelClass, LabelSpace, Uint8Array
from maskmill.labelers import LabelItem
from maskmill.labelers.few_shot import labeler as module
from maskmill.labelers.few_shot.config import Config
from maskmill.labelers.few_shot.labeler import Engine, FewShot, PriorEngine, TrainedEngine, best_threshold
from maskmill.labelers.few_shot.support import Exemplar
from maskmill.trainers.few_shot.priors import ClipPriors
from tests.trainers import shapes

TINY = str(Path(__file__).parents[1] / "data" / "tiny_clip")

IMAGE: Uint8Array = np.zeros((20, 30, 3), np.uint8)
RAMP = np.tile(np.linspace(0, 1, 30, dtype=np.float32), (20, 1))


class Fixed(Engine):
    """The same map for every image."""

    threshold = 0.5

    def map(self, image: Uint8Array) -> Any:
        return RAMP


def config(**settings: Any) -> Config:
    return Config.model_validate({"support": "none", "class_name": "hat", "refine": "none", **settings})


def mask_of(background: int | None = None, **settings: Any) -> Uint8Array:
    found = FewShot(config(**settings), Fixed(), 7, background).label([LabelItem("a", IMAGE)])[0]
    assert found.mask is not None
    return found.mask


def test_what_lies_outside_is_background_or_undecided() -> None:
    assert set(np.unique(mask_of()).tolist()) == {7, IGNORE}
    assert set(np.unique(mask_of(background=3)).tolist()) == {3, 7}
    assert np.array_equal(mask_of(background=0) == 7, RAMP >= 0.5)


def test_unsure_pixels_are_undecided() -> None:
    unsure = mask_of(background=0, confidence=0.8) == IGNORE
    assert np.array_equal(unsure, np.maximum(RAMP, 1 - RAMP) < 0.8)
    assert not (mask_of(background=0) == IGNORE).any()


def test_too_little_of_the_class_is_none() -> None:
    assert FewShot(config(min_share=0.6), Fixed(), 7, 0).label([LabelItem("a", IMAGE)])[0].mask is None
    assert FewShot(config(min_share=0.4), Fixed(), 7, 0).label([LabelItem("a", IMAGE)])[0].mask is not None


def test_edges_are_followed_for_so_many_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[tuple[int, ...], int]] = []

    def turned(image: torch.Tensor, maps: torch.Tensor, iterations: int) -> torch.Tensor:
        seen.append((tuple(image.shape), iterations))
        return maps.flip(1)

    monkeypatch.setattr(module, "par", turned)
    turned_mask = mask_of(background=0, refine="par", par_iterations=4)
    assert seen == [((1, 3, 20, 30), 4)], "never enlarged"
    assert ((turned_mask == 7) == (RAMP < 0.5)).mean() > 0.9, "what refinement says counts"
    large = np.tile(np.linspace(0, 1, 128, dtype=np.float32), (96, 1))
    monkeypatch.setattr(Fixed, "map", lambda *_: large)
    FewShot(config(refine="par", refine_side=64), Fixed(), 7, 0).label(
        [LabelItem("a", np.zeros((96, 128, 3), np.uint8))]
    )
    assert seen[1][0] == (1, 3, 48, 64)


def test_both_priors_have_their_share() -> None:
    class Maps:
        def encode(self, image: Uint8Array) -> None: ...

        def vvp(self, query: None, shots: Any) -> torch.Tensor:
            return torch.stack([torch.full((4, 6), 0.4), torch.full((4, 6), 0.6)])

        def vtp(self, query: None, class_id: int) -> torch.Tensor:
            return torch.full((4, 6), 0.1)

    engine = PriorEngine.__new__(PriorEngine)
    plain = {"product_blocks": 0, "product_text": False}
    engine.config, engine.priors = config(visual=0.7, priors=plain), Maps()  # type: ignore[assignment]
    found, peak = engine._raw(IMAGE, [])
    np.testing.assert_allclose(found, np.full((20, 30), 0.7 * 0.5 + 0.3 * 0.1), atol=1e-6)
    assert peak == pytest.approx(0.7 * 0.5 + 0.3 * 0.1)


@pytest.mark.parametrize("shots", ["mean", "concat"])
def test_the_product_takes_the_place_of_the_match(shots: str) -> None:
    """With `product_text` it is multiplied by the text's root as well; the peak stays that of the mix."""
    count = 2 if shots == "concat" else 1
    ramp = torch.linspace(0, 1, 24).view(4, 6)

    class Maps:
        def encode(self, image: Uint8Array) -> None: ...

        def vvp(self, query: None, shots: Any) -> torch.Tensor:
            return torch.cat([torch.full((2 * count, 4, 6), 0.5), ramp.repeat(count, 1, 1)])

        def vtp(self, query: None, class_id: int) -> torch.Tensor:
            return 0.2 * ramp.flip(0)

    engine = PriorEngine.__new__(PriorEngine)
    engine.priors = Maps()  # type: ignore[assignment]
    image = np.zeros((4, 6, 3), np.uint8)
    for with_text in (False, True):
        options = {"product_blocks": 2, "product_text": with_text, "shots": shots}
        engine.config = config(visual=0.7, priors=options)
        found, peak = engine._raw(image, [None] * count)  # type: ignore[list-item]
        joint = ramp * (ramp.flip(0) + 1e-3).sqrt() if with_text else 0.7 * ramp + 0.06 * ramp.flip(0)
        np.testing.assert_allclose(found, joint.clamp(0, 1), atol=1e-5)
        assert peak == pytest.approx(0.7 * 0.5 + 0.3 * 0.2)


def test_the_product_sees_the_cut_out_object() -> None:
    image, mask = shapes.draw_scene(0, 64, 64)
    object_ = (mask == mask[(mask > 0) & (mask < 255)][0]).astype(np.uint8)
    views = []
    for options in (
        {"product_blocks": 1},
        {"product_blocks": 1, "mask_image": True},
        {"product_blocks": 0, "product_text": False},
    ):
        small = {"model": TINY, "pretrained": None, "match_side": 64, "text_side": 64, **options}
        engine = PriorEngine.__new__(PriorEngine)
        engine.config = config(priors=small)
        engine.priors = ClipPriors(engine.config.priors, {1: "box"})
        views.append((engine._view(Exemplar("a", image, object_)), engine.priors.encode(image, text=False)))
    (cut, whole), (masked, _), (plain, _) = views
    assert torch.equal(cut.blocks, whole.blocks)
    assert not torch.allclose(cut.deep, whole.deep)  # type: ignore[arg-type]
    torch.testing.assert_close(cut.deep, masked.deep)
    assert plain.deep is None


def test_a_lone_support_and_ignored_pixels() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[:5], mask[5:] = 1, IGNORE
    one = Exemplar("a", np.zeros((10, 10, 3), np.uint8), mask)
    assert best_threshold(lambda *_: RAMP, [one], [None], 0.65) == 0.65  # type: ignore[list-item]
    map_ = np.full((10, 10), 0.35, np.float32)
    assert module._iou_curve(map_, mask)[0] == 1, "what is ignored is no mistake"
    assert module._iou_curve(map_, mask)[-1] == 0


def test_the_threshold_that_is_best_for_all_supports_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that is best for a single one of them."""
    curves = {0: np.zeros(25), 1: np.zeros(25)}
    curves[0][[3, 9]], curves[1][9] = (1.0, 0.8), 0.8
    monkeypatch.setattr(module, "_iou_curve", lambda map_, mask: curves[int(mask[0, 0])])
    shown = [Exemplar("a", np.zeros((2, 2, 3), np.uint8), np.full((2, 2), n, np.uint8)) for n in (0, 1)]
    found = best_threshold(lambda *_: RAMP, shown, [None, None], 0.65)  # type: ignore[list-item]
    assert found == pytest.approx(float(module.THRESHOLDS[9]))


def test_a_trained_network_is_asked_by_the_classes_text() -> None:
    asked: list[str] = []

    class Predictor:
        space = LabelSpace(name="s", classes=(LabelClass(id=1, name="hat", prompt="straw hat"),))

        def supports(self, pairs: Any, name: str) -> None:
            asked.append(name)

    for name in ("hat", "glove"):
        given = config(class_name=name, threshold=0.7)
        engine = TrainedEngine(given, Predictor(), [])  # type: ignore[arg-type]
        assert engine.threshold == 0.7
    assert asked == ["straw hat", "glove"]
    assert TrainedEngine(config(), Predictor(), []).threshold == 0.5  # type: ignore[arg-type]
