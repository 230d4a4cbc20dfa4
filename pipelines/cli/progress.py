"""How a person sees that something goes on: bars on a terminal; elsewhere a line a step, and one every 30 seconds."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from maskmill.pipelines.cli.console import err, out, say, voice
from maskmill.pipelines.cli.interrupt import working
from maskmill.pipelines.core.beat import beating

EVERY_S = 30.0
COLUMNS = (
    TextColumn("{task.description:>15}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[note]}"),
)

Report = Callable[[str, int, int | None, str], None]
"""Called with step, units done, units in all (None: not known) and how the last one ended: `started` (before the first
unit), `written` or `skipped`."""


@contextmanager
def progress() -> Iterator[Report]:
    """A reporter for as long as the work goes on."""
    if voice.quiet:
        yield _note
        return
    if (err if voice.as_json else out).is_terminal:
        with Progress(*COLUMNS, console=err if voice.as_json else out) as bars:
            yield _Bars(bars)
        return
    lines = _Lines()
    with beating(lines.beat, EVERY_S):
        yield lines
        lines.end()


def _note(step: str, done: int, total: int | None, status: str) -> None:
    working(step, done, total)


class _Bars:
    """A bar a step."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: str, done: int, total: int | None, status: str) -> None:
        working(step, done, total)
        if step not in self._tasks or done == 0:
            self._tasks[step] = self._bars.add_task(step, total=total, note="")
        note = "already done" if status == "skipped" else ""
        self._bars.update(self._tasks[step], completed=done, total=total, note=note)


@dataclass
class _Lines:
    """A line when a step ends, and one every so often while it goes on."""

    step: str = ""
    done: int = 0
    total: int | None = None
    skipped: int = 0
    started: float = field(default_factory=time.monotonic)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __call__(self, step: str, done: int, total: int | None, status: str) -> None:
        working(step, done, total)
        with self.lock:
            if step != self.step or done == 0:
                self.end()
                self.step, self.done, self.total, self.skipped = step, 0, total, 0
                self.started = time.monotonic()
                say(f"{step}: {'started' if not total else f'{total} to do'}")
            self.done, self.total = max(self.done, done), total
            self.skipped += status == "skipped"
            if total is not None and self.done >= total:
                self.end()

    def end(self) -> None:
        """Say how the step ended, once."""
        with self.lock:
            if self.step:
                again = f", {self.skipped} of them already" if self.skipped else ""
                say(f"{self.step}: {self._share()}done{again} ({time.monotonic() - self.started:.1f} s)")
            self.step = ""

    def _share(self) -> str:
        """How much is done, with a blank behind it; nothing where nobody counts."""
        if self.total is not None:
            return f"{self.done} of {self.total} "
        return f"{self.done} " if self.done else ""

    def beat(self) -> None:
        """Say how far the step is."""
        with self.lock:
            if self.step:
                say(f"{self.step}: {self._share()}after {time.monotonic() - self.started:.0f} s")
