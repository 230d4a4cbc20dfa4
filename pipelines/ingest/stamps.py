"""Stamps of source files: what a listing notes of each, so that changed ones are read again and no others."""

import os
from contextvars import ContextVar
from typing import Any

import xxhash

ETAGS = ("ETag", "etag", "checksum", "CRC", "md5", "content_md5", "mtime", "LastModified", "last_modified", "created")
SMALL = 1 << 16  # bytes up to which a local file's stamp is its content: masks can change and keep size and time
content_stamps: ContextVar[bool] = ContextVar("content_stamps", default=True)  # off: size and time, as runs before had


def local_stamp(path: str, stat: os.stat_result) -> str:
    """Of a small file a hash of its content; else size and time."""
    if stat.st_size > SMALL or not content_stamps.get():
        return f"{stat.st_size}:{stat.st_mtime_ns}"
    try:
        with open(path, "rb") as handle:
            return f"{stat.st_size}:{xxhash.xxh3_128_hexdigest(handle.read())}"
    except OSError:  # whoever loads the file says what is wrong with it
        return f"{stat.st_size}:{stat.st_mtime_ns}"


def info_stamp(info: dict[str, Any]) -> str:
    """Size and whatever the store says about the content; times only where it has no hash."""
    found = next((str(info[name]) for name in ETAGS if info.get(name)), "")
    return f"{info.get('size')}:{found}"
