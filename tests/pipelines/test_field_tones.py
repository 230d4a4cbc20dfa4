"""Photos of more bits and bands than a screen shows: how they are scaled, and what is told."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ingest_sets import Row, photo
from numpy.typing import NDArray
from one_pair import SPACE, folder, refused, save, shape

from maskmill.data_contracts import (
    config_hash,
    decode_image,
    decode_mask,
)
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.stage import NOT_IN_HASH, _ids, ingest_stage

RNG = np.random.default_rng(0)

RAMP = np.arange(600, dtype=np.float64).reshape(20, 30) / 599


def tones(row: Row) -> Any:
    return json.loads(row["provenance"]["extra"])["tone"]


@pytest.mark.parametrize(
    ("values", "between"),
    [
        (np.rint(RAMP * 65_535).astype(np.uint16), [0, 65_535]),
        (np.rint(RAMP * 4_095).astype(np.uint16), [0, 4_095]),
        (np.rint(RAMP * 1_000).astype(np.uint16), [0, 1_023]),
        (np.rint(RAMP * 16_000).astype(np.uint16), [0, 16_383]),
        (np.rint(RAMP * 255).astype(np.uint16), [0, 255]),
        (RAMP.astype(np.float32), [0, 1]),
        ((RAMP * 254.5).astype(np.float32), [0, 255]),
        ((RAMP * 4_000).astype(np.float32), [0, float(np.float32(4_000))]),
        ((RAMP * 2_000 - 1_000).astype(np.float32), [-1_000, 1_000]),
        (np.rint(RAMP * 100_000).astype(np.int32), [0, 100_000]),
    ],
)
def test_photos_of_more_bits_are_scaled_by_the_stated_rule(values: NDArray[Any], between: Any, tmp_path: Path) -> None:
    data = save(values, "PNG" if values.dtype == np.uint16 else "TIFF")
    row, detail = folder(tmp_path, save(shape()), data, names=("a.tif", "a.png"))
    assert row is not None, detail
    assert tones(row) == pytest.approx(between)
    assert row["image"]["bytes"] == data, "bytes stay as they are: the rule is every reader's"
    seen = decode_image(row["image"]["bytes"])[..., 1].astype(float)
    low, high = between
    assert np.abs(seen - 255 * (values.astype(float) - low) / (high - low)).max() <= 1


def test_12_bits_in_16_bit_colours_are_not_black(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 4_096, (20, 30, 3)).astype(np.uint16)
    for suffix in (".png", ".tiff"):
        ok, data = cv2.imencode(suffix, pixels[..., ::-1])
        assert ok
        seen = decode_image(data.tobytes()).astype(float)
        assert np.abs(seen - pixels / 4_095 * 255).max() <= 1


@pytest.mark.parametrize(("tone", "low", "high"), [("stretch", 100, 900), ([200, 600], 200, 600)])
def test_another_tone_is_written_into_the_photo(tone: Any, low: int, high: int, tmp_path: Path) -> None:
    values = np.rint(100 + RAMP * 800).astype(np.uint16)
    row, detail = folder(tmp_path, save(shape()), save(values), tone=tone)
    assert row is not None, detail
    wanted = np.rint(255 * np.clip((values.astype(float) - low) / (high - low), 0, 1))
    np.testing.assert_array_equal(decode_image(row["image"]["bytes"])[..., 0], wanted)
    assert tones(row) == [low, high]


def test_tones_that_mean_nothing_and_photos_without_values_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="low < high"):
        FolderSource.model_validate({"root": ".", "tone": [5, 5]})
    odd = RAMP.astype(np.float32)
    odd[0, 0] = np.nan
    assert "finite intensities" in refused(tmp_path, save(shape()), save(odd, "TIFF"), names=("a.tif", "a.png"))


def test_eight_bit_photos_stay_as_they_are_whatever_the_tone(tmp_path: Path) -> None:
    data = photo(3, 20, 30)
    row, _ = folder(tmp_path, save(shape()), data, tone="stretch")
    assert row is not None
    assert row["image"]["bytes"] == data
    assert row["provenance"]["extra"] is None


def five_bands() -> bytes:
    """A TIFF of five 16-bit bands, by hand: Pillow writes none."""
    pixels = np.zeros((20, 30, 5), "<u2").tobytes()
    tags = [(256, 3, 1, 30), (257, 3, 1, 20), (258, 3, 5, 8 + 2 + 12 * 8 + 4), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8 + 2 + 12 * 8 + 4 + 10), (277, 3, 1, 5), (279, 4, 1, len(pixels))]
    directory = b"".join(
        tag.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + count.to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, kind, count, value in tags
    )
    bits = (16).to_bytes(2, "little") * 5
    return b"II*\0\x08\0\0\0" + len(tags).to_bytes(2, "little") + directory + bytes(4) + bits + pixels


def test_bands_are_counted(tmp_path: Path) -> None:
    detail = refused(tmp_path, save(shape()), five_bands(), names=("a.tif", "a.png"))
    assert "a TIFF of 5 bands with 16 bits" in detail
    assert decode_mask(save(shape())).sum() == 72


def test_options_that_came_later_leave_fingerprints_alone_until_they_are_set() -> None:
    plain, toned = FolderSource(root="."), FolderSource(root=".", tone="stretch")
    before = plain.model_dump(mode="json", exclude=NOT_IN_HASH | FolderSource.later)
    assert ingest_stage(plain, SPACE).config_hash == config_hash({"source": before, "space": _ids(SPACE)})
    assert ingest_stage(toned, SPACE).config_hash != ingest_stage(plain, SPACE).config_hash
