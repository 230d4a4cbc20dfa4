"""Archives, read in place: members of tars and zips by name and place. Nothing is extracted to a name of theirs."""

import bz2
import gzip
import lzma
import os
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any, cast

import pyarrow as pa

from maskmill.data_contracts import ContractError, Problem, Reason
from maskmill.pipelines.ingest.files import MAX_FILE_BYTES, Root

PLAIN = frozenset((".tar",))
PACKED = frozenset((".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"))
ZIPS = frozenset((".zip",))
MAX_UNPACKED = 1 << 36  # bytes of a packed tar once unpacked: more is no data set that came packed
MAX_RATIO = 200  # bytes for each packed one: photos pack by a tenth, flat masks by a hundred
FREE = 1 << 26  # bytes that may unpack from however few
MAX_DIRECTORY = 1 << 26  # bytes of the list of members at the end of a zip
END_OF_ZIP = (1 << 16) + 512  # bytes in which a zip's last records lie, behind them a comment of up to 65,535
MAX_MEMBERS = 500_000  # of a tar that is read as a folder: all their headers are held
BLOCK = 512
FAULTS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, pa.ArrowException)
FAULTS_OF_VALUES = (ValueError, OverflowError, NotImplementedError, RuntimeError, IndexError, KeyError)


@dataclass(frozen=True)
class Member:
    """A file of an archive: its name, where its bytes begin (a zip: its number), and how many there are. `special` is
    a link, a device or a sparse file.
    """

    name: str
    offset: int
    size: int
    special: bool = False


