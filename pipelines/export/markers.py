"""Markers: which files each part of an export wrote, so that neither a changed selection nor a kill leaves any behind.

Before files are written, the marker names them all (a write-ahead list) under an empty fingerprint; once they are
written it gets its fingerprint. Files that it named before and that are no longer wanted are listed as stale; when all
shards are done, those that no other shard has taken over (samples move when the shard size changes) are removed. So
whatever moment a process dies at, the next one knows every file that may be there.
"""

import json
import os
import posixpath
from collections.abc import Iterable, Mapping
from contextlib import suppress

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import bytes_hash, file_hash, remove_file, sweep_temporaries, write_bytes
from maskmill.data_contracts.sums import checked_json, read_json
from maskmill.pipelines.core.touched import is_touched
from maskmill.pipelines.export.facts import Summary

MARKERS = ".maskmill"
INDEX = "index"
DAMAGED = "damaged"


class Marker(BaseModel):
    """What a shard (or the index) wrote. An empty fingerprint: a process died, and any of `files` may be there."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str
    files: list[str]
    stale: list[str] = Field(default_factory=list)
    config: str = ""
    summary: Summary = Field(default_factory=Summary)
    sums: dict[str, str] = Field(default_factory=dict)  # "size:hash" of each of `files`; none in earlier versions


def marker_path(root: str, name: str) -> str:
    """Where the marker of a shard stem, or of the index, lies."""
    return f"{root}/{MARKERS}/{name}.json"


def read_marker(root: str, name: str) -> Marker | None:
    """A marker, or None where there is none, or one too damaged to be read."""
    try:
        return Marker.model_validate(read_json(marker_path(root, name)))
    except (FileNotFoundError, ValueError):
        return None


def sums_of(files: Mapping[str, bytes]) -> dict[str, str]:
    """Size and hash of files by path."""
    return {path: f"{len(data)}:{bytes_hash(data)}" for path, data in sorted(files.items())}


def marker_fault(root: str, name: str, marker: Marker, *, thorough: bool = False) -> str | None:
    """What is wrong with the files of a marker, in words; None where nothing is. Files of a local export that are
    older than their marker are only held against their size, unless `thorough`; those in object stores are not looked
    at then.
    """
    fs, base = fsspec.core.url_to_fs(root)
    local = isinstance(fs, LocalFileSystem)
    if not local and not thorough:
        return None
    for path in marker.files:
        size, _, wanted = marker.sums.get(path, "").partition(":")
        try:
            found = fs.info(f"{base}/{path}")["size"] if not local else os.stat(f"{base}/{path}").st_size
        except FileNotFoundError:
            return f"{DAMAGED}: {path} is gone"
        if size and size != str(found):  # as it stands there: a flipped bit may have left no number
            return f"{DAMAGED}: {path} has {found} bytes, not {size}"
        touched = thorough or is_touched(f"{root}/{path}", marker_path(root, name))
        if wanted and touched and file_hash(f"{root}/{path}") != wanted:
            return f"{DAMAGED}: {path} is not what was written"
    return None


def write_marker(root: str, name: str, marker: Marker) -> None:
    """Write a marker, atomically."""
    write_bytes(marker_path(root, name), checked_json(json.loads(json.dumps(marker.model_dump(mode="json")))))


def replace(root: str, name: str, files: dict[str, bytes], done: Marker) -> None:
    """Write `files`, then the marker `done`, with the write-ahead list before; what the old one named turns stale."""
    old = read_marker(root, name)
    before = {*old.files, *old.stale} if old else set()
    write_marker(root, name, Marker(fingerprint="", files=sorted(before | set(files))))
    for path, data in sorted(files.items()):
        write_bytes(f"{root}/{path}", data)
    update = {"files": sorted(files), "stale": sorted(before - set(files)), "sums": sums_of(files)}
    write_marker(root, name, done.model_copy(update=update))


def invalidate(root: str, name: str) -> None:
    """Take the fingerprint from a marker: what it stands for is no longer true."""
    marker = read_marker(root, name)
    if marker is not None and marker.fingerprint:
        write_marker(root, name, marker.model_copy(update={"fingerprint": ""}))


def drop_stale(root: str, stems: set[str]) -> None:
    """Remove stale files, and those of shards that the run no longer has. Call it when all `stems` are done."""
    markers = {name: marker for name in _names(root) if (marker := read_marker(root, name)) is not None}
    wanted = {path for name, marker in markers.items() if name in stems for path in marker.files}
    for name, marker in markers.items():
        gone = name not in stems
        _remove(root, {*marker.stale, *(marker.files if gone else ())} - wanted)
        if gone:
            _remove(root, [f"{MARKERS}/{name}.json"])
        elif marker.stale:
            write_marker(root, name, marker.model_copy(update={"stale": []}))


def _names(root: str) -> list[str]:
    fs, target = fsspec.core.url_to_fs(f"{root}/{MARKERS}")
    paths = [str(path) for path in fs.ls(target, detail=False)] if fs.exists(target) else []
    return sorted(posixpath.basename(path).removesuffix(".json") for path in paths if path.endswith(".json"))


def _remove(root: str, paths: Iterable[str]) -> None:
    for path in sorted(paths):
        with suppress(FileNotFoundError):
            remove_file(f"{root}/{path}")


def sweep_export(root: str) -> int:
    """Remove what killed writers left anywhere in an export; returns how many. Call it while nobody writes there."""
    fs, target = fsspec.core.url_to_fs(root)
    if not isinstance(fs, LocalFileSystem) or not fs.exists(target):
        return 0
    folders = [os.path.join(top, name) for top, names, _ in os.walk(target) for name in names]
    return sum(sweep_temporaries(folder) for folder in (target, *folders))
