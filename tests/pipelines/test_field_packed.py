"""Parquet files and tars as people have them: one bad row or member is one bad row."""

import base64
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_sets import details, ingest, label_map, mask_of, photo, put, reasons

from maskmill.data_contracts import encode_mask
from maskmill.pipelines.ingest.hf_parquet import HfParquetSource
from maskmill.pipelines.ingest.webdataset import WebDatasetSource

DEEP = "[" * 20_000 + "]" * 20_000


def write_rows(path: Path, rows: list[dict[str, object]], features: dict[str, object] | None = None) -> Path:
    table = pa.Table.from_pylist(rows)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def cell(seed: int = 0) -> dict[str, object]:
    return {"bytes": photo(seed), "path": None}


MASK = {"bytes": encode_mask(label_map(1)), "path": None}


def test_a_parquet_file_without_the_column_is_one_reject(tmp_path: Path) -> None:
    write_rows(tmp_path / "set/train.parquet", [{"image": cell(), "mask": MASK}])
    write_rows(tmp_path / "set/test.parquet", [{"image": cell(1)}])
    samples, rejects = ingest(HfParquetSource(root=str(tmp_path / "set")), tmp_path / "run")
    assert len(samples) == 1
    assert "columns mask, found only image" in details(rejects)["test.parquet"]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (base64.b64encode(photo()).decode(), "looks like base64"),
        ({"data": photo()}, "found the keys data"),
        ([photo(), photo(1)], "a list of 2"),
        (7, "int 7"),
    ],
)
def test_a_cell_that_is_no_image_says_what_it_is(tmp_path: Path, image: object, words: str) -> None:
    write_rows(tmp_path / "set/x.parquet", [{"image": image, "mask": MASK}])
    _, (lost,) = ingest(HfParquetSource(root=str(tmp_path / "set")), tmp_path / "run")
    assert lost["reason"] == "missing_image"
    assert words in lost["detail"]


def test_a_list_of_masks_is_told_and_the_advice_reads_it(tmp_path: Path) -> None:
    small = np.zeros((12, 16), np.uint8)
    small[4:6, 5:7] = 255
    masks = [MASK, {"bytes": encode_mask(small), "path": None}]
    write_rows(tmp_path / "set/x.parquet", [{"image": cell(), "mask": masks, "categories": [3, 8]}])
    _, (lost,) = ingest(HfParquetSource(root=str(tmp_path / "set")), tmp_path / "run")
    assert "a list of 2 masks, beside columns image, mask, categories" in lost["detail"]
    assert "source.mask_classes" in lost["detail"]
    (row,), _ = ingest(HfParquetSource(root=str(tmp_path / "set"), mask_classes="categories"), tmp_path / "again")
    wanted = np.where(small == 255, 8, label_map(3))
    assert np.array_equal(mask_of(row), wanted)


def write_members(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pair(key: str, seed: int = 0) -> list[tuple[str, bytes]]:
    return [(f"{key}.jpg", photo(seed)), (f"{key}.seg.png", encode_mask(label_map(1)))]


def tars(root: Path, **options: object) -> WebDatasetSource:
    return WebDatasetSource.model_validate({"root": str(root), **options})


def test_dotted_keys_are_told_one_by_one_and_the_advice_reads_them(tmp_path: Path) -> None:
    write_members(tmp_path / "set/x.tar", [*pair("img.001"), *pair("img.002", 1)])
    samples, rejects = ingest(tars(tmp_path / "set"), tmp_path / "run")
    assert not samples
    assert [row["reason"] for row in rejects] == ["not_read"] * 2
    assert "dots in the key: img.002.{jpg,seg.png}" in rejects[1]["detail"]
    assert "source.dots_in_keys: true" in rejects[0]["detail"]
    samples, rejects = ingest(tars(tmp_path / "set", dots_in_keys=True), tmp_path / "again")
    assert [row["provenance"]["source_path"] for row in samples] == ["x.tar/img.001", "x.tar/img.002"]
    assert not rejects


def test_members_may_lie_apart_and_twice_is_told(tmp_path: Path) -> None:
    (a, mask_a), (b, mask_b) = pair("a"), pair("b", 1)
    write_members(tmp_path / "set/x.tar", [a, b, mask_a, mask_b, a, ("a.depth.npy", b"x"), ("b.depth.npy", b"x")])
    samples, rejects = ingest(tars(tmp_path / "set"), tmp_path / "run")
    assert len(samples) == 2
    assert sorted(reasons(rejects).values()) == ["duplicate_id", "not_read"]
    assert "2 others, e.g. a.depth.npy, b.depth.npy" in details(rejects)["x.tar/*.depth.npy"]


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")]
)
def test_packed_tars_are_read(tmp_path: Path, suffix: str, mode: str) -> None:
    write_members(tmp_path / f"set/y{suffix}", [*pair("a"), *pair("b", 1)], mode)
    samples, rejects = ingest(tars(tmp_path / "set"), tmp_path / "run")
    assert [row["image"]["bytes"] for row in samples] == [photo(0), photo(1)]
    assert not rejects


