"""Labeler a2gnn: conformance on boxes and scribbles, its promises about boxes, its parts against each other."""

import logging
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from maskmill.data_contracts import IGNORE, Instance, LabelSpace, Reason, check_instances
from maskmill.labelers import LabelItem, PseudoLabel
from maskmill.labelers.a2gnn import A2gnn, Config, load, models, stamps
from maskmill.labelers.a2gnn.boxes import PixelBox, box_violations, empty_boxes, inside, pixel_boxes
from maskmill.labelers.promptable.config import FOR_STARTER
from maskmill.trainers.affinity import ImageGraph
from tests.labelers.conformance import LabelerConformance
from tests.labelers.test_clip_cam import TINY
from tests.trainers import shapes

torch.set_num_threads(1)

FAST: dict[str, Any] = {
    "steps": (6, 4),
    "other_steps": (6, 4),
    "hidden": 8,
    "radius": 2,
    "tile": 4,
    "check_start": 4,
    "check_every": 3,
    "crf": {"iterations": 2},
    "seeds": {"cam": TINY},
}


def tight_boxes(mask: np.ndarray, ids: tuple[int, ...]) -> np.ndarray:
    rows = []
    for class_id in ids:
        y, x = np.nonzero(mask == class_id)
        rows.append([class_id, x.min(), y.min(), x.max() + 1, y.max() + 1])
    return np.array(rows, np.float32).reshape(-1, 5)


def boxed(number: int, height: int = 48, width: int = 56) -> tuple[LabelItem, np.ndarray]:
    image, mask = shapes.draw_scene(number, height, width)
    ids = tuple(int(i) for i in np.unique(mask) if i in shapes.SPACE.by_id)
    return LabelItem(f"scene {number}", image, boxes=tight_boxes(mask, ids)), mask


class TestBoxes(LabelerConformance):
    name = "a2gnn"
    settings: ClassVar[dict[str, Any]] = {**FAST, "check": "centred", "similarity_weight": 0.5}
    tolerance: ClassVar[float] = 0.02

    def item(self, number: int, height: int = 48, width: int = 56) -> LabelItem:
        return boxed(number, height, width)[0]


class TestScribbles(TestBoxes):
    def item(self, number: int, height: int = 48, width: int = 56) -> LabelItem:
        image, mask = shapes.draw_scene(number, height, width)
        scribble = np.full_like(mask, IGNORE)
        scribble[::9, ::2] = mask[::9, ::2]
        return LabelItem(f"scene {number}", image, scribble=scribble)


def engine(space: LabelSpace = shapes.SPACE, **changes: Any) -> A2gnn:
    return load(Config.model_validate({**FAST, **changes}), space)


def miou(labels: list[PseudoLabel], truths: list[np.ndarray]) -> float:
    from maskmill.trainers.engine import SegmentationMetrics

    metrics = SegmentationMetrics(shapes.SPACE)
    for label, truth in zip(labels, truths, strict=True):
        assert label.mask is not None
        metrics.update(label.mask, truth)
    return float(metrics.compute()["miou"])


def test_labels_keep_to_their_boxes_and_leave_none_empty() -> None:
    scenes = [boxed(number) for number in range(3)]
    kept = engine().label([item for item, _ in scenes])
    loose = engine(clamp_to_boxes=False, ensure_box_nonempty=False, crf=None, mp_weight=0.0, steps=(2, 0))
    free = loose.label([item for item, _ in scenes])
    violations = 0
    for (item, mask), label, other in zip(scenes, kept, free, strict=True):
        boxes = pixel_boxes(item.boxes, mask.shape)
        assert label.mask is not None
        assert other.mask is not None
        assert box_violations(label.mask, boxes, shapes.SPACE.ids) == 0
        assert empty_boxes(label.mask, boxes) == 0
        assert set(np.unique(label.mask)) <= {0, *(b.class_id for b in boxes)}, "no class that the image lacks"
        violations += box_violations(other.mask, boxes, shapes.SPACE.ids)
    assert violations > 0, "without the clamp the rate is not zero, so the clamp does something"


def test_absent_classes_compete_only_where_they_may() -> None:
    item = boxed(1)[0]
    present = {int(row[0]) for row in item.boxes}
    model = engine(mask_absent_classes=False, crf=None)
    task = model.task(item)
    assert task is not None
    assert task.channel_ids == shapes.SPACE.ids
    assert engine().task(item).channel_ids == tuple(sorted(present))  # type: ignore[union-attr]
    assert model.label([item])[0].mask is not None
    own = np.full((len(shapes.SPACE.ids) + 1, 48, 56), 0.25, np.float32)
    assert model.refine([task], [own])[0] is own, "without a dense CRF shares stay"


