"""The trainers by name. A new one is a sub-package with the five names of `Trainer`, and one line here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

from maskmill.data_contracts.words import did_you_mean

if TYPE_CHECKING:
    from maskmill.trainers.engine import Artifact, Job, TrainerConfig

TRAINERS = {
    "abd": "maskmill.trainers.abd",
    "few_shot": "maskmill.trainers.few_shot",
    "affinity": "maskmill.trainers.affinity",
    "dcfm": "maskmill.trainers.dcfm",
    "ftmu": "maskmill.trainers.ftmu",
    "proposals": "maskmill.trainers.proposals",
    "dfr": "maskmill.trainers.dfr",
    "scwssod": "maskmill.trainers.scwssod",
    "supervised": "maskmill.trainers.supervised",
    "weclip": "maskmill.trainers.weclip",
}


class Trainer(Protocol):
    """What the sub-package of a trainer offers.

    `VERSION` rises whenever a change of code changes results. `stamps` names what the result depends on beside
    settings and data, such as pretrained weights. `train` leaves an artefact in `job.out_dir` and returns that path.
    `load` turns an artefact into a
    predictor: an object whose `predict(images)` returns one `Prediction` an image, where the method allows.
    """

    VERSION: int
    Config: type[TrainerConfig]

    def stamps(self, config: Any) -> tuple[str, ...]: ...

    def train(self, config: Any, job: Job) -> str: ...

    def load(self, artifact: Artifact, device: Any) -> Any: ...


def get_trainer(name: str) -> Trainer:
    """The trainer's module, imported only now.

    Raises:
        ValueError: unknown name; lists the valid ones.
    """
    if name not in TRAINERS:
        known = ", ".join(sorted(TRAINERS))
        raise ValueError(f"trainer {name!r}: expected one of {known}{did_you_mean(name, TRAINERS)}")
    return cast(Trainer, importlib.import_module(TRAINERS[name]))


def load_artifact(path: str, device: str = "auto") -> Any:
    """The predictor of a trained artefact folder.

    Raises:
        FileNotFoundError: no finished artefact there.
        ValueError: damaged weights, or a trainer that this version does not know.
    """
    from maskmill.trainers.engine import pick_device, read_artifact, read_info

    trainer = get_trainer(read_info(path).trainer)
    return trainer.load(read_artifact(path), pick_device(device))
