"""Parquet and tars: other people's and our own; broken, hostile and on other file systems."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest_sets import VOC, Row, ingest, label_map, make_folder, mask_of, photo, put, put_json, reasons
from PIL import Image

from maskmill.data_contracts import encode_mask
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.coco import CocoSource
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.hf_parquet import HfParquetSource
from maskmill.pipelines.ingest.webdataset import WebDatasetSource

MASK = encode_mask(label_map(3))


def write_parquet(path: Path, columns: dict[str, list[Any]], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def parquet(root: Path, **options: object) -> HfParquetSource:
    return HfParquetSource.model_validate({"kind": "hf_parquet", "root": str(root), **options})


def tars(root: Path, **options: object) -> WebDatasetSource:
    return WebDatasetSource.model_validate({"kind": "webdataset", "root": str(root), **options})


def test_bytes_structs_and_paths(tmp_path: Path) -> None:
    put(tmp_path / "set/files/x.jpg", photo(2))
    put(tmp_path / "set/files/x.png", MASK)
    write_parquet(tmp_path / "set/a.parquet", {"image": [photo(0)], "mask": [MASK]})
    write_parquet(
        tmp_path / "set/b.parquet",
        {"image": [{"bytes": photo(1), "path": "/x"}], "mask": [{"bytes": MASK, "path": None}]},
    )
    write_parquet(
        tmp_path / "set/sub/c.parquet", {"image": ["files/x.jpg"], "mask": [{"bytes": None, "path": "files/x.png"}]}
    )
    samples, rejects = ingest(parquet(tmp_path / "set"), tmp_path / "run")
    assert not rejects
    assert [row["image"]["bytes"] for row in samples] == [photo(0), photo(1), photo(2)]
    assert [row["provenance"]["source_path"] for row in samples] == [
        "a.parquet#000000000",
        "b.parquet#000000000",
        "sub/c.parquet#000000000",
    ]
    assert all(np.array_equal(mask_of(row), label_map(3)) for row in samples)


def test_what_datasets_writes(tmp_path: Path) -> None:
    rows = {
        "photo": [{"bytes": photo(i), "path": None} for i in range(5)],
        "annotation": [{"bytes": MASK, "path": None}] * 5,
        "classes": [["bird"], ["bird", "cow"], [], ["3"], ["bird"]],
        "prompt": ["a bird", "two", "none", "odd", None],
    }
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "annotation": datasets.Image(),
            "classes": datasets.List(datasets.Value("string")),
            "prompt": datasets.Value("string"),
        }
    )
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set/train.parquet")
    source = parquet(tmp_path / "set", image="photo", mask="annotation", classes="classes")
    samples, rejects = ingest(source, tmp_path / "run")
    assert [row["prompt_class_ids"] for row in samples] == [[3], [3, 10], [], [3]]
    assert [row["provenance"]["prompt"] for row in samples] == ["a bird", "two", "none", None]
    assert reasons(rejects) == {"train.parquet#000000003": "unknown_class_name"}


def test_row_groups_keep_their_order(tmp_path: Path) -> None:
    columns = {
        "image": [photo(i) for i in range(23)],
        "mask": [MASK] * 23,
        "index": list(range(23)),
        "group": ["clip"] * 23,
    }
    write_parquet(tmp_path / "set/a.parquet", columns, row_group_size=4)
    samples, _ = ingest(parquet(tmp_path / "set"), tmp_path / "run", shard_size=5)
    assert [row["index"] for row in samples] == list(range(23))
    assert [row["image"]["bytes"] for row in samples] == columns["image"]
    assert {row["group"] for row in samples} == {"clip"}


def test_our_own_shards_come_back_as_they_were(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["clip/00001", "clip/00002", "other/00001"])
    folder = FolderSource(
        root=str(tmp_path / "set"), group_by="parent", names_by_group={"clip": "cat", "other": "dog"}, licence="CC0-1.0"
    )
    first, _ = ingest(folder, tmp_path / "run", shard_size=2)
    second, _ = ingest(parquet(tmp_path / "run/samples"), tmp_path / "again")
    for before, after in zip(first, second, strict=True):
        assert {**before, "image": before["image"]["bytes"]} == {**after, "image": after["image"]["bytes"]}


def test_faulty_cells_and_files(tmp_path: Path) -> None:
    columns = {
        "image": [
            {"bytes": photo(0), "path": None},
            {"bytes": None, "path": "/etc/passwd"},
            {"bytes": None, "path": "gone.jpg"},
            None,
        ]
        + [{"bytes": photo(4), "path": None}] * 3,
        "mask": [MASK, MASK, MASK, MASK, None, MASK[:40], MASK],
        "index": [0, 1, 2, 3, 4, 5, -6],
    }
    write_parquet(tmp_path / "set/a.parquet", columns)
    put(tmp_path / "set/b.parquet", "not parquet")
    put(tmp_path / "set/c.parquet", (tmp_path / "set/a.parquet").read_bytes()[:-30])
    samples, rejects = ingest(parquet(tmp_path / "set"), tmp_path / "run", shard_size=20)
    assert len(samples) == 1
    assert reasons(rejects) == {
        "a.parquet#000000001": "unsafe_path",
        "a.parquet#000000002": "missing_image",
        "a.parquet#000000003": "missing_image",
        "a.parquet#000000004": "missing_mask",
        "a.parquet#000000005": "undecodable_mask",
        "a.parquet#000000006": "bad_annotation",
        "b.parquet": "bad_annotation",
        "c.parquet": "bad_annotation",
    }


def test_a_corrupt_row_group_spoils_its_own_rows_only(tmp_path: Path) -> None:
    columns = {"image": [photo(i) for i in range(6)], "mask": [MASK] * 6}
    path = write_parquet(tmp_path / "set/a.parquet", columns, row_group_size=3, compression="zstd")
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    data[start : start + 400] = b"\xff" * 400
    path.write_bytes(data)
    samples, rejects = ingest(parquet(tmp_path / "set"), tmp_path / "run", shard_size=20)
    assert len(samples) == 3
    assert [row["reason"] for row in rejects] == ["bad_annotation"] * 3


def test_a_wrong_column_lists_the_right_ones(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set/a.parquet", {"photo": [photo(0)], "label": [MASK]})
    with pytest.raises(ValueError, match=r"no column \['image', 'mask'\].*photo.*label"):
        ingest_units(parquet(tmp_path / "set"), str(tmp_path / "run"))


def test_a_rewritten_file_is_read_anew(tmp_path: Path) -> None:
    for seed in (0, 7):
        write_parquet(
            tmp_path / "set/a.parquet",
            {"image": [photo(seed, 12 + seed)], "mask": [encode_mask(label_map(1, 12 + seed))]},
        )
        (row,), _ = ingest(parquet(tmp_path / "set"), tmp_path / "run")
        assert row["image"]["bytes"] == photo(seed, 12 + seed)


def write_tar(path: Path, members: list[tuple[str, bytes | str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def test_tars(tmp_path: Path) -> None:
    notes = {"prompt_class_ids": ["bird", 10], "group": "clip", "index": 4, "prompt": "birds", "licence": "MIT"}
    members = [
        ("train/0001.jpg", photo(1)),
        ("train/0001.mask.png", MASK),
        ("train/0001.json", json.dumps(notes).encode()),
        ("0002.PNG", photo(2, kind="PNG")),
        ("0002.seg.png", MASK),
        ("0002.txt", b"a prompt\n"),
        ("__key__/.hidden", b""),
    ]
    write_tar(tmp_path / "set/000.tar", members)
    write_tar(tmp_path / "set/more/001.tar", [("0001.jpeg", photo(3)), ("0001.mask.png", MASK)])
    samples, rejects = ingest(tars(tmp_path / "set"), tmp_path / "run")
    assert reasons(rejects) == {"000.tar/*.(hidden)": "not_read"}
    assert [row["provenance"]["source_path"] for row in samples] == [
        "000.tar/0002",
        "000.tar/train/0001",
        "more/001.tar/0001",
    ]
    assert samples[0]["provenance"]["prompt"] == "a prompt"
    row = samples[1]
    assert (row["prompt_class_ids"], row["group"], row["index"]) == ([3, 10], "clip", 4)
    assert (row["provenance"]["prompt"], row["provenance"]["licence"]) == ("birds", "MIT")
    assert row["image"]["bytes"] == photo(1)
    one, _ = ingest(tars(tmp_path / "set/more/001.tar"), tmp_path / "run1")
    assert [r["sample_id"] for r in one] == [samples[2]["sample_id"]]


def test_what_the_webdataset_library_writes(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        for i in range(7):
            writer.write({"__key__": f"sample{i:03d}", "jpg": photo(i), "mask.png": MASK, "json": b'{"index": %d}' % i})
    samples, _ = ingest(tars(tmp_path / "a.tar"), tmp_path / "run", shard_size=3)
    assert [row["index"] for row in samples] == list(range(7))


def test_hostile_tars_write_nothing_and_are_told(tmp_path: Path) -> None:
    secret = put(tmp_path / "secret.jpg", photo(9))
    members: list[tuple[str, bytes | str]] = [
        ("../../evil.jpg", photo(0)),
        ("../../evil.mask.png", MASK),
        ("/abs.jpg", photo(1)),
        ("/abs.mask.png", MASK),
        ("link.jpg", str(secret)),
        ("lone.jpg", photo(2)),
        ("blind.mask.png", MASK),
        ("good.jpg", photo(3)),
        ("good.mask.png", MASK),
        ("notes.jpg", photo(4)),
        ("notes.mask.png", MASK),
        ("notes.json", b"[1"),
        ("list.jpg", photo(5)),
        ("list.mask.png", MASK),
        ("list.json", b"[1]"),
        ("index.jpg", photo(6)),
        ("index.mask.png", MASK),
        ("index.json", b'{"index": "three"}'),
        ("good.jpg", photo(3)),
        ("good.mask.png", MASK),
    ]
    write_tar(tmp_path / "set/a.tar", members)
    before = sorted(tmp_path.rglob("*"))
    samples, rejects = ingest(tars(tmp_path / "set"), tmp_path / "run", shard_size=50)
    assert {p for p in sorted(tmp_path.rglob("*")) if "run" not in p.parts} == set(before)
    assert [row["provenance"]["source_path"] for row in samples] == ["a.tar/good"]
    assert sorted(reasons(rejects).items()) == [
        ("a.tar/../../evil", "unsafe_path"),
        ("a.tar//abs", "unsafe_path"),
        ("a.tar/blind", "missing_image"),
        ("a.tar/good#4", "duplicate_id"),
        ("a.tar/index", "bad_annotation"),
        ("a.tar/link.jpg", "unsafe_path"),
        ("a.tar/list", "bad_annotation"),
        ("a.tar/lone", "missing_mask"),
        ("a.tar/notes", "bad_annotation"),
    ]


def test_cut_tars_give_what_they_have(tmp_path: Path) -> None:
    members = [(f"{i}.{e}", d) for i in range(4) for e, d in (("jpg", photo(i)), ("mask.png", MASK))]
    whole = write_tar(tmp_path / "whole.tar", members).read_bytes()
    put(tmp_path / "set/cut.tar", whole[: len(whole) * 2 // 5])
    put(tmp_path / "set/empty.tar", b"")
    put(tmp_path / "set/odd.tar", b"no tar at all" * 100)
    samples, rejects = ingest(tars(tmp_path / "set"), tmp_path / "run", shard_size=50)
    assert samples
    found = reasons(rejects)
    assert {"cut.tar/", "empty.tar/", "odd.tar/"} <= set(found)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_damage_to_a_tar_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
) -> None:
    root = tmp_path_factory.mktemp("damaged")
    path = write_tar(
        root / "set/a.tar", [("a.jpg", photo(0)), ("a.mask.png", MASK), ("b.jpg", photo(1)), ("b.mask.png", MASK)]
    )
    data = bytearray(path.read_bytes())
    for place, value in damage:
        data[place % len(data)] = value
    path.write_bytes(data)
    ingest(tars(root / "set"), root / "run")  # asserts that kept and rejected add up


def upload(fs: fsspec.AbstractFileSystem, local: Path, remote: str) -> None:
    for path in sorted(local.rglob("*")):
        if path.is_file():
            fs.pipe_file(f"{remote}/{path.relative_to(local)}", path.read_bytes())


def make_all(root: Path) -> Path:
    """One set in four shapes under one root."""
    make_folder(root, ["a", "deep/b", "deep/c"], value=3)
    put(root / "masks/orphan.png", MASK)
    columns = {"image": [photo(i) for i in range(3)], "mask": [MASK] * 3}
    write_parquet(root / "parquet/a.parquet", columns)
    write_tar(
        root / "tars/a.tar", [(f"{i}.{e}", d) for i in range(3) for e, d in (("jpg", photo(i)), ("mask.png", MASK))]
    )
    images = [{"id": 1, "file_name": "a.jpg", "height": 12, "width": 16}]
    box = [[4, 3, 11, 3, 11, 9, 4, 9]]
    notes = [{"id": 1, "image_id": 1, "category_id": 16, "segmentation": box, "iscrowd": 0}]
    put_json(
        root / "instances.json", {"images": images, "annotations": notes, "categories": [{"id": 16, "name": "bird"}]}
    )
    return root


def rows_of(url: str, run: Path) -> list[tuple[list[Row], list[Row]]]:
    sources = [
        FolderSource(root=url),
        HfParquetSource(root=url, folder="parquet"),
        WebDatasetSource(root=f"{url}/tars"),
        CocoSource(root=url, annotations="instances.json"),
    ]
    return [ingest(source, run / str(i)) for i, source in enumerate(sources)]


def test_memory_urls_give_the_rows_of_local_folders(tmp_path: Path) -> None:
    make_all(tmp_path / "set")
    upload(fsspec.filesystem("memory"), tmp_path / "set", "/bucket/set")
    local = rows_of(str(tmp_path / "set"), tmp_path / "local")
    assert rows_of("memory://bucket/set", tmp_path / "remote") == local
    assert [len(samples) for samples, _ in local] == [3, 3, 3, 1]


def test_s3_urls_give_the_rows_of_local_folders(tmp_path: Path, s3_bucket: str) -> None:
    fs = fsspec.filesystem("s3")
    make_all(tmp_path / "set")
    upload(fs, tmp_path / "set", f"{s3_bucket}/set")
    remote = f"s3://{s3_bucket}/set"
    assert rows_of(remote, tmp_path / "remote") == rows_of(str(tmp_path / "set"), tmp_path / "local")
    source, run = FolderSource(root=remote), f"s3://{s3_bucket}/run"
    units = ingest_units(source, run, 2)
    assert [r.status for r in map_units(ingest_stage(source, VOC), units)] == ["written"] * 2
    fs.pipe_file(f"{s3_bucket}/set/masks/deep/c.png", encode_mask(label_map(5)))
    units = ingest_units(source, run, 2)
    assert [r.status for r in map_units(ingest_stage(source, VOC), units)] == ["skipped", "written"]


def test_palette_of_masks_is_for_people_only(tmp_path: Path) -> None:
    """A mask whose palette lies about its colours is read by index."""
    image = Image.fromarray(label_map(3))
    image.putpalette([255 - v for v in VOC.palette])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_parquet(tmp_path / "set/a.parquet", {"image": [photo(0)], "mask": [buffer.getvalue()]})
    (row,), _ = ingest(parquet(tmp_path / "set"), tmp_path / "run")
    assert np.array_equal(mask_of(row), label_map(3))