def test_zips_are_read(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with zipfile.ZipFile(tmp_path / "set/y.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (*pair("a"), *pair("d/b", 1)):
            archive.writestr(name, data)
    samples, _ = ingest(tars(tmp_path / "set"), tmp_path / "run")
    assert [row["provenance"]["source_path"] for row in samples] == ["y.zip/a", "y.zip/d/b"]
    assert np.array_equal(mask_of(samples[1]), label_map(1))


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip", ".tar.zst"])
def test_archives_that_are_none_are_one_reject(tmp_path: Path, suffix: str) -> None:
    put(tmp_path / f"set/x{suffix}", b"no archive at all" * 100)
    write_members(tmp_path / "set/good.tar", pair("a"))
    samples, rejects = ingest(tars(tmp_path / "set"), tmp_path / "run")
    assert len(samples) == 1
    assert reasons(rejects) == {f"x{suffix}/": "bad_annotation"}


@pytest.mark.parametrize("cut", [200, 512, -1])
def test_a_cut_tar_says_that_members_may_be_lost(tmp_path: Path, cut: int) -> None:
    """Cut inside a header, cut at a header, and a header that is damaged: tarfile takes each for the end."""
    whole = write_members(tmp_path / "x.tar", [*pair("a"), *pair("b", 1)]).read_bytes()
    start = whole.index(b"b.jpg")
    put(
        tmp_path / "set/x.tar",
        whole[: start + cut] if cut == 200 else whole[:start] if cut == 512 else whole[:start] + b"\xff" * 600,
    )
    samples, rejects = ingest(tars(tmp_path / "set"), tmp_path / "run")
    assert len(samples) == 1
    assert reasons(rejects) == {"x.tar/": "bad_annotation"}
    assert "is lost" in rejects[0]["detail"]


@pytest.mark.parametrize("note", [b'{"prompt": "a cat \\ud83d"}', b'{"group": "\\udc00"}'])
def test_half_a_character_in_a_tar_is_kept_as_a_question_mark(tmp_path: Path, note: bytes) -> None:
    write_members(tmp_path / "set/x.tar", [*pair("a"), ("a.json", note), *pair("b", 1)])
    samples, rejects = ingest(tars(tmp_path / "set"), tmp_path / "run")
    assert len(samples) == 2
    assert not rejects
    assert "?" in (samples[0]["provenance"]["prompt"] or samples[0]["group"])


@pytest.mark.parametrize(
    "note", [b'{"index": ' + b"9" * 5000 + b"}", b'{"x": ' + DEEP.encode() + b"}", b"\xff\xfe", b'{"index": 1e400}']
)
def test_odd_notes_in_a_tar_are_one_bad_row(tmp_path: Path, note: bytes) -> None:
    write_members(tmp_path / "set/x.tar", [*pair("a"), ("a.json", note), *pair("b", 1)])
    samples, rejects = ingest(tars(tmp_path / "set"), tmp_path / "run")
    assert len(samples) == 1
    assert reasons(rejects) == {"x.tar/a": "bad_annotation"}


def test_text_of_a_row_that_is_no_text_is_one_bad_row(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 2, [*pa.array(["ab", "cd"]).buffers()[:2], pa.py_buffer(b"a\xffcd")])
    rows = {"image": [photo(0), photo(1)], "mask": [MASK["bytes"]] * 2, "prompt": bad}
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "set/x.parquet")
    samples, rejects = ingest(HfParquetSource(root=str(tmp_path / "set")), tmp_path / "run")
    assert len(samples) == 1
    assert "column prompt" in rejects[0]["detail"]


def test_masks_that_are_arrays_are_read(tmp_path: Path) -> None:
    masks = [label_map(1).tolist(), [[1, 2], [3]]]
    write_rows(tmp_path / "set/x.parquet", [{"image": cell(i), "mask": mask} for i, mask in enumerate(masks)])
    (row,), (lost,) = ingest(HfParquetSource(root=str(tmp_path / "set")), tmp_path / "run")
    assert np.array_equal(mask_of(row), label_map(1))
    assert lost["reason"] == "bad_annotation"


@pytest.mark.parametrize("index", [True, 1.5, "one", -1, 2**40, [1]])
def test_an_index_that_is_none_is_one_bad_row(tmp_path: Path, index: object) -> None:
    write_rows(tmp_path / "set/x.parquet", [{"image": cell(), "mask": MASK, "index": index}])
    _, (lost,) = ingest(HfParquetSource(root=str(tmp_path / "set")), tmp_path / "run")
    assert lost["reason"] == "bad_annotation"


def test_a_tar_packed_with_zstandard_is_read(tmp_path: Path) -> None:
    plain = write_members(tmp_path / "y.tar", pair("a"))
    packed = pa.compress(plain.read_bytes(), codec="zstd", asbytes=True)
    put(tmp_path / "set/y.tar.zst", packed)
    (row,), _ = ingest(tars(tmp_path / "set"), tmp_path / "run")
    assert row["image"]["bytes"] == photo(0)
