"""Shards: whole or not at all, fingerprinted, refused where they break their contract, open to everybody's readers."""

import dataclasses
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import duckdb
import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maskmill.data_contracts import (
    DECISION,
    NEIGHBOUR,
    SAMPLE,
    SCORE,
    ContractError,
    encode_image,
    encode_mask,
    fingerprint,
    iter_rows,
    list_shards,
    load_label_space,
    pair_id,
    read_bytes,
    read_footer,
    read_shard,
    shard_name,
    sweep_temporaries,
    write_bytes,
    write_shard,
)
from maskmill.data_contracts.ids import ContentHash, content_id
from maskmill.data_contracts.shards import TEMPORARY, check_unique, content_hash
from maskmill.data_contracts.versions import deciding_versions

VOC = load_label_space("voc")


def row(seed: int, masked: bool = True) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 2:5] = seed % 20 + 1
    mask[0] = 255
    image, encoded = encode_image(pixels), encode_mask(mask, VOC.palette) if masked else None
    return {
        "sample_id": pair_id(image, encoded),
        "image": {"bytes": image, "path": f"{seed}.png"},
        "mask": None if encoded is None else {"bytes": encoded, "path": None},
        "height": 6,
        "width": 8,
        "class_ids": [seed % 20 + 1] if masked else [],
        "group": "clip" if seed % 2 else None,
        "index": seed,
        "provenance": {"source": "test", "seed": 7, "guidance": 7.5},
    }


def sample_table(count: int = 5) -> pa.Table:
    return SAMPLE.table([row(i, masked=i != 3) for i in range(count)])


def write(path: Path | str, table: pa.Table | None = None, **options: Any) -> Any:
    options = {"stage": "ingest", "fingerprint": "f0", **options}
    return write_shard(str(path), sample_table() if table is None else table, SAMPLE, **options)


def test_round_trip_and_footer(tmp_path: Path) -> None:
    path = tmp_path / "samples" / shard_name(3)
    footer = write(path, config_hash="c0", inputs=("i0", "i1"), counts={"kept": 5, "bad_annotation": 2})
    assert path.name == "shard-00003.parquet"
    assert read_shard(str(path), SAMPLE).equals(sample_table())
    assert read_footer(str(path)) == footer
    assert dataclasses.asdict(footer) == {
        "contract": "sample",
        "version": SAMPLE.version,
        "stage": "ingest",
        "config_hash": "c0",
        "inputs": ("i0", "i1"),
        "fingerprint": "f0",
        "rows": 5,
        "content": content_hash(sample_table()),
        "counts": {"bad_annotation": 2, "kept": 5},
        "made_with": deciding_versions(),
    }
    assert [r["index"] for r in iter_rows(str(path), SAMPLE, ["index"])] == [0, 1, 2, 3, 4]


def test_equal_rows_give_equal_files(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    chunked = pa.concat_tables([sample_table().slice(0, 2), sample_table().slice(2)])
    write(tmp_path / "b.parquet", chunked)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_content_follows_the_rows_and_their_order() -> None:
    table = sample_table()
    shuffled = table.take(pa.array([1, 0, 2, 3, 4]))
    assert content_hash(table) == content_hash(pa.concat_tables([table.slice(0, 1), table.slice(1)]))
    assert len({content_hash(t) for t in (table, shuffled, table.slice(0, 4), table.drop_columns(["mask"]))}) == 4


def test_fingerprint_follows_everything_it_is_made_of() -> None:
    base: dict[str, Any] = {"contract": SAMPLE, "stage": "s", "stage_version": 1, "config_hash": "c", "inputs": ("i",)}
    newer = dataclasses.replace(SAMPLE, version=SAMPLE.version + 1)
    changes: list[dict[str, Any]] = [
        {"contract": SCORE},
        {"contract": newer},
        {"stage": "t"},
        {"stage_version": 2},
        {"config_hash": "d"},
        {"inputs": ("i", "j")},
        {"inputs": ()},
    ]
    assert fingerprint(**base) == fingerprint(**base)
    assert len({fingerprint(**{**base, **change}) for change in [{}, *changes]}) == len(changes) + 1


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    table = SAMPLE.table([row(1), row(2), row(1)])
    with pytest.raises(ContractError, match=f"duplicate_id.*{row(1)['sample_id']} again"):
        write(tmp_path / "a.parquet", table)
    assert not list(tmp_path.iterdir())


def test_neighbours_may_repeat_an_id(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"sample_id": "a", "other_id": o, "similarity": 0.9, "other_set": "self"} for o in "bc"
    ]
    write_shard(str(tmp_path / "n.parquet"), NEIGHBOUR.table(rows), NEIGHBOUR, stage="dedup", fingerprint="f")
    assert read_shard(str(tmp_path / "n.parquet"), NEIGHBOUR).num_rows == 2


