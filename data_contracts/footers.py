"""Footers: what shards say of themselves, read from the ends of their files, remembered while these stay the same."""

from dataclasses import dataclass, field

from maskmill.data_contracts.contract import Contract
from maskmill.data_contracts.ids import content_id
from maskmill.data_contracts.known import Known, file_stamp
from maskmill.data_contracts.seal import Tail, read_tail
from maskmill.data_contracts.texts import parse_json

FOOTER_KEY = b"maskmill"


@dataclass(frozen=True)
class Footer:
    """What a shard says of itself. Hashes are hex; `counts` holds rows by reason."""

    contract: str
    version: int
    stage: str
    config_hash: str
    inputs: tuple[str, ...]
    fingerprint: str
    rows: int
    content: str
    counts: dict[str, int] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)  # versions of what decides pixels and scores


FOOTERS: Known[Footer] = Known()


def fingerprint(contract: Contract, stage: str, stage_version: int, config_hash: str, inputs: tuple[str, ...]) -> str:
    """What a shard's footer will say if it is made now from these inputs with this config and code."""
    return content_id(contract.name, str(contract.version), stage, str(stage_version), config_hash, *inputs)


def read_footer(path: str) -> Footer | None:
    """The footer of a shard, or None where there is no shard, a damaged one, or none of ours. See `footer_fault`."""
    stamp = file_stamp(path)
    if (known := FOOTERS.get(path, stamp)) is not None:
        return known
    try:
        tail = read_tail(path)
        footer = None if tail.fault else footer_of(tail)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    if footer is not None:
        FOOTERS.put(path, stamp, footer)
    return footer


def footer_fault(path: str) -> str | None:
    """What is wrong with a file that is there and should be a shard: damaged, or none of ours. None: nothing, or no
    file.
    """
    try:
        tail = read_tail(path)
        return tail.fault or (None if footer_of(tail) else "no footer of maskmill's")
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        return f"a footer of maskmill's that cannot be read ({error})"


def footer_of(tail: Tail) -> Footer | None:
    """The footer in the last bytes of a file; None where it has none of ours.

    Raises:
        ValueError, TypeError, KeyError: one that cannot be read.
    """
    if FOOTER_KEY not in tail.metadata:
        return None
    raw = parse_json(tail.metadata[FOOTER_KEY])
    if not isinstance(raw, dict):
        raise ValueError(f"a JSON {type(raw).__name__}")
    return Footer(**{**raw, "inputs": tuple(raw["inputs"])})


def stated_contract(footer: bytes | None) -> str:
    """Contract and version that a footer speaks of, or what is wrong with it, in words."""
    if footer is None:
        return "no footer"
    try:
        raw = parse_json(footer)
        return f"{raw['contract']} version {raw['version']}"
    except (ValueError, TypeError, KeyError) as error:
        return f"a footer that cannot be read ({type(error).__name__}: {error})"
