"""An archive as the root of a source: `root: set.zip` is read as the folder that it would unpack to."""

import tarfile
import threading
import zipfile
import zlib
from collections import Counter
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import fsspec

from maskmill.data_contracts import ContractError, Problem, Reason
from maskmill.pipelines.ingest.archives import MAX_MEMBERS, PACKED, PLAIN, ZIPS, check_directory, check_ratio, unpacked
from maskmill.pipelines.ingest.files import Root

FAULTS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, AttributeError)
NOT_FOLDERS = frozenset(("__MACOSX",))


def is_archive(url: str) -> bool:
    """Whether a URL names an archive."""
    return url.lower().endswith(tuple(PLAIN | PACKED | ZIPS))


class ArchiveRoot(Root):
    """The files of a .zip or .tar (packed or not). Nothing is extracted; members are opened by name inside it. Where
    all lies in one folder that is called as the archive, that folder is the root.
    """

    def __init__(self, url: str, follow_links: bool = False) -> None:
        super().__init__(url, follow_links)
        stamp = self.stamp(self._only)
        try:
            self.fs = _filesystem(url, stamp, follow_links)
        except (*FAULTS, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ValueError(f"{url}: no whole archive: {error}. Fix: write the archive again") from error
        self.local, self._only, self.base = False, "", ""
        if self._inside("") == ["."]:  # `tar -C set .` begins every name so
            self.base = "."
        tops, name = self._inside(self.base), PurePosixPath(url).name
        if len(tops) == 1 and name.startswith(f"{PurePosixPath(tops[0]).name}.") and self.fs.isdir(tops[0]):
            self.base = tops[0]
        self._note_names_twice()
        self._lock = threading.Lock()  # the archive is one file with one position

    def _note_names_twice(self) -> None:
        """An archive may hold a name more than once; its last member counts."""
        names = self.fs.zip.namelist() if hasattr(self.fs, "zip") else self.fs.tar.getnames()
        for name, count in Counter(map(str, names)).items():
            if count > 1 and not name.endswith("/"):
                found, fix = f"{count} members of it, of which the last is read", "pack the folder again"
                self.passed.add(f"{name} (again)", Problem(Reason.NOT_READ, "every name once", found, fix))

    def _inside(self, folder: str) -> list[str]:
        """What lies in a folder of the archive."""
        found = (str(path).rstrip("/") for path in self.fs.ls(folder, detail=False))
        return [path for path in found if PurePosixPath(path).name not in NOT_FOLDERS and path != folder]

    def _check_ratio(self, path: str) -> None:
        """Refuse a member of a zip that unpacks to far more than files do."""
        if hasattr(self.fs, "zip") and self.has_file(path):
            info = self.fs.zip.getinfo(f"{self.base}/{path}".lstrip("/"))
            check_ratio(info.file_size, info.compress_size, path)

    def read_range(self, path: str, start: int, size: int) -> bytes:
        with self._lock:
            return super().read_range(path, start, size)

    def read(self, path: str, missing: Reason = Reason.MISSING_IMAGE) -> bytes:
        with self._lock:
            try:
                self._check_ratio(path)
                return super().read(path, missing)
            except ContractError:
                raise
            except FAULTS as error:
                found = f"{type(error).__name__}: {error}"[:200]
                problem = Problem(missing, "a member that can be read", found, "write the archive again, unlocked")
                raise ContractError(path, problem) from error


@lru_cache(maxsize=4)
def _filesystem(url: str, stamp: str, follow_links: bool) -> Any:
    if url.lower().endswith(tuple(ZIPS)):
        with fsspec.open(url, "rb") as handle:
            check_directory(handle, url)
        return fsspec.filesystem("zip", fo=url, skip_instance_cache=True)
    if url.lower().endswith(tuple(PACKED)):
        outer = Root(url, follow_links)
        return _counted(unpacked(outer, PurePosixPath(url).name, stamp), url)
    return _counted(url, url)


def _counted(file: Any, url: str) -> Any:
    """A tar as a file system; all its headers are read, so there may not be too many.

    Raises:
        ContractError: over half a million members.
    """
    fs: Any = fsspec.filesystem("tar", fo=file, skip_instance_cache=True)
    for number, _ in enumerate(fs.tar):
        if number >= MAX_MEMBERS:
            fix = "pack the data in several archives, or unpack it and name the folder"
            problem = Problem(Reason.IMAGE_TOO_LARGE, f"at most {MAX_MEMBERS:,} members", "more", fix)
            raise ContractError(url, problem)
    return fs
