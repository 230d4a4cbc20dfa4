"""Sorted lists that live on disk, and JSON read piece by piece: what keeps memory flat however large a dataset is."""

import errno
import json
import os
import re
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from maskmill.data_contracts import storable
from maskmill.data_contracts.texts import whole

BATCH = 2_000
CHUNK = 1 << 16
TOO_DEEP = "JSON that is nested too deeply to be read"  # stands where such a value was
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*(?:"|$)|[\[{]|[\]}]', re.DOTALL)


class JsonError(ValueError):
    """Text that is no JSON, or not laid out as it should be."""


class Spill:
    """A multimap from text to JSON values in a private temporary database, gone with the object or the process.

    Fill it with `add`, then read it. Keys come in code-point order, values of one key in the order of adding.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", check_same_thread=False)  # "" = a temporary file, unlinked as soon as it is made
        self._db.execute("PRAGMA journal_mode = OFF")  # nothing to keep after a crash
        self._db.execute("CREATE TABLE entries (key TEXT, value TEXT)")
        self._lock = threading.Lock()
        self._indexed = False

    def add(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """Append `(key, value)` pairs; values must survive JSON."""
        rows = ((storable(key), _packed(value)) for key, value in pairs)
        with self._lock, _named():
            self._db.executemany("INSERT INTO entries VALUES (?, ?)", rows)

    def get(self, key: str) -> list[Any]:
        """Every value of a key; [] for a key that is not there."""
        rows = self._query("SELECT value FROM entries WHERE key = ? ORDER BY rowid", (storable(key),))
        return [json.loads(value) for (value,) in rows]

    def slice(self, start: int, count: int) -> list[tuple[str, Any]]:
        """`count` pairs of the sorted list from position `start` on."""
        rows = self._query("SELECT key, value FROM entries ORDER BY key, rowid LIMIT ? OFFSET ?", (count, start))
        return [(key, json.loads(value)) for key, value in rows]

    def slice_from(self, key: str, count: int) -> list[tuple[str, Any]]:
        """`count` pairs of the sorted list, from the first key on that is not below `key`."""
        statement = "SELECT key, value FROM entries WHERE key >= ? ORDER BY key, rowid LIMIT ?"
        return [(found, json.loads(value)) for found, value in self._query(statement, (storable(key), count))]

    def __len__(self) -> int:
        return int(self._query("SELECT COUNT(*) FROM entries", ())[0][0])

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """All pairs, sorted, a batch in memory at a time. Do not add while reading."""
        last: tuple[str, int] = ("", 0)
        where = "WHERE (key, rowid) > (?, ?) ORDER BY key, rowid LIMIT ?"
        while rows := self._query(f"SELECT key, rowid, value FROM entries {where}", (*last, BATCH)):
            for key, _, value in rows:
                yield key, json.loads(value)
            last = rows[-1][:2]

    def _query(self, statement: str, values: tuple[object, ...]) -> list[Any]:
        with self._lock, _named():
            if not self._indexed:  # one sort at the end is far quicker than keeping order while rows pour in
                self._db.execute("CREATE INDEX by_key ON entries (key)")
                self._indexed = True
            return self._db.execute(statement, values).fetchall()


@contextmanager
def _named() -> Iterator[None]:
    """A database that cannot grow is a fault of the disk that temporaries go to."""
    try:
        yield
    except sqlite3.OperationalError as error:
        number = errno.ENOSPC if "full" in str(error) else errno.EIO
        place = os.environ.get("SQLITE_TMPDIR") or tempfile.gettempdir()
        raise OSError(number, f"cannot keep a list in the folder of temporaries: {error}", place) from error


def _packed(value: Any) -> str:
    try:
        return json.dumps(value, separators=(",", ":"))
    except RecursionError:
        return json.dumps(TOO_DEEP)


def json_items(handle: IO[str], arrays: frozenset[str] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Items of the object that a JSON file holds, one in memory at a time.

    An array under one of the names in `arrays` is given element by element, each with the array's name.

    Raises:
        JsonError: the file is not one JSON object.
    """
    scan = _Scanner(handle)
    for _ in scan.members("{", "}"):
        key = scan.value()
        scan.expect(":")
        if key in arrays and scan.peek() == "[":
            for _ in scan.members("[", "]"):
                yield key, scan.value()
        else:
            yield key, scan.value()


def json_rows(handle: IO[str]) -> Iterator[Any]:
    """Elements of a JSON array, or the values of a JSON-lines file, one in memory at a time.

    Raises:
        JsonError: the file is not valid JSON.
    """
    scan = _Scanner(handle)
    if scan.peek() == "[":
        for _ in scan.members("[", "]"):
            yield scan.value()
        return
    while scan.peek():
        yield scan.value()


class _Scanner:
    """Reads JSON text in growing pieces; forgets what was consumed."""

    def __init__(self, handle: IO[str]) -> None:
        self._handle = handle
        self._text = ""
        self._at = 0
        self._decode: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(parse_int=whole).raw_decode

    def peek(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._at += 1
            if not self._fill(CHUNK):
                return ""

    def expect(self, wanted: str) -> None:
        if (found := self.peek()) != wanted:
            seen = repr(self._text[self._at : self._at + 40]) if found else "the end of the file"
            raise JsonError(f"JSON: expected {wanted!r}, found {seen}. Fix: write the file again as JSON")
        self._at += 1

    def members(self, opening: str, closing: str) -> Iterator[None]:
        """Stops before every member of an array or object; the caller consumes it."""
        self.expect(opening)
        while self.peek() != closing:
            yield
            if self.peek() != closing:
                self.expect(",")
        self.expect(closing)

    def value(self) -> Any:
        """The next whole value."""
        self.peek()
        size = CHUNK
        while True:
            try:
                value, end = self._decode(self._text, self._at)
                if end < len(self._text) or not self._fill(size):  # a number may go on in the next piece
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                if not self._fill(size):
                    raise JsonError(f"JSON: {error.msg} near {self._text[self._at : self._at + 40]!r}") from error
            except RecursionError:
                return self._skip(size)
            size *= 2

    def _skip(self, size: int) -> str:
        """Pass over a value that is nested too deeply, bracket by bracket."""
        while (end := _end_of_value(self._text, self._at)) is None:
            if not self._fill(size):
                raise JsonError("JSON: cut off in brackets that are nested too deeply")
            size *= 2
        self._at = end
        return TOO_DEEP

    def _fill(self, size: int) -> bool:
        piece = self._handle.read(size)
        self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)


def _end_of_value(text: str, start: int) -> int | None:
    """Where the array or object that begins at `start` ends."""
    depth = 0
    for found in BRACKETS.finditer(text, start):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found.group(), 0)
        if depth == 0:
            return found.end()
    return None
