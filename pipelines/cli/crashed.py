"""The automation by which Prefect marks a flow run of maskmill as crashed once its process is gone.

Every flow of maskmill sends `maskmill.run.alive` while it runs (flows.py). Prefect sends heartbeats, too, but for all
flow runs of a server, and at intervals that each deployment sets for itself: one automation on those would end other
people's runs.
"""

from typing import Any

from maskmill.pipelines.cli.server import Server
from maskmill.pipelines.core.beat import ALIVE, EVERY_S

NAME = "maskmill: a run whose worker died is crashed"
AFTER_S = 45  # silence that means death; Prefect takes up to a minute more, in case signs of life come late
LEAST_S = int(3 * EVERY_S)
ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


def automation(after_s: int = AFTER_S) -> dict[str, Any]:
    """A flow run that was alive, and then neither gives a sign nor ends for `after_s` seconds, has crashed."""
    return {
        "name": NAME,
        "description": f"No sign of life for {after_s} seconds: its process is gone, and the next run may start.",
        "enabled": True,
        "trigger": {
            "type": "event",
            "posture": "Proactive",
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "for_each": ["prefect.resource.id"],
            "after": [ALIVE],
            "expect": [ALIVE, *(f"prefect.flow-run.{end}" for end in ENDS)],
            "threshold": 1,
            "within": after_s,
        },
        "actions": [
            {
                "type": "change-flow-run-state",
                "state": "CRASHED",
                "message": f"no sign of life for {after_s} s: its worker, or the machine, is gone",
            }
        ],
    }


def ensure_automation(server: Server, after_s: int) -> None:
    """Make the automation, or renew the one that is there."""
    wanted = automation(after_s)
    held = server.ask("POST", "automations", "filter", data={"automations": {"name": {"any_": [NAME]}}})
    if not held:
        server.ask("POST", "automations", "", data=wanted)
    for number, one in enumerate(held):
        if number:
            server.ask("DELETE", "automations", one["id"])
        else:
            server.ask("PUT", "automations", one["id"], data=wanted)
