"""Scribbles on other grids, strokes as vectors, and strokes drawn from masks."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.vision.scribbles import (
    SimulateConfig,
    Stroke,
    grid_labels,
    grid_valid,
    rasterise,
    resize_scribble,
    shrink_stroke,
    simulate_scribble,
    simulate_strokes,
)
from maskmill.vision.scribbles.simulate import longest_path, skeleton
from tests.trainers.shapes import draw_scene


def stroke_map(seed: int, height: int = 60, width: int = 80, line_width: int = 1) -> Uint8Array:
    rng = np.random.default_rng(seed)
    strokes = [Stroke(class_id, rng.uniform(0, [width, height], (4, 2))) for class_id in (0, 1, 2)]
    return rasterise(strokes, height, width, line_width)


@given(st.integers(0, 50), st.integers(5, 60), st.integers(5, 80), st.sampled_from(["any", "nearest"]))
def test_resizing_never_invents_a_label(seed: int, height: int, width: int, how: str) -> None:
    source = stroke_map(seed)
    small = resize_scribble(source, height, width, how)  # type: ignore[arg-type]
    assert small.shape == (height, width)
    for y, x in np.argwhere(small != IGNORE):
        rows = slice(y * 60 // height, -(-(y + 1) * 60 // height))
        columns = slice(x * 80 // width, -(-(x + 1) * 80 // width))
        assert small[y, x] in source[rows, columns]


def test_thin_strokes_survive_a_resize_that_nearest_neighbour_breaks() -> None:
    source = rasterise([Stroke(1, np.array([[3.0, 5.0], [150.0, 90.0]]))], 120, 160)
    kept, lost = (resize_scribble(source, 30, 40, how) for how in ("any", "nearest"))
    touched = {(y * 30 // 120, x * 40 // 160) for y, x in np.argwhere(source == 1)}
    assert {tuple(cell) for cell in np.argwhere(kept == 1)} == touched
    assert (lost == 1).sum() < 0.5 * len(touched)


def test_bilinear_resizing_does_what_we_avoid() -> None:
    """The fault: between unknown (0) and background (2) lies foreground (1)."""
    coded = np.zeros((60, 80), np.uint8)
    coded[30:33] = 2
    assert (cv2.resize(coded, (64, 50), interpolation=cv2.INTER_LINEAR) == 1).any()
    scribble = np.full((60, 80), IGNORE, np.uint8)
    scribble[30:33] = 0
    assert set(np.unique(resize_scribble(scribble, 50, 64)).tolist()) == {0, IGNORE}


def test_conflicts_are_left_out_and_growing_copies_pixels() -> None:
    source = np.array([[0, 1], [IGNORE, IGNORE]], np.uint8)
    assert resize_scribble(source, 1, 1).tolist() == [[IGNORE]]
    assert resize_scribble(source, 4, 4).tolist() == [[0, 0, 1, 1]] * 2 + [[IGNORE] * 4] * 2
    assert resize_scribble(source, 2, 2) is source
    assert resize_scribble(source[:1], 1, 4).tolist() == [[0, 0, 1, 1]]
    assert set(np.unique(resize_scribble(source, 1, 4))) <= {0, 1, IGNORE}


def test_grid_labels_keep_every_stroke_and_drop_conflicts() -> None:
    source = stroke_map(3)
    grid = grid_labels(torch.from_numpy(source).long()[None], 15, 20)[0].numpy()
    np.testing.assert_array_equal(grid, resize_scribble(source, 15, 20))
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    valid[0, 5, 5] = False
    assert grid_valid(valid, 4, 4)[0].logical_not().nonzero().tolist() == [[2, 2]]


def test_strokes_are_lines_with_discs_clipped_to_the_image() -> None:
    drawn = rasterise([Stroke(2, np.array([[-20.0, 4.0], [50.0, 4.0]]))], 9, 12, line_width=3)
    assert (drawn[3:6] == 2).all()
    assert (np.delete(drawn, [3, 4, 5], axis=0) == IGNORE).all()
    dot = rasterise([Stroke(1, np.array([[5.0, 4.0]]))], 9, 12, line_width=3)
    assert dot[4, 5] == 1
    assert (dot == 1).sum() in (5, 9)


def test_line_width_is_constant_at_any_size() -> None:
    stroke = Stroke(1, np.array([[10.0, 50.0], [90.0, 50.0]]))
    for size in (50, 100, 200):
        drawn = rasterise([stroke], size, size, 3, source=(100, 100))
        assert (drawn[:, size // 2] == 1).sum() == 3
        assert abs(np.flatnonzero((drawn == 1).any(axis=0)).mean() - size / 2) <= 1


def test_shrunk_strokes_keep_their_middle() -> None:
    stroke = Stroke(1, np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]]))
    half = shrink_stroke(stroke, 0.5).points
    assert half.tolist() == [[5, 0], [10, 0], [10, 5]]
    assert shrink_stroke(stroke, 0.0).points.tolist() == [[10, 0]]
    np.testing.assert_allclose(shrink_stroke(stroke, 1.0).points, stroke.points)


@pytest.mark.parametrize("index", range(4))
def test_simulated_strokes_lie_on_their_classes_and_reach_every_class(index: int) -> None:
    mask = draw_scene(index, 90, 110)[1]
    scribble = simulate_scribble(mask, f"scene {index}")
    drawn = scribble != IGNORE
    np.testing.assert_array_equal(scribble[drawn], mask[drawn])
    assert set(np.unique(scribble[drawn])) == set(np.unique(mask)) - {IGNORE}
    assert 0.005 < drawn.mean() < 0.2


def test_simulation_depends_on_seed_and_id_alone() -> None:
    mask = draw_scene(0, 64, 64)[1]
    first = simulate_scribble(mask, "a", seed=0)
    np.testing.assert_array_equal(first, simulate_scribble(mask, "a", seed=0))
    assert (first != simulate_scribble(mask, "a", seed=1)).any()
    assert (first != simulate_scribble(mask, "b", seed=0)).any()


def test_small_regions_ignored_pixels_and_empty_masks_get_no_stroke() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[5, 5], mask[40:] = 3, IGNORE
    assert {s.class_id for s in simulate_strokes(mask, "a")} == {0}
    assert (simulate_scribble(mask, "a")[40:] == IGNORE).all()
    assert (simulate_scribble(np.full((20, 20), IGNORE, np.uint8), "a") == IGNORE).all()


def test_dropping_leaves_each_class_its_first_stroke() -> None:
    mask = np.zeros((90, 90), np.uint8)
    for corner in (5, 35, 65):
        mask[corner : corner + 20, corner : corner + 20] = 1
    every = simulate_strokes(mask, "a", SimulateConfig())
    few = simulate_strokes(mask, "a", SimulateConfig(drop=0.99))
    assert [s.class_id for s in every].count(1) == 3
    assert [s.class_id for s in few].count(1) == 1


def test_skeleton_is_thin_connected_and_inside() -> None:
    area = np.zeros((40, 60), bool)
    area[5:35, 5:20], area[15:25, 5:55] = True, True
    lines = skeleton(area)
    assert not (lines & ~area).any()
    assert cv2.connectedComponents(lines.astype(np.uint8), connectivity=8)[0] == 2
    assert 30 < lines.sum() < 120
    path = longest_path(lines)
    assert len(path) > 40
    steps = np.abs(np.diff(np.array(path), axis=0)).max(axis=1)
    assert (steps == 1).all()
