"""The units of ingest without listing the source again, where nothing under its root has changed since it was listed.

Listing pairs files, reads annotations and stamps contents; a look at names, sizes, times and inodes is some ten times
cheaper and as sure: whoever writes or replaces a file under a local root changes one of them (its ctime at least).
"""

import os
from typing import Any

import xxhash

from maskmill.data_contracts import content_id, shard_name
from maskmill.data_contracts.known import is_settled
from maskmill.pipelines.core.index import note, recall
from maskmill.pipelines.core.stage import Stage, Unit
from maskmill.pipelines.ingest.base import Source
from maskmill.pipelines.ingest.stage import ingest_units, settled_units

VERSION = "1"  # of what a listing makes of the same files: raise it where units change
NAME = "listing"

_listed: dict[str, tuple[str, list[Any]]] = {}  # by run folder: what the last listing was made from, and its units


def units_of(stage: Stage, source: Source, run_dir: str, shard_size: int, *, fresh: bool = False) -> list[Unit]:
    """The units of ingest; the source is listed unless it is as it was when the run folder's listing was noted.

    Raises:
        FileNotFoundError, ValueError: see `ingest_units`.
    """
    _listed.pop(run_dir, None)
    tree = None if fresh else tree_stamp(source.root)  # before the listing: what changes meanwhile is listed next time
    stamp = tree and _identity(stage, source, shard_size, tree)
    kept = recall(run_dir, NAME, stamp) if stamp else None
    if kept is not None:
        return [_unit(run_dir, index, *one) for index, one in enumerate(kept)]
    units = ingest_units(source, run_dir, shard_size)
    units = settled_units(stage, units, source, run_dir, shard_size)
    if stamp:
        _listed[run_dir] = stamp, [[*unit.stamps] for unit in units]
    return units


def note_listing(run_dir: str) -> None:
    """Keep what this process listed, once all of it is ingested."""
    if run_dir in _listed:
        note(run_dir, NAME, *_listed.pop(run_dir))


def tree_stamp(root: str) -> str | None:
    """Hash of names, sizes, times and inodes of all that lies under a local root; None where that says too little: for
    URLs, for links to folders, and where something was changed just now.
    """
    if "://" in root:
        return None
    seen = xxhash.xxh3_128()
    try:
        if os.path.isfile(root):
            return seen.hexdigest() if _see(seen, root, os.stat(root)) else None
        folders = [root]
        while folders:
            with os.scandir(folders.pop()) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_symlink() and entry.is_dir():
                    return None
                if not _see(seen, entry.path, entry.stat()):
                    return None
    except OSError:  # a link that leads nowhere, a folder that may not be read: the listing says what is wrong
        return None
    return seen.hexdigest()


def _see(seen: Any, path: str, stat: os.stat_result) -> bool:
    about = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}\0"
    seen.update(about.encode("utf-8", "surrogateescape"))
    return is_settled((0, stat.st_mtime_ns, stat.st_ctime_ns, 0))


def _identity(stage: Stage, source: Source, shard_size: int, tree: str) -> str:
    listing = source.model_dump_json(exclude={"threads"})
    return content_id(VERSION, stage.name, str(stage.version), stage.config_hash, listing, str(shard_size), tree)


def _unit(run_dir: str, index: int, *stamps: str) -> Unit:
    outputs = tuple(f"{run_dir.rstrip('/')}/{folder}/{shard_name(index)}" for folder in ("samples", "rejects"))
    return Unit(inputs=(), outputs=outputs, stamps=stamps, index=index)
