"""Faults of the machine (memory, disk, network) stop a run or pass; only faults of the data are recorded."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from maskmill.data_contracts import ContractError, decode_image, encode_mask, is_transient, load_label_space
from maskmill.pipelines.ingest import patience
from maskmill.pipelines.ingest.files import Root
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.patience import SourceFaultError
from maskmill.pipelines.ingest.volumes_slices import SliceSource
from tests.pipelines.ingest_sets import ingest, label_map, make_folder, photo, put

FAULTS: dict[str, Callable[[], BaseException]] = {
    "memory": lambda: MemoryError("cannot allocate"),
    "disk": lambda: OSError(errno.EIO, "Input/output error"),
    "files": lambda: OSError(errno.EMFILE, "Too many open files"),
    "stale": lambda: OSError(errno.ESTALE, "Stale file handle"),
    "time": lambda: TimeoutError("timed out"),
    "reset": lambda: ConnectionResetError("reset by peer"),
}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSES", (0.0, 0.0))


@pytest.fixture
def folder(tmp_path: Path) -> FolderSource:
    make_folder(tmp_path / "set", list("abcd"))
    return FolderSource(root=str(tmp_path / "set"), threads=1)


def failing(real: Callable[..., Any], fault: Callable[[], BaseException], calls: range) -> Callable[..., Any]:
    """`real`, but the calls of these numbers raise."""
    seen = [0]

    def call(*args: Any, **kwargs: Any) -> Any:
        seen[0] += 1
        if seen[0] in calls:
            raise fault()
        return real(*args, **kwargs)

    return call


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("place", ["read", "decode"])
def test_a_fault_that_passes_costs_no_sample(
    folder: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    target, method = (Root, "read") if place == "read" else (Image.Image, "load")
    monkeypatch.setattr(target, method, failing(getattr(target, method), FAULTS[name], range(3, 4)))
    samples, rejects = ingest(folder, tmp_path / "run")
    assert (len(samples), rejects) == (4, [])


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_stays_stops_the_run_and_names_the_file(
    folder: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Root, "read", failing(Root.read, FAULTS[name], range(3, 10_000)))
    with pytest.raises(SourceFaultError, match=r"images/b\.jpg: cannot read it, tried 3 times"):
        ingest(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    samples, rejects = ingest(folder, tmp_path / "run")
    assert (len(samples), rejects) == (4, [])


@pytest.mark.parametrize("gone", ["set", "set/images/c.jpg", "set/masks/c.png"])
def test_what_was_listed_and_is_gone_is_a_changed_source(
    folder: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    real, seen = Root.read, [0]

    def read(self: Root, *args: Any) -> bytes:
        seen[0] += 1
        if seen[0] == 3:
            os.rename(tmp_path / gone, tmp_path / "away")
        return real(self, *args)

    monkeypatch.setattr(Root, "read", read)
    with pytest.raises((SourceFaultError, FileNotFoundError), match=r"run again|no such folder"):
        ingest(folder, tmp_path / "run")
    os.rename(tmp_path / "away", tmp_path / gone)
    samples, rejects = ingest(folder, tmp_path / "run")
    assert (len(samples), rejects) == (4, [])


def test_a_file_read_in_part_is_a_fault_of_the_machine(
    folder: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Root(folder.root)
    real, seen = root.fs.cat_file, [0]

    def cat_file(path: str, *args: Any, **kwargs: Any) -> bytes:
        seen[0] += 1
        data: bytes = real(path, *args, **kwargs)
        return data[:-7] if seen[0] == 1 else data

    monkeypatch.setattr(type(root.fs), "cat_file", lambda self, *a, **k: cat_file(*a, **k))
    samples, rejects = ingest(folder, tmp_path / "run")
    assert (len(samples), rejects) == (4, [])


def test_content_is_still_to_blame_for_what_it_is_to_blame_for(folder: FolderSource, tmp_path: Path) -> None:
    put(tmp_path / "set/images/b.jpg", photo(1)[:60])
    put(tmp_path / "set/images/c.jpg", b"no picture")
    samples, rejects = ingest(folder, tmp_path / "run")
    assert len(samples) == 2
    assert [row["reason"] for row in rejects] == ["undecodable_image"] * 2


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP])
def test_paths_that_can_mean_no_file_are_content(number: int) -> None:
    assert not is_transient(OSError(number, "x", "y"))


def test_out_of_memory_is_not_a_broken_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(MemoryError):
        decode_image(photo())
    monkeypatch.undo()
    with pytest.raises(ContractError):
        decode_image(b"nothing")


def test_a_file_that_keeps_size_and_time_is_read_again(folder: FolderSource, tmp_path: Path) -> None:
    before, _ = ingest(folder, tmp_path / "run")
    path = tmp_path / "set/images/a.jpg"
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 0x10
    path.write_bytes(bytes(data))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after, _ = ingest(folder, tmp_path / "run")
    assert {row["sample_id"] for row in before} != {row["sample_id"] for row in after}


def test_a_bomb_among_upright_slices_is_recorded_as_any_image(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20000, 9000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b""))
    put(tmp_path / "set/images/p1_slice_1.png", b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    put(tmp_path / "set/masks/p1_slice_1.png", encode_mask(label_map()))
    source = SliceSource(root=str(tmp_path / "set"), upright=True)
    samples, (lost,) = ingest(source, tmp_path / "run", load_label_space("acdc"))
    assert (samples, lost["reason"]) == ([], "image_too_large")