def test_tables_that_break_the_contract_are_not_written(tmp_path: Path) -> None:
    table = sample_table()
    with pytest.raises(ContractError, match="height"):
        write(tmp_path / "a.parquet", table.set_column(3, "height", pa.array([1.5] * 5)))
    assert not list(tmp_path.iterdir())


def test_other_peoples_shards_are_refused_on_reading(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(sample_table(), path)
    assert read_footer(path) is None
    with pytest.raises(ContractError, match="found no footer"):
        read_shard(path, SAMPLE)
    write(path)
    with pytest.raises(ContractError, match="expected decision version 1, found sample version 1"):
        read_shard(path, DECISION)


def test_what_is_no_shard_has_no_footer(tmp_path: Path) -> None:
    assert read_footer(str(tmp_path / "nowhere.parquet")) is None
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "odd.parquet").write_bytes(b"not parquet at all")
    write(tmp_path / "cut.parquet")
    whole = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    for name in ("empty", "odd", "cut"):
        assert read_footer(str(tmp_path / f"{name}.parquet")) is None, name


def test_list_shards_is_sorted_and_leaves_other_files_out(tmp_path: Path) -> None:
    for name in ("shard-00010.parquet", "shard-00002.parquet", "notes.txt", f"{TEMPORARY}1"):
        (tmp_path / name).write_bytes(b"")
    found = list_shards(str(tmp_path))
    assert [Path(p).name for p in found] == ["shard-00002.parquet", "shard-00010.parquet"]
    assert list_shards(str(tmp_path / "nowhere")) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_bytes(str(path), b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(str(path), b"new")
    assert path.read_bytes() == b"old"


def test_sweep_takes_temporaries_only(tmp_path: Path) -> None:
    (tmp_path / f"{TEMPORARY}77-ab").write_bytes(b"half")
    (tmp_path / "shard-00000.parquet").write_bytes(b"whole")
    assert sweep_temporaries(str(tmp_path)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["shard-00000.parquet"]
    assert sweep_temporaries(str(tmp_path / "nowhere")) == 0


WRITER = """
    import sys
    from maskmill.data_contracts import write_bytes
    turn = 0
    while True:
        turn += 1
        write_bytes(sys.argv[1], bytes([turn % 251]) * 3_000_000)
        print(turn, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    """Readers see one value over all bytes at any moment, before, while and after the writer is killed."""
    path = tmp_path / "a.bin"
    for pause in (0.002, 0.013):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        for _ in range(5):
            data = path.read_bytes()
            assert len(data) == 3_000_000
            assert len(set(data)) == 1
        time.sleep(pause)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(set(path.read_bytes())) == 1
    sweep_temporaries(str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def check_store(folder: str) -> None:
    """Everything that shards do, on one store."""
    path = f"{folder}/{shard_name(0)}"
    assert read_footer(path) is None
    assert list_shards(folder) == []
    footer = write(path)
    assert read_footer(path) == footer
    assert read_shard(path, SAMPLE).equals(sample_table())
    assert [fsspec.core.url_to_fs(p)[1] for p in list_shards(folder)] == [fsspec.core.url_to_fs(path)[1]]
    assert read_footer(list_shards(folder)[0]) == footer
    write_bytes(f"{folder}/ledger.json", b"{}")
    assert read_bytes(f"{folder}/ledger.json") == b"{}"
    write(path, sample_table(2))
    assert read_shard(path, SAMPLE).num_rows == 2
    assert sweep_temporaries(folder) == 0


def test_local_store(tmp_path: Path) -> None:
    check_store(str(tmp_path / "run/samples"))


def test_memory_store() -> None:
    fsspec.filesystem("memory").store.clear()
    check_store("memory://run/samples")


def test_s3_store(s3_bucket: str) -> None:
    check_store(f"s3://{s3_bucket}/run/samples")


def test_datasets_opens_a_shard_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "a.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(loaded.features["image"], datasets.Image)
    assert isinstance(loaded.features["mask"], datasets.Image)
    for i, found in enumerate(loaded):
        wanted = row(i, masked=i != 3)
        assert found["sample_id"] == wanted["sample_id"]
        assert np.array_equal(np.asarray(found["image"]), np.asarray(Image.open(io.BytesIO(wanted["image"]["bytes"]))))
        assert found["class_ids"] == wanted["class_ids"]
        assert found["provenance"]["guidance"] == 7.5
        if i == 3:
            assert found["mask"] is None
        else:
            assert found["mask"].mode == "P"
            assert np.asarray(found["mask"])[2, 2] == i + 1


def test_datasets_streams_a_folder_of_shards(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / shard_name(number), SAMPLE.table([row(10 * number + i) for i in range(3)]))
    stream = datasets.load_dataset("parquet", data_files=str(tmp_path / "*.parquet"), split="train", streaming=True)
    assert [r["index"] for r in stream] == [0, 1, 2, 10, 11, 12]


def test_polars_opens_a_shard_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    frame = pl.read_parquet(tmp_path / "a.parquet")
    assert frame.columns == SAMPLE.schema.names
    assert frame["sample_id"].to_list() == [row(i, masked=i != 3)["sample_id"] for i in range(5)]
    assert frame["image"].struct.field("bytes")[0] == row(0)["image"]["bytes"]
    lazy = pl.scan_parquet(tmp_path / "a.parquet").filter(pl.col("class_ids").list.contains(2)).select("index")
    assert lazy.collect()["index"].to_list() == [1]


def test_duckdb_opens_a_shard_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    found = duckdb.sql(
        f"select index, image.path, octet_length(image.bytes), provenance.source from '{tmp_path}/a.parquet' "
        "where list_contains(class_ids, 3) and mask is not null"
    ).fetchall()
    assert found == [(2, "2.png", len(row(2)["image"]["bytes"]), "test")]


@pytest.mark.parametrize("contract", [SCORE, DECISION], ids=lambda c: c.name)
def test_empty_shards_open_everywhere(tmp_path: Path, contract: Any) -> None:
    path = tmp_path / "a.parquet"
    write_shard(str(path), contract.table([]), contract, stage="s", fingerprint="f")
    assert read_shard(str(path), contract).num_rows == 0
    assert pl.read_parquet(path).shape == (0, len(contract.schema.names))
    assert duckdb.sql(f"select count(*) from '{path}'").fetchall() == [(0,)]


def test_a_hash_piece_by_piece_is_that_of_the_whole() -> None:
    whole = bytes(range(256)) * 5
    digest = ContentHash(len(whole))
    assert [digest.write(whole[:700]), digest.write(memoryview(whole)[700:])] == [700, len(whole) - 700]
    assert digest.hexdigest() == content_id(whole)


def test_content_hash_is_that_of_the_stream_as_one_piece() -> None:
    table = pa.table({"a": list(range(1000)), "b": [f"{i}" for i in range(1000)]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    pieces = pa.concat_tables([table.slice(0, 10), table.slice(10)])
    assert content_hash(table) == content_hash(pieces) == content_id(sink.getvalue().to_pybytes())


def test_ids_in_order_and_not_are_held_to_be_unique(tmp_path: Path) -> None:
    for ids, sound in (
        (["a", "b"], True),
        (["b", "a"], True),
        (["a", "a"], False),
        (["b", "a", "b"], False),
        ([], True),
    ):
        table = pa.table({"sample_id": pa.array(ids, pa.string())})
        with nullcontext() if sound else pytest.raises(ContractError, match="every sample_id once"):
            check_unique(table, "here")


def test_row_groups_are_small_only_where_files_are_inside(tmp_path: Path) -> None:
    pairs = NEIGHBOUR.table(
        [{"sample_id": f"{i:03}", "other_id": "x", "similarity": 1.0, "other_set": "self"} for i in range(300)]
    )
    write_shard(str(tmp_path / "a.parquet"), pairs, NEIGHBOUR, stage="dedup", fingerprint="f")
    meta = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert meta.num_row_groups == 1
    dictionary = {
        meta.row_group(0).column(i).path_in_schema: "RLE_DICTIONARY" in meta.row_group(0).column(i).encodings
        for i in range(meta.num_columns)
    }
    assert (dictionary["other_set"], dictionary["sample_id"], dictionary["other_id"]) == (True, False, False)
