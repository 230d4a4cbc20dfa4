"""The ingest stage: entries of a source, cut into shards, to Sample rows; what fails becomes a Decision row."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    ContractError,
    LabelSpace,
    Problem,
    Reason,
    check_pair,
    config_hash,
    content_id,
    decode_image,
    encode_mask,
    foreground_ids,
    pair_id,
    shard_name,
    storable,
)
from maskmill.pipelines.core.stage import Stage, StageResult, Unit
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, find_classes
from maskmill.pipelines.ingest.files import pack_problem, unpack_problem
from maskmill.pipelines.ingest.masks import MaskRule
from maskmill.pipelines.ingest.spill import Spill

STAGE = "ingest"
VERSION = 1
# Neither where the data lies, nor how many threads read it, nor where shards are cut changes a row.
NOT_IN_HASH = {"root", "threads", "whole_groups"}


LAST = "\U0010ffff"  # sorts what was not read behind all samples, so that stray files move no shard


class Listing:
    """All entries of a source, sorted by key, on disk; what was not read comes last. A key that is listed twice is a
    fault of its second entry.
    """

    def __init__(self, source: Source) -> None:
        self._entries = Spill()
        self._entries.add((_place(e), [e.stamp, e.fields, pack_problem(e.problem)]) for e in source.everything())

    def __len__(self) -> int:
        return len(self._entries)

    def emptiness(self) -> str | None:
        """Why there is nothing to ingest, in words; None where there is something."""
        first = self.chunk(0, 3)
        if not first:
            return "the folders that the config names are empty. Fix: name the folders in which the files lie"
        if not all(_not_read(entry) for entry in first[:1]):
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

    def chunk(self, start: int, count: int) -> list[Entry]:
        """`count` entries from position `start` on."""
        if start == 0:
            return list(_unpack(self._entries.slice(0, count), 0, None))
        pairs = self._entries.slice(start - 1, count + 1)  # one more, to see a key listed twice across the cut
        return list(_unpack(pairs[1:], start, pairs[0][0])) if pairs else []


def _place(entry: Entry) -> str:
    return f"{LAST}{entry.key}" if _not_read(entry) else entry.key


def _not_read(entry: Entry) -> bool:
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
    return Entry(f"{entry.key}#{position}", entry.stamp, problem=entry.problem if _not_read(entry) else twice)


def chunk_stamp(entries: Sequence[Entry]) -> str:
    """Hash of keys, stamps and listed faults: what the shard of these entries depends on."""
    parts = ((e.key, e.stamp, "" if e.problem is None else str(e.problem)) for e in entries)
    return content_id(*(part for entry in parts for part in entry))


_listings: dict[str, Listing] = {}
_lock = threading.Lock()


def _listing(source: Source, fresh: bool) -> Listing:
    """The listing of a source, made once a process unless a fresh one is asked for; the last four are kept."""
    key = source.model_dump_json()
    with _lock:
        if fresh or key not in _listings:
            _listings.pop(key, None)
            _listings[key] = Listing(source)
            while len(_listings) > 4:
                del _listings[next(iter(_listings))]
        return _listings[key]


def ingest_units(source: Source, run_dir: str, shard_size: int = 512) -> list[Unit]:
    """List a source anew and cut it into units of `shard_size` samples, in order of their keys.

    Each writes `RUN/samples/shard-….parquet` and `RUN/rejects/shard-….parquet`. Memory holds one chunk and the units.

    Raises:
        FileNotFoundError: a folder or list that the config names is not there.
        ValueError: nothing to ingest, or a list or annotation file cannot be read.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size: expected 1 or more, found {shard_size}")
    listing = _listing(source, fresh=True)
    if (fault := listing.emptiness()) is not None:
        raise ValueError(f"{source.root}: nothing to ingest: {fault}")
    units, start = [], 0
    for index, entries in enumerate(listing.chunks(shard_size, source.group_of if source.whole_groups else None)):
        outputs = tuple(f"{run_dir.rstrip('/')}/{folder}/{shard_name(index)}" for folder in ("samples", "rejects"))
        stamps = (chunk_stamp(entries), f"{start}+{len(entries)}")
        units.append(Unit(inputs=(), outputs=outputs, stamps=stamps, index=index))
        start += len(entries)
    return units


def ingest_stage(source: Source, space: LabelSpace, seed: int = 0) -> Stage:
    """The stage that makes Sample shards with masks of `space`'s ids from a source's entries.

    `seed` is what every stage is given; nothing here is random, so it changes neither rows nor fingerprints.

    Raises:
        KeyError, ValueError: `remap` or `colours` name a class or id that the label space does not have.
    """
    rule = MaskRule.of(source, space)
    return Stage(
        name=STAGE,
        version=VERSION,
        contracts=(SAMPLE, DECISION),
        config_hash=config_hash({"source": source.model_dump(mode="json", exclude=NOT_IN_HASH), "space": _ids(space)}),
        process=partial(_process, source, space, rule),
    )


