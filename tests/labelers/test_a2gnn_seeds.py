"""Boxes, seeds and the rules of labels made from boxes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskmill.data_contracts import IGNORE, sample_seed
from maskmill.labelers import LabelItem
from maskmill.labelers.a2gnn.boxes import PixelBox, box_violations, clamp, empty_boxes, fill_empty_boxes, pixel_boxes
from maskmill.labelers.a2gnn.cam_seeds import Confident, box_maps, confident
from maskmill.labelers.a2gnn.config import SeedConfig
from maskmill.labelers.a2gnn.hints import other_seeds, point_seeds
from maskmill.labelers.a2gnn.instances import box_instances
from maskmill.labelers.a2gnn.priors import fill_boxes
from maskmill.labelers.a2gnn.seeds import (
    box_seeds,
    core,
    fuse,
    grabcut,
    grouped_claims,
    is_plausible,
    prompted_claims,
    touching,
)

RNG = np.random.default_rng(0)


def photo(height: int = 40, width: int = 48) -> np.ndarray:
    """Grey noise with a red disc of radius 10 about (20, 24)."""
    image = RNG.integers(90, 150, (height, width, 3)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    image[(y - 20) ** 2 + (x - 24) ** 2 < 100] = (220, 40, 40)
    return image


DISC = PixelBox(1, 11, 15, 30, 34)


# --- boxes


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((1, 2.0, 3.0, 5.0, 7.0), (3, 2, 7, 5)),
        ((1, 2.4, 3.6, 5.1, 7.0001), (3, 2, 7, 6)),
        ((1, -4.0, -1.0, 3.0, 90.0), (0, 0, 20, 3)),
        ((1, 4.0, 4.0, 4.0, 4.0), (4, 4, 5, 5)),
        ((1, 29.9999, 19.9999, 31.0, 21.0), (19, 29, 20, 30)),
    ],
)
def test_boxes_become_the_pixels_that_they_touch(box: tuple[float, ...], expected: tuple[int, ...]) -> None:
    (found,) = pixel_boxes(np.array([box], np.float32), (20, 30))
    assert (found.y0, found.x0, found.y1, found.x1) == expected


def test_boxes_outside_the_image_are_left_out() -> None:
    assert pixel_boxes(np.array([[1, 40, 0, 50, 9], [1, -9, 0, -1, 9]], np.float32), (20, 30)) == ()
    assert pixel_boxes(np.array([[1, -9, 0, 0, 9], [1, 0, -9, 9, 0]], np.float32), (20, 30)) == (), "they end before it"


corners = st.tuples(st.integers(0, 11), st.integers(0, 9), st.integers(1, 12), st.integers(1, 10), st.integers(1, 2))


@given(st.lists(corners, min_size=1, max_size=5), st.integers(0, 2**31))
def test_clamped_and_filled_labels_break_no_box(rows: list[tuple[int, ...]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = pixel_boxes(np.array([[c, x, y, x + w, y + h] for y, x, h, w, c in rows], np.float32), (12, 10))
    shares = rng.random((3, 12, 10)).astype(np.float32)
    shares[0] += rng.integers(0, 3)
    held = clamp(shares / shares.sum(0), (1, 2), boxes)
    np.testing.assert_allclose(held.sum(0), 1, atol=1e-5)
    mask = np.array([0, 1, 2], np.uint8)[held.argmax(0)]
    assert box_violations(mask, boxes, (1, 2)) == 0
    filled, count = fill_empty_boxes(mask, held, (1, 2), boxes, np.full((12, 10), IGNORE, np.uint8))
    assert box_violations(filled, boxes, (1, 2)) == 0
    assert count == empty_boxes(mask, boxes)
    classes_fit = len({(b.y0, b.x0, b.y1, b.x1) for b in boxes}) == len(set(boxes))
    if classes_fit and all(b.area > len(boxes) for b in boxes):
        assert empty_boxes(filled, boxes) == 0
    wild = np.array([0, 1, 2], np.uint8)[shares.argmax(0)]
    assert box_violations(wild, boxes, (1, 2)) >= 0


def test_an_empty_box_gets_its_seeds_back_or_its_best_pixel() -> None:
    boxes = (PixelBox(1, 0, 0, 4, 4), PixelBox(2, 5, 5, 8, 8))
    shares = np.zeros((3, 8, 8), np.float32)
    shares[0] = 1
    shares[2, 6, 7] = 0.3
    seeds = np.full((8, 8), IGNORE, np.uint8)
    seeds[1, 1:3] = 1
    filled, count = fill_empty_boxes(np.zeros((8, 8), np.uint8), shares, (1, 2), boxes, seeds)
    assert count == 2
    assert np.argwhere(filled == 1).tolist() == [[1, 1], [1, 2]]
    assert np.argwhere(filled == 2).tolist() == [[6, 7]]


# --- seeds


def test_grabcut_finds_the_object_stays_in_its_box_and_repeats_itself() -> None:
    image = photo()
    truth = (image == (220, 40, 40)).all(axis=2)
    claim = grabcut(image, [DISC], 3)
    assert (claim & truth).sum() / (claim | truth).sum() > 0.9
    assert not claim[: DISC.y0].any()
    assert not claim[:, DISC.x1 :].any()
    np.testing.assert_array_equal(claim, grabcut(image, [DISC], 3))


def test_grabcut_without_background_or_colours_claims_nothing() -> None:
    assert not grabcut(photo(), [PixelBox(1, 0, 0, 40, 48)], 0).any()
    assert not grabcut(photo(), [PixelBox(1, 5, 5, 6, 7)], 0).any(), "a box of two pixels"
    assert grabcut(np.zeros((30, 30, 3), np.uint8), [PixelBox(1, 5, 5, 20, 20)], 0).shape == (30, 30)


@pytest.mark.parametrize(
    ("rows", "columns", "sound"), [(19, 19, False), (1, 2, False), (15, 15, True), (14, 13, True), (6, 6, False)]
)
def test_claims_must_fill_some_of_their_box_and_reach_its_sides(rows: int, columns: int, sound: bool) -> None:
    claim = np.zeros((40, 48), bool)
    claim[11 : 11 + rows, 15 : 15 + columns] = True
    assert is_plausible(claim, DISC, SeedConfig()) is sound


def test_confident_maps_keep_the_strongest_pixels() -> None:
    maps = np.zeros((1, 10, 10), np.float32)
    maps[0, :, :5] = np.linspace(0.5, 1, 50).reshape(10, 5)
    found = confident(photo(10, 10), maps, (7,), SeedConfig(cam_keep=0.4))
    assert int((found.labels == 7).sum()) == pytest.approx(20, abs=1)
    assert maps[0][found.labels == 7].min() > maps[0][:, :5][found.labels[:, :5] != 7].max()
    assert found.background[:, 5:].all()
    assert not found.background[:, :5].any()


def test_maps_live_in_their_boxes_and_reach_one_there() -> None:
    maps = np.full((1, 8, 8), 0.2, np.float32)
    maps[0, 3, 3] = 0.4
    held = box_maps(maps, (1,), (PixelBox(1, 2, 2, 5, 5), PixelBox(1, 6, 6, 8, 8)))
    assert held[0, 3, 3] == held[0, 7, 7] == 1
    assert held[0, 0].max() == 0
    assert held[0, 2, 2] == pytest.approx(0.5)


def rectangle(box: PixelBox, size: tuple[int, int] = (20, 20)) -> np.ndarray:
    area = np.zeros(size, bool)
    area[box.at] = True
    return area


def test_fusion_takes_what_both_sources_say() -> None:
    box = PixelBox(1, 2, 2, 12, 12)
    claim = rectangle(PixelBox(1, 3, 3, 11, 11))
    labels = np.full((20, 20), IGNORE, np.uint8)
    labels[5:8, 5:8] = 1
    labels[2, 2] = 1  # the maps are sure, GrabCut is not
    background = np.zeros((20, 20), bool)
    background[2, 4:12] = True
    background[4, 4] = True  # GrabCut objects
    both = fuse(
        [box],
        [claim],
        [True],
        Confident(labels, background),
        (20, 20),
        0,
        SeedConfig(fusion="cam+grabcut", hollow=False, core=0.0),
    )
    assert (both.labels[~rectangle(box)] == 0).all(), "outside all boxes"
    assert (both.labels[5:8, 5:8] == 1).all()
    assert both.labels[2, 2] == IGNORE
    assert (both.labels[2, 4:12] == 0).all()
    assert both.labels[4, 4] == IGNORE
    assert both.sources == {"seeded": 1}
    alone = fuse([box], [claim], [True], None, (20, 20), 0, SeedConfig(fusion="grabcut", hollow=False, core=0.0))
    np.testing.assert_array_equal(alone.labels == 1, claim)
    hollow = fuse([box], [claim], [True], None, (20, 20), 0, SeedConfig(fusion="grabcut", core=0.0))
    np.testing.assert_array_equal(hollow.labels, claim.astype(np.uint8))


def test_two_classes_on_one_pixel_leave_it_undecided() -> None:
    boxes = [PixelBox(1, 0, 0, 10, 10), PixelBox(2, 5, 5, 15, 15)]
    claims = [rectangle(PixelBox(0, 1, 1, 9, 10)), rectangle(PixelBox(0, 6, 5, 14, 15))]
    found = fuse(
        boxes, claims, [True, True], None, (20, 20), 0, SeedConfig(fusion="grabcut", overlap="undecided", core=0.0)
    )
    assert (found.labels[claims[0] & claims[1]] == IGNORE).all()
    assert (found.labels[claims[0] & ~claims[1]] == 1).all()
    assert (found.labels[claims[1] & ~claims[0]] == 2).all()


def test_the_smaller_box_has_a_pixel_that_two_classes_claim() -> None:
    boxes = [PixelBox(1, 0, 0, 12, 12), PixelBox(2, 5, 5, 9, 9)]
    claims = [rectangle(boxes[0]), rectangle(boxes[1])]
    for order in ([0, 1], [1, 0]):
        sorted_boxes, sorted_claims = [boxes[i] for i in order], [claims[i] for i in order]
        found = fuse(sorted_boxes, sorted_claims, [True, True], None, (20, 20), 0, SeedConfig(core=0.0))
        assert (found.labels[claims[1]] == 2).all()
        assert (found.labels[claims[0] & ~claims[1]] == 1).all()


def test_boxes_that_touch_form_groups_and_share_a_cut() -> None:
    boxes = [PixelBox(1, 11, 15, 21, 34), PixelBox(2, 20, 15, 30, 34), PixelBox(1, 0, 0, 4, 4)]
    assert touching(boxes) == [[0, 1], [2]]
    assert touching([PixelBox(1, 0, 0, 5, 5), PixelBox(2, 5, 0, 9, 5), PixelBox(2, 0, 5, 5, 9)]) == [[0, 1, 2]]
    nothing = [np.zeros((40, 48), bool)] * 3
    found, lost = grouped_claims(photo(), boxes, nothing, 0, SeedConfig())
    assert lost == [False, False, True]
    truth = (photo() == (220, 40, 40)).all(axis=2)
    both = found[0] | found[1]
    assert (both & truth).sum() / (both | truth).sum() > 0.9
    assert not found[0][21:].any()
    assert not found[2].any(), "a box on its own has only its own cut"
    sound = [rectangle(b, (40, 48)) for b in (PixelBox(1, 12, 16, 20, 33), PixelBox(2, 21, 16, 29, 33))]
    kept, lost = grouped_claims(photo(), boxes[:2], sound, 0, SeedConfig())
    assert kept[0] is sound[0]
    assert not any(lost)


def test_boxes_without_seeds_fall_back_and_are_counted() -> None:
    box = PixelBox(1, 2, 2, 12, 12)
    nothing = Confident(np.full((20, 20), IGNORE, np.uint8), np.zeros((20, 20), bool))
    config = SeedConfig(fusion="cam+grabcut", hollow=False, core=0.0)
    claim = rectangle(PixelBox(1, 3, 3, 11, 11))
    by_claim = fuse([box], [claim], [True], nothing, (20, 20), 0, config)
    assert by_claim.sources == {"claim": 1}
    np.testing.assert_array_equal(by_claim.labels == 1, claim)
    by_centre = fuse([box], [np.zeros((20, 20), bool)], [True], nothing, (20, 20), 0, config)
    assert by_centre.sources == {"centre": 1}
    share = (by_centre.labels == 1).sum() / box.area
    assert share == pytest.approx(0.2, abs=0.06)
    assert np.argwhere(by_centre.labels == 1).mean(0) + 0.5 == pytest.approx([7, 7], abs=0.6)


def test_every_box_has_a_seed_even_where_boxes_pile_up() -> None:
    boxes = [PixelBox(1, 2, 2, 4, 4), PixelBox(2, 2, 2, 4, 4), PixelBox(1, 0, 0, 1, 1)]
    found = fuse(boxes, [np.zeros((6, 6), bool)] * 3, [True] * 3, None, (6, 6), 0, SeedConfig())
    assert sum(found.sources.values()) == 3
    assert found.labels[0, 0] == 1


def test_a_claim_that_is_not_sound_does_not_count() -> None:
    box = PixelBox(1, 2, 2, 12, 12)
    found = fuse([box], [rectangle(PixelBox(1, 3, 3, 6, 6))], [False], None, (20, 20), 0, SeedConfig(core=0.0))
    assert found.sources == {"centre": 1}
    assert found.labels[3, 3] == IGNORE, "who claims nothing sensible says nothing of the background either"


def test_implausible_cuts_are_marked_weak() -> None:
    image = photo()
    speck = PixelBox(2, 30, 2, 39, 12)  # nothing but noise
    boxes = (DISC, speck)
    item = LabelItem("a", image)
    found = box_seeds(item, boxes, None, (1, 2), 0, SeedConfig(fusion="grabcut", fill_range=(0.3, 0.9)))
    assert len(found.weak) == 2
    assert not found.weak[0]
    for weak, cut, box in zip(found.weak, found.plain, boxes, strict=True):
        assert weak is not is_plausible(cut, box, SeedConfig(fill_range=(0.3, 0.9)))


def test_the_cut_of_a_box_on_its_own_must_be_plausible_to_count() -> None:
    options = SeedConfig(fusion="grabcut", fill_range=(0.97, 1.0))
    found = box_seeds(LabelItem("a", photo()), (DISC,), None, (1,), 0, options)
    assert found.weak == (True,)
    assert found.sources == {"centre": 1}


def test_a_promptable_models_claim_is_seed_and_the_rest_of_its_box_background() -> None:
    """Less a rim the claim is seed, the rest of the box background, and the border nobody's."""
    claim = rectangle(PixelBox(1, 13, 17, 28, 32), (40, 48))
    found = box_seeds(LabelItem("a", photo()), (DISC,), None, (1,), 0, SeedConfig(), [claim])
    np.testing.assert_array_equal(found.claims[0], claim)
    np.testing.assert_array_equal(found.labels == 1, core(claim, 3))
    np.testing.assert_array_equal(found.labels == 0, ~claim)
    assert (found.weak, found.sources) == ((False,), {"seeded": 1})


