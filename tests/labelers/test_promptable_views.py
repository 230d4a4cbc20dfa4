"""What a promptable model is shown: views of a photo and its boxes, and answers that come back to their place."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskmill.data_contracts import LabelSpace
from maskmill.labelers import LabelItem
from maskmill.labelers.promptable import Config, Promptable, load
from maskmill.labelers.promptable.prompts import Prompt
from maskmill.labelers.promptable.views import View, views_of
from tests.labelers.model_folders import PROMPTABLE

PHOTO = np.random.default_rng(0).integers(0, 256, (60, 100, 3)).astype(np.uint8)
BOX = (30.0, 20.0, 50.0, 30.0)


def cut(box: tuple[float, float, float, float], zoom: float, **points: Any) -> View:
    (view,) = views_of(PHOTO, [Prompt(1, box, **points)], zoom)
    return view


def test_without_zoom_a_photo_is_one_view() -> None:
    prompts = [Prompt(1, BOX), Prompt(2, on=np.ones((1, 2), np.float32))]
    (view,) = views_of(PHOTO, prompts, None)
    assert view.positions == (0, 1)
    assert list(view.prompts) == prompts
    assert view.image is PHOTO


def test_a_zoomed_box_stands_in_the_middle_of_a_square() -> None:
    view = cut(BOX, 1.5)  # 20 long: 30 around (40, 25)
    assert view.at == (10, 25)
    np.testing.assert_array_equal(view.image, PHOTO[10:40, 25:55])
    assert view.prompts[0].box == (5.0, 10.0, 25.0, 20.0)


def test_cuts_end_where_the_photo_ends_and_are_never_empty() -> None:
    corner = cut((90.0, 50.0, 100.0, 60.0), 2)
    assert corner.image.shape[:2] == (15, 15)
    assert corner.prompts[0].box == (5.0, 5.0, 15.0, 15.0)
    for tiny in ((99.0, 59.0, 100.0, 60.0), (0.0, 0.0, 1.0, 1.0), (0.2, 0.2, 0.4, 0.3)):
        assert min(cut(tiny, 1).image.shape[:2]) >= 1


def test_points_move_with_the_cut_and_those_beside_it_are_not_asked() -> None:
    on, off = np.array([[40, 25]], np.float32), np.array([[26, 12], [90, 50], [24, 12]], np.float32)
    (prompt,) = cut(BOX, 1.5, on=on, off=off).prompts
    assert prompt.on.tolist() == [[15, 15]]
    assert prompt.off.tolist() == [[1, 2]]


def test_points_without_a_box_see_the_photo_whole() -> None:
    prompts = [Prompt(1, BOX), Prompt(2, on=np.ones((1, 2), np.float32))]
    whole, zoomed = views_of(PHOTO, prompts, 1.5)
    assert (whole.positions, zoomed.positions) == ((1,), (0,))


def test_an_answer_comes_back_to_its_place() -> None:
    view = cut(BOX, 1.5)
    found = view.restore(lambda logits, size: logits.expand(size), torch.ones(1, 1), (60, 100))
    assert found.shape == (60, 100)
    assert bool((found[10:40, 25:55] == 1).all())
    assert int((found > 0).sum()) == 30 * 30


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Promptable:
    folder: Path = tmp_path_factory.mktemp("views") / "edgetam"
    model = str(PROMPTABLE["edgetam"](folder))
    return load(Config(model=model, tags="none", zoom=1.5), LabelSpace.from_names(["a", "b"]))


def item(*boxes: tuple[float, ...]) -> LabelItem:
    return LabelItem("x", PHOTO, boxes=np.array(boxes, np.float32))


def test_a_zoomed_label_is_that_of_the_cut(engine: Promptable) -> None:
    plain = replace(engine, config=engine.config.model_copy(update={"zoom": None}))
    (whole,) = engine.label([item((1, *BOX))])
    (own,) = plain.label([LabelItem("cut", PHOTO[10:40, 25:55], boxes=np.array([[1, 5, 10, 25, 20]], np.float32))])
    assert whole.mask is not None
    assert own.mask is not None
    np.testing.assert_array_equal(whole.mask[10:40, 25:55], own.mask)
    assert whole.instances[0].score == own.instances[0].score
    outside = whole.mask.copy()
    outside[10:40, 25:55] = 0
    assert not outside.any()


def test_boxes_and_photos_do_not_change_with_their_companions(engine: Promptable) -> None:
    other = (2, 0.0, 0.0, 30.0, 60.0)
    both, alone = engine.label([item((1, *BOX), other), item((1, *BOX))])
    assert {one.score for one in alone.instances} <= {one.score for one in both.instances}
    (again,) = engine.label([item((1, *BOX), other)])
    assert both.mask is not None
    assert again.mask is not None
    np.testing.assert_array_equal(both.mask, again.mask)


def test_answers_keep_the_order_of_their_prompts(engine: Promptable) -> None:
    free = replace(engine, config=engine.config.model_copy(update={"clamp_to_boxes": True}))
    both = LabelItem("x", PHOTO, boxes=np.array([[2, *BOX]], np.float32), points=np.array([[1, 80, 50]], np.float32))
    (label,) = free.label([both])
    assert [one.class_id for one in label.instances] == [2, 1]
    boxed = label.instances[0].mask
    assert boxed is not None
    ys, xs = np.nonzero(boxed)
    assert 20 <= ys.min() <= ys.max() < 30, "clamped to the box in the photo"
    assert 30 <= xs.min() <= xs.max() < 50