def test_labels_beat_filled_boxes() -> None:
    scenes = [boxed(number) for number in (4, 13)]  # discs, which fill 79 % of their boxes
    filled = []
    for item, mask in scenes:
        out = np.zeros_like(mask)
        for box in pixel_boxes(item.boxes, mask.shape):
            out[box.at] = box.class_id
        filled.append(PseudoLabel(out, out))
    labels = engine(steps=(20, 10), hidden=16).label([item for item, _ in scenes])
    truths = [mask for _, mask in scenes]
    assert miou(labels, truths) > miou(filled, truths) + 0.02


def test_confidence_is_that_of_the_graph_not_of_the_crf() -> None:
    item = boxed(1)[0]
    model = engine()
    task = model.task(item)
    assert task is not None
    chosen, shares = model.graph_shares([task])
    certain = np.eye(len(shares[0]), dtype=np.float32)[shares[0].argmin(axis=0)].transpose(2, 0, 1)
    label = model.finish(chosen[0], model.refine(chosen, shares)[0], shares[0])
    assert label.mask is not None
    assert label.confidence is not None
    channel = np.searchsorted((0, *chosen[0].channel_ids), label.mask)
    own = np.take_along_axis(shares[0], channel[None], axis=0)[0]
    np.testing.assert_allclose(label.confidence / 255, own, atol=0.003)
    overruled = engine(clamp_to_boxes=False).finish(chosen[0], certain, shares[0])
    assert overruled.confidence is not None
    assert overruled.confidence.mean() < label.confidence.mean(), "a label that the graph speaks against is doubtful"


def test_seeds_alone_are_a_label_with_255_where_nobody_knows() -> None:
    found = engine(output="seeds").label([boxed(0)[0]])[0]
    assert found.mask is not None
    assert found.confidence is not None
    assert (found.confidence[found.mask == IGNORE] == 0).all()
    assert (found.confidence[found.mask != IGNORE] == 255).all()
    assert (found.mask == 0).any()


def test_fallback_rates_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="maskmill.label"):
        engine(output="seeds").label([boxed(0)[0], boxed(1)[0]])
    assert "boxes took their seeds from: seeded" in caplog.text


def test_instances_are_one_mask_a_box() -> None:
    item, mask = boxed(3)
    label = engine().label([item])[0]
    assert label.mask is not None
    assert [i.class_id for i in label.instances] == item.boxes[:, 0].astype(int).tolist()
    assert check_instances(label.instances, label.mask, shapes.SPACE) is None
    row = label.row("a", "a2gnn", "1", shapes.SPACE)
    for instance, entry in zip(label.instances, row["instances"], strict=True):
        assert (label.mask[instance.mask] == instance.class_id).all()
        np.testing.assert_array_equal(Instance.read(entry, *label.mask.shape).mask, instance.mask)
        assert entry["box"]["x1"] > entry["box"]["x0"]
    assert mask.shape == label.mask.shape


def test_instances_that_do_not_fit_their_mask_are_left_out_and_named() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[1, 1] = shapes.SPACE.ids[0]
    stray = Instance.of(shapes.SPACE.ids[0], np.ones((4, 4), dtype=bool))
    row = PseudoLabel(mask, instances=(stray,)).row("a", "a2gnn", "1", shapes.SPACE)
    assert row["instances"] is None
    assert "instances left out" in row["detail"]
    assert "15 that are not" in row["detail"]


def test_points_and_tags_serve_as_well_and_no_hint_is_an_abstention() -> None:
    image, mask = shapes.draw_scene(0)
    ids = tuple(int(i) for i in np.unique(mask) if i in shapes.SPACE.by_id)
    points = np.array([[i, *np.argwhere(mask == i).mean(0)[::-1]] for i in ids], np.float32)
    by_points, by_tags, nothing = engine().label(
        [LabelItem("p", image, points=points), LabelItem("t", image, class_ids=ids), LabelItem("n", image)]
    )
    for found in (by_points, by_tags):
        assert found.mask is not None
        assert set(np.unique(found.mask)) <= {0, *ids}
    assert nothing.reason is Reason.NO_CLASSES