@pytest.mark.parametrize("share", [0.0, 0.04, 0.99])
def test_where_its_claim_is_not_plausible_a_plausible_cut_stands_in(share: float) -> None:
    image, claim = photo(), np.zeros((40, 48), bool)
    width = DISC.x1 - DISC.x0
    claim[DISC.at][: round(share * (DISC.y1 - DISC.y0)), : max(1, round(share * width))] = True
    if share > 0.9:
        claim[DISC.at] = True
    item, seed = LabelItem("a", image), sample_seed(0, "a", "grabcut")
    cut = grabcut(image, [DISC], seed)
    claims, weak = prompted_claims(item, (DISC,), [claim], SeedConfig())
    np.testing.assert_array_equal(claims[0], cut)
    assert weak == [False]
    claims, weak = prompted_claims(item, (DISC,), [claim], SeedConfig(fill_range=(0.97, 1.0)))
    np.testing.assert_array_equal(claims[0], claim)
    assert weak == [True]
    found = box_seeds(item, (DISC,), None, (1,), 0, SeedConfig(fill_range=(0.97, 1.0)), [claim])
    assert (found.weak, found.sources) == ((True,), {"centre": 1})


def test_the_core_of_a_claim() -> None:
    claim = rectangle(PixelBox(1, 5, 5, 15, 15))
    assert int(core(claim, 2).sum()) == 36
    assert core(claim, 30) is claim, "a claim is never lost whole"


