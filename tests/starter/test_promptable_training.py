"""Training the starter promptable model: scenes, lessons, the library's own numbers, resuming, the folder it leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskmill.data_contracts import LabelSpace
from maskmill.labelers import LabelItem
from maskmill.labelers.promptable import Config, load
from maskmill.starter.promptable_training import train as training
from maskmill.starter.promptable_training.lessons import Lesson, draw_lesson, loss
from maskmill.starter.promptable_training.model import (
    SIDE,
    decode,
    embeddings,
    new_model,
    new_processor,
    trunk_features,
)
from maskmill.starter.promptable_training.pictures import LEFT_OUT, Pictures, drawn_cutouts, load_pictures
from maskmill.starter.promptable_training.scenes import LEAST_AREA, compose

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """The drawings that ship, and photos of noise."""
    rng = np.random.default_rng(0)
    drawings = drawn_cutouts()[:40]
    photos = tuple(rng.integers(0, 256, (200, 260, 3)).astype(np.uint8) for _ in range(3))
    return Pictures(drawings[:20], drawings[20:], photos)


def test_a_scene_is_its_numbers_and_every_target_is_there(pictures: Pictures) -> None:
    for number in range(4):
        scene, again = (compose(np.random.default_rng(number), pictures, 160) for _ in range(2))
        assert np.array_equal(scene.image, again.image)
        assert scene.image.shape == (160, 160, 3)
        assert scene.targets
        for target, layers in enumerate(scene.targets):
            mask = scene.mask(target)
            assert mask.sum() >= LEAST_AREA
            assert set(np.unique(scene.owners[mask])) <= set(layers)


def test_prompts_point_at_what_they_mean(pictures: Pictures) -> None:
    scenes = [compose(np.random.default_rng(number), pictures, 160) for number in range(2)]
    shapes = set()
    for number in range(12):
        lesson = draw_lesson(np.random.default_rng(number), scenes, 3)
        assert lesson.masks.shape == (2, 3, 40, 40)
        shapes.add(tuple(sorted((name, value.shape[2]) for name, value in lesson.asked.items())))
        if "input_points" in lesson.asked:
            at, signs = lesson.asked["input_points"].long() // 4, lesson.asked["input_labels"]
            for b, p, n in np.ndindex(*signs.shape):
                share = lesson.masks[b, p, at[b, p, n, 1], at[b, p, n, 0]]
                assert share > 0 if signs[b, p, n] else share < 1
        if "input_boxes" in lesson.asked:
            boxes = lesson.asked["input_boxes"]
            assert (boxes[..., 2:] > boxes[..., :2]).all()
            assert boxes.min() >= 0
            assert boxes.max() <= 160
    assert len(shapes) > 2


def test_filled_lessons_want_boxes_filled(pictures: Pictures) -> None:
    scenes = [compose(np.random.default_rng(number), pictures, 160) for number in range(2)]
    lesson = draw_lesson(np.random.default_rng(0), scenes, 3, filled=True)
    assert set(lesson.asked) == {"input_boxes"}
    assert bool(lesson.near.all())
    for b, p in np.ndindex(2, 3):
        left, top, right, bottom = (float(v) for v in lesson.asked["input_boxes"][b, p])
        assert float(lesson.masks[b, p].sum()) * 16 == pytest.approx(
            (round(right) - round(left)) * (round(bottom) - round(top))
        )


def test_the_first_lessons_are_filled(pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def noted(rng: np.random.Generator, scenes: Any, prompts: int, *, filled: bool) -> Lesson:
        asked.append(filled)
        return draw_lesson(rng, scenes, prompts, filled=True)

    for name, value in {"BATCH": 1, "PROMPTS": 1, "FRESH": 1, "FILLED": 1, "Turn": TwoSteps}.items():
        monkeypatch.setattr(training, name, value)
    monkeypatch.setattr(training, "draw_lesson", noted)
    training.train(pictures, tmp_path, 1.0, last=False)
    assert asked == [True, False]


def test_a_prompt_is_not_drowned_by_the_picture(pictures: Pictures) -> None:
    torch.manual_seed(0)
    model = new_model()
    image = compose(np.random.default_rng(5), pictures, SIDE).image
    with torch.no_grad():
        coarse = embeddings(model, trunk_features(model, torch.from_numpy(image)[None]))[-1]
    waves = model.get_image_wide_positional_embeddings()
    assert 0.5 < float(coarse.std() / waves.std()) < 2
    assert float(model.prompt_encoder.point_embed.weight.std()) == pytest.approx(1, abs=0.2)
    places = model.prompt_encoder.shared_embedding.positional_embedding
    assert torch.equal(places, model.shared_image_embedding.positional_embedding)
    assert bool(((places != 0).sum(dim=0) == 1).all()), "a wave runs along one side"


def test_the_right_answer_costs_nothing_and_the_wrong_one_much() -> None:
    masks = torch.zeros(1, 1, 8, 8)
    masks[..., 2:6, 2:6] = 1
    lesson = Lesson({"input_boxes": torch.zeros(1, 1, 4)}, masks, torch.ones(1, 1, 8, 8, dtype=torch.bool))
    right = (40 * masks - 20)[:, :, None].repeat(1, 1, 3, 1, 1)
    best, figures = loss(right, torch.ones(1, 1, 3), lesson)
    assert float(best) < 0.05
    assert figures["iou"] == 1
    wrong, figures = loss(-right, torch.ones(1, 1, 3), lesson)
    assert float(wrong) > 10
    assert figures["best"] == 0


def test_training_computes_what_the_library_computes(pictures: Pictures) -> None:
    torch.manual_seed(0)
    model = new_model().eval()
    image = compose(np.random.default_rng(5), pictures, SIDE).image
    pixels = new_processor()(images=image, return_tensors="pt")["pixel_values"]
    box = torch.tensor([[[30.0, 40, 200, 210]]])
    with torch.no_grad():
        theirs = model.get_image_embeddings(pixels)
        ours = embeddings(model, trunk_features(model, torch.from_numpy(image)[None]))
        for one, other in zip(ours, theirs, strict=True):
            assert torch.allclose(one, other, atol=1e-4)
        masks, ious = decode(model, ours, {"input_boxes": box}, several=True)
        found = model(image_embeddings=theirs, input_boxes=box)
    assert torch.allclose(masks, found.pred_masks, atol=1e-4)
    assert torch.allclose(ious, found.iou_scores, atol=1e-4)


class TwoSteps:
    """A turn that ends after two steps, whatever the clock says."""

    def __init__(self) -> None:
        self.left = 2

    @classmethod
    def begin(cls, minutes: float, last: bool) -> "TwoSteps":
        return cls()

    @property
    def spent(self) -> float:
        return float(self.left <= 0)

    def rate(self, step: int, warmup: int) -> float:
        self.left -= 1
        return 1.0


def test_turns_resume_and_leave_a_folder_that_the_labeler_takes(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "BATCH", 1)
    monkeypatch.setattr(training, "PROMPTS", 2)
    monkeypatch.setattr(training, "FRESH", 1)
    monkeypatch.setattr(training, "Turn", TwoSteps)
    for last in (False, True):
        training.train(pictures, tmp_path, 1.0, last=last)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 4
    size = training.export(tmp_path, tmp_path / "model")
    assert size < 10e6
    card = (tmp_path / "model" / "README.md").read_text()
    assert "(4 steps of 1 scenes with 2 prompts each" in card
    assert "{" not in card
    engine = load(Config(model=str(tmp_path / "model"), tags="none"), LabelSpace.from_names(["thing"]))
    scene = compose(np.random.default_rng(7), pictures, 200)
    boxes = np.array([[1, 20, 20, 120, 130]], np.float32)
    (label,) = engine.label([LabelItem("a", scene.image[:150], boxes=boxes)])
    assert label.mask is None or label.mask.shape == (150, 200)


def test_what_is_measured_is_left_out(tmp_path: Path) -> None:
    assert {"horse", "people/", "clothes/"} <= set(LEFT_OUT)
    with pytest.raises(FileNotFoundError, match="found 0 cut-outs and 0 photos"):
        load_pictures(tmp_path)
