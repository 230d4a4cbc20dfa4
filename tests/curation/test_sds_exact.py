"""SDS by exact values: each small step on images and maps whose answer can be told."""

from typing import Any

import numpy as np
import pytest
import torch

from maskmill.curation.sds import asf_score, boundary, pseudo_label
from maskmill.curation.sds.boundary import boundary_score, edge_percentiles
from maskmill.curation.sds.images import Unscored, choose_labels, prepare, resize
from maskmill.curation.sds.pcs import Readings, image_scores, shuffle_tiles, tile_permutations
from maskmill.data_contracts import Uint8Array, encode_image, encode_mask
from tests.curation.sds_samples import SPACE, config, image_of

torch.set_num_threads(1)

# ASF


def test_a_value_at_the_confidence_is_sure_enough() -> None:
    maps = np.array([[[0.5, 0.2, 0.1]], [[0.25, 0.75, 0.125]]], np.float32)
    assert pseudo_label(maps, (3,), 0, 0.5).tolist() == [[0, 3, 255]]


def test_one_pixel_is_enough_and_none_is_zero() -> None:
    one = np.array([[1, 0]], np.uint8)
    found = asf_score(one, one, [1, 2])
    assert (found.pooled, found.per_class) == (1.0, {1: 1.0, 2: 0.0})
    assert asf_score(one, np.array([[1, 255]], np.uint8), [1]).ignore_fraction == 0.5
    with pytest.raises(ValueError, match="equal shapes"):
        asf_score(one, one.T, [1])


def test_only_what_is_undecided_is_left_out() -> None:
    mask, pseudo = np.array([[1, 1, 1, 0]], np.uint8), np.array([[1, 255, 0, 1]], np.uint8)
    assert asf_score(mask, pseudo, [1], "authors").pooled == 1 / 4
    assert asf_score(mask, pseudo, [1], "exclude").pooled == 1 / 3


# borders


def test_widths_of_the_border_score() -> None:
    assert (boundary.WORK_SIDE, boundary.SMOOTHING, boundary.TOLERANCE, boundary.MARGIN) == (320, 3.0, 2, 2)


@pytest.mark.parametrize("turned", [False, True])
def test_the_strongest_ranks_lie_within_the_tolerance_of_a_step(turned: bool) -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = 200
    ranks = edge_percentiles(np.ascontiguousarray(image.transpose(1, 0, 2)) if turned else image)
    columns = (ranks.T if turned else ranks)[20]
    (top,) = np.nonzero(columns == columns.max())
    assert top.tolist() == [37, 38, 39, 40, 41]  # where it rises, and two more pixels on either side
    assert columns[0] < 0.5
    falling = edge_percentiles(np.ascontiguousarray(image[:, ::-1]))[20]
    assert falling.tolist() == edge_percentiles(image)[20, ::-1].tolist()


def test_a_border_is_two_pixels_wide_and_keeps_off_the_frame() -> None:
    region = np.zeros((100, 100), bool)
    region[20:40, 30:60] = True
    assert int(boundary._border(region).sum()) == 22 * 32 - 18 * 28
    region = np.zeros((100, 100), bool)
    region[:10] = True
    assert np.argwhere(boundary._border(region)).min(axis=0).tolist() == [9, 2]
    assert np.argwhere(boundary._border(region)).max(axis=0).tolist() == [10, 97]
    assert int(boundary._border(region.T).sum()) == 2 * 96
    assert int(boundary._border(region[::-1]).sum()) == 2 * 96


def test_pictures_are_brought_to_one_longer_side() -> None:
    stripes = np.zeros((320, 640, 3), np.uint8)
    stripes[:, ::2] = 200
    mask = np.zeros((320, 640), np.uint8)
    mask[:, 301:] = 7
    image, small = boundary._shrink(stripes, mask)
    assert image.shape == (160, 320, 3)
    assert set(np.unique(image)) == {100}  # areas are averaged
    assert set(np.unique(small)) == {0, 7}
    grey = np.zeros((40, 80, 3), np.uint8)
    grey[:, 40:] = 200
    large, wide = boundary._shrink(grey, (grey[..., 0] > 0).astype(np.uint8) * np.uint8(7))
    assert large.shape == (160, 320, 3)
    assert len(np.unique(large)) > 2  # enlarged without steps
    assert set(np.unique(wide)) == {0, 7}
    assert boundary._shrink(np.zeros((1000, 10, 3), np.uint8), np.zeros((1000, 10), np.uint8))[1].shape == (320, 8)