def test_points_become_discs_and_the_nearer_wins() -> None:
    item = LabelItem("a", photo(20, 20), points=np.array([[1, 4, 4], [2, 7, 4], [3, 99, -3]], np.float32))
    labels = point_seeds(item, 2)
    assert labels[4, 4] == 1
    assert labels[4, 7] == 2
    assert labels[4, 5] == 1
    assert labels[0, 19] == 3, "a point outside is drawn to the border"
    assert labels[15, 5] == IGNORE


def test_scribbles_are_seeds_and_maps_fill_in_only_what_nobody_drew() -> None:
    scribble = np.full((20, 20), IGNORE, np.uint8)
    scribble[5, 5:9] = 1
    maps = np.zeros((1, 20, 20), np.float32)
    maps[0, 4:8, 4:10] = 0.9
    item = LabelItem("a", photo(20, 20), scribble=scribble)
    drawn = other_seeds(item, None, (1,), 0, SeedConfig())
    np.testing.assert_array_equal(drawn.labels, scribble)
    filled = other_seeds(item, maps, (1,), 0, SeedConfig()).labels
    assert (filled == 1).sum() == 4
    assert (filled[12:] == 0).all()
    tagged = other_seeds(LabelItem("a", photo(20, 20)), maps, (1,), 0, SeedConfig()).labels
    assert set(np.unique(tagged[4:8, 4:10])) <= {1, IGNORE}
    assert (tagged == 1).any()


