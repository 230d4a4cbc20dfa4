"""Objects and panoptic segments of COCO files: each stays itself, or is one sample's reason."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import CATEGORIES, Mask, cat, coco, note
from ingest_sets import put
from numpy.typing import NDArray
from PIL import Image

from maskmill.data_contracts import Instance, encode_image
from maskmill.pipelines.core.ledger import build_ledger


def test_touching_objects_stay_two_with_their_ids_and_scores(tmp_path: Path) -> None:
    left, right = [0, 0, 10, 0, 10, 10, 0, 10], [10, 0, 20, 0, 20, 10, 10, 10]
    _, _, (row,) = coco(tmp_path, [note([left], 71, score=0.5), note([right], 72)])
    first, second = row["instances"]
    assert (first["source_id"], second["source_id"]) == ("71", "72")
    assert (first["score"], second["score"]) == (0.5, None)
    assert first["box"] == {"x0": 0, "y0": 0, "x1": 10, "y1": 10}
    assert not first["crowd"]


def test_pixels_under_another_object_are_kept(tmp_path: Path) -> None:
    small = [5, 5, 8, 5, 8, 8, 5, 8]
    masks, _, (row,) = coco(tmp_path, [note(), note([small], 2, 2)])
    whole = Instance.read(row["instances"][0], 20, 30)
    assert whole.mask is not None
    np.testing.assert_array_equal(whole.mask, cat() > 0)
    assert masks["images/a.png"][6, 6] == 2


def test_what_became_background_is_cut_out_of_the_object_below(tmp_path: Path) -> None:
    categories = [*CATEGORIES, {"id": 3, "name": "glass"}]
    small = [5, 5, 8, 5, 8, 8, 5, 8]
    notes = [note(), note([small], 2, 3)]
    masks, _, (row,) = coco(tmp_path, notes, None, categories, {"other_categories": "background"})
    (one,) = row["instances"]
    found = Instance.read(one, 20, 30).mask
    assert found is not None
    np.testing.assert_array_equal(found, masks["images/a.png"] == 1)
    assert not found[6, 6]


def test_an_object_smaller_than_a_pixel_is_counted(tmp_path: Path) -> None:
    coco(tmp_path, [note(), note([[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]], 2, 2)])
    assert build_ledger(str(tmp_path / "run0")).notes == {"objects that cover no pixel": 1}


def panoptic(root: Path, png: bytes, segments: Any, **more: Any) -> tuple[dict[str, Mask], dict[str, str]]:
    put(root / "set/pan/a.png", png)
    row = {"image_id": 1, "file_name": "a.png", "segments_info": segments, **more}
    masks, rejects, _ = coco(root, [row], options={"panoptic": "pan"})
    return masks, rejects


def segment_ids() -> NDArray[np.int64]:
    ids = np.zeros((20, 30), np.int64)
    ids[4:10, 3:15] = 70_000
    ids[12:18, 3:15] = 513
    return ids


def in_colours(ids: NDArray[np.int64]) -> Mask:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


SEGMENTS = [{"id": 70_000, "category_id": 1, "iscrowd": 0}, {"id": 513, "category_id": 2, "iscrowd": 0}]


WANTED = np.select([segment_ids() == 70_000, segment_ids() == 513], [1, 2], 255).astype(np.uint8)


def png_of(pixels: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("alpha", [0, 7, 255])
def test_transparency_is_no_part_of_segment_ids(alpha: int, tmp_path: Path) -> None:
    pixels = np.dstack([in_colours(segment_ids()), np.full((20, 30), alpha, np.uint8)])
    masks, rejects = panoptic(tmp_path, png_of(pixels), SEGMENTS)
    assert not rejects
    np.testing.assert_array_equal(masks["images/a.png"], WANTED)


def test_grey_segment_maps_hold_ids_themselves(tmp_path: Path) -> None:
    small = np.where(segment_ids() == 70_000, 7, segment_ids()).astype(np.uint16)
    masks, _ = panoptic(tmp_path, png_of(small), [{"id": 7, "category_id": 1}, {"id": 513.0, "category_id": 2}])
    np.testing.assert_array_equal(masks["images/a.png"], WANTED)


def test_channels_the_wrong_way_round_are_guessed_in_the_reason_and_the_remedy_works(tmp_path: Path) -> None:
    wrong = in_colours(segment_ids())[..., ::-1]
    _, rejects = panoptic(tmp_path, encode_image(np.ascontiguousarray(wrong)), SEGMENTS)
    assert "BGR" in rejects["images/a.png"]
    masks, _ = panoptic(tmp_path, encode_image(np.ascontiguousarray(wrong[..., ::-1])), SEGMENTS)
    np.testing.assert_array_equal(masks["images/a.png"], WANTED)


@pytest.mark.parametrize(
    ("segments", "word"),
    [
        ([{"id": [1], "category_id": 1}], "{'id': [1], 'category_id': 1} at place 0"),
        ([{"id": "1", "category_id": 1}], "an id as text"),
        ([None], "None at place 0"),
        ({"1": 1}, "segments_info as a list"),
        (None, "segments_info as a list"),
        ([*SEGMENTS, {"id": 513, "category_id": 1}], "id 513 twice"),
        ([SEGMENTS[0]], "segment 513 on 72 pixels"),
    ],
)
def test_segments_that_mean_nothing_are_one_samples_reason(segments: Any, word: str, tmp_path: Path) -> None:
    masks, rejects = panoptic(tmp_path, encode_image(in_colours(segment_ids())), segments)
    assert not masks
    assert word in rejects["images/a.png"]
