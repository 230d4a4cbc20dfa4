"""Ctrl-C: say what is in work, give it two seconds, then end; a second press ends at once. Nothing finished is lost.

A thread of its own hears the signal, so that neither a long matrix product nor a slow import can keep a process alive.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer

from maskmill.pipelines.cli.exits import Exit

GRACE_S = 1.5


@dataclass
class _Work:
    step: str = ""
    done: int = 0
    total: int | None = None


_work = _Work()
_open: list[socket.socket] = []  # what the thread still listens to while the process ends


def working(step: str, done: int, total: int | None) -> None:
    """Remember what is in work, for the message."""
    _work.step, _work.done, _work.total = step, done, total


def stop_message() -> str:
    """What Ctrl-C says."""
    what = ""
    if _work.step:
        count = f" {min(_work.done + 1, _work.total)} of {_work.total}" if _work.total else ""
        what = f" finishing{count} of {_work.step} (two seconds at most; Ctrl-C again stops at once)."
    return f"stopping:{what} What is done stays done: the same command goes on from here."


@contextmanager
def stoppable() -> Iterator[None]:
    """While the block runs, Ctrl-C ends the process as the module says. Only in a main thread; elsewhere nothing.

    Once it was pressed the thread listens on: a second press must also end what Python does on its way out.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    said = threading.Event()
    before, handler = signal.set_wakeup_fd(theirs.fileno()), signal.getsignal(signal.SIGINT)
    press = _Press()
    signal.signal(signal.SIGINT, press)
    threading.Thread(target=_listen, args=(ours, said), daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        threading.Thread(target=_end_later, daemon=True).start()
        said.wait(GRACE_S)
        raise typer.Exit(Exit.STOPPED) from None
    finally:
        if press.heard:
            _open.append(theirs)
        else:
            signal.set_wakeup_fd(before)
            signal.signal(signal.SIGINT, handler)
            theirs.close()  # ends the thread


class _Press:
    """A handler that interrupts once; later presses are the thread's, and Python goes on ending."""

    heard = False

    def __call__(self, number: int, frame: Any) -> None:
        if not self.heard:
            self.heard = True
            raise KeyboardInterrupt


def _listen(signals: socket.socket, said: threading.Event) -> None:
    with signals:
        while heard := signals.recv(16):
            pressed = heard.count(bytes([signal.SIGINT])) + said.is_set()
            if pressed == 1 and not said.is_set():
                print(stop_message(), file=sys.stderr, flush=True)  # a console would first import what it needs
                said.set()
                threading.Thread(target=_end_later, daemon=True).start()
            elif pressed > 1:
                os._exit(Exit.STOPPED)


def _end_later() -> None:
    threading.Event().wait(GRACE_S)
    os._exit(Exit.STOPPED)
