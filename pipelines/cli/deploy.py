"""`maskmill deploy`: a config on a schedule. Prefect's own command does the work; this one says what to it."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from maskmill.data_contracts import write_bytes
from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import ConfigArgument, JsonOption, SetOption
from maskmill.pipelines.cli.run import load_config
from maskmill.pipelines.core.settings import CONFIGS, find_config, parse_pairs, read_yaml

FLOW = "curate-synthetic"
POOL = "maskmill"
GPU_LIMIT = "maskmill-gpu"
API = "http://127.0.0.1:4200/api"
SILENT_S = 90  # a run without a heartbeat for so long has died
BEAT_S = 30
STARTS_S = 90  # a server takes that long on a busy machine
CRASHED: dict[str, Any] = {
    "name": "maskmill: a run whose worker died is crashed",
    "description": "No heartbeat from a run for a minute and a half: it has crashed, and the next may start.",
    "enabled": True,
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "for_each": ["prefect.resource.id"],
        "after": ["prefect.flow-run.heartbeat"],
        "expect": [f"prefect.flow-run.{end}" for end in ("heartbeat", "Completed", "Failed", "Cancelled", "Crashed")],
        "threshold": 1,
        "within": SILENT_S,
    },
    "actions": [
        {
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "message": "no heartbeat: its worker went away",
        }
    ],
}


def deploy(
    config: ConfigArgument,
    overrides: SetOption = None,
    name: Annotated[str | None, typer.Option(help="of the deployment; default: the config's")] = None,
    cron: Annotated[str, typer.Option(help="when, as in crontab")] = "0 2 * * *",
    timezone: Annotated[str, typer.Option(help="of the schedule")] = "Etc/UTC",
    as_json: JsonOption = False,
) -> None:
    """Write or update the deployment of a config: work pool, entry in ./prefect.yaml, schedule, and the automation that
    marks runs of dead workers as crashed. Run it again after each change.
    """
    load_config(config, overrides)
    api = os.environ.get("PREFECT_API_URL", API)
    env = {**os.environ, "PREFECT_API_URL": api, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    title = name or Path(config).stem
    wait_for_server(api)
    if _prefect(env, "work-pool", "inspect", POOL, check=False).returncode:
        _prefect(env, "work-pool", "create", POOL, "--type", "process")
    if _prefect(env, "gcl", "inspect", GPU_LIMIT, check=False).returncode:
        _prefect(env, "gcl", "create", GPU_LIMIT, "--limit", "1")
    write_entry(Path("prefect.yaml"), entry(title, config, parse_pairs(overrides), cron, timezone))
    _prefect(env, "--no-prompt", "deploy", "--name", f"{FLOW}/{title}")
    if CRASHED["name"][:20] not in _prefect(env, "automation", "ls").stdout:
        _prefect(env, "automation", "create", "--from-json", json.dumps(CRASHED))
    say(f"deployed [bold]{FLOW}/{title}[/]: {cron} ({timezone}); its entry is in ./prefect.yaml")
    say(f"work is done by: PREFECT_API_URL={api} prefect worker start --pool {POOL}")
    say(f"now instead of tonight: prefect deployment run {FLOW}/{title}")
    say("reports in the browser: maskmill serve runs")
    result({"deployment": f"{FLOW}/{title}", "cron": cron, "api": api})


def wait_for_server(api: str, seconds: float = STARTS_S) -> None:
    """Until the server answers.

    Raises:
        ValueError: it does not; says how to start one.
    """
    ends = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > ends:
                words = f"no Prefect server at {api}; start one (prefect server start), or set PREFECT_API_URL"
                raise ValueError(words) from error
            time.sleep(0.5)


def entry(name: str, config: str, overrides: dict[str, Any], cron: str, timezone: str) -> dict[str, Any]:
    """The deployment as prefect.yaml has it."""
    found = find_config(config)
    folder = "." if found.is_relative_to(CONFIGS) else str(found.parent)
    return {
        "name": name,
        "description": f"Curate what {config} names; shards that are done are skipped.",
        "entrypoint": "maskmill.flows.curate_synthetic",
        "parameters": {"parameters": {"config": config, "overrides": overrides}},
        "schedules": [{"cron": cron, "timezone": timezone, "active": True}],
        "concurrency_limit": 1,
        "work_pool": {
            "name": POOL,
            "job_variables": {
                "env": {"MASKMILL_CONFIGS": folder, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(BEAT_S)},
            },
        },
    }


def write_entry(path: Path, wanted: dict[str, Any]) -> None:
    """Put a deployment into a prefect.yaml, in the place of an older one of its name and flow; others stay.

    Comments of that file are lost where it is rewritten, so one that says the same already is left alone.
    """
    held: dict[str, Any] = {"name": "maskmill"}
    if path.is_file():
        held = read_yaml(path.read_text(encoding="utf-8"), str(path))
    old = held.get("deployments") or []
    new = [wanted if _same(one, wanted) else one for one in old]
    if wanted not in new:
        new.append(wanted)
    if new != old:
        text = yaml.safe_dump({**held, "deployments": new}, sort_keys=False, allow_unicode=True)
        write_bytes(str(path), text.encode())


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.get("name") == other["name"] and "curate_synthetic" in str(one.get("entrypoint"))


def _prefect(env: dict[str, str], *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Prefect's command line, without questions.

    Raises:
        ValueError: it fails; says what it said.
    """
    command = [sys.executable, "-m", "prefect", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if check and done.returncode:
        raise ValueError(f"prefect {' '.join(words[:3])} failed:\n{(done.stdout + done.stderr).strip()[-1500:]}")
    return done
