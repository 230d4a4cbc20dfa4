"""The ingest stage: entries of a source, cut into shards, to Sample rows; what fails becomes a Decision row."""

import json
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    ContractError,
    LabelSpace,
    Problem,
    Reason,
    check_instances,
    check_pair,
    config_hash,
    content_id,
    encode_image,
    encode_mask,
    foreground_ids,
    pair_id,
    shard_name,
    storable,
)
from maskmill.data_contracts.blocks import histogram
from maskmill.data_contracts.images import Photo, decode_photo
from maskmill.data_contracts.secrets import redact
from maskmill.data_contracts.texts import TextError, parse_json
from maskmill.pipelines.core.stage import INPUT_CHANGED, Stage, StageResult, Unit, why_run
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, find_classes
from maskmill.pipelines.ingest.carried import carry
from maskmill.pipelines.ingest.files import MissingFileError
from maskmill.pipelines.ingest.listing import _listings as _listings  # a process may forget them
from maskmill.pipelines.ingest.listing import chunk_stamp, listing_of
from maskmill.pipelines.ingest.masks import Labels, MaskRule
from maskmill.pipelines.ingest.orientation import lay_on
from maskmill.pipelines.ingest.patience import SourceFaultError, patiently
from maskmill.pipelines.ingest.quarantine import Quarantine, note_cells, noting
from maskmill.pipelines.ingest.stamps import content_stamps
from maskmill.pipelines.ingest.unite import unite

Row = dict[str, Any]
STAGE = "ingest"
# Neither where the data lies, nor how many threads read it, nor where shards are cut changes a row.
NOT_IN_HASH = {"root", "threads", "whole_groups"}
# What odd data makes code raise that expected other data.
UNFORESEEN = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def ingest_units(source: Source, run_dir: str, shard_size: int = 512) -> list[Unit]:
    """List a source anew and cut it into units of `shard_size` samples, in order of their keys.

    Each writes `RUN/samples/shard-….parquet` and `RUN/rejects/shard-….parquet`. Memory holds one chunk and the units.

    Raises:
        FileNotFoundError: a folder or list that the config names is not there.
        ValueError: nothing to ingest, or a list or annotation file cannot be read.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size: expected 1 or more, found {shard_size}")
    listing = listing_of(source, fresh=True)
    if (fault := listing.emptiness()) is not None:
        raise ValueError(f"{redact(source.root)}: nothing to ingest: {fault}")
    units, start = [], 0
    for index, entries in enumerate(listing.chunks(shard_size, source.group_of if source.whole_groups else None)):
        outputs = tuple(f"{run_dir.rstrip('/')}/{folder}/{shard_name(index)}" for folder in ("samples", "rejects"))
        stamps = (chunk_stamp(entries), f"{start}+{len(entries)}")
        units.append(Unit(inputs=(), outputs=outputs, stamps=stamps, index=index))
        start += len(entries)
    return units


def settled_units(stage: Stage, units: list[Unit], source: Source, run_dir: str, shard_size: int) -> list[Unit]:
    """The units, with the stamps of size and time of earlier versions where a finished shard carries those and they
    still hold: what is finished stays so. Lists the source once more only where some unit has something to do.
    """
    if all(why_run(stage, unit) != INPUT_CHANGED for unit in units):
        return units
    earlier = copy_context().run(_units_by_time, source, run_dir, shard_size)
    pairs = zip(units, [*earlier, *units[len(earlier) :]], strict=False)
    return [old if why_run(stage, new) and why_run(stage, old) is None else new for new, old in pairs]


def _units_by_time(source: Source, run_dir: str, shard_size: int) -> list[Unit]:
    content_stamps.set(False)
    return ingest_units(source, run_dir, shard_size)


def ingest_stage(source: Source, space: LabelSpace, seed: int = 0, quarantine: Quarantine | None = None) -> Stage:
    """The stage that makes Sample shards with masks of `space`'s ids from a source's entries.

    `seed` is what every stage is given; nothing here is random, so it changes neither rows nor fingerprints. Nor does
    `quarantine`, which keeps the files of what is turned away.

    Raises:
        KeyError, ValueError: `remap` or `colours` name a class or id that the label space does not have.
    """
    rule = MaskRule.of(source, space)
    return Stage(
        name=STAGE,
        version=source.version,
        contracts=(SAMPLE, DECISION),
        config_hash=config_hash({"source": _options(source), "space": _ids(space)}),
        process=partial(_process, source, space, rule, quarantine),
    )


def _options(source: Source) -> dict[str, object]:
    """What of a source's options shapes its rows."""
    unset = {name for name in source.later if getattr(source, name) == type(source).model_fields[name].default}
    return source.model_dump(mode="json", exclude=NOT_IN_HASH | unset)


