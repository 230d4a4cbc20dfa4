"""The benchmark `sds_keep`: how faults are dealt and planted, and what is counted."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.common import part_of
from benchmarks.keep_sets import Photo, PhotoSet
from benchmarks.sds_keep import KINDS, deal, mean_of, metrics, plant, to_row
from maskmill.curation.faults import Fault
from maskmill.data_contracts import LabelSpace, encode_image, encode_mask

SPACE = LabelSpace.from_names(["cat", "dog", "horse", "bus"])
CLASSES = [1] * 40 + [2] * 20
MASKED = [True] * 60


@pytest.mark.parametrize("seed", range(5))
def test_faults_are_dealt_class_by_class_and_grow_with_the_share(seed: int) -> None:
    few, many = (deal(CLASSES, MASKED, share, seed) for share in (10, 30))
    assert few.items() <= many.items()
    assert not deal(CLASSES, MASKED, 0, seed)
    for dealt, share in ((few, 0.1), (many, 0.3)):
        for class_id, size in ((1, 40), (2, 20)):
            assert abs(sum(CLASSES[i] == class_id for i in dealt) - share * size) < 1
    kinds = Counter(kind for fault in many.values() for kind, faults in KINDS.items() if fault in faults)
    assert max(kinds.values()) - min(kinds[kind] for kind in KINDS) <= 2


def test_photos_without_masks_get_no_fault_of_the_mask() -> None:
    dealt = deal(CLASSES, [False] * 60, 100, 0)
    assert len(dealt) == 60
    assert not set(dealt.values()) & set(KINDS["mask"])


def photo_set(folder: Path, masks: bool = True) -> PhotoSet:
    photos = []
    for i in range(6):
        own = 1 + i % 3
        image = np.random.default_rng(i).integers(0, 255, (24, 32, 3)).astype(np.uint8)
        mask = np.zeros((24, 32), np.uint8)
        mask[6:18, 4 + 2 * i : 14 + 2 * i] = 1
        paths = folder / f"{i}.png", folder / f"{i}-mask.png"
        paths[0].write_bytes(encode_image(image))
        paths[1].write_bytes(encode_mask(mask))
        lookup = np.full(256, own, np.uint8)
        lookup[0] = 0
        photos.append(Photo(paths[0], f"{i}", (own,), paths[1] if masks else None, lookup))
    return PhotoSet("made", SPACE, tuple(photos))


@pytest.mark.parametrize("fault", [fault for faults in KINDS.values() for fault in faults])
def test_a_fault_changes_what_its_kind_says(fault: Fault, tmp_path: Path) -> None:
    photos = photo_set(tmp_path)
    photo = photos.photos[2]
    case = plant(fault, photo, photos, 5)
    mask = photo.mask()
    assert mask is not None
    assert case.mask is not None
    assert (case.image != photo.image()).any() == (case.kind == "image")
    assert (case.mask != mask).any() == (case.kind in ("mask", "label"))
    assert case.tags == photo.tags
    row = to_row(case, SPACE)
    assert (row["class_ids"] == [3]) == (case.kind != "label")
    assert row["prompt_class_ids"] == [3]


def test_a_photo_without_mask_is_given_another_name_of_the_set(tmp_path: Path) -> None:
    photos = photo_set(tmp_path, masks=False)
    row = to_row(plant(Fault.SWAPPED_LABEL, photos.photos[0], photos, 1), SPACE)
    assert row["prompt_class_ids"] in ([2], [3])
    assert row["class_ids"] == row["prompt_class_ids"]
    assert row["mask"] is None


def test_metrics_count_kept_clean_worst_class_and_faults_caught() -> None:
    clean = [(None, "kept", True, [1])] * 15 + [(None, "low_asf", False, [1])] + [(None, "kept", True, [1, 2])] * 6
    clean += [(None, "near_duplicate", False, [2])] * 2 + [(None, "low_asf", False, [3])]
    faulty = [("image", "low_image_score", False, [1])] * 3 + [("mask", "kept", True, [1])]
    found = metrics(pl.DataFrame(clean + faulty, schema=["kind", "reason", "kept", "classes"], orient="row"))
    assert found["clean_kept"] == pytest.approx(21 / 25)
    assert found["clean_kept_worst_class"] == pytest.approx(6 / 8)  # class 3 has one sample: it does not count
    assert (found["faults_caught"], found["caught_image"], found["caught_mask"]) == (0.75, 1.0, 0.0)
    assert found["clean_duplicates"] == pytest.approx(2 / 25)


def test_the_mean_over_sets_is_over_those_that_have_the_metric() -> None:
    assert mean_of([{"a": 1.0, "b": 0.5}, {"a": 0.0}]) == {"a": 0.5, "b": 0.5}


def test_three_parts_by_hash() -> None:
    shares = Counter(part_of(f"photo-{i}") for i in range(2000))
    assert shares["train"] / 2000 == pytest.approx(0.3, abs=0.05)
    assert shares["dev"] / 2000 == pytest.approx(0.3, abs=0.05)
