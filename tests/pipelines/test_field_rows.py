"""One bad row is one bad row, and nothing that lies there disappears: what people's disks and files really hold."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from ingest_sets import VOC, details, ingest, label_map, make_folder, photo, put, put_json, reasons

from maskmill.data_contracts import LabelSpace, encode_mask
from maskmill.pipelines.ingest import SOURCES, Entry, RawSample, ingest_units
from maskmill.pipelines.ingest.coco import CocoSource
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.spill import TOO_DEEP, json_items
from maskmill.pipelines.ingest.volumes_nifti import NiftiSource

DEEP = "[" * 20_000 + "]" * 20_000


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_dead_links_and_circles_are_rows(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", ["a"])
    link(root / "images/annex.png", "../.git/annex/objects/X/gone.png")
    link(root / "masks/annex.png", "../.git/annex/objects/Y/gone.png")
    link(root / "images/dead.jpg", "nowhere.jpg")
    link(root / "images/circle.jpg", "circle.jpg")
    link(root / "images/folder", "no_such_folder")
    samples, rejects = ingest(FolderSource(root=str(root)), tmp_path / "run")
    assert len(samples) == 1
    assert set(reasons(rejects).values()) == {"not_read"}
    words = details(rejects)
    assert set(words) == {"images/annex.png", "images/circle.jpg", "images/dead.jpg", "images/folder"}
    assert "datalad get" in words["images/annex.png"]
    assert "nowhere.jpg, where there is none" in words["images/dead.jpg"]


def test_files_in_suffixes_that_nobody_reads_are_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", ["a"])
    put(root / "images/b.xcf", "a painting")
    put(root / "images/.DS_Store", "x")
    put(root / "masks/notes", "x")
    _, rejects = ingest(FolderSource(root=str(root)), tmp_path / "run")
    words = details(rejects)
    assert set(words) == {"images/b.xcf", "images/.DS_Store", "masks/notes"}
    assert "found one in .xcf. Fix: save it as PNG" in words["images/b.xcf"]
    assert "hidden .DS_Store" in words["images/.DS_Store"]


def test_stray_files_come_last_and_move_no_shard(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", ["b", "c", "d"])
    source = FolderSource(root=str(root))
    before = ingest_units(source, str(tmp_path / "run"), 2)
    put(root / "images/a.txt", "sorts before all others")
    after = ingest_units(source, str(tmp_path / "run"), 2)
    assert [unit.stamps for unit in after][:1] == [unit.stamps for unit in before][:1]
    _, rejects = ingest(source, tmp_path / "run", shard_size=2)
    assert reasons(rejects) == {"images/a.txt": "not_read"}


def test_a_folder_of_nothing_that_is_read_says_what_lies_there_and_what_is_read(tmp_path: Path) -> None:
    for name in ("a.nrrd", "c.nrrd", "b.dcm"):
        put(tmp_path / "set" / name, "x")
    with pytest.raises(ValueError, match=r"3 files lie there.*nrrd.*nii.*dcm2niix|3 files.*\.nii"):
        ingest_units(NiftiSource(root=str(tmp_path / "set")), str(tmp_path / "run"))


def coco(root: Path, **changes: object) -> Path:
    """A photo and a JSON with one rectangle on it; `changes` go into the annotation."""
    put(root / "images/a.png", photo(kind="PNG"))
    note = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[3, 3, 9, 3, 9, 8, 3, 8]], "bbox": [3, 3, 6, 5]}
    image = {"id": 1, "file_name": "a.png", "width": 16, "height": 12}
    put_json(
        root / "a.json",
        {"images": [image], "annotations": [{**note, **changes}], "categories": [{"id": 1, "name": "cat"}]},
    )
    return root


@pytest.mark.parametrize("encoding", ["gbk", "cp1252", "latin-1"])
def test_another_encoding_is_named_with_its_file(tmp_path: Path, encoding: str) -> None:
    root = coco(tmp_path / "set")
    name = "狗" if encoding == "gbk" else "Bär"
    text = json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": name}]}, ensure_ascii=False)
    put(root / "a.json", text.encode(encoding))
    with pytest.raises(ValueError, match=r"a\.json: expected text in UTF-8, found the byte 0x.*Fix: save it as UTF-8"):
        ingest_units(CocoSource(root=str(root), annotations="a.json"), str(tmp_path / "run"))


def test_utf_16_with_its_mark_is_read(tmp_path: Path) -> None:
    root = coco(tmp_path / "set")
    put(root / "a.json", (root / "a.json").read_text().encode("utf-16"))
    samples, _ = ingest(CocoSource(root=str(root), annotations="a.json"), tmp_path / "run")
    assert [row["class_ids"] for row in samples] == [[VOC.find("cat").id]]


def test_a_tags_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", ["a"])
    put(root / "tags.json", "a: [cat]")
    with pytest.raises(ValueError, match=r"tags\.json: JSON: expected '{', found 'a: \[cat\]'"):
        ingest_units(FolderSource(root=str(root), tags="tags.json"), str(tmp_path / "run"))


def test_what_is_nested_too_deeply_is_passed_over(tmp_path: Path) -> None:
    path = put(tmp_path / "x.json", '{"a": {"x": ' + DEEP + ', "y": "]}"}, "b": [' + DEEP + ", 2]}")
    with path.open() as handle:
        assert list(json_items(handle, frozenset("b"))) == [("a", TOO_DEEP), ("b", TOO_DEEP), ("b", 2)]


def test_half_a_character_in_names_and_tags_is_one_bad_row(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", ["a", "b"])
    put(root / "tags.json", '{"a": ["c\\ud83d"], "\\ud83d": [1], "b": [1]}')
    samples, rejects = ingest(FolderSource(root=str(root), tags="tags.json"), tmp_path / "run")
    assert len(samples) == 1
    assert reasons(rejects) == {"images/a.jpg": "unknown_class_name"}


@pytest.mark.parametrize("number", ["9" * 5000, "1e999", "-" + "9" * 30])
def test_huge_numbers_are_one_bad_row(tmp_path: Path, number: str) -> None:
    root = make_folder(tmp_path / "set", ["a", "b"])
    put(root / "tags.json", f'{{"a": [{number}], "b": [1]}}')
    samples, rejects = ingest(FolderSource(root=str(root), tags="tags.json"), tmp_path / "run")
    assert len(samples) == 1
    assert set(reasons(rejects)) == {"images/a.jpg"}


def test_a_name_that_is_too_long_is_one_bad_row(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", ["a"])
    put(root / "list.txt", "a\n" + "x" * 5000 + "\n")
    samples, rejects = ingest(FolderSource(root=str(root), stems="list.txt"), tmp_path / "run")
    assert len(samples) == 1
    assert [row["reason"] for row in rejects] == ["unsafe_path"]


def test_the_place_inside_a_sample_is_in_the_words(tmp_path: Path) -> None:
    root = coco(tmp_path / "set", id=77, segmentation=[[1, 2, 3]])
    _, (lost,) = ingest(CocoSource(root=str(root), annotations="a.json"), tmp_path / "run")
    assert lost["detail"].startswith("bad_annotation at annotation 77")


@pytest.mark.skipif(os.getuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_a_row(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", ["a", "shut/b"])
    (root / "images/shut").chmod(0)
    _, rejects = ingest(FolderSource(root=str(root)), tmp_path / "run")
    assert reasons(rejects)["images/shut/"] == "not_read"


def test_spare_masks_of_unread_photos_keep_both_words(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", ["a"])
    put(root / "images/b.xcf", "x")
    put(root / "masks/b.png", encode_mask(label_map()))
    _, rejects = ingest(FolderSource(root=str(root)), tmp_path / "run")
    assert reasons(rejects) == {"masks/b.png": "missing_image", "images/b.xcf": "not_read"}


def test_what_nobody_thought_of_costs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "set", ["a", "b"])
    load = FolderSource.load

    def odd(self: FolderSource, entry: Entry, space: LabelSpace) -> RawSample:
        if entry.key == "images/a.jpg":
            raise IndexError("list index out of range")
        return load(self, entry, space)

    monkeypatch.setattr(FolderSource, "load", odd)
    samples, rejects = ingest(FolderSource(root=str(root)), tmp_path / "run")
    assert len(samples) == 1
    assert "IndexError (test_field_rows.py:" in rejects[0]["detail"]


def test_many_stray_files_are_counted_in_one_row(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", ["a"])
    for number in range(130):
        put(root / f"images/{number:03d}.xmp", "x")
    put(root / "images/b.txt", "x")
    _, rejects = ingest(FolderSource(root=str(root)), tmp_path / "run", shard_size=500)
    assert len(rejects) == 102
    assert "found 30 more like the 100 before" in details(rejects)["*.xmp"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "`git lfs pull`"),
        (b"/annex/objects/MD5E-s1--0.jpg\n", "`git annex get .`"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"", "an empty file"),
    ],
)
@pytest.mark.parametrize("folder", ["images", "masks"])
def test_what_stands_in_place_of_a_file_is_named(tmp_path: Path, data: bytes, words: str, folder: str) -> None:
    root = make_folder(tmp_path / "set", ["a"])
    put(root / folder / ("a.jpg" if folder == "images" else "a.png"), data)
    _, (lost,) = ingest(FolderSource(root=str(root)), tmp_path / "run")
    assert words in lost["detail"]


def test_named_pipes_are_no_files(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", ["a"])
    os.mkfifo(root / "images/b.jpg")
    _, rejects = ingest(FolderSource(root=str(root)), tmp_path / "run")
    assert reasons(rejects) == {"images/b.jpg": "not_read"}


@pytest.mark.parametrize("name", ["\\ud83d.png", "x" * 5000 + ".png", "a\\u0000.png", ""])
def test_names_that_no_file_can_have_are_one_bad_row(tmp_path: Path, name: str) -> None:
    root = coco(tmp_path / "set")
    text = (root / "a.json").read_text().replace('"images": [', f'"images": [{{"id": 2, "file_name": "{name}"}}, ')
    put(root / "a.json", text)
    samples, rejects = ingest(CocoSource(root=str(root), annotations="a.json"), tmp_path / "run")
    assert len(samples) == 1
    assert len(rejects) == 1


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_annotation_files_are_read_from_archives_too(tmp_path: Path, kind: str) -> None:
    root = coco(tmp_path / "set")
    path = Path(shutil.make_archive(str(tmp_path / "packed"), {"zip": "zip", "tar.gz": "gztar"}[kind], root))
    (row,), _ = ingest(CocoSource(root=str(path), annotations="a.json"), tmp_path / "run")
    assert row["class_ids"] == [VOC.find("cat").id]


def test_every_source_counts_what_it_does_not_read(tmp_path: Path) -> None:
    """The walk notes what it passes over, and no source has to think of it."""
    put(tmp_path / "set/sa_1.jpg", photo())
    put(tmp_path / "set/x.tar", b"")
    put(tmp_path / "set/y.parquet", b"")
    put(tmp_path / "set/stray.xyz", b"x")
    for kind, options in {
        "webdataset": {},
        "sa1b": {"shared": "cat"},
        "hf_parquet": {},
        "labelme": {},
        "imagefolder": {},
    }.items():
        source = SOURCES.load(kind).model_validate({"root": str(tmp_path / "set"), **options})
        found = {entry.key: entry.problem.reason for entry in source.everything() if entry.problem is not None}
        assert found["stray.xyz"] == "not_read", kind


def test_a_row_that_fits_no_table_is_one_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "set", ["a", "b", "c"])
    load = FolderSource.load

    def odd(self: FolderSource, entry: Entry, space: LabelSpace) -> RawSample:
        seed = "no number" if entry.key == "images/b.jpg" else 7
        return replace(load(self, entry, space), provenance={"seed": seed})

    monkeypatch.setattr(FolderSource, "load", odd)
    samples, rejects = ingest(FolderSource(root=str(root)), tmp_path / "run")
    assert [row["provenance"]["seed"] for row in samples] == [7, 7]
    assert reasons(rejects) == {"images/b.jpg": "bad_annotation"}
