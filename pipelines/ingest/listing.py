"""The listing of a source: its entries in order, on disk, cut into the units of ingest."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from maskmill.data_contracts import Problem, Reason, content_id
from maskmill.data_contracts.secrets import redact
from maskmill.pipelines.ingest.base import Entry, Source
from maskmill.pipelines.ingest.files import pack_problem, unpack_problem
from maskmill.pipelines.ingest.patience import patiently
from maskmill.pipelines.ingest.spill import Spill
from maskmill.pipelines.ingest.stamps import content_stamps

LONGEST = 1000  # characters of the name of an entry with a fault
LAST = "\U0010ffff"  # sorts what was not read behind all samples, so that stray files move no shard


class Listing:
    """All entries of a source, sorted by key, on disk; what was not read comes last. A key that is listed twice is a
    fault of its second entry.
    """

    def __init__(self, source: Source) -> None:
        self._entries = patiently(lambda: _spilled(source), redact(source.root), "list it")

    def __len__(self) -> int:
        return len(self._entries)

    def emptiness(self) -> str | None:
        """Why there is nothing to ingest, in words; None where there is something."""
        first = self.chunk(0, 3)
        if not first:
            return "its folders hold no files, or its list names none. Fix: name the folders and lists that do"
        if not is_not_read(first[0]) or first[0].stamp:  # a stamp: the source itself says why it reads none of this
            return None
        seen = "; ".join(f"{entry.key}: {entry.problem}" for entry in first)
        return f"{len(self)} files lie there, and none is read. {seen}"

    def chunks(self, size: int, group_of: Callable[[Entry], str | None] | None = None) -> Iterator[list[Entry]]:
        """The entries, `size` at a time, in one pass; with `group_of`, more where neighbours share a group."""
        chunk: list[Entry] = []
        for entry in _unpack(self._entries, 0, None):
            if len(chunk) >= size and not (group_of and _together(group_of(chunk[-1]), group_of(entry))):
                yield chunk
                chunk = []
            chunk.append(entry)
        if chunk:
            yield chunk

    def after(self, start: int) -> Iterator[Entry]:
        """The entries from position `start` on, a batch in memory at a time."""
        return islice(_unpack(self._entries, 0, None), start, None)

    def chunk(self, start: int, count: int) -> list[Entry]:
        """`count` entries from position `start` on."""
        if start == 0:
            return list(_unpack(self._entries.slice(0, count), 0, None))
        pairs = self._entries.slice(start - 1, count + 1)  # one more, to see a key listed twice across the cut
        return list(_unpack(pairs[1:], start, pairs[0][0])) if pairs else []


def _spilled(source: Source) -> Spill:
    entries = Spill()
    entries.add((_place(e), [e.stamp, e.fields, pack_problem(e.problem)]) for e in source.everything())
    return entries


def _place(entry: Entry) -> str:
    """Where an entry is sorted. A name that no file can have, because it is too long, is cut."""
    key = entry.key
    if len(key) > LONGEST and entry.problem is not None:
        key = f"{key[:LONGEST]}…{content_id(key)[:8]}"
    return f"{LAST}{key}" if is_not_read(entry) else key


def is_not_read(entry: Entry) -> bool:
    return entry.problem is not None and entry.problem.reason == Reason.NOT_READ


def _together(group: str | None, other: str | None) -> bool:
    return group is not None and group == other


def _unpack(pairs: Iterable[tuple[str, Any]], start: int, before: str | None) -> Iterator[Entry]:
    """Entries of listed pairs; `start` is the position of the first, `before` the key in front of it."""
    for position, (key, (stamp, fields, problem)) in enumerate(pairs, start):
        entry = Entry(key.removeprefix(LAST), stamp, fields, unpack_problem(problem))
        yield _listed_again(entry, position) if key == before else entry
        before = key


def _listed_again(entry: Entry, position: int) -> Entry:
    twice = Problem(Reason.DUPLICATE_ID, "every sample listed once", f"{entry.key} again", "remove it from the list")
    return Entry(f"{entry.key}#{position}", entry.stamp, problem=entry.problem if is_not_read(entry) else twice)


def chunk_stamp(entries: Sequence[Entry]) -> str:
    """Hash of keys, stamps and listed faults: what the shard of these entries depends on."""
    parts = ((e.key, e.stamp, "" if e.problem is None else str(e.problem)) for e in entries)
    return content_id(*(part for entry in parts for part in entry))


_listings: dict[str, Listing] = {}
_lock = threading.Lock()


def listing_of(source: Source, fresh: bool) -> Listing:
    """The listing of a source, made once a process unless a fresh one is asked for; the last four are kept."""
    key = f"{source.model_dump_json()} {content_stamps.get()}"
    with _lock:
        if fresh or key not in _listings:
            _listings.pop(key, None)
            _listings[key] = Listing(source)
            while len(_listings) > 4:
                del _listings[next(iter(_listings))]
        return _listings[key]
