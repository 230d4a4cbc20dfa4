"""One stage, one shape: a function of (input shards, config, engines) to output shards, skipped when its
fingerprint is there already.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from maskmill.data_contracts import (
    Contract,
    DamagedError,
    Footer,
    changes,
    fingerprint,
    footer_fault,
    read_footer,
    shard_fault,
    sweep_temporaries,
    write_shard,
)
from maskmill.data_contracts.shards import content_hash

logger = logging.getLogger("maskmill")
INPUT_CHANGED = "its input changed"


@dataclass(frozen=True)
class Unit:
    """The work on one shard. `stamps` are further fingerprints that the result depends on, e.g. of source files."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    stamps: tuple[str, ...] = ()
    index: int = 0


@dataclass(frozen=True)
class StageResult:
    """One table per output, and how many samples came in, by reason (`kept` for those that went on)."""

    tables: tuple[pa.Table, ...]
    counts: dict[str, int]


@dataclass(frozen=True)
class Stage:
    """What a stage is: its name, its output contracts, and the function that does one unit.

    Raise `version` whenever a change of code changes results: it is part of every fingerprint. `config_hash` covers
    the config and the engines (model weights) that the result depends on.
    """

    name: str
    version: int
    contracts: tuple[Contract, ...]
    config_hash: str
    process: Callable[[Unit], StageResult]


@dataclass(frozen=True)
class UnitReport:
    """How one unit ended: `status` is `written` or `skipped`."""

    unit: Unit
    status: str
    counts: dict[str, int] = field(default_factory=dict)


def unit_inputs(unit: Unit) -> tuple[str, ...]:
    """Fingerprints that the unit's result depends on: contents of its input shards, then its stamps.

    Raises:
        FileNotFoundError: an input shard is not there; DamagedError: it cannot be read. Both name it.
    """
    found = []
    for path in unit.inputs:
        if (footer := read_footer(path)) is None:
            if fault := footer_fault(path):
                raise DamagedError(path, fault)
            raise FileNotFoundError(f"{path}: no finished shard there; run the stage that makes it first")
        found.append(footer.content)
    return (*found, *unit.stamps)


def wanted_fingerprints(stage: Stage, inputs: tuple[str, ...]) -> tuple[str, ...]:
    """The fingerprint that each output will carry."""
    return tuple(fingerprint(c, stage.name, stage.version, stage.config_hash, inputs) for c in stage.contracts)


def why_run(stage: Stage, unit: Unit) -> str | None:
    """Why this unit must run, in words; None when every output is there with the right fingerprint."""
    try:
        return _why_run(stage, unit, unit_inputs(unit))
    except FileNotFoundError:
        return "its input is not there yet"
    except DamagedError as error:
        return str(error)


def _why_run(stage: Stage, unit: Unit, inputs: tuple[str, ...]) -> str | None:
    for path, wanted in zip(unit.outputs, wanted_fingerprints(stage, inputs), strict=True):
        footer = read_footer(path)
        if footer is None:
            return f"damaged ({fault})" if (fault := footer_fault(path)) else "not done yet"
        if footer.fingerprint != wanted:
            return _difference(footer, stage, inputs)
        if changed := changes(footer.made_with, major=True):
            return f"made with {'; '.join(changed)}"
    return None


def _difference(footer: Footer, stage: Stage, inputs: tuple[str, ...]) -> str:
    if footer.config_hash != stage.config_hash:
        return "its config or model changed"
    if footer.inputs != inputs:
        return INPUT_CHANGED
    return "the code or the contract changed"


def run_unit(stage: Stage, unit: Unit, *, again: bool = False) -> UnitReport:
    """Do one unit unless it is done, or in any case if `again`. Outputs are written in order, each atomically; one that
    is there already, whole and with these rows, stays.
    """
    inputs = unit_inputs(unit)
    if not again and _why_run(stage, unit, inputs) is None:
        return UnitReport(unit, "skipped", footer_counts(unit))
    wanted = wanted_fingerprints(stage, inputs)
    result = stage.process(unit)
    status = "skipped"
    for path, table, contract, name in zip(unit.outputs, result.tables, stage.contracts, wanted, strict=True):
        if stands(path, name, table):
            continue
        status = "written"
        write_shard(
            path,
            table,
            contract,
            stage=stage.name,
            fingerprint=name,
            config_hash=stage.config_hash,
            inputs=inputs,
            counts=result.counts,
        )
    return UnitReport(unit, status, result.counts)


def stands(path: str, wanted: str, table: pa.Table) -> bool:
    """Whether a shard with this fingerprint and these rows is there, undamaged: a unit of two outputs was cut off
    between them, or was only looked at again.
    """
    footer = read_footer(path)
    if footer is None or footer.fingerprint != wanted:
        return False
    if changes(footer.made_with, major=True):
        return False
    return footer.content == content_hash(table) and shard_fault(path) is None


def footer_counts(unit: Unit) -> dict[str, int]:
    """Counts by reason as the finished unit's footer has them."""
    footer = read_footer(unit.outputs[0])
    return {} if footer is None else footer.counts


def map_units(
    stage: Stage,
    units: Sequence[Unit],
    *,
    workers: int = 1,
    progress: Callable[[UnitReport], None] | None = None,
) -> list[UnitReport]:
    """Run a stage over its units with resume, on `workers` threads; `progress` is called after each. Order of
    results = order of units.
    """
    for folder in _folders(units):
        sweep_temporaries(folder)

    def one(unit: Unit) -> UnitReport:
        faults = [fault for path in unit.outputs if why_run(stage, unit) is None and (fault := shard_fault(path))]
        if faults:
            logger.warning("%s: damaged (%s); made again", unit.outputs[0], faults[0])
        report = run_unit(stage, unit, again=bool(faults))
        if progress is not None:
            progress(report)
        return report

    if workers <= 1:
        return [one(unit) for unit in units]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, units))


def _folders(units: Iterable[Unit]) -> list[str]:
    return sorted({path.rsplit("/", 1)[0] for unit in units for path in unit.outputs})