# --- class maps


def test_maps_are_moved_until_no_box_is_empty_or_full() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 20, 20)).astype(np.float32)
    logits[0] += 6  # all background
    logits[2] += 20  # but for class 2, everywhere
    boxes = [(1, 2, 2, 10, 10), (2, 12, 12, 20, 20), (1, 12, 0, 18, 8)]
    shares = fill_boxes(logits, boxes, (0.3, 0.8))
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-5)
    means = [float(shares[k, y0:y1, x0:x1].mean()) for k, y0, x0, y1, x1 in boxes]
    assert means == pytest.approx([0.3, 0.8, 0.3], abs=0.01)
    outside = np.ones((20, 20), bool)
    for _, y0, x0, y1, x1 in boxes:
        outside[y0:y1, x0:x1] = False
    assert (shares[1:, outside] == 0).all()
    order = np.argsort(shares[1, 2:10, 2:10].ravel())
    expected = np.argsort((logits[1] - logits[0])[2:10, 2:10].ravel())
    np.testing.assert_array_equal(order, expected, "a constant keeps the maps' order")


def test_maps_within_the_limits_stay() -> None:
    logits = np.zeros((2, 8, 8), np.float32)
    shares = fill_boxes(logits, [(1, 0, 0, 8, 8)], (0.3, 0.8))
    np.testing.assert_allclose(shares, 0.5)


