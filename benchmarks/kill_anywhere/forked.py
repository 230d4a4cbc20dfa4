"""Work in forked children: the parent has imported everything and started no thread, so that a child costs little, and
may be killed at any moment.
"""

import contextlib
import importlib
import os
import pickle
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn


@dataclass(frozen=True)
class Ended:
    """How a child ended: what its work gave, and the signal that killed it (0: none did)."""

    found: Any
    signal: int

    @property
    def killed(self) -> bool:
        return self.signal == signal.SIGKILL


def call(work: Callable[[], Any], log: Path, seconds: float | None = None) -> Ended:
    """Do `work` in a child, its words going to `log`; after `seconds` kill it with all that it started.

    Raises:
        RuntimeError: `work` raised; shows the end of the log.
    """
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work(work, writing, log)
    os.close(writing)
    with open(reading, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], seconds)
        if not ready:
            with contextlib.suppress(ProcessLookupError):  # between its fork and its own session
                os.kill(child, signal.SIGKILL)
                os.killpg(child, signal.SIGKILL)
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Ended(None, os.WTERMSIG(status))
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"a child failed: {log.read_text(errors='replace')[-2000:]}")
    return Ended(pickle.loads(data), 0)


def _work(work: Callable[[], Any], pipe: int, log: Path) -> NoReturn:
    status = 1
    try:
        os.setsid()
        words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(words, stream)
        data = pickle.dumps(work())
        with open(pipe, "wb") as handle:
            handle.write(data)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def bring(modules: Iterable[str]) -> None:
    """Import what a child had imported in the end, so that the next one need not."""
    for name in sorted(set(modules) - set(sys.modules)):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