def _ids(space: LabelSpace) -> dict[str, object]:
    """What of a label space shapes a Sample row; prompts do not, so changing one ingests nothing again."""
    kept = {"id", "name", "synonyms", "colour", "source_id"}
    fields: dict[str, Any] = {"classes": {"__all__": kept}, "background_id": True, "ignore_ids": True}
    return space.model_dump(mode="json", include=fields)


def _process(
    source: Source, space: LabelSpace, rule: MaskRule, quarantine: Quarantine | None, unit: Unit
) -> StageResult:
    entries = _entries_of(source, unit)
    with ThreadPoolExecutor(source.threads) as pool:
        made = list(pool.map(lambda entry: _kept(entry, source, space, rule, quarantine), entries))
    if any(isinstance(outcome, _Missing) for outcome in made):
        listing_of(source, fresh=True)
        entries = _entries_of(source, unit)  # raises where a listed file is gone
        made = [
            _kept(entry, source, space, rule, quarantine) if isinstance(outcome, _Missing) else outcome
            for entry, outcome in zip(entries, made, strict=True)
        ]
    kept: dict[str, dict[str, Any]] = {}
    rejects: list[Row] = []
    for entry, outcome in zip(entries, made, strict=True):
        if isinstance(outcome, Problem):
            rejects.append(_reject(entry, outcome))
        elif (twin := kept.get(outcome["sample_id"])) is not None:
            rejects.append(_reject(entry, _twin_problem(twin), duplicate_of=outcome["sample_id"]))
        else:
            kept[outcome["sample_id"]] = outcome
    samples = _table(list(kept.values()), rejects)
    counts = Counter(str(row["reason"]) for row in rejects)
    counts[str(Reason.KEPT)] = samples.num_rows
    return StageResult((samples, DECISION.table(rejects)), dict(counts))


def _table(rows: list[Row], rejects: list[Row]) -> pa.Table:
    """The rows as a table; those that fit no table are added to the rejects."""
    try:
        return SAMPLE.table(rows)
    except UNFORESEEN as error:
        if len(rows) == 1:
            entry = Entry(rows[0]["image"]["path"], "")
            rejects.append(_reject(entry, _unforeseen(error)))
            return SAMPLE.table([])
    return pa.concat_tables([_table([row], rejects) for row in rows])


def _entries_of(source: Source, unit: Unit) -> list[Entry]:
    """The unit's entries; lists the source again where this process has not, or has an older listing."""
    start, count = (int(part) for part in unit.stamps[1].split("+"))
    for fresh in (False, True):
        entries = listing_of(source, fresh).chunk(start, count)
        if chunk_stamp(entries) == unit.stamps[0]:
            return entries
    names = f"{entries[0].key} … {entries[-1].key}" if entries else "all of them"
    raise SourceFaultError(
        f"{redact(source.root)}: files changed since they were listed ({names}); run again to list them anew"
    )


def ingest_entry(entry: Entry, source: Source, space: LabelSpace) -> Row | Problem:
    """The Sample row of one entry, or what is wrong with it."""
    return _attempt(entry, source, space, MaskRule.of(source, space))


def _kept(
    entry: Entry, source: Source, space: LabelSpace, rule: MaskRule, quarantine: Quarantine | None
) -> Row | Problem:
    """As `_attempt`; the files of a sample that is turned away go to quarantine."""
    if quarantine is None:
        return _attempt(entry, source, space, rule)
    with noting() as files:
        outcome = _attempt(entry, source, space, rule)
        if isinstance(outcome, Problem) and not files:
            with suppress(ContractError, OSError, ValueError):
                source.reader().read(entry.key)  # a fault that listing found: nothing was read yet
    if isinstance(outcome, Problem) and not isinstance(outcome, _Missing) and outcome.reason != Reason.NOT_READ:
        quarantine.keep(_reject(entry, outcome), files)
    return outcome


def _attempt(entry: Entry, source: Source, space: LabelSpace, rule: MaskRule) -> Row | Problem:
    if entry.problem is not None:
        return entry.problem
    try:
        return patiently(lambda: _loaded(entry, source, space, rule), entry.key, "read it")
    except MissingFileError as error:
        return _Missing(**vars(error.problem))
    except ContractError as error:
        return _placed(error, entry.key)
    except UNFORESEEN as error:
        return _unforeseen(error)