# --- instances


def test_instances_share_out_a_class_and_leave_no_pixel_twice() -> None:
    boxes = [PixelBox(1, 0, 0, 10, 10), PixelBox(1, 0, 6, 10, 16), PixelBox(2, 12, 0, 16, 4)]
    mask = np.zeros((20, 20), np.uint8)
    mask[0:10, 0:16] = 1
    mask[12:16, 0:4] = 2
    areas = box_instances(mask, boxes)
    assert (sum(a.astype(int) for a in areas) <= 1).all()
    assert ((areas[0] | areas[1]) == (mask == 1)).all()
    assert areas[0][5, 6]
    assert areas[1][5, 9]
    assert int(areas[2].sum()) == 16
    claims = [np.zeros((20, 20), bool), np.ones((20, 20), bool), np.zeros((20, 20), bool)]
    assert box_instances(mask, boxes, claims)[1][5, 6], "a claim outweighs the middle"


def test_what_is_central_is_measured_in_sides_of_each_box() -> None:
    mask = np.ones((10, 20), np.uint8)
    wide, narrow = box_instances(mask, [PixelBox(1, 0, 0, 10, 20), PixelBox(1, 0, 12, 10, 18)])
    assert wide[5, 13], "0.35 of the way to the wide box's side, half of the way to the narrow one's"
    assert narrow[5, 15]


def test_which_empty_box_gets_a_pixel_does_not_depend_on_the_order_of_boxes() -> None:
    boxes = [PixelBox(1, 2, 2, 3, 4), PixelBox(2, 2, 2, 3, 4)]
    shares = np.zeros((3, 6, 6), np.float32)
    shares[1:, 2, 2], shares[1:, 2, 3] = 0.9, 0.1  # both want the left one of two pixels
    nothing = np.full((6, 6), IGNORE, np.uint8)
    found = [
        fill_empty_boxes(np.zeros((6, 6), np.uint8), shares, (1, 2), order, nothing)[0]
        for order in (boxes, boxes[::-1])
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0][2, 2:4].tolist() == [1, 2]
