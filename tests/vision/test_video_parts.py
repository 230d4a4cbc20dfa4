"""Boxes, masks, regions and DAVIS measures against slow references and hand-made cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskmill.vision.video import (
    MaskCrop,
    Motion,
    RegionConfig,
    boundary_accuracy,
    box_iou,
    growth,
    mask_iou,
    region_similarity,
    resolve_overlaps,
    score_clip,
    search_region,
    summarise,
    summarise_objects,
)


def slow_box_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    areas = [max(x[2] - x[0], 0) * max(x[3] - x[1], 0) for x in (a, b)]
    shared = width * height if width > 0 and height > 0 else 0.0
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0


@pytest.mark.parametrize(
    ("box", "other", "wanted"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
        ([0, 0, 10, 10], [10, 0, 20, 10], 0.0),  # touching
        ([0, 0, 10, 10], [5, 0, 15, 10], 1 / 3),
        ([3, 3, 3, 9], [3, 3, 3, 9], 0.0),  # no area
        ([9, 9, 2, 2], [0, 0, 10, 10], 0.0),  # turned round
    ],
)
def test_box_iou_of_hand_made_cases(box: list[float], other: list[float], wanted: float) -> None:
    found = box_iou(np.array(box, np.float32), np.array([other], np.float32))
    assert found[0] == pytest.approx(wanted)


@given(st.lists(st.lists(st.integers(-5, 30), min_size=4, max_size=4), min_size=2, max_size=6))
def test_box_iou_equals_a_loop(rows: list[list[float]]) -> None:
    found = box_iou(np.array(rows[0], np.float32), np.array(rows[1:], np.float32))
    np.testing.assert_allclose(found, [slow_box_iou(rows[0], row) for row in rows[1:]], atol=1e-6)


@given(st.integers(0, 10_000))
def test_mask_iou_equals_that_of_whole_frames(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = [np.zeros((12, 15), np.bool_) for _ in range(2)]
    for mask in masks:
        top, left = rng.integers(0, 8, 2)
        mask[top : top + rng.integers(0, 5), left : left + rng.integers(0, 6)] = True
    crops = [MaskCrop.of(mask) for mask in masks]
    union = np.count_nonzero(masks[0] | masks[1])
    wanted = np.count_nonzero(masks[0] & masks[1]) / union if union else 0.0
    assert mask_iou(*crops) == pytest.approx(wanted)
    for mask, crop in zip(masks, crops, strict=True):
        np.testing.assert_array_equal(crop.paste((12, 15)), mask)
        assert crop.area == mask.sum()


def test_overlaps_go_to_the_better_score() -> None:
    full, part = np.ones((4, 4), np.bool_), np.zeros((4, 4), np.bool_)
    part[:2] = True
    exclusive = resolve_overlaps([MaskCrop.of(full), None, MaskCrop.of(part)], [0.5, 0.9, 0.8], (4, 4))
    assert not exclusive[1].any()
    np.testing.assert_array_equal(exclusive[2], part)
    np.testing.assert_array_equal(exclusive[0], ~part)


# --- search region


@given(
    st.tuples(st.integers(20, 200), st.integers(20, 300)),
    st.lists(st.tuples(*[st.floats(0, 1) for _ in range(4)]), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_region_lies_in_the_frame_and_holds_every_last_box(
    frame: tuple[int, int], shares: list[tuple[float, ...]], missed: int
) -> None:
    boxes = []
    for a, b, c, d in shares:
        x, y = sorted((a * frame[1], c * frame[1])), sorted((b * frame[0], d * frame[0]))
        boxes.append(np.array([x[0], y[0], x[1], y[1]], np.float32))
    targets = [Motion(box, boxes[0], missed) for box in boxes]
    region = search_region(targets, frame, RegionConfig())
    assert region.top >= 0
    assert region.left >= 0
    assert region.top + region.height <= frame[0]
    assert region.left + region.width <= frame[1]
    for box in boxes:
        assert box[0] >= region.left - 1e-3
        assert box[1] >= region.top - 1e-3
        assert box[2] <= region.left + region.width + 1e-3
        assert box[3] <= region.top + region.height + 1e-3


def test_three_sizes_by_rule() -> None:
    config = RegionConfig(small=0.1, medium=0.4, large=1.2, fast=0.5)
    still = np.array([40, 40, 60, 60], np.float32)
    near, far = still + 10, still + 30
    assert growth([Motion(still, still)], config) == 0.4
    assert growth([Motion(still, still), Motion(near, near)], config) == 0.1
    assert growth([Motion(still, still), Motion(far, far)], config) == 0.4
    assert growth([Motion(far, still), Motion(near, near)], config) == 1.2
    assert growth([Motion(still, still, missed=1)], config) == 1.2


# --- DAVIS measures


def test_similarity_of_hand_made_cases() -> None:
    a, b, none = np.zeros((8, 8), np.bool_), np.zeros((8, 8), np.bool_), np.zeros((8, 8), np.bool_)
    a[:, :4], b[:, 2:6] = True, True
    assert region_similarity(a, b) == pytest.approx(16 / 48)
    assert region_similarity(none, none) == 1.0
    assert region_similarity(a, none) == region_similarity(none, a) == 0.0
    void = np.zeros((8, 8), np.bool_)
    void[:, 4:] = True
    assert region_similarity(a, b, void) == pytest.approx(16 / 32)


def slow_boundary(mask: np.ndarray) -> set[tuple[int, int]]:  # type: ignore[type-arg]
    height, width = mask.shape
    edge = set()
    for y in range(height):
        for x in range(width):
            down, right = min(y + 1, height - 1), min(x + 1, width - 1)
            others = (mask[y, right], mask[down, x], mask[down, right])
            if any(o != mask[y, x] for o in others) and (y, x) != (height - 1, width - 1):
                edge.add((y, x))
    return edge


@given(st.integers(0, 1000))
def test_boundary_accuracy_equals_a_loop_over_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = [np.zeros((20, 26), np.bool_) for _ in range(2)]
    for mask in masks:
        top, left = rng.integers(0, 14, 2)
        mask[top : top + rng.integers(1, 9), left : left + rng.integers(1, 12)] = True
    edges = [slow_boundary(mask) for mask in masks]
    radius = 2

    def near(points: set[tuple[int, int]], others: set[tuple[int, int]]) -> float:
        hits = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in points]
        return sum(hits) / len(hits)

    precision, recall = near(edges[0], edges[1]), near(edges[1], edges[0])
    wanted = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert boundary_accuracy(masks[0], masks[1], bound=radius) == pytest.approx(wanted, abs=1e-9)


def test_boundary_accuracy_of_empty_masks() -> None:
    square, none = np.zeros((30, 40), np.bool_), np.zeros((30, 40), np.bool_)
    square[10:20, 10:20] = True
    assert boundary_accuracy(none, none) == 1.0
    assert boundary_accuracy(square, none) == boundary_accuracy(none, square) == 0.0
    moved = np.roll(square, 1, axis=1)
    assert boundary_accuracy(moved, square) == 1.0, "one pixel is within the tolerance ceil(0.008 * 50)"
    assert boundary_accuracy(np.roll(square, 12, axis=1), square) < 0.5


def test_summary_of_a_hand_worked_curve() -> None:
    found = summarise([1.0, 0.9, 0.8, 0.6, 0.5, 0.4, 0.2, 0.0])
    assert found.mean == pytest.approx(0.55)
    assert found.recall == 0.5, "0.5 itself is not above 0.5"
    # bin edges 1, 2.75, 4.5, 6.25, 8 -> frames 1, 3, 5(4.5+), 6, 8: first bin 0..2, last bin 5..7
    assert found.decay == pytest.approx(np.mean([1.0, 0.9, 0.8]) - np.mean([0.4, 0.2, 0.0]))


def test_more_than_255_frames_do_not_wrap_round() -> None:
    curve = np.linspace(1, 0, 1000)
    assert summarise(curve).decay == pytest.approx(0.75, abs=0.01)


def test_clip_leaves_out_first_and_last_frame_and_averages_over_objects() -> None:
    truth = np.zeros((5, 20, 20), np.uint8)
    truth[:, 2:8, 2:8], truth[:, 12:18, 12:18] = 1, 2
    found = truth.copy()
    found[0], found[-1] = 0, 0  # first and last do not count
    found[2][found[2] == 2] = 0
    score = score_clip(found, truth, [1, 2])
    assert score.j.tolist() == [[1, 1, 1], [1, 0, 1]]
    assert score.f.tolist() == [[1, 1, 1], [1, 0, 1]]
    alone = np.ones((1, 3))
    assert summarise_objects([score.j, alone]).mean == pytest.approx((1 + 2 / 3 + 1) / 3), "objects, not clips"


def test_absent_objects_and_void() -> None:
    truth = np.zeros((4, 10, 10), np.uint8)
    truth[1, :5], truth[2, 5:] = 1, 255
    found = np.zeros_like(truth)
    found[1, :5], found[2, 5:] = 1, 1
    assert score_clip(found, truth, [1], void="left_out").j.tolist() == [[1.0, 1.0]], "what lies on void does not count"
    assert (score_clip(found, truth, [1]).j < 1).any(), "to the official evaluator void is background"
    with pytest.raises(ValueError, match="3 frames or more"):
        score_clip(found[:2], truth[:2], [1])
