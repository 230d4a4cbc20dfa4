"""Trainings by two processes, for the conformance of trainers: forked from a test, for a new interpreter would import
everything anew.
"""

import json
import os
from pathlib import Path
from typing import Any

from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import Loop
from maskmill.trainers.engine.checkpoint import pack_tensors
from maskmill.trainers.engine.team import Team


def note(folder: Path) -> None:
    """Let loops leave in `folder`, by process, the samples and the loss of each step, and the weights at the end."""
    begin, iterate, log = Loop._end_step, Loop.__iter__, Loop.log

    def told(self: Loop, **values: Any) -> None:
        with (folder / f"loss-{self.team.rank}.jsonl").open("a") as file:
            file.write(json.dumps(float(values.get("loss", 0))) + "\n")
        log(self, **values)

    def end_step(self: Loop, batch: Any) -> None:
        with (folder / f"seen-{self.team.rank}.jsonl").open("a") as file:
            file.write(json.dumps(sorted(map(str, keys(batch)))) + "\n")
        begin(self, batch)

    def whole(self: Loop) -> Any:
        yield from iterate(self)
        tensors = {f"{name}/{key}": t for name, m in self.modules.items() for key, t in m.state_dict().items()}
        (folder / f"weights-{self.team.rank}.safetensors").write_bytes(pack_tensors(tensors))

    Loop._end_step, Loop.__iter__, Loop.log = end_step, whole, told  # type: ignore[method-assign]


def noted(folder: Path, what: str, rank: int) -> list[Any]:
    """What process `rank` noted of each step: `seen` or `loss`."""
    return [json.loads(line) for line in (folder / f"{what}-{rank}.jsonl").read_text().splitlines()]


def keys(batch: Any) -> list[Any]:
    """What says which samples a batch holds: ids, nested ones too, else any other words and numbers in lists."""
    found: list[Any] = []
    for name, value in batch.items():
        if isinstance(value, dict):
            found += keys(value)
        elif name == "sample_id" or (isinstance(value, list) and name not in ("labels", "sizes")):
            found += value
    return found


def train_by(processes: int, config: TrainConfig, folder: Path) -> str:
    """Train in forked children; the artifact's folder."""
    settings = {**config.settings, "processes": processes}
    wanted = config.model_copy(update={"settings": settings})
    folder.mkdir()
    pid = os.fork()
    if pid == 0:  # the parent's own loops stay as they are
        status = 1
        try:
            Team.start_method = "fork"
            note(folder)
            train(wanted, str(folder / "run"), str(folder / "artifact"))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "see what it said above"
    return str(folder / "artifact")