def _unforeseen(error: Exception) -> Problem:
    """The problem of a sample that nobody thought of: it costs this row, and never the run."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{last.filename.rsplit('/', 1)[-1]}:{last.lineno}"
    found = f"{type(error).__name__} ({place}): {error}"[:300]
    fix = "check the file; if it is sound, this is a fault of the source that reads it"
    return Problem(Reason.BAD_ANNOTATION, "a sample that can be read", found, fix)


def _placed(error: ContractError, key: str) -> Problem:
    """The problem of an error, with the place inside the sample that the error names."""
    where = error.where.removeprefix(key).lstrip(", :") if error.where != key else ""
    return error.problem if error.problem.where or not where else replace(error.problem, where=where)


class _Missing(Problem):
    """A file that was not there when its sample was loaded: listed and gone since, or only ever named by data."""


def _loaded(entry: Entry, source: Source, space: LabelSpace, rule: MaskRule) -> Row:
    raw = source.load(entry, space)
    note_cells({f"{entry.key}, image": raw.image, f"{entry.key}, mask": raw.mask})
    return _row(entry, raw, source, space, rule)


def _row(entry: Entry, raw: RawSample, source: Source, space: LabelSpace, rule: MaskRule) -> dict[str, Any]:
    """The Sample row of one loaded sample. The image's bytes stay as they are, unless the config asks for one of their
    pages or for another tone: no later reader would know of that.
    """
    photo = decode_photo(raw.image, entry.key, source.max_pixels, source.tone, source.page)
    labels = Labels(raw.drawn, raw.instances) if raw.drawn is not None else None
    if raw.mask is not None:
        foreground = None if raw.foreground is None else space.find(raw.foreground).id
        labels = rule.read(raw.mask, entry.key, foreground)
    if raw.parts:
        labels = unite(raw.parts, rule, space)
    carried: Counter[str] = Counter()
    if labels is not None and raw.objects is not None:
        labels, carried = carry(raw.objects, labels, rule, space)
    labels, notes = lay_on(photo, labels, source.masks_drawn_on, entry.key)
    mask = None if labels is None else labels.mask
    present: list[int] = []
    if mask is not None:
        counts = histogram(mask)
        problem = check_pair(photo.pixels, mask, space, allow_empty=source.allow_empty, counts=counts)
        if problem is not None:
            raise ContractError(entry.key, problem)
        present = foreground_ids(mask, space, counts)
    instances = None if labels is None else labels.instances
    if mask is not None and instances and (problem := check_instances(instances, mask, space)) is not None:
        raise ContractError(entry.key, problem)
    redone = photo.page is not None or (photo.tone is not None and source.tone != "auto")
    image = encode_image(photo.pixels) if redone else raw.image
    encoded = None if mask is None else encode_mask(mask, space.palette)
    return {
        "sample_id": pair_id(image, encoded, raw.group, raw.index),
        "image": {"bytes": image, "path": entry.key},
        "mask": None if encoded is None else {"bytes": encoded, "path": None},
        "height": photo.pixels.shape[0],
        "width": photo.pixels.shape[1],
        "class_ids": present,
        "prompt_class_ids": None if raw.words is None else find_classes(raw.words, space, entry.key),
        "group": None if raw.group is None else storable(raw.group),
        "index": raw.index,
        "spacing": None if raw.spacing is None else list(raw.spacing),
        "provenance": _provenance(entry, raw, source, space, photo, Counter(raw.notes) + carried + notes),
        "instances": None if instances is None else [one.row() for one in instances],
    }


def _provenance(
    entry: Entry, raw: RawSample, source: Source, space: LabelSpace, photo: Photo, notes: Counter[str]
) -> dict[str, Any]:
    """Where a row comes from, and what was done to it on the way in."""
    done = {"tone": photo.tone, "page": photo.page, "notes": dict(sorted(notes.items())) or None}
    told = {name: value for name, value in done.items() if value is not None}
    defaults = {"source": source.kind, "source_path": entry.key, "licence": source.licence or space.licence}
    stated = {name: value for name, value in raw.provenance.items() if value is not None}
    given = {name: storable(value) if isinstance(value, str) else value for name, value in stated.items()}
    if told:
        given["extra"] = json.dumps({**_object(given.get("extra")), **told}, sort_keys=True)
    return {**defaults, **given}


def _object(extra: str | None) -> dict[str, Any]:
    """The JSON object in a provenance; a text that is none stays as one under `extra`."""
    try:
        found = parse_json(extra or "{}")
    except TextError:
        found = extra
    return found if isinstance(found, dict) else {"extra": extra}


def _twin_problem(twin: dict[str, Any]) -> Problem:
    path = twin["provenance"]["source_path"]
    return Problem(Reason.DUPLICATE_ID, "every pair once", f"the same bytes as {path}", "remove one of the two")


def _reject(entry: Entry, problem: Problem, duplicate_of: str | None = None) -> dict[str, Any]:
    return {
        "sample_id": content_id(STAGE, entry.key),
        "stage": STAGE,
        "kept": False,
        "reason": str(problem.reason),
        "detail": storable(redact(str(problem))),
        "duplicate_of": duplicate_of,
        "source_path": entry.key,
    }
