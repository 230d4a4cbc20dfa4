"""What a photo's weak label says to a promptable model, and how its answers become one label."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskmill.data_contracts import IGNORE, check_instances
from maskmill.labelers import LabelItem
from maskmill.labelers.detect import Found
from maskmill.labelers.promptable import Config, Promptable, load
from maskmill.labelers.promptable.masks import Answer, compose, owned, unsure
from maskmill.labelers.promptable.prompts import Prompt, calls, item_prompts, map_prompts, stroke_points
from maskmill.labelers.promptable.views import views_of
from maskmill.vision.batches import Batches, stacked, thickened
from maskmill.vision.pretrained import ModelError, check_family, model_fingerprint, model_folder
from maskmill.vision.promptable.readings import best_reading, stability
from tests.labelers.model_folders import owlv2, sam2
from tests.labelers.test_clip_cam import TINY
from tests.trainers import shapes

torch.set_num_threads(1)
IMAGE = np.zeros((40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sam2(tmp_path_factory.mktemp("sam2") / "m")


def engine(folder: Path, **changes: Any) -> Promptable:
    return load(Config.model_validate({"model": str(folder), **changes}), shapes.SPACE)


def item(**known: Any) -> LabelItem:
    kinds = {"boxes": 5, "points": 3}
    arrays: dict[str, Any] = {
        k: np.array(v, np.float32).reshape(-1, kinds[k]) if k in kinds else v for k, v in known.items()
    }
    return LabelItem("one", IMAGE, **arrays)


def test_points_in_a_box_belong_to_it_and_those_of_others_say_no() -> None:
    boxes = [[1, 0, 0, 50, 40], [1, 5, 5, 20, 20], [2, 30, 5, 45, 30]]
    points = [[1, 10, 10], [2, 12, 12], [0, 35, 10], [2, 5, 39], [3, 59, 0], [2, 99, 9], [7, 1, 1]]
    found = item_prompts(item(boxes=boxes, points=points), shapes.SPACE)
    outer, inner, other, second, third = found
    assert (outer.class_id, outer.box, len(outer.on)) == (1, (0, 0, 50, 40), 0)
    assert inner.on.tolist() == [[10, 10]], "the smallest box that holds it"
    assert inner.off.tolist() == [[12, 12]]
    assert sorted(outer.off.tolist()) == [[5, 39], [12, 12], [35, 10]]
    assert other.off.tolist() == [[35, 10]], "background"
    assert (second.class_id, second.on.tolist()) == (2, [[12, 12], [5, 39]]), "points outside of boxes of their class"
    assert (third.class_id, third.box, third.on.tolist()) == (3, None, [[59, 0]])
    assert len(third.off) == 4


def test_points_are_one_object_or_each_its_own() -> None:
    points = item(points=[[1, 2, 3], [1, 8, 9], [2, 4, 4]])
    assert [len(p.on) for p in item_prompts(points, shapes.SPACE)] == [2, 1]
    assert [len(p.on) for p in item_prompts(points, shapes.SPACE, objects="each")] == [1, 1, 1]


def test_scores_of_boxes_weigh_their_objects() -> None:
    boxes = item(boxes=[[9, 0, 0, 5, 5], [1, 0, 0, 5, 5], [2, 1, 1, 9, 9]], box_scores=np.array([0.1, 0.5, 0.25]))
    assert [p.weight for p in item_prompts(boxes, shapes.SPACE)] == [0.5, 0.25]


def test_a_box_ends_where_the_photo_does() -> None:
    (found,) = item_prompts(item(boxes=[[1, -4, -2, 70, 41]]), shapes.SPACE)
    assert found.box == (0, 0, 60, 40)


def test_strokes_give_points_along_them_and_background_says_no() -> None:
    scribble = np.full((40, 60), IGNORE, np.uint8)
    scribble[10, 5:46] = 1
    scribble[30:33, 5:46] = 0
    (found,) = item_prompts(item(scribble=scribble), shapes.SPACE, stroke_points=3)
    assert sorted(found.on.tolist()) == [[5, 10], [25, 10], [45, 10]], "both ends and the middle"
    assert len(found.off) == 3
    assert (found.off[:, 1] == 31).all(), "the middle line of a thick stroke"
    scribble[20, 5:9] = 1
    both = item_prompts(item(scribble=scribble), shapes.SPACE, objects="each", stroke_points=3)
    assert [len(p.on) for p in both] == [3, 3]


def test_a_dot_of_a_stroke_is_one_point() -> None:
    assert stroke_points(np.ones((1, 1), bool), 5).tolist() == [[0, 0]]
    assert len(stroke_points(np.ones((9, 2), bool), 50)) <= 18


def test_regions_of_a_class_map_become_boxes_with_their_peak() -> None:
    one = np.zeros((20, 30), np.float32)
    one[2:8, 3:9], one[4, 5] = 0.8, 1.0
    one[12:17, 20:26] = 0.7
    one[0, 29] = 0.9
    maps = np.stack([one, np.zeros_like(one)])
    first, second = map_prompts(maps, [1, 2], (20, 30), 0.5, 0.25)
    assert (first.class_id, first.box, first.on.tolist()) == (1, (3, 2, 9, 8), [[5, 4]])
    assert second.box == (20, 12, 26, 17)
    assert len(map_prompts(maps, [1, 2], (20, 30), 0.95, 1.0)) == 1
    faint = map_prompts(0.4 * maps, [1, 2], (20, 30), 0.5, 0.25)
    assert [p.box for p in faint] == [first.box, second.box], "above a share of the map's own peak"


def test_prompts_of_one_shape_share_a_call() -> None:
    at = np.zeros((2, 2), np.float32)
    prompts = [
        Prompt(1, (0, 0, 1, 1)),
        Prompt(1, None, at),
        Prompt(2, (0, 0, 2, 2)),
        Prompt(2, (0, 0, 3, 3), at, at[:1]),
    ]
    found = list(calls(prompts, 9))
    assert [positions for positions, _ in found] == [[0, 2], [1], [3]]
    assert found[2][1].signs is not None
    assert found[2][1].signs.tolist() == [[1, 1, 0]]
    assert [positions for positions, _ in calls(prompts, 1)] == [[0], [2], [1], [3]]


def test_stability_is_the_iou_of_two_thresholds() -> None:
    logits = torch.tensor([[[2.0, 0.5, -0.5, -2.0]], [[-3.0, -3.0, -3.0, -3.0]]])
    assert stability(logits, 1.0).tolist() == [pytest.approx(1 / 3), 0.0]


def test_the_reading_with_the_best_product_is_taken() -> None:
    steady, shaky = torch.full((4, 4), 5.0), torch.zeros(4, 4)
    shaky[0, 0] = 5.0
    logits = torch.stack([shaky, steady, steady + 1])[None]
    chosen, score = best_reading(logits, torch.tensor([[0.9, 0.6, 0.6]]), logits, 1.0)
    assert torch.equal(chosen[0], steady), "the first of equals"
    assert score.tolist() == [pytest.approx(0.6)]
    _, capped = best_reading(logits, torch.tensor([[-2.0, 1.7, 0.1]]), logits, 1.0)
    assert capped.tolist() == [1.0]


def drawn(first: float, second: float) -> list[Answer]:
    left, right = torch.full((4, 6), -3.0), torch.full((4, 6), -2.0)
    left[:, :4], right[:, 2:] = 2.0, 1.0
    return [Answer(1, left, first), Answer(2, right, second)]


def test_overlaps_go_to_the_better_score() -> None:
    for scores, owner in (((0.9, 0.5), 1), ((0.5, 0.9), 2), ((0.5, 0.5), 1)):
        found = compose(drawn(*scores), (4, 6), 0)
        assert (found.mask[:, 2:4] == owner).all()
        assert [one.class_id for one in found.instances] == [1, 2], "in the order of their prompts"
        assert check_instances(found.instances, found.mask, shapes.SPACE) is None
    p = torch.tensor([2.0, 1.0]).sigmoid().numpy()
    first = compose(drawn(0.9, 0.5), (4, 6), 0)
    assert first.confidence[0].tolist() == np.rint(255 * p[[0, 0, 0, 0, 1, 1]]).tolist()
    lone = compose(drawn(0.9, 0.5)[:1], (4, 6), 0)
    assert lone.confidence[0, 5] == round(255 * float(torch.tensor(3.0).sigmoid())), "sure that nothing is there"
    assert (unsure(first, 0.8)[0] == [1, 1, 1, 1, IGNORE, IGNORE]).all()


def test_pixels_outside_of_a_box_are_cut_where_that_is_asked() -> None:
    (one,) = drawn(0.9, 0.5)[:1]
    found = compose([Answer(1, one.logits, 0.9, (1.2, 1.0, 2.4, 2.5))], (4, 6), 0)
    assert np.argwhere(found.mask).tolist() == [[y, x] for y in (1, 2) for x in (1, 2)]


def test_objects_follow_a_refined_map() -> None:
    found = compose(drawn(0.9, 0.5), (4, 6), 0)
    refined = found.mask.copy()
    refined[0], refined[3] = 0, 2
    own = owned(refined, found.instances, (1, 2))
    assert check_instances(own, refined, shapes.SPACE) is None
    assert [one.score for one in own] == [0.9, 0.5]
    bare = owned(np.full((4, 6), 3, np.uint8), found.instances, (3,))
    assert [one.class_id for one in bare] == [3]


def test_a_crf_refines_and_objects_still_fit(folder: Path) -> None:
    boxes = item(boxes=[[1, 3, 3, 30, 30], [2, 20, 10, 55, 38]])
    found = engine(folder, crf={"iterations": 2}, refine_side=64).label([boxes])[0]
    assert found.mask is not None
    assert check_instances(found.instances, found.mask, shapes.SPACE) is None


def test_low_scores_and_empty_masks_are_abstentions_with_words(folder: Path) -> None:
    found = engine(folder, min_score=0.9999).label([item(boxes=[[1, 3, 3, 30, 30]])])[0]
    assert found.mask is None
    assert "expected an object with a score of 0.9999" in (found.detail or "")


def test_an_answer_has_the_weight_of_its_prompt_and_its_box_where_boxes_bind(folder: Path) -> None:
    box, image = (3.0, 3.0, 30.0, 30.0), shapes.draw_scene(1, 40, 60)[0]
    free, bound = engine(folder), engine(folder, clamp_to_boxes=True)
    (embedding,) = free.family.embed(free.family.pixels(image)[None])
    (view,) = views_of(image, [Prompt(1, box), Prompt(2, box, weight=0.25)], None)
    whole, part = free.answers(embedding, view, [box, box], (40, 60))
    assert whole.score > 0
    assert part.score == pytest.approx(whole.score / 4)
    assert (whole.box, part.box) == (None, None)
    assert bound.answers(embedding, view, [box, box], (40, 60))[0].box == box


def test_tags_are_prompted_by_class_maps(folder: Path) -> None:
    model = engine(folder, cam=TINY)
    image, _ = shapes.draw_scene(3)
    own = model.prompts([LabelItem("t", image, class_ids=(2,)), item(boxes=[[9, 0, 0, 4, 4]])])
    assert own[0]
    assert {p.class_id for p in own[0]} == {2}
    assert own[1] == [], "somebody has drawn: CLIP is not asked"
    assert all(p.box is not None and len(p.on) == 1 for p in own[0])


def test_a_detector_finds_what_nobody_drew(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = engine(folder, detector={"model": str(owlv2(tmp_path / "d")), "threshold": 0.2})
    items = [LabelItem("t", shapes.draw_scene(1)[0], class_ids=(1,)), item(boxes=[[2, 5, 5, 30, 30]])]
    found = model.prompts(items)
    assert [p.class_id for p in found[1]] == [2]
    assert {p.class_id for p in found[0]} <= {1}
    monkeypatch.setattr(
        type(model._detector),
        "detect",
        lambda *_: [[Found(1, (5.0, 5.0, 40.0, 40.0), 0.5), Found(1, (0, 0, 9, 9), 0.4)]],
    )
    label = model.label(items[:1])[0]
    assert label.instances
    assert all(one.score is not None and one.score <= 0.5 for one in label.instances), "times the detector's score"


def test_large_photos_hold_one_enlarged_mask_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks of 4,000 pixels a side are 64 MB each: many prompts must not hold many of them."""
    model = engine(folder)
    image = np.random.default_rng(0).integers(0, 256, (300, 4000, 3), np.uint8)
    boxes = np.array([[1, 90 * i, 20 * i, 90 * i + 400, 20 * i + 200] for i in range(9)], np.float32)
    alive: list[weakref.ref[torch.Tensor]] = []
    most, restore = [0], type(model.family).restore

    def watched(self: Any, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        found = restore(self, logits, size)
        alive.append(weakref.ref(found))
        most[0] = max(most[0], sum(one() is not None for one in alive))
        return found

    monkeypatch.setattr(type(model.family), "restore", watched)
    found = model.label([LabelItem("large", image, boxes=boxes)])[0]
    assert found.mask is not None
    assert len(alive) == 9
    assert most[0] <= 2, "the one before is dropped when the next one is there"


def test_memory_that_runs_out_halves_the_batch() -> None:
    seen: list[int] = []

    def call(part: Any, size: int) -> list[int]:
        seen.append(size)
        if size > 2:
            raise torch.OutOfMemoryError("tried to allocate")
        return [2 * x for x in part]

    batches = Batches(8, "m")
    assert batches.run([1, 2, 3], call) == [2, 4, 6]
    assert (seen, batches.size) == ([8, 4, 2, 2], 2)
    with pytest.raises(MemoryError, match="one image does not fit"):
        Batches(1, "m").run([1], lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))


def test_batches_have_one_size_and_thin_photos_are_thickened() -> None:
    assert stacked([torch.ones(3, 2, 2)], 3).sum() == 12
    thin = thickened(np.arange(300, dtype=np.uint8).reshape(1, 100, 3).repeat(3, axis=1)[:, :300], 64)
    assert thin.shape == (5, 300, 3)
    assert (thin[0] == thin[4]).all()
    assert thickened(IMAGE) is IMAGE


def test_folders_are_checked_and_named_by_their_content(folder: Path, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(FileNotFoundError, match="no such folder"):
        model_folder("./nowhere")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert model_fingerprint(str(copy)) == model_fingerprint(str(folder))
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "preprocessor_config.json").write_text((other / "preprocessor_config.json").read_text() + " ")
    assert model_fingerprint(str(other)) != model_fingerprint(str(folder))
    (tmp_path / "none").mkdir()
    with pytest.raises(ModelError, match=r"config\.json"):
        check_family(tmp_path / "none", ("sam",), "masks")
    (tmp_path / "none" / "code.py").write_text("")
    with pytest.raises(ValueError, match="found code"):
        model_folder(str(tmp_path / "none"))
