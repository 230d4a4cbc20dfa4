"""One process at a time in a folder of an object store: an object that only one can create, renewed while held."""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

RENEW = 30.0  # seconds between renewals
STALE = 300.0  # seconds without a renewal after which the holder counts as dead
logger = logging.getLogger("maskmill")


class RunLockedError(OSError):
    """Two processes may not work in one folder."""

    def __init__(self, folder: str, holder: str = "another process", hint: str = "") -> None:
        super().__init__(f"{folder}: {holder} is working here; wait for it, or name another folder{hint}")


@contextmanager
def lease(fs: Any, path: str, folder: str) -> Iterator[None]:
    """Hold the object `path` by conditional writes, which S3 and its like know; other stores are not locked.

    A holder that died frees it: at once where this machine can see that its process is gone, else after `STALE`
    seconds.

    Raises:
        RunLockedError: somebody else holds it.
    """
    me = _identity()
    if not _supports(fs):
        logger.warning("%s: this store has no conditional writes, so nothing keeps a second process out", folder)
        yield
        return
    if not _create(fs, path, me):
        _take_over(fs, path, me, folder)
    stop = threading.Event()
    renewal = threading.Thread(target=_renew, args=(fs, path, me, stop), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        stop.set()
        renewal.join()
        if _holder(fs, path)[0] == me:
            fs.rm_file(path)


def _supports(fs: Any) -> bool:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return bool({"s3", "s3a"} & set(protocols))


def _create(fs: Any, path: str, me: dict[str, Any]) -> bool:
    return _put(fs, path, me, IfNoneMatch="*")


def _put(fs: Any, path: str, me: dict[str, Any], **condition: str) -> bool:
    """Write under a condition; False where it does not hold."""
    try:
        fs.pipe_file(path, json.dumps(me).encode(), **condition)
    except OSError as error:  # s3fs has no type of its own for "precondition failed" and "conflict"
        if any(word in str(error) for word in ("Precondition", "pre-conditions", "Conflict")):
            return False
        raise
    return True


def _holder(fs: Any, path: str) -> tuple[dict[str, Any], str, float]:
    """Who holds it, the object's etag, and its age in seconds; ({}, "", 0) where nobody does."""
    fs.invalidate_cache()
    try:
        info = fs.info(path)
        return json.loads(fs.cat_file(path)), str(info["ETag"]), time.time() - info["LastModified"].timestamp()
    except FileNotFoundError:
        return {}, "", 0.0
    except ValueError:
        return {}, str(info["ETag"]), time.time() - info["LastModified"].timestamp()


def _take_over(fs: Any, path: str, me: dict[str, Any], folder: str) -> None:
    holder, etag, age = _holder(fs, path)
    gone = age > STALE or (holder.get("machine") == me["machine"] and not _alive(int(holder["pid"])))
    if not (_put(fs, path, me, IfMatch=etag) if etag and gone else not etag and _create(fs, path, me)):
        who = f"process {holder.get('pid', '?')} on {holder.get('host', 'another machine')}"
        raise RunLockedError(
            folder, who, f"; should that machine be gone, it is free {STALE:.0f} s after its last sign"
        )


def _renew(fs: Any, path: str, me: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(RENEW):
        holder, etag, _ = _holder(fs, path)
        if holder != me or not _put(fs, path, me, IfMatch=etag):
            logger.error("%s: somebody else took this folder over; stop one of the two", path)
            return


def _identity() -> dict[str, Any]:
    """This process: machine (of this boot, and this container), host name for people, process id, and a nonce."""
    return {"machine": _machine(), "host": socket.gethostname(), "pid": os.getpid(), "nonce": os.urandom(8).hex()}


def _machine() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as handle:
            return f"{handle.read().strip()} {os.readlink('/proc/self/ns/pid')} {socket.gethostname()}"
    except OSError:
        return os.urandom(8).hex()  # cannot tell: never taken for the same machine


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