def test_borders_count_by_their_length_and_from_chance_on() -> None:
    image = np.zeros((320, 320, 3), np.uint8)
    image[100:200, 100:200] = 220
    mask = (image[..., 0] > 0).astype(np.uint8)
    right = boundary_score(image, mask, [1])
    ranks, border = edge_percentiles(image), boundary._border(mask == 1)
    assert right.per_class[1] == pytest.approx(2 * float(ranks[border].mean()) - 1)
    with_absent = boundary_score(image, mask, [1, 2])
    length = int(border.sum())
    assert with_absent.per_class[2] == 0.0
    assert with_absent.pooled == pytest.approx(right.pooled * length / (length + 1))
    moved = np.zeros_like(mask)
    moved[20:60, 220:300] = 1
    assert boundary_score(image, moved, [1]).pooled == 0.0  # worse than chance is not less than nothing
    assert boundary_score(image, mask, [1], labels=[2]).pooled == 0.0
    assert boundary_score(image, mask, [1], labels=[1, 2]).pooled == right.pooled


# PCS


def entropies(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows).log()


def test_the_gap_is_the_mean_of_absolute_gaps() -> None:
    """H of the image is ln 2, of its two copies 0 and 2 ln 2: gaps of ln 2 that must not cancel."""
    plain = entropies([0.5, 0.5, 0, 0])
    mixed = torch.stack([entropies([1, 0, 0, 0]), entropies([0.25] * 4)])
    unit = torch.tensor([[1.0, 0.0]])
    own = torch.tensor([[True, False, False, False]])
    found = Readings(unit, plain, unit.expand(2, 1, 2), mixed, own)
    assert found.gaps.tolist() == pytest.approx([np.log(2)])
    assert image_scores("pcs", found).tolist() == pytest.approx([np.log(2)])
    assert image_scores("drop", found).tolist() == pytest.approx([0.5 - (1 + 0.25) / 2])


def test_permutations_are_pinned() -> None:
    """They stand in people's scores: a change here makes every one of them stale."""
    assert tile_permutations(0, "a", 2, 4)[0].tolist() == [2, 14, 6, 9, 15, 1, 12, 5, 10, 4, 8, 11, 0, 7, 13, 3]
    assert tile_permutations(0, "a", 1, 3).shape == (1, 9)


@pytest.mark.parametrize(("height", "width", "tiles"), [(8, 9, 4), (9, 8, 4), (8, 8, 5)])
def test_tiles_that_do_not_fit_are_refused(height: int, width: int, tiles: int) -> None:
    with pytest.raises(ValueError, match="do not divide"):
        shuffle_tiles(torch.zeros(3, height, width), np.arange(tiles))


# images


def test_classes_come_from_the_prompt_the_mask_or_what_is_stated() -> None:
    row = {"prompt_class_ids": [4, 2, 2, 99], "class_ids": [3]}
    prompt, mask = config(labels="prompt"), config(labels="mask")
    assert choose_labels(row, (1,), prompt, SPACE) == (2, 4)
    assert choose_labels(row, (1,), mask, SPACE) == (1,)
    assert choose_labels({"class_ids": [3]}, (1,), prompt, SPACE) == (1,)
    assert choose_labels({"class_ids": [3]}, (), prompt, SPACE) == (3,)
    assert choose_labels({}, (), prompt, SPACE) == ()
    assert choose_labels({"class_ids": [4, 3, 1]}, (), mask, SPACE) == (1, 3, 4)


def test_sides_are_rounded_up_and_pixels_are_bicubic() -> None:
    image = image_of(1, 65, 128)
    assert tuple(resize(image, None, 64).shape) == (3, 128, 128)
    assert tuple(resize(image, 96, 64).shape) == (3, 96, 96)
    same = image_of(2, 64, 128)
    assert torch.equal(resize(same, None, 64), torch.from_numpy(same.transpose(2, 0, 1).copy()))
    step = np.zeros((64, 64, 3), np.uint8)
    step[:, 32:] = 200
    assert int(resize(step, 128, 64).max()) > 200  # only a cubic overshoots


def row(mask: Uint8Array | None, image: Uint8Array | None = None, **more: Any) -> dict[str, Any]:
    picture = {"bytes": encode_image(image_of(1) if image is None else image)}
    return {"sample_id": "a", "image": picture, "mask": None if mask is None else {"bytes": encode_mask(mask)}, **more}


def test_what_cannot_be_scored_says_why() -> None:
    def reasons(one: dict[str, Any]) -> tuple[str, int | None] | None:
        found = prepare(one, config(), SPACE, 64)
        return (str(found.reason), found.n_classes) if isinstance(found, Unscored) else None

    empty = np.zeros((64, 64), np.uint8)
    half = empty.copy()
    half[:32] = 255
    assert reasons(row(empty)) == ("no_classes", 0)
    assert reasons(row(half)) == ("no_classes", 0)  # background is seen in a part of it
    assert reasons(row(np.full((64, 64), 255, np.uint8))) == ("no_classes", None)
    assert reasons(row(None)) == ("no_classes", None)
    assert reasons(row(empty[:32])) == ("score_failed", None)
    assert reasons(row(empty, class_ids=[1])) is None
    assert reasons({**row(empty), "image": {"bytes": None}}) == ("score_failed", None)
