"""Hints that are no boxes, as the release takes them: points beside class maps, strokes in superpixels, ready seeds."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from maskmill.data_contracts import IGNORE
from maskmill.labelers import LabelItem
from maskmill.labelers.a2gnn import Config
from maskmill.labelers.a2gnn.config import SeedConfig
from maskmill.labelers.a2gnn.hints import other_seeds
from tests.labelers.test_a2gnn import FAST, boxed, engine
from tests.trainers import shapes


def maps() -> np.ndarray:
    """One class's map: sure in a square, nowhere else."""
    found = np.zeros((1, 20, 20), np.float32)
    found[0, 4:10, 4:10] = 0.95
    found[0, 4, 4:10] = 0.99
    return found


def pointed(at: tuple[int, int] = (15, 15)) -> LabelItem:
    points = np.array([[1, at[0], at[1]]], np.float32)
    return LabelItem("a", np.full((20, 20, 3), 90, np.uint8), (1,), points=points)


def test_points_keep_the_foreground_of_class_maps_as_the_release_does() -> None:
    alone = other_seeds(pointed(), maps(), (1,), 0, SeedConfig(point_radius=1)).labels
    both = other_seeds(pointed(), maps(), (1,), 0, SeedConfig(point_radius=1, points_with_maps=True)).labels
    assert (alone == 1).sum() == 5, "the disc of the point"
    assert (both == 1).sum() > 5
    assert (both[alone == 1] == 1).all()
    tagged = other_seeds(LabelItem("a", pointed().image, (1,)), maps(), (1,), 0, SeedConfig()).labels
    assert (both[tagged == 1] == 1).all(), "all that tags would give, and the point"
    other = np.array([[2, 6, 4]], np.float32)
    item = LabelItem("a", pointed().image, (1, 2), points=other)
    two = np.concatenate([maps(), np.zeros((1, 20, 20), np.float32)])
    clash = other_seeds(item, two, (1, 2), 0, SeedConfig(point_radius=0, points_with_maps=True)).labels
    assert clash[4, 6] == 2, "what is given wins over maps"


def test_strokes_grow_where_the_config_says_so() -> None:
    image = np.full((20, 20, 3), 90, np.uint8)
    image[:, 10:] = (20, 180, 60)
    strokes = np.full((20, 20), IGNORE, np.uint8)
    strokes[10, 2:8], strokes[10, 12:18] = 1, 0
    item = LabelItem("a", image, scribble=strokes)
    np.testing.assert_array_equal(other_seeds(item, None, (1,), 0, SeedConfig()).labels, strokes)
    grown = other_seeds(item, None, (1,), 0, SeedConfig(superpixels=100)).labels
    assert (grown == 1).sum() > 50
    ready = other_seeds(item, None, (1,), 0, SeedConfig(superpixels=100, ready=True)).labels
    np.testing.assert_array_equal(ready, strokes)


def test_ready_seeds_are_taken_beside_boxes_and_others_are_named(caplog: pytest.LogCaptureFixture) -> None:
    item, mask = boxed(1)
    seeds = np.where(np.arange(mask.shape[0])[:, None] % 2, IGNORE, mask).astype(np.uint8)
    given = LabelItem(item.sample_id, item.image, boxes=item.boxes, scribble=seeds)
    with caplog.at_level(logging.WARNING, "maskmill.label"):
        ready = engine(output="seeds", seeds={**FAST["seeds"], "ready": True}).label([given])[0]
        assert "not used" not in caplog.text
        pointed_too = replace(given, points=np.array([[1, 4, 4]], np.float32), class_ids=(3,))
        engine(output="seeds", seeds={**FAST["seeds"], "ready": True}).label([pointed_too])
        assert "points of 1 images are not used" in caplog.text
    np.testing.assert_array_equal(ready.mask, seeds)
    task = engine(seeds={**FAST["seeds"], "ready": True}).task(given)
    assert task is not None
    assert set(task.class_ids) == {int(row[0]) for row in item.boxes} | set(np.unique(mask).tolist()) - {0, IGNORE}


def test_strokes_and_points_beside_boxes_count(caplog: pytest.LogCaptureFixture) -> None:
    """What is drawn wins over the boxes' seeds, and names classes that no box has; only tags cannot."""
    item, _ = boxed(0)  # class 1 in a box
    box = item.boxes[0]
    strokes = np.full(item.image.shape[:2], IGNORE, np.uint8)
    strokes[int(box[2] + box[4]) // 2, int(box[1] + box[3]) // 2] = 0
    strokes[1:17, 1:17] = 2
    points = np.array([[3, 50, 40]], np.float32)
    given = replace(item, scribble=strokes, points=points, class_ids=(1, 2, 3))
    found, plain = engine(output="seeds").label([given, item])
    assert found.mask is not None
    assert plain.mask is not None
    drawn = strokes != IGNORE
    np.testing.assert_array_equal(found.mask[drawn], strokes[drawn])
    assert found.mask[40, 50] == 3
    moved = found.mask != plain.mask
    assert not (moved & ~drawn & (found.mask != 3)).any()
    task = engine().task(given)
    assert task is not None
    assert (task.class_ids, task.free) == ((1, 2, 3), frozenset({2, 3}))
    label = engine(steps=(80, 0), hidden=32, dropout=0.0, crf=None).label([given])[0]
    assert label.mask is not None
    assert (label.mask[1:17, 1:17] == 2).mean() > 0.3, "no box holds class 2 back"
    row = label.row("a", "a2gnn", "1", shapes.SPACE)
    assert row["detail"] is None
    assert {one["class_id"] for one in row["instances"]} == set(np.unique(label.mask).tolist()) - {0}
    with caplog.at_level(logging.WARNING, "maskmill.label"):
        engine(output="seeds").label([given, item])
        assert "not used" not in caplog.text
        engine(output="seeds").label([replace(item, class_ids=(1, 2))])
        assert "tags of 1 images are not used" in caplog.text


@pytest.mark.parametrize("kind", ["points", "tags"])
def test_the_faithful_walk_runs_without_masking_classes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times the class maps decide where the graph knows nothing; the walk's maps are added as they are."""
    image, _ = shapes.draw_scene(2)
    points = np.array([[2, 20, 20]], np.float32) if kind == "points" else np.zeros((0, 3), np.float32)
    item = LabelItem("x", image, (2,) if kind == "tags" else (), points=points)
    walks: list[int] = []
    from maskmill.labelers.a2gnn import labeler

    plain = labeler.walked_maps

    def counted(*args: Any) -> Any:
        found = plain(*args)
        walks.append(len(found))
        return found

    monkeypatch.setattr(labeler, "walked_maps", counted)
    options = {**FAST, "mask_absent_classes": False, "crf": None}
    labels = [engine(**{**options, "walk": walk}).label([item])[0] for walk in ("shares", "raw")]
    assert walks == [2], "background and the one class, once: raw alone walks without masking classes"
    assert all(label.mask is not None for label in labels)
    assert Config(preset="faithful").walk == "raw"