def _ids(space: LabelSpace) -> dict[str, object]:
    """What of a label space shapes a Sample row; prompts do not, so changing one ingests nothing again."""
    kept = {"id", "name", "synonyms", "colour", "source_id"}
    fields: dict[str, Any] = {"classes": {"__all__": kept}, "background_id": True, "ignore_ids": True}
    return space.model_dump(mode="json", include=fields)


def _process(source: Source, space: LabelSpace, rule: MaskRule, unit: Unit) -> StageResult:
    entries = _entries_of(source, unit)
    with ThreadPoolExecutor(source.threads) as pool:
        made = list(pool.map(lambda entry: _attempt(entry, source, space, rule), entries))
    kept: dict[str, dict[str, Any]] = {}
    rejects = []
    for entry, outcome in zip(entries, made, strict=True):
        if isinstance(outcome, Problem):
            rejects.append(_reject(entry, outcome))
        elif (twin := kept.get(outcome["sample_id"])) is not None:
            rejects.append(_reject(entry, _twin_problem(twin), duplicate_of=outcome["sample_id"]))
        else:
            kept[outcome["sample_id"]] = outcome
    counts = Counter(str(row["reason"]) for row in rejects)
    counts[str(Reason.KEPT)] = len(kept)
    return StageResult((SAMPLE.table(list(kept.values())), DECISION.table(rejects)), dict(counts))


def _entries_of(source: Source, unit: Unit) -> list[Entry]:
    """The unit's entries; lists the source again where this process has not, or has an older listing."""
    start, count = (int(part) for part in unit.stamps[1].split("+"))
    for fresh in (False, True):
        entries = _listing(source, fresh).chunk(start, count)
        if chunk_stamp(entries) == unit.stamps[0]:
            return entries
    raise RuntimeError(f"{source.root}: files changed since they were listed; run again to list them anew")


def ingest_entry(entry: Entry, source: Source, space: LabelSpace) -> dict[str, Any] | Problem:
    """The Sample row of one entry, or what is wrong with it."""
    return _attempt(entry, source, space, MaskRule.of(source, space))


def _attempt(entry: Entry, source: Source, space: LabelSpace, rule: MaskRule) -> dict[str, Any] | Problem:
    if entry.problem is not None:
        return entry.problem
    try:
        return _row(entry, source.load(entry, space), source, space, rule)
    except ContractError as error:
        return _placed(error, entry.key)


def _placed(error: ContractError, key: str) -> Problem:
    """The problem of an error, with the place inside the sample that the error names."""
    where = error.where.removeprefix(key).lstrip(", :") if error.where != key else ""
    return error.problem if error.problem.where or not where else replace(error.problem, where=where)


def _row(entry: Entry, raw: RawSample, source: Source, space: LabelSpace, rule: MaskRule) -> dict[str, Any]:
    """The Sample row of one loaded sample; the image's bytes stay as they are."""
    image = decode_image(raw.image, entry.key, source.max_pixels)
    mask = raw.drawn
    if raw.mask is not None:
        foreground = None if raw.foreground is None else space.find(raw.foreground).id
        mask = rule.read(raw.mask, entry.key, foreground)
    if mask is not None and (problem := check_pair(image, mask, space, allow_empty=source.allow_empty)) is not None:
        raise ContractError(entry.key, problem)
    encoded = None if mask is None else encode_mask(mask, space.palette)
    defaults = {"source": source.kind, "source_path": entry.key, "licence": source.licence or space.licence}
    stated = {name: value for name, value in raw.provenance.items() if value is not None}
    given = {name: storable(value) if isinstance(value, str) else value for name, value in stated.items()}
    return {
        "sample_id": pair_id(raw.image, encoded, raw.group, raw.index),
        "image": {"bytes": raw.image, "path": entry.key},
        "mask": None if encoded is None else {"bytes": encoded, "path": None},
        "height": image.shape[0],
        "width": image.shape[1],
        "class_ids": [] if mask is None else foreground_ids(mask, space),
        "prompt_class_ids": None if raw.words is None else find_classes(raw.words, space, entry.key),
        "group": None if raw.group is None else storable(raw.group),
        "index": raw.index,
        "spacing": None if raw.spacing is None else list(raw.spacing),
        "provenance": {**defaults, **given},
    }


def _twin_problem(twin: dict[str, Any]) -> Problem:
    path = twin["provenance"]["source_path"]
    return Problem(Reason.DUPLICATE_ID, "every pair once", f"the same bytes as {path}", "remove one of the two")


def _reject(entry: Entry, problem: Problem, duplicate_of: str | None = None) -> dict[str, Any]:
    return {
        "sample_id": content_id(STAGE, entry.key),
        "stage": STAGE,
        "kept": False,
        "reason": str(problem.reason),
        "detail": storable(str(problem)),
        "duplicate_of": duplicate_of,
        "source_path": entry.key,
    }
