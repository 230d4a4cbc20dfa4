"""A local Prefect server of its own for tests that need the real thing."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Environment = dict[str, str]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(home: Path, settings: Environment | None = None) -> Iterator[Environment]:
    """A server that keeps its things in `home`; gives the environment that reaches it, and ends it afterwards. More
    `settings` of Prefect's come as environment variables.
    """
    port = _free_port()
    env = {
        **os.environ,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        **(settings or {}),
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=home)
    try:
        _wait_until_healthy(f"{env['PREFECT_API_URL']}/health", process, home / "server.log")
        yield env
    finally:
        end(process)


def end(process: "subprocess.Popen[Any]", within_s: float = 60) -> None:
    """Ask a process to end, and end it: a worker of Prefect's that is asked now and then never does."""
    process.terminate()
    try:
        process.wait(timeout=within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=300)


def _wait_until_healthy(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(240):
        if process.poll() is not None:
            raise AssertionError(f"server ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"server did not come up:\n{log.read_text()[-3000:]}")
