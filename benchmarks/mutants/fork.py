"""Work in forked children of a warm process, with limits: a child that hangs or eats the memory is ended."""

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MEMORY = 8 << 30  # bytes of its own that a child may hold
WAITING = 6  # seconds by the clock a second of work: machines are shared


@dataclass(frozen=True)
class Task:
    """Something to do in a child: `work` gets a scratch folder and returns the exit code. `seconds` of work at most."""

    name: str
    work: Callable[[Path], int]
    seconds: float


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, or minus the signal that ended it; None: it ran out of time."""

    task: Task
    code: int | None
    output: str
    seconds: float


def run_all(tasks: list[Task], jobs: int) -> Iterator[Ended]:
    """Run tasks in forked children, `jobs` at a time, in any order of ending."""
    waiting = list(tasks)
    running: dict[int, _Child] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            child = _Child(waiting.pop(0))
            running[child.pid] = child
        time.sleep(0.02)
        for pid, child in list(running.items()):
            if (ended := child.ended()) is not None:
                del running[pid]
                yield ended


class _Child:
    def __init__(self, task: Task) -> None:
        self.task = task
        self._folder = tempfile.TemporaryDirectory(prefix="mutant-")
        self._started = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _be_child(task, Path(self._folder.name))

    def ended(self) -> Ended | None:
        """How it ended; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        seconds = time.monotonic() - self._started
        late = not pid and seconds > self.task.seconds * WAITING
        if not pid and not late:
            return None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # also what it started and left
        if late:
            os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status) if pid else None
        output = Path(self._folder.name, "output")
        text = output.read_text(errors="replace") if output.exists() else ""
        self._folder.cleanup()
        return Ended(self.task, None if code == -signal.SIGXCPU else code, text, seconds)


def _be_child(task: Task, folder: Path) -> None:
    """Never returns."""
    code = 70
    try:
        os.setsid()
        target = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_CPU, (int(task.seconds) + 1, int(task.seconds) + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        code = task.work(folder)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
