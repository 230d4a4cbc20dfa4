"""One process at a time in a folder of an object store: an object that only one can create, renewed while held."""

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import fsspec

from maskmill.data_contracts.storage import guarded

RENEW = 30.0  # seconds between renewals
STALE = 300.0  # seconds without a renewal after which the holder counts as dead
logger = logging.getLogger("maskmill")
_held: dict[str, str] = {}  # nonces of this process's leases, and their objects


class RunLockedError(OSError):
    """Two processes may not work in one folder."""

    def __init__(self, folder: str, holder: str = "another process", hint: str = "") -> None:
        super().__init__(f"{folder}: {holder} is working here; wait for it, or name another folder{hint}")


class LockLostError(OSError):
    """A folder that this process held is its own no more."""

    def __init__(self, folder: str, found: str) -> None:
        fix = "nothing more is written; run the same command again"
        super().__init__(f"{folder}: {found} while this process was working here; {fix}")


@contextmanager
def lease(fs: Any, path: str, folder: str) -> Iterator[None]:
    """Hold the object `path` by conditional writes, which S3 and its like know; other stores are not locked.

    A holder that died frees it: at once where this machine can see that its process is gone, else after `STALE`
    seconds by the store's clock. Each write below `folder` first looks whether the object is still this process's.

    Raises:
        RunLockedError: somebody else holds it.
        LockLostError (from a write inside): it was deleted or taken over.
    """
    if not _supports(fs):
        logger.warning("%s: this store has no conditional writes, so nothing keeps a second process out", folder)
        yield
        return
    mine = Lease(fs, path, folder)
    try:
        mine.take()
    except PermissionError:  # who may not write can look, and needs no lock for it
        yield
        return
    stop = threading.Event()
    renewal = threading.Thread(target=mine.renew, args=(stop,), daemon=True)
    renewal.start()
    try:
        with guarded(folder, mine.check):
            yield
    finally:
        stop.set()
        renewal.join()
        mine.release()


def fence(folder: str) -> str | None:
    """What writers in other processes must know to write into a folder that this process holds by a lease; None where
    it holds none.
    """
    place = _object(fsspec.core.url_to_fs(folder)[1])
    return next((nonce for nonce, path in list(_held.items()) if path == place), None)


@contextmanager
def fenced(folder: str, nonce: str | None) -> Iterator[None]:
    """Inside, each write below `folder` first looks whether the process that gave this `fence` still holds it.

    Raises (from a write inside):
        LockLostError: it does not; what it asked for is not written any more.
    """
    if nonce is None:
        yield
        return
    fs, target = fsspec.core.url_to_fs(folder)

    def check() -> None:
        try:
            who = json.loads(fs.cat_file(_object(target)))
        except FileNotFoundError:
            raise LockLostError(folder, "the lock (object .lock) was removed") from None
        if who.get("nonce") != nonce:
            raise LockLostError(folder, f"{_Holder(who)} took it over")

    with guarded(folder, check):
        yield


def _object(target: str) -> str:
    return f"{target.rstrip('/')}/.lock"


class Lease:
    """The object, as far as this process knows it: what it wrote there, and the etag that this got."""

    def __init__(self, fs: Any, path: str, folder: str) -> None:
        self._fs, self._path, self._folder = fs, path, folder
        self._bucket, self._key, _ = fs.split_path(path)
        self._me = _identity()
        self._etag = ""
        self._turn = threading.Lock()  # a renewal changes the etag

    def take(self) -> None:
        """Create the object, or replace that of a holder who is gone.

        Raises:
            RunLockedError: somebody else holds it.
        """
        if not self._put(IfNoneMatch="*") and not self._is_mine(holder := self._holder()):
            condition = {"IfMatch": holder.etag} if holder.etag else {"IfNoneMatch": "*"}
            gone = not holder.etag or holder.is_gone(self._me)
            if not (gone and self._put(**condition)) and not self._is_mine(self._holder()):
                hint = f"; should that machine be gone, it is free {STALE:.0f} s after its last sign"
                raise RunLockedError(self._folder, str(holder), hint)
        _held[self._me["nonce"]] = self._path

    def check(self) -> None:
        """Ask the store whether the object is still this process's; one request.

        Raises:
            LockLostError: it was deleted, or is another's.
        """
        with self._turn:
            try:
                etag = self._head()["ETag"]
            except FileNotFoundError:
                raise LockLostError(self._folder, "the lock (object .lock) was deleted") from None
            if etag != self._etag and not self._is_mine(holder := self._holder()):
                raise LockLostError(self._folder, f"{holder} took it over")

    def renew(self, stop: threading.Event) -> None:
        """Give signs until told to stop. A store that is down is asked again later: writes find out by themselves."""
        while not stop.wait(RENEW):
            try:
                with self._turn:
                    if not self._put(IfMatch=self._etag) and not self._is_mine(self._holder()):
                        logger.error("%s: somebody else took this folder over; stop one of the two", self._path)
                        return
            except OSError as error:
                logger.warning("%s: cannot be renewed: %s; trying again in %g s", self._path, error, RENEW)

    def release(self) -> None:
        """Remove the object where it is still this process's."""
        _held.pop(self._me["nonce"], None)
        try:
            if self._is_mine(self._holder()):
                self._fs.rm_file(self._path)
        except OSError as error:
            logger.warning("%s: stays until %g s after its last sign: %s", self._path, STALE, error)

    def _put(self, **condition: str) -> bool:
        """Write under a condition; False where it does not hold."""
        body = json.dumps(self._me).encode()
        try:
            found = self._fs.call_s3("put_object", Bucket=self._bucket, Key=self._key, Body=body, **condition)
        except OSError as error:  # s3fs has no type of its own for "precondition failed" and "conflict"
            if any(word in str(error) for word in ("Precondition", "pre-conditions", "Conflict")):
                return False
            raise
        self._etag = str(found["ETag"])
        return True

    def _is_mine(self, holder: "_Holder") -> bool:
        """Whether a write that was refused had been done before: its answer got lost, and it was repeated."""
        if holder.who != self._me:
            return False
        self._etag = holder.etag
        return True

    def _head(self) -> Any:
        return self._fs.call_s3("head_object", Bucket=self._bucket, Key=self._key)

    def _holder(self) -> "_Holder":
        try:
            head = self._head()
            data = self._fs.cat_file(self._path)
        except FileNotFoundError:
            return _Holder({})
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        try:
            who = json.loads(data)
        except ValueError:
            who = {}
        return _Holder(who, str(head["ETag"]), (now - head["LastModified"]).total_seconds())


@dataclass(frozen=True)
class _Holder:
    """Who holds an object, its etag ("": nobody does), and its age in seconds by the store's clock."""

    who: dict[str, Any]
    etag: str = ""
    age: float = 0.0

    def __str__(self) -> str:
        return f"process {self.who.get('pid', '?')} on {self.who.get('host', 'another machine')}"

    def is_gone(self, me: dict[str, Any]) -> bool:
        """Whether the holder gave no sign for long, or is no more: another process of this machine, or this very one,
        which could not remove its object. An object that names nobody came along when a local folder was copied.
        """
        if self.age > STALE or not self.who:
            return True
        if self.who.get("machine") != me["machine"]:
            return False
        pid = int(self.who["pid"])
        return self.who.get("nonce") not in _held if pid == os.getpid() else not _alive(pid)


def _supports(fs: Any) -> bool:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return bool({"s3", "s3a"} & set(protocols))


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