def test_class_maps_join_grabcut_where_they_are_asked_for() -> None:
    model = engine(seeds={"fusion": "cam+grabcut", "cam": TINY})
    task = model.task(boxed(2)[0])
    assert task is not None
    assert task.seeds.maps is not None
    assert engine().task(boxed(2)[0]).seeds.maps is None  # type: ignore[union-attr]


@dataclass(frozen=True)
class Blobs:
    """Plain graphs whose class maps say that class 2 lies in the left half of the image."""

    plain: Any

    def predict(self, images: list[np.ndarray]) -> list[ImageGraph]:
        graphs = []
        for graph in self.plain.predict(images):
            prior = torch.zeros(256, *graph.grid)
            prior[2, :, : graph.grid[1] // 2] = 6.0
            prior[2, :, graph.grid[1] // 2 :] = -6.0
            graphs.append(replace(graph, prior=prior))
        return graphs


def test_class_maps_stand_in_for_a_box_without_a_plausible_cut() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 56, 3)).astype(np.uint8)  # nothing for GrabCut to see
    item = LabelItem("noise", image, boxes=np.array([[2, 8, 8, 48, 40]], np.float32))
    seeds = {**FAST["seeds"], "fusion": "grabcut", "fill_range": (0.0, 0.01)}  # no cut is good enough
    models = {name: engine(reseed=name, seeds=seeds) for name in ("none", "weak", "agree")}
    found = {name: replace(model, graphs=Blobs(model.graphs)) for name, model in models.items()}
    views = {name: model._views([model.task(item)])[0] for name, model in found.items()}  # type: ignore[list-item]
    own = {name: view.task.seeds.labels for name, view in views.items()}
    assert views["none"].task.seeds.weak == (True,)
    assert (own["weak"][12:36, 12:19] == 2).mean() > 0.9, "the left of the box, less a rim"
    assert (own["weak"][12:36, 36:46] == 0).mean() > 0.9
    assert not (own["none"][12:36, 10:16] == 2).any()
    assert set(np.unique(own["agree"])) <= {0, 2, IGNORE}
    prior = views["weak"].prior
    assert prior is not None
    np.testing.assert_allclose(prior.sum(axis=0), 1, atol=1e-4)
    assert (prior[1][:8] == 0).all(), "no share outside the box"
    assert 0.28 < prior[1][8:40, 8:48].mean() < 0.82
    label = found["weak"].label([item])[0]
    assert label.mask is not None
    assert (label.mask[12:36, 12:20] == 2).mean() > (label.mask[12:36, 38:46] == 2).mean()