def members(root: Root, path: str, stamp: str) -> Iterator[Member]:
    """Files of the archive at `path`, in the order of the archive.

    Raises:
        ContractError: the archive is broken, cut off or locked; those before the fault have been given.
    """
    try:
        if path.lower().endswith(".zip"):
            yield from _zip_members(_zip(root, path, stamp))
        elif path.lower().endswith(tuple(PACKED)):
            yield from _tar_members(unpacked(root, path, stamp))
        else:
            with root.fs.open(root.locate(path), "rb") as handle:
                yield from _tar_members(handle)
    except ContractError:
        raise
    except (*FAULTS, *FAULTS_OF_VALUES, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network, not the file
        found = f"{type(error).__name__}: {error}"[:200]
        raise _fault(path, "a whole archive", found, "write the archive again") from error


def read_member(root: Root, path: str, stamp: str, offset: int, size: int) -> bytes:
    """Bytes of one member.

    Raises:
        ContractError: over 1 GiB, locked, or damaged.
    """
    if size > MAX_FILE_BYTES:
        problem = Problem(Reason.IMAGE_TOO_LARGE, "a member of at most 1 GiB", f"{size} bytes", "shrink or remove it")
        raise ContractError(path, problem)
    if path.lower().endswith(tuple(PACKED)):
        file = unpacked(root, path, stamp)
        file.seek(offset)
        return file.read(size)
    if not path.lower().endswith(".zip"):
        return root.read_range(path, offset, size)
    archive = _zip(root, path, stamp)
    info = archive.infolist()[offset]
    check_ratio(info.file_size, info.compress_size, f"{path}/{_text(info.filename)}")
    try:
        return archive.read(info)
    except (*FAULTS, *FAULTS_OF_VALUES) as error:
        found = f"{type(error).__name__}: {error}"[:200]
        raise _fault(path, "a member that can be read", found, "write the archive again, unlocked") from error


def check_ratio(size: int, packed: int, where: str) -> None:
    """Refuse what unpacks to far more than files do.

    Raises:
        ContractError: more than 64 MiB, and more than 200 bytes for each packed one.
    """
    if size > max(FREE, MAX_RATIO * packed):
        found, fix = f"{packed:,} bytes that unpack to {size:,} or more", "unpack it yourself, and name the folder"
        expected = f"at most {MAX_RATIO} bytes for each packed one"
        raise ContractError(where, Problem(Reason.IMAGE_TOO_LARGE, expected, found, fix))


def _fault(where: str, expected: str, found: str, fix: str) -> ContractError:
    return ContractError(where, Problem(Reason.BAD_ANNOTATION, expected, found, fix))


def _tar_members(handle: Any) -> Iterator[Member]:
    with tarfile.open(fileobj=handle, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header it saw
            special = not member.isreg() or member.issparse()  # links are not followed: they may lead anywhere
            if not member.isdir():
                yield Member(_text(member.name), member.offset_data, member.size, special)
        _check_end(handle, tar.offset)  # tarfile takes any broken header for the end


def _check_end(handle: Any, offset: int) -> None:
    """Raise where a tar does not end with the empty block that every tar ends with."""
    handle.seek(max(offset - BLOCK, 0))
    last = handle.read(2 * BLOCK)
    if bytes(BLOCK) in (last[:BLOCK], last[BLOCK:]):
        return
    found = "a broken header" if len(last) > BLOCK else "the end of the file"
    raise tarfile.ReadError(f"{found} at byte {offset}; what comes after it is lost")


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for number, info in enumerate(archive.infolist()):
        if not info.is_dir():
            is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
            yield Member(_text(info.filename), number, info.file_size, is_link)


@lru_cache(maxsize=4)
def _zip(root: Root, path: str, stamp: str) -> zipfile.ZipFile:
    handle = root.fs.open(root.locate(path), "rb")
    check_directory(handle, path)
    return zipfile.ZipFile(handle)


def check_directory(handle: Any, path: str) -> None:
    """Refuse a zip whose list of members, which is read whole, would fill the memory.

    Raises:
        ContractError: over 64 MiB of it: some hundred thousand members.
    """
    handle.seek(0, 2)
    handle.seek(max(0, handle.tell() - END_OF_ZIP))
    end = handle.read(END_OF_ZIP)
    size = _number(end, end.rfind(b"PK\5\6"), 12, 4)
    size = _number(end, end.rfind(b"PK\6\6"), 40, 8) if size == 0xFFFFFFFF else size
    handle.seek(0)
    if size > MAX_DIRECTORY:
        expected, found = f"a list of members of at most {MAX_DIRECTORY:,} bytes", f"{size:,}"
        fix = "pack the data in several archives, or unpack it and name the folder"
        raise ContractError(path, Problem(Reason.IMAGE_TOO_LARGE, expected, found, fix))


def _number(data: bytes, record: int, offset: int, size: int) -> int:
    """A number in a record that begins at `record`; 0 where there is no such record."""
    return 0 if record < 0 else int.from_bytes(data[record + offset : record + offset + size], "little")


_unpacking = threading.Lock()


def unpacked(root: Root, path: str, stamp: str) -> "Reader":
    """A packed tar, unpacked into a file without a name; each call gives a position of its own in it."""
    with _unpacking:  # threads of one shard want the same archive: unpack it once
        return Reader(_unpack(root, path, stamp))


@lru_cache(maxsize=4)
def _unpack(root: Root, path: str, stamp: str) -> IO[bytes]:
    """A packed tar as a file without a name, gone with the process."""
    target = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the cache keeps it
    size = int(root.fs.size(root.locate(path)) or 0)
    with root.fs.open(root.locate(path), "rb") as handle, _opened(handle, path) as packed:
        total = 0
        while piece := packed.read(1 << 20):
            total += len(piece)
            check_ratio(total, size, path)
            if total > MAX_UNPACKED:
                found, fix = f"more than {total} bytes", "unpack it yourself, and name the folder"
                raise ContractError(path, Problem(Reason.IMAGE_TOO_LARGE, "at most 64 GiB unpacked", found, fix))
            target.write(piece)
    return cast(IO[bytes], target)


def _opened(handle: IO[bytes], path: str) -> Any:
    name = path.lower()
    if name.endswith((".tar.bz2", ".tbz2")):
        return bz2.open(handle)
    if name.endswith((".tar.xz", ".txz")):
        return lzma.open(handle)
    if name.endswith(".tar.zst"):
        return pa.CompressedInputStream(pa.PythonFile(handle, "r"), "zstd")
    return gzip.open(handle)


class Reader:
    """A position of its own in a file that others read too."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file  # stays open as long as someone reads it
        self._fd = file.fileno()
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        data = os.pread(self._fd, size if size >= 0 else os.fstat(self._fd).st_size - self._at, self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        start = {0: 0, 1: self._at, 2: os.fstat(self._fd).st_size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _text(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
