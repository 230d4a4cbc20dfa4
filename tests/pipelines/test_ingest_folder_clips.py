"""Folder source: clips, groups, tags and lists of stems."""

from pathlib import Path

import pytest
from ingest_sets import VOC, ingest, label_map, make_folder, mask_of, photo, put, put_json, reasons
from ingest_sets import folder_source as source

from maskmill.data_contracts import encode_mask
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units


def test_clips_have_groups_frames_and_classes(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["swan/00000", "swan/00002", "camel/00001", "boat/f_12"])
    names = {"swan": "bird", "camel": "camel", "boat": "boat"}
    samples, rejects = ingest(source(tmp_path / "set", group_by="parent", names_by_group=names), tmp_path / "run")
    assert [(r["group"], r["index"], r["class_ids"], r["prompt_class_ids"]) for r in samples] == [
        ("boat", 12, [4], [4]),
        ("swan", 0, [3], [3]),
        ("swan", 2, [3], [3]),
    ]
    assert reasons(rejects) == {"images/camel/00001.jpg": "unknown_class_name"}  # VOC knows no camels


def test_a_group_without_a_name_is_told(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["swan/1", "yak/1"])
    _, (lost,) = ingest(source(tmp_path / "set", group_by="parent", names_by_group={"swan": "bird"}), tmp_path / "run")
    assert "'yak'" in lost["detail"]


def test_names_by_group_takes_every_foreground_value_but_not_ignore(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["cow/1"])
    mask = label_map()
    mask[0, :3] = (7, 255, 200)
    put(tmp_path / "set/masks/cow/1.png", encode_mask(mask))
    (row,), _ = ingest(source(tmp_path / "set", group_by="parent", names_by_group={"cow": "cow"}), tmp_path / "run")
    assert mask_of(row)[0, :4].tolist() == [10, 255, 10, 0]


def test_pattern_reads_group_and_slice(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["patient003_frame01_slice_7", "odd", "patient004_frame01_slice_99999999999"])
    pattern = r"(?P<group>patient\d+_frame\d+)_slice_(?P<index>\d+)$"
    (row,), rejects = ingest(source(tmp_path / "set", pattern=pattern), tmp_path / "run")
    assert (row["group"], row["index"]) == ("patient003_frame01", 7)
    assert [r["reason"] for r in rejects] == ["bad_annotation", "bad_annotation"]


def test_same_pixels_in_two_clips_are_two_samples(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a/1", "b/1"])
    put(tmp_path / "set/images/b/1.jpg", photo(0))
    samples, _ = ingest(source(tmp_path / "set", group_by="parent"), tmp_path / "run")
    assert len({row["sample_id"] for row in samples}) == 2


def test_tags_become_prompt_labels(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a", "b", "c", "d", "e"])
    put_json(
        tmp_path / "set/tags.json", {"a": [15, 3], "b": ["bike", "TV monitor"], "c": ["yeti"], "d": "cat", "zz": [1]}
    )
    samples, rejects = ingest(source(tmp_path / "set", tags="tags.json"), tmp_path / "run", shard_size=5)
    assert [row["prompt_class_ids"] for row in samples] == [[3, 15], [2, 20], None]
    assert reasons(rejects) == {"images/c.jpg": "unknown_class_name", "images/d.jpg": "bad_annotation"}
    assert "'yeti'" in rejects[0]["detail"]


def test_changed_tags_redo_the_shard(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a", "b"])
    tags = put_json(tmp_path / "set/tags.json", {"a": [1]})
    tagged = source(tmp_path / "set", tags="tags.json")
    ingest(tagged, tmp_path / "run", shard_size=1)
    put_json(tags, {"a": [2]})
    reports = map_units(ingest_stage(tagged, VOC), ingest_units(tagged, str(tmp_path / "run"), 1))
    assert [r.status for r in reports] == ["written", "skipped"]


def test_stems_choose_a_split_and_a_stem_twice_is_a_duplicate(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a", "b", "c"])
    put(tmp_path / "set/train.txt", "a\nc some more\n\nzz\n../../etc/passwd\na\n")
    samples, rejects = ingest(source(tmp_path / "set", stems="train.txt"), tmp_path / "run")
    assert [row["provenance"]["source_path"] for row in samples] == ["images/a.jpg", "images/c.jpg"]
    found = [(row["source_path"], row["reason"]) for row in rejects]
    assert found == [
        ("images/../../etc/passwd", "unsafe_path"),
        ("images/a.jpg#2", "duplicate_id"),
        ("images/zz", "missing_image"),
    ]


@pytest.mark.parametrize("shard_size", [1, 2, 3, 10])
def test_a_key_listed_twice_is_found_across_shards(tmp_path: Path, shard_size: int) -> None:
    make_folder(tmp_path / "set", ["a", "b"])
    put(tmp_path / "set/train.txt", "b\na\na\nb\na\n")
    samples, rejects = ingest(source(tmp_path / "set", stems="train.txt"), tmp_path / "run", shard_size=shard_size)
    assert len(samples) == 2
    assert [row["reason"] for row in rejects] == ["duplicate_id"] * 3
    assert len({row["sample_id"] for row in rejects}) == 3
