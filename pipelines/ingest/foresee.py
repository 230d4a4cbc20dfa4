"""What a source will give, before it is ingested: its listing, and its first entries loaded and checked."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from maskmill.data_contracts import LabelSpace, Problem
from maskmill.pipelines.core.examples import SHOWN, Example
from maskmill.pipelines.ingest.base import Entry, Source
from maskmill.pipelines.ingest.listing import listing_of
from maskmill.pipelines.ingest.stage import STAGE, ingest_entry

FIRST = 100  # entries that are loaded


@dataclass(frozen=True)
class Foresight:
    """`listed` entries in all, the first `looked` of them loaded, `kept` of those sound. `counts` are rejects by
    reason: what the whole listing shows, and what loading the first ones does; `examples` are the first of each.
    """

    listed: int
    looked: int
    kept: int
    counts: dict[str, int]
    examples: tuple[Example, ...]


def foresee(source: Source, space: LabelSpace, first: int = FIRST) -> Foresight:
    """Look at the listing and at its first entries. Writes nothing.

    Raises:
        FileNotFoundError, ValueError: as `ingest_units`.
    """
    listing = listing_of(source, fresh=False)
    entries = listing.chunk(0, first)
    with ThreadPoolExecutor(source.threads) as pool:
        made = list(pool.map(lambda entry: ingest_entry(entry, source, space), entries))
    counts: Counter[str] = Counter()
    examples: dict[str, list[Example]] = {}

    def note(entry: Entry, problem: Problem) -> None:
        counts[problem.reason] += 1
        mine = examples.setdefault(problem.reason, [])
        if len(mine) < SHOWN:
            words = str(problem).removeprefix(problem.reason).removeprefix(":").strip()
            mine.append(Example(stage=STAGE, reason=problem.reason, name=entry.key, words=words))

    for entry, outcome in zip(entries, made, strict=True):
        if isinstance(outcome, Problem):
            note(entry, outcome)
    for entry in listing.after(len(entries)):
        if entry.problem is not None:
            note(entry, entry.problem)
    kept = sum(not isinstance(outcome, Problem) for outcome in made)
    ordered = tuple(example for mine in examples.values() for example in mine)
    return Foresight(len(listing), len(entries), kept, dict(counts), ordered)
