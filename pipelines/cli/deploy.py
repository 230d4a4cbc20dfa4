"""`maskmill deploy`: a config on a schedule. Prefect's own command does the work; this one says what to it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from maskmill.data_contracts import write_bytes
from maskmill.data_contracts.secrets import NAME, redact
from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.crashed import AFTER_S, LEAST_S, ensure_automation
from maskmill.pipelines.cli.options import ConfigArgument, JsonOption, SetOption
from maskmill.pipelines.cli.run import load_config
from maskmill.pipelines.cli.server import Server
from maskmill.pipelines.core.settings import CONFIGS, ConfigError, find_config, parse_pairs, read_yaml

FLOW, EXPORT = "curate-synthetic", "export-dataset"
POOL = "maskmill"
GPU_LIMIT = "maskmill-gpu"
API = "http://127.0.0.1:4200/api"
Entry = dict[str, Any]


def deploy(
    config: ConfigArgument,
    overrides: SetOption = None,
    name: Annotated[str | None, typer.Option(help="of the deployment; default: the config's")] = None,
    cron: Annotated[str, typer.Option(help="when, as in crontab")] = "0 2 * * *",
    timezone: Annotated[str, typer.Option(help="of the schedule")] = "Etc/UTC",
    crash_after: Annotated[
        int, typer.Option(help="seconds without a sign of life after which a run counts as crashed", min=LEAST_S)
    ] = AFTER_S,
    as_json: JsonOption = False,
) -> None:
    """Write or update the deployments of a config: work pool, entries in ./prefect.yaml (the run, with its schedule,
    and `export-dataset` for what it leaves), and the automation that marks runs of dead workers as crashed. Run it
    again after each change.
    """
    run_dir = load_config(config, overrides).run_dir
    check_plain(parse_pairs(overrides))
    server = Server(os.environ.get("PREFECT_API_URL", API).rstrip("/"))
    env = {**os.environ, "PREFECT_API_URL": server.api, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    title = name or Path(config).stem
    server.wait(tell=say)
    if server.ask("GET", "work_pools", POOL) is None:
        _prefect(env, "work-pool", "create", POOL, "--type", "process")
    if server.ask("GET", "v2", "concurrency_limits", GPU_LIMIT) is None:
        server.ask("POST", "v2", "concurrency_limits", "", data={"name": GPU_LIMIT, "limit": 1})
    entries = [entry(title, config, parse_pairs(overrides), cron, timezone), export_entry(title, config, run_dir)]
    write_entries(Path("prefect.yaml"), entries)
    names = [f"{flow}/{title}" for flow in (FLOW, EXPORT)]
    _prefect(env, "--no-prompt", "deploy", "--name", title)  # all of that name; FLOW/NAME finds no flow of a package
    ensure_automation(server, crash_after)
    say(f"deployed [bold]{names[0]}[/]: {cron} ({timezone}), and [bold]{names[1]}[/]; entries are in ./prefect.yaml")
    say(f"work is done by: PREFECT_API_URL={server.api} prefect worker start --pool {POOL}")
    say(f"now instead of tonight: prefect deployment run {names[0]}")
    say("reports in the browser: maskmill serve runs")
    result({"deployments": names, "cron": cron, "timezone": timezone, "api": server.api, "crash_after": crash_after})


def check_plain(overrides: dict[str, Any]) -> None:
    """Refuse what Prefect would store for all to read, and the flow would refuse.

    Raises:
        ConfigError: $NAMES in `--set`.
    """
    for key, value in overrides.items():
        if NAME.search(str(value)):
            raise ConfigError(f"--set {key}: $NAMES are read in the config file alone; write {key} there")


def entry(name: str, config: str, overrides: Entry, cron: str, timezone: str) -> Entry:
    """The run's deployment as prefect.yaml has it."""
    return {
        "name": name,
        "description": f"Curate what {config} names; shards that are done are skipped.",
        "entrypoint": "maskmill.flows.curate_synthetic",
        "parameters": {"parameters": {"config": config, "overrides": overrides}},
        "schedules": [{"cron": cron, "timezone": timezone, "active": True}],
        "concurrency_limit": 1,
        "work_pool": _pool(config),
    }


def export_entry(name: str, config: str, run_dir: str) -> Entry:
    """The deployment that writes what the run kept in other formats, when somebody asks for it."""
    return {
        "name": name,
        "description": f"What the run of {config} kept, in other formats; to a folder or S3 where one is named.",
        "entrypoint": "maskmill.flows.export_dataset",
        "parameters": {"parameters": {"run_dir": run_dir}},
        "work_pool": _pool(config),
    }


def _pool(config: str) -> Entry:
    """Who does the work, and the only folder from which it may read configs."""
    found = find_config(config)
    folder = "." if found.is_relative_to(CONFIGS) else str(found.parent)
    return {"name": POOL, "job_variables": {"env": {"MASKMILL_CONFIGS": folder}}}


def write_entries(path: Path, wanted: list[Entry]) -> None:
    """Put deployments into a prefect.yaml, each in the place of an older one of its name and flow; others stay.

    Comments of that file are lost where it is rewritten, so one that says the same already is left alone.
    """
    held: Entry = {"name": "maskmill"}
    if path.is_file():
        held = read_yaml(path.read_text(encoding="utf-8"), str(path)) or held
    old = held.get("deployments") or []
    new = [next((one for one in wanted if _same(one, there)), there) for there in old]
    new += [one for one in wanted if one not in new]
    if new != old:
        text = yaml.safe_dump({**held, "deployments": new}, sort_keys=False, allow_unicode=True)
        write_bytes(str(path), text.encode())


def _same(one: Entry, other: Entry) -> bool:
    """Whether two entries are of one name and one flow, however its place is written (`flows.py:x`, `flows.x`)."""

    def identity(entry: Entry) -> tuple[str, str]:
        flow = str(entry.get("entrypoint")).replace(":", ".").rpartition(".")[2]
        return str(entry.get("name")), flow

    return identity(one) == identity(other)


def _prefect(env: dict[str, str], *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Prefect's command line, without questions.

    Raises:
        ValueError: it fails; says what it said.
    """
    command = [sys.executable, "-m", "prefect", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if check and done.returncode:
        said = redact((done.stdout + done.stderr).strip()[-1500:])
        raise ValueError(f"prefect {' '.join(words[:3])} failed:\n{said}")
    return done