@dataclass
class Halves:
    """A promptable model to which the left half of every box is the object."""

    asked: list[Any]

    def probabilities(self, image: np.ndarray, prompts: list[Any]) -> list[np.ndarray]:
        self.asked += prompts
        found = []
        for prompt in prompts:
            x0, y0, x1, y1 = (int(v) for v in prompt.box)
            mask = np.zeros(image.shape[:2], np.float32)
            mask[y0:y1, x0 : (x0 + x1) // 2] = 0.9
            found.append(mask)
        return found


def halved(**settings: Any) -> A2gnn:
    model = engine(**settings)
    model.__dict__["_promptable"] = Halves([])
    return model


def test_the_promptable_model_is_asked_for_each_box_once_and_only_where_it_counts() -> None:
    item, _ = boxed(1)
    rows = pixel_boxes(item.boxes, (48, 56))
    model = halved()
    task = model.task(item)
    assert task is not None
    found = [(one.class_id, one.box) for one in model._promptable.asked]  # type: ignore[attr-defined]
    assert found == [(box.class_id, (box.x0, box.y0, box.x1, box.y1)) for box in rows]
    for settings in ({"seeds": {**FAST["seeds"], "fusion": "grabcut"}, "prompted_weight": 0}, {"preset": "faithful"}):
        other = halved(**settings)
        if settings.get("preset") != "faithful":
            assert other.task(item) is not None
        assert other._asked(item, rows, (1, 2, 3)) == ([], None)
        assert not other._promptable.asked  # type: ignore[attr-defined]
    weight_alone = halved(seeds={**FAST["seeds"], "fusion": "grabcut"})
    assert weight_alone._asked(item, rows, (1, 2, 3))[1] is not None
    claims_alone, shares = halved(prompted_weight=0)._asked(item, rows, (1, 2, 3))
    assert (len(claims_alone), shares) == (len(rows), None)
    assert model._asked(replace(item, boxes=np.zeros((0, 5), np.float32)), (), (1,)) == ([], None)
    drawn = replace(item, scribble=np.zeros((48, 56), np.uint8))
    given = {"prompted_weight": 0, "seeds": {**FAST["seeds"], "ready": True}}
    assert halved(**given)._asked(drawn, rows, (1, 2, 3)) == ([], None), "ready-made seeds ask nobody"


def test_its_shares_join_the_graphs_inside_of_boxes_alone() -> None:
    item, _ = boxed(1)
    plain, joined = halved(prompted_weight=0, clamp_to_boxes=False), halved(prompted_weight=3, clamp_to_boxes=False)
    (task,), (own,) = plain.graph_shares([plain.task(item)])  # type: ignore[list-item]
    (other,), (mixed,) = joined.graph_shares([joined.task(item)])  # type: ignore[list-item]
    assert task.prompted is None
    assert other.prompted is not None
    np.testing.assert_allclose(other.prompted.sum(axis=0), 1, atol=1e-5)
    assert set(np.unique(other.prompted[1:].max(axis=0)).round(3)) == {0.0, np.float32(0.9).round(3)}
    held = inside(task.boxes, (48, 56))
    np.testing.assert_allclose(mixed[:, ~held], own[:, ~held], atol=1e-6)
    channels = [0, *(1 + task.channel_ids.index(i) for i in task.class_ids)]
    expected = own.copy()
    expected[channels] += 3 * other.prompted
    np.testing.assert_allclose(mixed[:, held], expected[:, held] / 4, atol=1e-6)


def test_how_the_promptable_model_is_asked_by_default() -> None:
    config = Config()
    asked = config.seeds.prompted
    assert (config.seeds.fusion, config.prompted_weight, config.seeds.prompted_fill) == ("prompted", 1.0, (0.05, 0.98))
    assert (asked.model, asked.zoom, asked.clamp_to_boxes) == ("starter", FOR_STARTER["zoom"], True)
    assert models(config) == [("starter", "fp32")]
    assert not models(Config(preset="faithful"))
    assert len(stamps(config)) == 1 + len(stamps(Config(prompted_weight=0, seeds={"fusion": "grabcut"})))  # type: ignore[arg-type]
    assert len(stamps(config)) == len(stamps(Config(seeds={"fusion": "grabcut"})))  # type: ignore[arg-type]


@dataclass
class Listed:
    """A promptable model that is so sure of all of a photo, prompt by prompt."""

    sure: tuple[float, ...]

    def probabilities(self, image: np.ndarray, prompts: list[Any]) -> list[np.ndarray]:
        return [np.full(image.shape[:2], value, np.float32) for value in self.sure]


def test_shares_of_masks_take_the_surest_of_a_class_and_claims_need_half() -> None:
    boxes = [PixelBox(1, 0, 0, 2, 2), PixelBox(2, 0, 0, 2, 2), PixelBox(1, 0, 0, 2, 2)]
    model = engine()
    model.__dict__["_promptable"] = Listed((0.55, 0.5, 0.4))
    claims, found = model._asked(LabelItem("a", np.zeros((4, 4, 3), np.uint8)), boxes, (1, 2))
    assert found is not None
    np.testing.assert_allclose(found[:, 0, 0], np.array([0.45, 0.55, 0.5]) / 1.5, rtol=1e-6)
    assert [bool(claim.all()) for claim in claims] == [True, False, False]


def test_large_images_are_solved_small_and_come_back_whole() -> None:
    item, _ = boxed(1, 100, 140)
    label = engine(image_side=64).label([item])[0]
    assert label.mask is not None
    assert label.mask.shape == (100, 140)
    assert box_violations(label.mask, pixel_boxes(item.boxes, (100, 140)), shapes.SPACE.ids) == 0


def test_boxes_of_one_pixel_of_the_whole_frame_and_outside_are_borne() -> None:
    image = shapes.draw_scene(0)[0]
    odd = np.array([[1, 5, 5, 6, 6], [2, 0, 0, 56, 48], [3, 200, 5, 220, 9], [9, 0, 0, 4, 4]], np.float32)
    label = engine().label([LabelItem("odd", image, boxes=odd)])[0]
    assert label.mask is not None
    assert empty_boxes(label.mask, pixel_boxes(odd[:2], (48, 56))) == 0
    assert not (label.mask == 3).any()


def test_a_space_without_background_is_refused() -> None:
    space = shapes.SPACE.model_copy(update={"background_id": None})
    with pytest.raises(ValueError, match="needs a background"):
        load(Config(), space)
