"""Real data sets, where MASKMILL_DATA names the folder that holds them."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ingest_sets import Row, ingest, mask_of, reasons
from PIL import Image

from maskmill.data_contracts import LabelSpace, check_row, load_label_space
from maskmill.pipelines.ingest.folder import FolderSource

FOREGROUND = load_label_space("foreground")


def data(name: str) -> Path:
    folder = Path(os.environ.get("MASKMILL_DATA", "")) / name
    if "MASKMILL_DATA" not in os.environ or not folder.is_dir():
        pytest.skip(f"needs MASKMILL_DATA with {name} in it")
    return folder


def check_against_files(root: Path, samples: list[Row], space: LabelSpace, masks: str) -> None:
    """Image bytes are the file's, and masks its values; a row in twenty."""
    for row in samples[::20]:
        path = row["provenance"]["source_path"]
        assert row["image"]["bytes"] == (root / path).read_bytes()
        raw = np.asarray(Image.open(root / masks / Path(*Path(path).parts[1:]).with_suffix(".png")))
        found = mask_of(row)
        wanted = np.where(np.isin(raw, space.ignore_ids), 255, raw)
        assert np.array_equal(found, wanted)
        assert check_row(row, space) is None


def test_davis_clips(tmp_path: Path) -> None:
    root = data("davis")
    source = FolderSource(root=str(root), images="JPEGImages", masks="Annotations", group_by="parent")
    samples, rejects = ingest(source, tmp_path, FOREGROUND, shard_size=200)
    assert len(samples) + len(rejects) == len(list(root.glob("JPEGImages/*/*.jpg")))
    assert set(reasons(rejects).values()) <= {"empty_foreground", "duplicate_id"}
    clips = Counter(row["group"] for row in samples)
    assert set(clips) == {p.name for p in (root / "JPEGImages").iterdir()}
    for clip in clips:
        frames = [row["index"] for row in samples if row["group"] == clip]
        assert frames == sorted(set(frames))
    check_against_files(root, samples, FOREGROUND, "Annotations")


def test_davis_with_the_names_of_its_sequences(tmp_path: Path) -> None:
    names = {"blackswan": "bird", "boat": "boat", "camel": "camel"}
    source = FolderSource(
        root=str(data("davis")), images="JPEGImages", masks="Annotations", group_by="parent", names_by_group=names
    )
    samples, rejects = ingest(source, tmp_path, load_label_space("voc"), shard_size=500)
    assert {row["group"]: row["class_ids"] for row in samples} == {"blackswan": [3], "boat": [4]}
    assert all(row["prompt_class_ids"] == row["class_ids"] for row in samples)
    assert set(reasons(rejects).values()) == {"unknown_class_name"}


def test_horses(tmp_path: Path) -> None:
    root = data("weizmann_horses")
    samples, rejects = ingest(FolderSource(root=str(root)), tmp_path, FOREGROUND, shard_size=100)
    assert len(samples) + len(rejects) == len(list(root.glob("images/*.jpg")))
    assert set(reasons(rejects).values()) <= {"duplicate_id"}
    check_against_files(root, samples, FOREGROUND, "masks")


def test_camvids_void_is_ignored(tmp_path: Path) -> None:
    root, space = data("camvid"), load_label_space("camvid")
    source = FolderSource(root=str(root), stems="val.txt", licence="CC-BY-NC-4.0")
    samples, rejects = ingest(source, tmp_path, space, shard_size=100)
    assert not rejects
    assert len(samples) == len((root / "val.txt").read_text().split())
    assert any((mask_of(row) == 255).any() for row in samples)
    assert all(11 not in mask_of(row) for row in samples[::10])
    assert {row["provenance"]["licence"] for row in samples} == {"CC-BY-NC-4.0"}
    check_against_files(root, samples, space, "masks")


@pytest.mark.parametrize("masks", ["masks", "scribbles"])
def test_acdc_volumes(tmp_path: Path, masks: str) -> None:
    root, space = data("acdc"), load_label_space("acdc")
    pattern = r"(?P<group>patient\d+_frame\d+)_slice_(?P<index>\d+)"
    source = FolderSource(root=str(root), masks=masks, pattern=pattern, allow_empty=True)
    samples, rejects = ingest(source, tmp_path, space, shard_size=300)
    assert not rejects
    slices = {(row["group"], row["index"]) for row in samples}
    assert len(slices) == len(samples) == len(list(root.glob("images/*.png")))
    assert len({group for group, _ in slices}) == 2 * len({str(group)[:10] for group, _ in slices})
    check_against_files(root, samples, space, masks)


def test_facades_unlabelled_is_ignored(tmp_path: Path) -> None:
    root = data("labelme_facade")
    classes = json.loads((root / "classes.json").read_text())
    names = classes["classes"] if isinstance(classes, dict) else classes
    space = LabelSpace.model_validate(
        {
            "name": "facade",
            "background_id": None,
            "ignore_ids": [0],
            "classes": [{"id": i, "name": n} for i, n in enumerate(names) if i > 0],
        }
    )
    samples, rejects = ingest(FolderSource(root=str(root)), tmp_path, space, shard_size=100)
    assert not rejects
    assert all(0 not in mask_of(row) for row in samples[::10])
    check_against_files(root, samples, space, "masks")


def test_clothes_with_tags(tmp_path: Path) -> None:
    root = data("ccp")
    names = json.loads((root / "classes.json").read_text())["classes"]
    space = LabelSpace.from_names(names[1:], "ccp")
    samples, rejects = ingest(FolderSource(root=str(root), tags="image_tags.json"), tmp_path, space, shard_size=300)
    assert not rejects
    tags = json.loads((root / "image_tags.json").read_text())
    for row in samples:
        assert row["prompt_class_ids"] == tags[Path(row["provenance"]["source_path"]).stem]
        assert set(row["class_ids"]) <= set(row["prompt_class_ids"]) | {0}
    check_against_files(root, samples, space, "masks")


def test_photos_with_tags_only(tmp_path: Path) -> None:
    root = data("ccp")
    names = json.loads((root / "classes.json").read_text())["classes"]
    source = FolderSource(root=str(root), images="images_tags_only", masks=None, tags="image_tags.json")
    samples, rejects = ingest(source, tmp_path, LabelSpace.from_names(names[1:], "ccp"), shard_size=300)
    assert not rejects
    assert all(row["mask"] is None and row["prompt_class_ids"] for row in samples)


@pytest.mark.parametrize("strokes", ["scribbles_1", "scribbles_2"])
def test_strokes_by_hand(tmp_path: Path, strokes: str) -> None:
    root = data("grabcut_scribbles")
    remap: dict[int, int | str] = {0: "ignore", 1: "foreground", 2: "background"}
    samples, rejects = ingest(FolderSource(root=str(root), masks=strokes, remap=remap), tmp_path, FOREGROUND)
    assert not rejects
    for row in samples:
        raw = np.asarray(Image.open(root / strokes / f"{Path(row['provenance']['source_path']).stem}.png"))
        assert np.array_equal(mask_of(row), np.array([255, 1, 0], np.uint8)[raw])
