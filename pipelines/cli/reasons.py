"""Why samples were turned away, as the console says it: the first examples of each reason, with what to do."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from rich.markup import escape

from maskmill.pipelines.cli.console import say
from maskmill.pipelines.core.examples import SHOWN, Example
from maskmill.pipelines.core.ledger import Ledger
from maskmill.pipelines.ingest.foresee import Foresight


def say_reasons(ledger: Ledger) -> None:
    """Two examples of every reason of a run, each with expectation, finding and fix."""
    rows = {(r.stage, r.reason): r.rows for r in ledger.rejections}
    for line in _lines(ledger.examples, rows):
        say(line)


def say_foresight(foresight: Foresight) -> None:
    """What the first entries of a source, and the listing of all, let expect."""
    first = f"{foresight.kept} of the first {foresight.looked} entries would be kept"
    say(f"[bold]{first}[/]; {foresight.listed} are listed")
    for line in _lines(foresight.examples, {("ingest", reason): n for reason, n in foresight.counts.items()}):
        say(line)


def _lines(examples: Iterable[Example], rows: dict[tuple[str, str], int]) -> Iterator[str]:
    for (stage, reason), group in groupby(examples, key=lambda e: (e.stage, e.reason)):
        yield f"[bold]{reason}[/] ({stage}, {rows.get((stage, reason), 0):,}), e.g."
        for example in list(group)[:SHOWN]:
            found, _, fix = example.words.partition(" Fix: ")
            yield escape(f"  {example.name}: {found}")
            if fix:
                yield escape(f"    fix: {fix}")
