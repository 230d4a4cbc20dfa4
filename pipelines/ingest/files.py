"""Files of a dataset under one root (local folder or fsspec URL): listed with stamps, opened only inside the root."""

import codecs
import errno
import io
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem

from maskmill.data_contracts import ContractError, Problem, Reason
from maskmill.data_contracts.errors import NO_SUCH_FILE
from maskmill.data_contracts.image_files import IMAGE_SUFFIXES
from maskmill.data_contracts.secrets import redact
from maskmill.pipelines.ingest.names import folded, is_hidden, loose, other_encoding
from maskmill.pipelines.ingest.not_read import PassedOver
from maskmill.pipelines.ingest.quarantine import note_read
from maskmill.pipelines.ingest.spill import JsonError, Spill
from maskmill.pipelines.ingest.stamps import info_stamp, local_stamp
from maskmill.pipelines.ingest.walk import escape, hidden, walk_local

MAX_FILE_BYTES = 1 << 30
LONGEST_PATH = 4096


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
        self.url = redact(url)  # for messages
        self.follow_links = follow_links
        listed = {"use_listings_cache": True} if url.startswith(("s3://", "s3a://")) else {}  # sizes for all at once
        self.fs, base = fsspec.core.url_to_fs(url, **listed)
        self.base = base.rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)
        self.fs.invalidate_cache()  # object stores cache their listings for the life of the process
        if not self.fs.exists(self.base):
            raise FileNotFoundError(f"{self.url}: no such folder or file; check `root` in the ingest config")
        self.passed = PassedOver()
        self._only = ""
        if self.fs.isfile(self.base):
            self.base, self._only = self.base.rsplit("/", 1)

    @property
    def is_file(self) -> bool:
        """Whether the root is one file."""
        return bool(self._only)

    def walk(self, folder: str, suffixes: frozenset[str]) -> Iterator[File]:
        """Files under `folder` whose names end in one of the suffixes, in no particular order. What else lies there is
        kept in `passed`.

        Raises:
            FileNotFoundError: no such folder under the root; lists what is there.
        """
        self.passed.walks.append((folder, suffixes))
        endings = (*suffixes, "/")
        for file in self._all(folder):
            unread = file.problem is not None and file.problem.reason == Reason.NOT_READ
            if is_hidden(file.path) or (unread and file.path.endswith("/")):
                self.passed.add(file.path, file.problem)
            elif file.path.lower().endswith(endings):
                yield file
            else:
                self.passed.add(file.path, file.problem)

    def _all(self, folder: str) -> Iterator[File]:
        if self._only:
            return iter([File(self._only, self.stamp(self._only))])
        top = self._folder(folder)
        return self._walk_local(top) if self.local else self._walk_remote(top)

    def has_folder(self, folder: str) -> bool:
        """Whether there is such a folder under the root."""
        return bool(self.fs.isdir(f"{self.base}/{folder}"))

    def folders(self) -> list[str]:
        """Names of what lies at the root, sorted; files too, where there is no folder."""
        found = self.fs.ls(self.base, detail=True)
        names = [str(one["name"]).rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory"]
        return sorted(names or (str(one["name"]).rpartition("/")[2] for one in found))

    def has_file(self, path: str) -> bool:
        """Whether there is such a file under the root."""
        return bool(self.fs.isfile(f"{self.base}/{path}"))

    def _folder(self, folder: str) -> str:
        top = f"{self.base}/{folder}" if folder else self.base
        if not self.fs.isdir(top):
            there = sorted(str(p).rsplit("/", 1)[-1] for p in self.fs.ls(self.base, detail=False))[:8]
            raise FileNotFoundError(
                f"{self.url}: no folder {folder!r} in there; found {there}; name one of those in the config"
            )
        return top

    def _walk_local(self, top: str) -> Iterator[File]:
        for path, entry, problem in walk_local(self.base, top, self.follow_links):
            yield File(path, "" if problem or entry is None else local_stamp(entry.path, entry.stat()), problem)

    def _walk_remote(self, top: str) -> Iterator[File]:
        for folder, _, files in self.fs.walk(top, detail=True):
            for name, info in files.items():
                problem = hidden(name) if name.startswith(".") else None
                if name:
                    yield File(self._relative(f"{folder}/{name}"), info_stamp(info), problem)

    def _relative(self, path: str) -> str:
        inside = path[len(self.base) + 1 :] if self.base else path.lstrip("/")  # an archive has no folder above it
        return inside.replace(os.sep, "/") if self.local else inside

    def stamp(self, path: str) -> str:
        """Stamp of one file of the root."""
        full = f"{self.base}/{path}"
        return local_stamp(full, os.stat(full)) if self.local else info_stamp(self.fs.info(full))

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
        note_read(path, data)
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
            problem = escape(full, self.base)
        if problem is not None:
            raise ContractError(path, problem)
        return full

    @contextmanager
    def text(self, path: str) -> Iterator[IO[str]]:
        """A text file of the root, opened for streaming: UTF-8, or UTF-16 that begins with its byte-order mark.

        Raises:
            FileNotFoundError: names the file; a list or annotation file that the config speaks of must be there.
            ValueError: other encodings, or broken JSON; names the file.
        """
        full = f"{self.base}/{path}"
        if not self.fs.isfile(full):
            raise FileNotFoundError(f"{self.url}: no file {path!r} in there; check the ingest config")
        self.passed.opened.add(path)
        with self.fs.open(full, "rb") as handle:
            encoding = "utf-16" if handle.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
            handle.seek(0)
            with io.TextIOWrapper(handle, encoding=encoding) as text:
                try:
                    yield text
                except UnicodeDecodeError as error:
                    raise ValueError(f"{self.url}/{path}: {other_encoding(error)}") from error
                except JsonError as error:
                    raise ValueError(f"{self.url}/{path}: {error}") from error

    def index(self, folder: str, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> "FileIndex":
        """The files under `folder` by stem, on disk."""
        return FileIndex(self, folder, suffixes)


class FileIndex:
    """Files of a folder by stem (path inside the folder, without suffix, in any Unicode form), kept on disk."""

    def __init__(self, root: Root, folder: str, suffixes: frozenset[str]) -> None:
        self.folder = folder.strip("/")
        self._root = root
        self._files = Spill()
        self._files.add((loose(self.stem(f.path)), pack_file(f)) for f in root.walk(self.folder, suffixes))

    def inside(self, path: str) -> str:
        """A path of the root as a path of this folder."""
        return path[len(self.folder) + 1 :] if self.folder else path

    def stem(self, path: str) -> str:
        """Path inside the folder, without its suffix."""
        return without_suffix(self.inside(path))

    def find(self, stem: str) -> list[File]:
        """Files with this stem, sorted by path; those in another Unicode form where none is spelt so."""
        found = [f for f in self._near(stem) if folded(self.stem(f.path)) == folded(stem)]
        exact = [f for f in found if self.stem(f.path) == stem]
        return sorted(exact or found, key=lambda f: f.path)

    def find_path(self, name: str) -> File | None:
        """The file that a list or annotation calls `name`: its path inside the folder, inside the root, or an absolute
        one that leads there; with either slash, in any Unicode form, with its suffix in either case.
        """
        for wanted in self._spellings(name):
            found = self.find(without_suffix(wanted))
            same = [f for f in found if folded(self.inside(f.path)) == folded(wanted)]
            same = same or [f for f in found if loose(self.inside(f.path)) == loose(wanted)]
            if len(same) == 1:
                return same[0]
        return None

    def find_any(self, name: str) -> list[File]:
        """The files that a list calls `name`: a stem or a path, spelt as `find_path` allows."""
        exact = self.find_path(name)
        stems = (found for wanted in self._spellings(name) if (found := self.find(wanted)))
        return [exact] if exact is not None else next(stems, [])

    def _spellings(self, name: str) -> list[str]:
        """Paths inside the folder that `name` may mean, the most literal first; none where it climbs out."""
        paths = [name, name.replace("\\", "/"), unquote(name)]
        paths = [path for path in dict.fromkeys(paths) if ".." not in path.split("/") and "\0" not in path]
        tidy = [posixpath.normpath(path) for path in paths if path]
        ours = [path.removeprefix(f"{self._root.base}/") for path in tidy if path.startswith(f"{self._root.base}/")]
        below = [path.strip("/") for path in (*tidy, *ours)]
        if self.folder:
            below += [path.removeprefix(f"{self.folder}/") for path in below if path.startswith(f"{self.folder}/")]
        return list(dict.fromkeys((*paths, *below)))

    def instead(self, name: str) -> str:
        """What lies there in place of a file that is missing, in words: "none", and whatever comes near."""
        stem = without_suffix(name.replace("\\", "/"))
        near = {f.path for f in (*self._near(stem), *self._near(name))}
        if near:
            return f"none, but {', '.join(sorted(near)[:3])}"
        place = f"{self.folder}/{stem}".lstrip("/")
        if any(self._root.has_folder(f"{place}{suffix}") for suffix in (".png", ".jpg", ".tif")):
            return "a folder of that name"
        unread = self._root.passed.beginning(f"{place}.")
        return f"none that is read, but {', '.join(unread)}" if unread else "none"

    def _near(self, stem: str) -> list[File]:
        """Files whose stem is this one, in any Unicode form and any case."""
        return [unpack_file(raw) for raw in self._files.get(loose(stem))]

    def __iter__(self) -> Iterator[tuple[str, File]]:
        for _, raw in self._files:
            file = unpack_file(raw)
            yield self.stem(file.path), file


def pack_file(file: File) -> list[Any]:
    return [file.path, file.stamp, pack_problem(file.problem)]


def unpack_file(raw: list[Any]) -> File:
    return File(raw[0], raw[1], unpack_problem(raw[2]))


def pack_problem(problem: Problem | None) -> list[str] | None:
    return None if problem is None else [problem.reason, problem.expected, problem.found, problem.fix, problem.where]


def unpack_problem(raw: list[str] | None) -> Problem | None:
    return None if raw is None else Problem(Reason(raw[0]), *raw[1:])


def path_problem(path: str) -> Problem | None:
    """What is wrong with a path that data (a list, an annotation, an archive) gives: it must stay under its root."""
    parts = path.replace("\\", "/").split("/")
    drive = len(parts[0]) == 2 and parts[0].endswith(":")
    outside = not path or path.startswith(("/", "\\")) or "://" in path or drive
    if len(path) > LONGEST_PATH:
        return Problem(Reason.UNSAFE_PATH, f"a path of at most {LONGEST_PATH} characters", f"{len(path)}", "mend it")
    if not outside and ".." not in parts and "\0" not in path:
        return None
    fix = "name files by their path inside the dataset's own folder"
    return Problem(Reason.UNSAFE_PATH, "a relative path without '..'", repr(path), fix)


def without_suffix(path: str) -> str:
    """A path without the suffix of its last part."""
    at, start = path.rfind("."), path.rfind("/") + 1  # pathlib would take half the time of a listing
    return path[:at] if start < at < len(path) - 1 and path[start:at].strip(".") else path
