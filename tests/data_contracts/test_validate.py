"""Checks on a pair: every message names what is wrong, how much of it, and what to do."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from maskmill.data_contracts import (
    Instance,
    LabelSpace,
    Reason,
    check_mask,
    check_pair,
    check_row,
    encode_image,
    encode_mask,
    foreground_ids,
    load_label_space,
)

VOC = load_label_space("voc")
IMAGE = np.zeros((4, 6, 3), np.uint8)


def mask_with(value: int, pixels: int = 5) -> NDArray[np.uint8]:
    mask = np.zeros((4, 6), np.uint8)
    mask.ravel()[:pixels] = value
    return mask


def test_a_sound_pair() -> None:
    assert check_pair(IMAGE, mask_with(3), VOC) is None
    assert foreground_ids(mask_with(3), VOC) == [3]


def test_another_size() -> None:
    problem = check_pair(IMAGE, np.ones((6, 4), np.uint8), VOC)
    assert problem is not None
    assert problem.reason is Reason.SIZE_MISMATCH
    assert "6x4" in problem.expected
    assert problem.found == "4x6"
    assert "nearest neighbour" in problem.fix


def test_strangers_are_counted() -> None:
    mask = mask_with(99)
    mask[3, 5] = 200
    problem = check_mask(mask, VOC)
    assert problem is not None
    assert problem.reason is Reason.UNKNOWN_MASK_ID
    assert problem.found == "id 99 on 5 pixels, id 200 on 1 pixels"
    assert "{99: ignore}" in problem.fix


@pytest.mark.parametrize("value", [0, 255])
def test_nothing_in_front(value: int) -> None:
    problem = check_mask(np.full((4, 6), value, np.uint8), VOC)
    assert problem is not None
    assert problem.reason is Reason.EMPTY_FOREGROUND
    assert check_mask(np.full((4, 6), value, np.uint8), VOC, allow_empty=True) is None


def test_zero_is_foreground_where_the_space_says_so() -> None:
    camvid = load_label_space("camvid")
    assert check_mask(np.zeros((4, 6), np.uint8), camvid) is None
    assert foreground_ids(np.zeros((4, 6), np.uint8), camvid) == [0]
    assert check_mask(mask_with(11), camvid) is not None  # 11 is void in the files, never in a Sample


spaces = st.sets(st.integers(1, 254), min_size=1, max_size=12).map(
    lambda ids: LabelSpace.model_validate({"name": "x", "classes": [{"id": i, "name": f"c{i}"} for i in ids]})
)


@given(arrays(np.uint8, (4, 6)), spaces)
def test_a_mask_passes_exactly_when_every_value_is_allowed(mask: NDArray[np.uint8], space: LabelSpace) -> None:
    present = set(mask.ravel().tolist())
    problem = check_mask(mask, space, allow_empty=True)
    assert (problem is None) == (present <= space.allowed_ids)
    assert foreground_ids(mask, space) == sorted(present & set(space.ids))


def sample_row(**change: object) -> dict[str, object]:
    row: dict[str, Any] = {
        "sample_id": "ab",
        "image": {"bytes": encode_image(IMAGE), "path": None},
        "mask": {"bytes": encode_mask(mask_with(3)), "path": None},
        "height": 4,
        "width": 6,
        "class_ids": [3],
    }
    return {**row, **change}


def test_rows_of_other_peoples_shards() -> None:
    assert check_row(sample_row(), VOC) is None
    assert check_row(sample_row(mask=None, class_ids=[]), VOC) is None
    cases: list[tuple[dict[str, object], Reason]] = [
        ({"height": 5}, Reason.BAD_ANNOTATION),
        ({"class_ids": [4]}, Reason.BAD_ANNOTATION),
        ({"image": {"bytes": None, "path": "a.jpg"}}, Reason.MISSING_IMAGE),
        ({"image": {"bytes": b"x", "path": None}}, Reason.UNDECODABLE_IMAGE),
        ({"mask": {"bytes": b"x", "path": None}}, Reason.UNDECODABLE_MASK),
        ({"mask": {"bytes": encode_image(IMAGE + np.uint8([0, 1, 2])), "path": None}}, Reason.WRONG_MASK_FORMAT),
        ({"mask": {"bytes": encode_mask(mask_with(99)), "path": None}}, Reason.UNKNOWN_MASK_ID),
        ({"mask": {"bytes": encode_mask(np.ones((2, 2), np.uint8)), "path": None}}, Reason.SIZE_MISMATCH),
    ]
    for change, reason in cases:
        problem = check_row(sample_row(**change), VOC)
        assert problem is not None
        assert problem.reason is reason, change


def test_what_the_ignored_pixels_may_be_is_said() -> None:
    seen = check_mask(np.full((2, 2), 255, np.uint8), VOC)
    assert seen is not None
    assert seen.fix.startswith("255 means ignore; if it is your object, set source.remap: {255: aeroplane}")
    empty = check_mask(np.zeros((2, 2), np.uint8), VOC)
    assert empty is not None
    assert empty.fix == "drop the sample, or set allow_empty in the ingest config"
    assert empty.found == "only ids [0]"


def test_objects_of_other_peoples_rows_are_checked() -> None:
    empty = np.zeros((4, 6), np.uint8)
    mask = {"bytes": encode_mask(empty), "path": None}
    assert check_row(sample_row(mask=mask, class_ids=[]), VOC) is None  # whoever wrote it meant it to be empty
    entry = Instance.of(3, mask_with(3) == 3).row()
    assert check_row(sample_row(instances=[entry]), VOC) is None
    wrong = check_row(sample_row(instances=[{**entry, "class_id": 4}]), VOC)
    assert wrong is not None
    cut = check_row(sample_row(instances=[{**entry, "rle": "1"}]), VOC)
    assert cut is not None
    assert cut.reason is Reason.BAD_ANNOTATION
    assert cut.expected == "run lengths of (4, 6)"
