"""Folders on a disk or in a bucket: what is in them, byte by byte, and which shards were written when."""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

import fsspec

LOGS = frozenset({"timings.json"})  # the clock is no result
CLOCK = re.compile(rb'<section id="speed">.*?</section>|<!-- maskmill-check \w+ -->', re.DOTALL)  # a report's times


@dataclass(frozen=True)
class State:
    """Hash of every file by its path, and of every finished shard what tells that it was written again."""

    files: dict[str, str]
    shards: dict[str, str]

    @classmethod
    def of(cls, folders: Iterable[str]) -> "State":
        files: dict[str, str] = {}
        shards: dict[str, str] = {}
        for number, folder in enumerate(folders):
            fs, root = fsspec.core.url_to_fs(folder)
            for path, info in fs.find(root, detail=True).items():
                name = f"{number}{path[len(root) :]}"
                if name.rsplit("/", 1)[-1] not in LOGS and "/cache/" not in name:
                    files[name] = hashlib.blake2b(CLOCK.sub(b"", fs.cat_file(path))).hexdigest()
                if name.endswith(".parquet") and "/export/" not in name:
                    stamp = info.get("LastModified") or os.stat(path)
                    shards[name] = str(stamp if "LastModified" in info else (stamp.st_ino, stamp.st_mtime_ns))
        return cls(files, shards)


def differences(found: State, wanted: State) -> list[str]:
    """Files that are not the same in both, each with what is wrong."""
    names = sorted({*found.files, *wanted.files})
    words = {True: "differs", False: "is missing"}
    return [
        f"{name} {words[name in found.files] if name in wanted.files else 'is left over'}"
        for name in names
        if found.files.get(name) != wanted.files.get(name)
    ]


def written_again(before: State, after: State) -> list[str]:
    """Finished shards that are not those that were there before."""
    return sorted(name for name, stamp in before.shards.items() if after.shards.get(name) != stamp)


def left_over(found: State, wanted: State) -> list[str]:
    """Files that should not be there."""
    return sorted(set(found.files) - set(wanted.files))


def clear(folders: Iterable[str]) -> None:
    """Remove folders with all that is in them."""
    for folder in folders:
        fs, root = fsspec.core.url_to_fs(folder)
        if fs.exists(root):
            fs.rm(root, recursive=True)


def copy(source: str, target: str) -> None:
    """A local folder to a place on a disk or in a bucket."""
    fs, root = fsspec.core.url_to_fs(target)
    for path in sorted(fsspec.filesystem("file").find(source)):
        place = f"{root}{path[len(source) :]}"
        fs.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
        fs.put_file(path, place)
