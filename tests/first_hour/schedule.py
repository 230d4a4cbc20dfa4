"""README's block on schedules, pasted into a fresh shell that knows no server."""

import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_S = 540


def lines(config: str) -> list[str]:
    """The commands as README has them, for another config."""
    found = re.search(r"## On a schedule\n.*?```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found, "README shows how to schedule"
    typed = found.group(1).replace("deploy demo", f"deploy {config}.yaml").replace("/demo", f"/{config}")
    return [line.partition("  #")[0].rstrip() for line in typed.splitlines()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fresh_shell(home: Path) -> dict[str, str]:
    """An environment that knows the commands and a port, and no server; Prefect keeps its things in `home`."""
    commands = home / "bin"
    commands.mkdir()
    for name in ("maskmill", "prefect"):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {name} "$@"\n')
        (commands / name).chmod(0o755)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return env | {
        "PATH": f"{commands}:{env['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(home / "home"),
        "PREFECT_SERVER_API_PORT": str(free_port()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "HOME": str(home),
    }


def run_block(env: dict[str, str], home: Path, config: str, terminal: bool) -> str:
    """What the shell says, the last command waiting for its run to end.

    Raises:
        AssertionError: a command fails.
    """
    *first, last = lines(config)
    text = "\n".join(["set -e", *first, f"{last} --watch", "kill %2 %1 || true"])
    text = text.replace("4200", env["PREFECT_SERVER_API_PORT"])
    ours, theirs = pty.openpty() if terminal else os.pipe()
    source = theirs if terminal else subprocess.DEVNULL
    process = subprocess.Popen(["bash", "-c", text], cwd=home, env=env, stdin=source, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said, ends = b"", time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < ends:
        if select.select([ours], [], [], 1)[0]:
            try:
                said += os.read(ours, 65536)
            except OSError:
                break
    process.kill()
    status = process.wait(timeout=300)
    os.close(ours)
    words = said.decode(errors="replace")
    assert status == 0, words[-4000:]
    return words
