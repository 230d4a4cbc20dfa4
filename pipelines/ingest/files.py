"""Files of a dataset under one root (local folder or fsspec URL): listed with stamps, opened only inside the root."""

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import xxhash
from fsspec.implementations.local import LocalFileSystem

from maskmill.data_contracts import ContractError, Problem, Reason
from maskmill.data_contracts.errors import NO_SUCH_FILE
from maskmill.pipelines.ingest.spill import Spill

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"))
MAX_FILE_BYTES = 1 << 30
ETAGS = ("ETag", "etag", "checksum", "md5", "content_md5", "mtime", "LastModified", "last_modified", "created")
SMALL = 1 << 16  # bytes up to which a local file's stamp is its content: masks can change and keep size and time
content_stamps: ContextVar[bool] = ContextVar("content_stamps", default=True)  # off: size and time, as runs before had


class MissingFileError(ContractError):
    """A file that a listing, a list or an annotation speaks of is not there."""


@dataclass(frozen=True)
class File:
    """One file: its path relative to the root, and a stamp that changes with its content (a hash of it where the file
    is small, else size and time; an etag on object stores).
    """

    path: str
    stamp: str
    problem: Problem | None = None


class Root:
    """A folder, or one file, that data is read from. Nothing outside it is opened unless `follow_links` says so."""

    def __init__(self, url: str, follow_links: bool = False) -> None:
        self.url = url
        self.follow_links = follow_links
        self.fs, base = fsspec.core.url_to_fs(url)
        self.base = base.rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)
        self.fs.invalidate_cache()  # object stores cache their listings for the life of the process
        if not self.fs.exists(self.base):
            raise FileNotFoundError(f"{url}: no such folder or file; check `root` in the ingest config")
        self._only = ""
        if self.fs.isfile(self.base):
            self.base, self._only = self.base.rsplit("/", 1)

    def walk(self, folder: str, suffixes: frozenset[str]) -> Iterator[File]:
        """Files under `folder` with one of the suffixes, hidden ones left out, in no particular order.

        Raises:
            FileNotFoundError: no such folder under the root; lists what is there.
        """
        if self._only:
            found: Iterator[File] = iter([File(self._only, self.stamp(self._only))])
        else:
            top = self._folder(folder)
            found = self._walk_local(top) if self.local else self._walk_remote(top)
        return (f for f in found if PurePosixPath(f.path).suffix.lower() in suffixes or f.path.endswith("/"))

    def has_folder(self, folder: str) -> bool:
        """Whether there is such a folder under the root."""
        return bool(self.fs.isdir(f"{self.base}/{folder}"))

    def _folder(self, folder: str) -> str:
        top = f"{self.base}/{folder}" if folder else self.base
        if not self.fs.isdir(top):
            there = sorted(str(p).rsplit("/", 1)[-1] for p in self.fs.ls(self.base, detail=False))[:8]
            raise FileNotFoundError(f"{self.url}: no folder {folder!r} in there; found {there}")
        return top

    def _walk_local(self, top: str) -> Iterator[File]:
        folders = [top]
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if problem := self._local_problem(entry):
                        is_folder = entry.is_dir()
                        yield File(_printable(self._relative(entry.path)) + "/" * is_folder, "", problem)
                    elif entry.is_dir():
                        folders.append(entry.path)
                    elif entry.is_file():
                        yield File(self._relative(entry.path), _local_stamp(entry.path, entry.stat()))

    def _local_problem(self, entry: "os.DirEntry[str]") -> Problem | None:
        if _printable(entry.name) != entry.name:
            return Problem(Reason.UNSAFE_PATH, "a file name in UTF-8", repr(entry.name), "rename the file")
        if not entry.is_symlink():
            return None
        if entry.is_dir():
            inside = os.path.realpath(entry.path)
            if self.follow_links and not os.path.realpath(os.path.dirname(entry.path)).startswith(inside):
                return None
            fix = "remove the link: it leads to a folder above it" if self.follow_links else "set follow_links: true"
            return Problem(Reason.UNSAFE_PATH, "a folder, no link to one", f"{entry.name} -> {inside}", fix)
        return None if self.follow_links else self._escape(entry.path)

    def _escape(self, path: str) -> Problem | None:
        target = os.path.realpath(path)
        if target.startswith(os.path.realpath(self.base) + os.sep):
            return None
        fix = "copy the file into the folder, or set follow_links: true"
        return Problem(Reason.UNSAFE_PATH, "a file inside the root", f"a link to {target}", fix)

    def _walk_remote(self, top: str) -> Iterator[File]:
        for folder, _, files in self.fs.walk(top, detail=True):
            for name, info in files.items():
                if name and not name.startswith("."):
                    yield File(self._relative(f"{folder}/{name}"), _info_stamp(info))

    def _relative(self, path: str) -> str:
        return path[len(self.base) + 1 :].replace(os.sep, "/") if self.local else path[len(self.base) + 1 :]

    def stamp(self, path: str) -> str:
        """Stamp of one file of the root."""
        full = f"{self.base}/{path}"
        return _local_stamp(full, os.stat(full)) if self.local else _info_stamp(self.fs.info(full))

    def read(self, path: str, missing: Reason = Reason.MISSING_IMAGE) -> bytes:
        """Bytes of the file at `path`, relative to the root.

        Raises:
            ContractError: the path leads out of the root, no file is there (MissingFileError), or it is over 1 GiB.
            OSError: the disk or the network failed; a file that was read in part is one of these.
        """
        full = self.locate(path)
        try:
            if (size := self.fs.size(full) or 0) > MAX_FILE_BYTES:
                found = f"{size} bytes"
                problem = Problem(Reason.IMAGE_TOO_LARGE, "a file of at most 1 GiB", found, "shrink or remove it")
                raise ContractError(path, problem)
            data: bytes = self.fs.cat_file(full)
        except OSError as error:
            if error.errno not in NO_SUCH_FILE and not isinstance(error, FileNotFoundError):
                raise
            problem = Problem(missing, f"a file {path}", "none", "put the file there, or drop the sample")
            raise MissingFileError(path, problem) from error
        if len(data) < size:
            raise OSError(errno.EIO, f"read {len(data)} of {size} bytes", full)
        return data

    def read_range(self, path: str, start: int, size: int) -> bytes:
        """`size` bytes of a file from `start` on; fewer where the file ends before."""
        data: bytes = self.fs.cat_file(self.locate(path), start=start, end=start + size)
        return data

    def locate(self, path: str) -> str:
        """Full path of a file of the root.

        Raises:
            ContractError: the path is absolute, climbs with "..", or is a link that leads out of the root.
        """
        problem = path_problem(path)
        full = f"{self.base}/{path}"
        if problem is None and self.local and not self.follow_links:
            problem = self._escape(full)
        if problem is not None:
            raise ContractError(path, problem)
        return full

    @contextmanager
    def text(self, path: str) -> Iterator[IO[str]]:
        """A text file of the root (UTF-8, with or without a byte-order mark), opened for streaming.

        Raises:
            FileNotFoundError: names the file; a list or annotation file that the config speaks of must be there.
        """
        full = f"{self.base}/{path}"
        if not self.fs.isfile(full):
            raise FileNotFoundError(f"{self.url}: no file {path!r} in there; check the ingest config")
        with self.fs.open(full, "rb") as handle, io.TextIOWrapper(handle, encoding="utf-8-sig") as text:
            yield text

    def index(self, folder: str, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> "FileIndex":
        """The files under `folder` by stem, on disk."""
        return FileIndex(self, folder, suffixes)


class FileIndex:
    """Files of a folder by stem (path inside the folder, without suffix), kept on disk."""

    def __init__(self, root: Root, folder: str, suffixes: frozenset[str]) -> None:
        self.folder = folder.strip("/")
        self._files = Spill()
        self._files.add((self.stem(f.path), pack_file(f)) for f in root.walk(self.folder, suffixes))

    def stem(self, path: str) -> str:
        """Path inside the folder, without its suffix."""
        inside = path[len(self.folder) + 1 :] if self.folder else path
        return without_suffix(inside)

    def find(self, stem: str) -> list[File]:
        """Files with this stem, sorted by path."""
        return sorted((unpack_file(raw) for raw in self._files.get(stem)), key=lambda f: f.path)

    def find_path(self, inside: str) -> File | None:
        """The file at a path inside the folder."""
        wanted = f"{self.folder}/{inside}" if self.folder else inside
        return next((f for f in self.find(without_suffix(inside)) if f.path == wanted), None)

    def __iter__(self) -> Iterator[tuple[str, File]]:
        for stem, raw in self._files:
            yield stem, unpack_file(raw)


def pack_file(file: File) -> list[Any]:
    return [file.path, file.stamp, pack_problem(file.problem)]


def unpack_file(raw: list[Any]) -> File:
    return File(raw[0], raw[1], unpack_problem(raw[2]))


def pack_problem(problem: Problem | None) -> list[str] | None:
    return None if problem is None else [problem.reason, problem.expected, problem.found, problem.fix]


def unpack_problem(raw: list[str] | None) -> Problem | None:
    return None if raw is None else Problem(Reason(raw[0]), raw[1], raw[2], raw[3])


def path_problem(path: str) -> Problem | None:
    """What is wrong with a path that data (a list, an annotation, an archive) gives: it must stay under its root."""
    parts = path.replace("\\", "/").split("/")
    drive = len(parts[0]) == 2 and parts[0].endswith(":")
    outside = not path or path.startswith(("/", "\\")) or "://" in path or drive
    if not outside and ".." not in parts and "\0" not in path:
        return None
    fix = "name files by their path inside the dataset's own folder"
    return Problem(Reason.UNSAFE_PATH, "a relative path without '..'", repr(path), fix)


def without_suffix(path: str) -> str:
    """A path without the suffix of its last part."""
    pure = PurePosixPath(path)
    return str(pure.with_suffix("")) if pure.name else path


def _printable(name: str) -> str:
    """A name as text that can be stored; bytes that are no UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _local_stamp(path: str, stat: os.stat_result) -> str:
    if stat.st_size > SMALL or not content_stamps.get():
        return f"{stat.st_size}:{stat.st_mtime_ns}"
    try:
        with open(path, "rb") as handle:
            return f"{stat.st_size}:{xxhash.xxh3_128_hexdigest(handle.read())}"
    except OSError:  # whoever loads the file says what is wrong with it
        return f"{stat.st_size}:{stat.st_mtime_ns}"


def _info_stamp(info: dict[str, Any]) -> str:
    """Size and whatever the store says about the content; times only where it has no hash."""
    found = next((str(info[name]) for name in ETAGS if info.get(name)), "")
    return f"{info.get('size')}:{found}"
