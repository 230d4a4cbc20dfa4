"""What lies on disk: seals, shards that were damaged, files written whole, hashes in and beside files, versions."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskmill.data_contracts import (
    SAMPLE,
    SCORE,
    ContractError,
    DamagedError,
    Manifest,
    ShardEntry,
    bytes_hash,
    changes,
    file_hash,
    footer_fault,
    is_sealed,
    read_footer,
    read_shard,
    seal,
    shard_fault,
    storage,
    sweep_temporaries,
    sweep_tree,
    versions,
    where_writable,
    write_bytes,
    write_if_changed,
    write_shard,
)
from maskmill.data_contracts.lazy import lazily
from maskmill.data_contracts.seal import SEAL_KEY, data_fault, read_tail
from maskmill.data_contracts.shards import FOOTER_KEY, check_unique
from maskmill.data_contracts.sums import carries_check, checked_json, json_fault, read_json, sum_fault

PIXELS = bytes(range(256)) * 8


def samples(count: int = 3) -> pa.Table:
    rest = {"image": {"bytes": PIXELS}, "height": 1, "width": 1, "class_ids": [], "provenance": {}}
    return SAMPLE.table([{"sample_id": f"{i:04d}", **rest} for i in range(count)])


def shard(folder: Path, count: int = 3) -> Path:
    path = folder / "shard-00000.parquet"
    write_shard(str(path), samples(count), SAMPLE, stage="ingest", fingerprint="f", counts={"kept": 3, "bad": 1})
    return path


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


# seals


@pytest.mark.parametrize("tail", [seal.TAIL, 64])
@pytest.mark.parametrize("chunk", [seal.CHUNK, 100])
def test_a_seal_covers_all_bytes_before_and_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: int, chunk: int
) -> None:
    monkeypatch.setattr(seal, "TAIL", tail)
    monkeypatch.setattr(seal, "CHUNK", chunk)
    path = shard(tmp_path)
    whole = path.read_bytes()
    found = read_tail(str(path))
    place = whole.index(b"MASKSEAL")
    assert found.body == place
    assert found.data_hash is not None
    assert found.fault is None
    assert data_fault(str(path), found) is None
    assert file_hash(str(path)) == bytes_hash(whole)
    for position in (0, place - 1):
        flip(path, position)
        assert shard_fault(str(path)) == "rows or pages that are not those that were sealed"
        path.write_bytes(whole)
    for position in (place + 8, place + 8 + 15):  # the hash of what stands before it
        flip(path, position)
        assert shard_fault(str(path)) == "rows or pages that are not those that were sealed"
        path.write_bytes(whole)
    for position in (place + 8 + 16, place + 8 + 31):  # the hash of the footer
        flip(path, position)
        assert shard_fault(str(path)) == "a footer that is not the one that was sealed"
        path.write_bytes(whole)
    flip(path, place)
    assert shard_fault(str(path)) == "no seal, though the footer speaks of one"
    for size, said in ((0, "no Parquet footer"), (3, "no Parquet footer"), (len(whole) - 1, "no Parquet footer")):
        path.write_bytes(whole[:size])
        assert said in str(shard_fault(str(path)))
    path.write_bytes(whole[100:])  # the end is whole
    assert data_fault(str(path), found) is not None


def test_a_file_that_ends_early_is_told_by_its_missing_bytes(tmp_path: Path) -> None:
    path = shard(tmp_path)
    tail = read_tail(str(path))
    path.write_bytes(path.read_bytes()[: tail.body - 5])
    assert data_fault(str(path), tail) == "5 bytes fewer than were sealed"


def test_a_footer_that_promises_more_than_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes((1000).to_bytes(4, "little") + b"PAR1")
    assert "no Parquet footer" in str(read_tail(str(path)).fault)
    path.write_bytes(b"\0" * 8)
    assert "no Parquet footer" in str(read_tail(str(path)).fault)


# shards


def test_pictures_are_stored_as_they_are_and_numbers_packed(tmp_path: Path) -> None:
    found = pq.ParquetFile(shard(tmp_path, 300)).metadata
    assert [found.row_group(i).num_rows for i in range(found.num_row_groups)] == [256, 44]
    assert found.row_group(0).column(0).compression == "UNCOMPRESSED"
    write_shard(str(tmp_path / "s.parquet"), SCORE.table([]), SCORE, stage="s", fingerprint="f")
    row = SCORE.table([{"sample_id": "a", "label_ids": []}])
    write_shard(str(tmp_path / "s.parquet"), row, SCORE, stage="s", fingerprint="f")
    assert pq.ParquetFile(tmp_path / "s.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_flipped_bit_in_a_picture_is_seen_when_it_is_read_and_not_before(tmp_path: Path) -> None:
    path = shard(tmp_path)
    flip(path, path.read_bytes().index(PIXELS) + 1000)
    assert read_shard(str(path), SAMPLE, ["sample_id"]).num_rows == 3
    assert read_footer(str(path)) is not None
    with pytest.raises(DamagedError, match="a page that cannot be read"):
        read_shard(str(path), SAMPLE)


def test_a_footer_of_other_bytes_is_none(tmp_path: Path) -> None:
    path = shard(tmp_path)
    footer = read_footer(str(path))
    assert footer is not None
    assert list(footer.counts) == ["bad", "kept"]
    assert footer_fault(str(path)) is None
    flip(path, path.read_bytes().rindex(b'"stage"'))
    assert read_footer(str(path)) is None
    assert footer_fault(str(path)) == "a footer that is not the one that was sealed"
    with pytest.raises(DamagedError, match="not the one that was sealed"):
        read_shard(str(path), SAMPLE)
    assert footer_fault(str(tmp_path / "gone.parquet")) is None
    with pytest.raises(FileNotFoundError):
        read_shard(str(tmp_path / "gone.parquet"), SAMPLE)


def test_a_footer_that_is_none_of_ours_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(samples(), path)
    assert footer_fault(str(path)) == "no footer of maskmill's"
    assert shard_fault(str(path)) == "no footer of maskmill's"
    assert not is_sealed(str(path))
    pq.write_table(samples().replace_schema_metadata({FOOTER_KEY: b"{}"}), path)
    assert str(footer_fault(str(path))).startswith("a footer of maskmill's that cannot be read")


def unsealed(path: Path, table: pa.Table | None = None, **footer: Any) -> str:
    """The shard as an earlier version wrote it, without a seal; with other rows or another footer where given."""
    old = pq.read_table(path)
    about = {**json.loads(old.schema.metadata[FOOTER_KEY]), **footer}
    metadata = {k: v for k, v in old.schema.metadata.items() if k != SEAL_KEY} | {FOOTER_KEY: json.dumps(about)}
    pq.write_table((old if table is None else table).replace_schema_metadata(metadata), path)
    return str(path)


def test_shards_from_before_seals_are_held_against_their_rows(tmp_path: Path) -> None:
    assert is_sealed(str(shard(tmp_path)))
    path = unsealed(shard(tmp_path))
    assert not is_sealed(path)
    assert shard_fault(path) is None
    other = samples().take([1, 0, 2])
    assert shard_fault(unsealed(shard(tmp_path), other)) == "rows that are not those that were written"
    assert shard_fault(unsealed(shard(tmp_path), other, version=99)) is None  # nobody knows that layout any more
    assert shard_fault(unsealed(shard(tmp_path), other, contract="paint")) is None


def test_a_disk_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(shard(tmp_path))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(pq, "ParquetFile", fail)
    with pytest.raises(OSError, match="input/output") as caught:
        read_shard(path, SAMPLE)
    assert caught.value.errno == errno.EIO


def test_an_id_may_come_again_in_another_shard() -> None:
    table = pa.table({"sample_id": ["b", "a", "b", "a"], "shard": ["1", "1", "2", "2"]})
    check_unique(table, "here")
    with pytest.raises(ContractError, match="a again"):
        check_unique(table.drop_columns(["shard"]), "here")
    with pytest.raises(ContractError, match="b again"):
        check_unique(pa.table({"sample_id": ["b", "a", "b"], "shard": ["1", "1", "1"]}), "here")


# storage


def test_a_file_and_its_folder_are_synced_and_nothing_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def note(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))

    monkeypatch.setattr(os, "fsync", note)
    before = len(os.listdir("/proc/self/fd"))
    for name in "abc":
        write_bytes(str(tmp_path / "new" / name), b"x")
    assert len(os.listdir("/proc/self/fd")) == before
    assert [Path(p).name.startswith(storage.TEMPORARY) for p in synced] == [True, False] * 3
    assert synced[1] == str(tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a", "b", "c"]


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="cannot write it: No space left on device") as caught:
        write_bytes(str(tmp_path / "a"), b"x")
    assert caught.value.filename == str(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_an_error_without_a_number_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*_: object) -> None:
        raise OSError("odd")

    monkeypatch.setattr(os, "replace", odd)
    with pytest.raises(OSError, match=r"^odd$"):
        write_bytes(str(tmp_path / "a"), b"x")


def test_bytes_that_are_there_are_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert write_if_changed(str(path), b"x") is True
    inode = path.stat().st_ino
    assert write_if_changed(str(path), b"x") is False
    assert path.stat().st_ino == inode
    assert write_if_changed(str(path), b"y") is True
    assert path.read_bytes() == b"y"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_where_nobody_may_write_nothing_is_said(number: int) -> None:
    with where_writable():
        raise OSError(number, "may not")
    with pytest.raises(OSError, match="full"), where_writable():
        raise OSError(errno.ENOSPC, "full")


def test_leftovers_are_swept_at_every_depth_and_counted(tmp_path: Path) -> None:
    for place in ("a", "a/b", "a/b/c"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"{storage.TEMPORARY}1").touch()
        (tmp_path / place / "kept").touch()
    assert sweep_temporaries(str(tmp_path / "a")) == 1
    assert sweep_tree(str(tmp_path)) == 2
    assert sweep_tree(str(tmp_path)) == 0
    assert sweep_tree(str(tmp_path / "nowhere")) == 0
    assert sorted({p.name for p in tmp_path.rglob("*") if p.is_file()}) == ["kept"]
    assert sweep_tree("memory://somewhere") == 0


# documents with a hash


def test_a_document_carries_its_own_hash() -> None:
    data = checked_json({"b": 1, "a": "ü"})
    assert data.decode() == f'{{\n  "b": 1,\n  "a": "ü",\n  "check": "{json.loads(data)["check"]}"\n}}\n'
    assert checked_json(json.loads(data)) == data
    assert json_fault(data) is None
    assert carries_check(data)
    assert not carries_check(b'{"a": 1}')
    for position in range(0, len(data) - 1, 7):
        spoilt = bytearray(data)
        spoilt[position] ^= 1
        assert json_fault(bytes(spoilt)) is not None, position
    assert json_fault(b"[1]") == "no key 'check'"
    assert json_fault(b'{"a": 1}') == "no key 'check'"
    assert str(json_fault(b"{")).startswith("no JSON")


def test_files_are_held_against_hashes_and_documents_read_without_theirs(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(checked_json({"a": 1}))
    assert read_json(str(path)) == {"a": 1}
    assert sum_fault(str(path), bytes_hash(path.read_bytes())) is None
    assert sum_fault(str(path), bytes_hash(b"x")) == "another content than was written"
    assert sum_fault(str(tmp_path / "b"), "") == "gone"


def manifest(**more: Any) -> Manifest:
    entry = ShardEntry(path="a.parquet", rows=1, content="c", fingerprint="f")
    lists: dict[str, Any] = {"shards": [entry], "licences": ["CC0"], "lineage": ["ingest c1"]}
    counts: dict[str, Any] = {"counts": {"kept": 1}, "class_counts": {"cat": 1}, "rows": 1}
    words: dict[str, Any] = {"name": "x", "label_space": "voc", "config_hash": "c", "versions": {}}
    return Manifest(**words, **counts, **lists, **{"config": {"b": 1, "a": {"d": 1, "c": 2}}, **more})


def test_a_manifest_comes_back_with_its_keys_in_order(tmp_path: Path) -> None:
    path = str(tmp_path / "manifest.json")
    manifest().write(path)
    assert Manifest.read(path) == manifest()
    stored = json.loads((tmp_path / "manifest.json").read_text())
    assert list(stored["config"]) == ["a", "b"]
    assert list(stored["config"]["a"]) == ["c", "d"]
    assert list(stored)[:3] == ["class_counts", "config", "config_hash"]
    assert "files" not in stored
    assert "files" in json.loads(manifest(files={"a": "b"}).text())


# versions


def test_versions_count_by_their_first_part_that_is_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"numpy": "2.1.0", "torch": "2.6.0", "diffusers": "0.38.1"}
    monkeypatch.setattr(versions, "_version", lambda name: now.get(name, "not installed"))
    assert versions.deciding_versions() == now
    made_with = {"torch": "2.5.0", "numpy": "1.26.0", "diffusers": "0.38.0", "timm": "1.0.0"}
    every = ["diffusers 0.38.0, now 0.38.1", "numpy 1.26.0, now 2.1.0", "timm 1.0.0, now not installed"]
    assert changes(made_with) == [*every, "torch 2.5.0, now 2.6.0"]
    assert changes(made_with, major=True) == every[1:]
    assert changes({"diffusers": "0.37.1"}, major=True) == ["diffusers 0.37.1, now 0.38.1"]
    assert changes({}) == changes(dict(now)) == []


def test_names_come_from_the_first_module_that_has_them() -> None:
    find = lazily("maskmill.curation.sds", "config", "asf")
    assert find("asf_score").__module__ == "maskmill.curation.sds.asf"
    for name in ("__wrapped__", "no_such_name", "Literal"):
        with pytest.raises(AttributeError, match=name):
            find(name)
