"""prefect.yaml: every deployment names a flow that exists, a preset that loads, and a schedule that a cron reader
takes.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import Flow, load_flow_from_entrypoint

from maskmill.pipelines.core.settings import find_config

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: str(d.get("name")))
def test_every_deployment_can_be_deployed(deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    flow: Flow[Any, Any] = load_flow_from_entrypoint(deployment["entrypoint"])
    flow.validate_parameters(deployment.get("parameters", {}))
    assert find_config(deployment["parameters"]["parameters"]["config"]).is_file()
    assert deployment["work_pool"]["name"]
    for schedule in deployment.get("schedules", []):
        CronSchedule(cron=schedule["cron"], timezone=schedule.get("timezone"))


def test_names_are_unique_and_curate_runs_nightly() -> None:
    names = [(d["entrypoint"], d["name"]) for d in DEPLOYMENTS]
    assert len(set(names)) == len(names)
    nightly = next(d for d in DEPLOYMENTS if d["name"] == "nightly")
    assert nightly["entrypoint"].endswith(":curate_synthetic")
    assert nightly["schedules"]
