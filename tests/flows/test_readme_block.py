"""README's block on schedules, pasted into a fresh shell: with and without a terminal, and without PREFECT_API_URL."""

import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
TINY = ROOT / "tests" / "data" / "tiny_clip_timm"
LIMIT_S = 540


def block(config: str) -> str:
    """The commands as README has them, for another config; the last one waits for the run to end."""
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"## On a schedule\s+```bash\n(.*?)```", readme, re.DOTALL)
    assert found, "README shows how to schedule"
    text = found.group(1).replace("maskmill deploy demo", f"maskmill deploy {config}.yaml")
    text = text.replace("curate-synthetic/demo", f"curate-synthetic/{config} --watch")
    return "set -e\n" + text + "\nkill %2 %1 || true\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def shell(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """A fresh home and an environment that knows the commands and a port, and no server."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, module in (("maskmill", "maskmill"), ("prefect", "prefect")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (commands / name).chmod(0o755)
    config = {"extends": "planted-faults", "name": "tiny", "run_dir": "runs/tiny", "shard_size": 6}
    source = {"count": 12, "scene": {"size": 64}}
    score = {"model": str(TINY), "image_side": 64, "refine": "none"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**config, "source": source, "score": score, "export": []}))
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    port = str(free_port())
    env |= {
        "PATH": f"{commands}:{env['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_SERVER_API_PORT": port,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "HOME": str(tmp_path),
    }
    return env, tmp_path


def run_block(env: dict[str, str], home: Path, terminal: bool) -> str:
    """What the shell says; ends with an assertion where a command fails."""
    text = block("tiny").replace("4200", env["PREFECT_SERVER_API_PORT"])
    ours, theirs = pty.openpty() if terminal else os.pipe()
    script = ["bash", "-c", text]
    process = subprocess.Popen(
        script, cwd=home, env=env, stdin=theirs if terminal else subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said, ends = b"", time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < ends:
        if select.select([ours], [], [], 1)[0]:
            try:
                said += os.read(ours, 65536)
            except OSError:
                break
    process.kill()
    status = process.wait(timeout=60)
    os.close(ours)
    words = said.decode(errors="replace")
    assert status == 0, words[-4000:]
    return words


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_the_block_of_the_readme_works(shell: tuple[dict[str, str], Path], terminal: bool) -> None:
    env, home = shell
    assert "PREFECT_API_URL" not in env
    said = run_block(env, home, terminal)
    assert (home / "runs" / "tiny" / "report" / "index.html").is_file(), said[-4000:]
    assert "curate-synthetic/tiny" in (said.replace("\n", ""))
    assert yaml.safe_load((home / "prefect.yaml").read_text())["deployments"][0]["name"] == "tiny"
    assert "do not exist" not in said
