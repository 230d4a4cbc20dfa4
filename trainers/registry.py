"""The trainers by name. A new one is a sub-package with the five names of `Trainer`, and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from maskmill.data_contracts.words import did_you_mean

if TYPE_CHECKING:
    from maskmill.trainers.engine import Artifact, Job, Samples, TrainerConfig

TRAINERS = {
    "abd": "maskmill.trainers.abd",
    "few_shot": "maskmill.trainers.few_shot",
    "base_learner": "maskmill.trainers.few_shot.learner",
    "affinity": "maskmill.trainers.affinity",
    "dcfm": "maskmill.trainers.dcfm",
    "ftmu": "maskmill.trainers.ftmu",
    "mask_rcnn": "maskmill.trainers.mask_rcnn",
    "proposals": "maskmill.trainers.proposals",
    "dfr": "maskmill.trainers.dfr",
    "scwssod": "maskmill.trainers.scwssod",
    "supervised": "maskmill.trainers.supervised",
    "weclip": "maskmill.trainers.weclip",
}


IMPORTS = {
    "base_learner": "maskmill.trainers.few_shot.learner.released",
    "dcfm": "maskmill.trainers.dcfm.released",
    "few_shot": "maskmill.trainers.few_shot.released",
    "scwssod": "maskmill.trainers.scwssod.released",
    "supervised": "maskmill.trainers.supervised.released",
    "weclip": "maskmill.trainers.weclip.released",
}
"""Modules that turn a release's own checkpoint into what an artifact holds."""


class Importer(Protocol):
    """What such a module offers. `released_artifact` gives arguments of `save_artifact`: modules, model, mean, std and
    predict, from the tensors of a file.
    """

    def released_artifact(self, state: Any, where: str, config: Any, space: Any) -> dict[str, Any]: ...


class Trainer(Protocol):
    """What the sub-package of a trainer offers.

    `VERSION` rises whenever a change of code changes results. `stamps` names what the result depends on beside
    settings and data, such as pretrained weights. `train` leaves an artifact in `job.out_dir` and returns that path.
    `load` turns an artifact into a
    predictor: an object whose `predict(images)` returns one `Prediction` an image, where the method allows.
    """

    VERSION: int
    Config: type[TrainerConfig]

    def stamps(self, config: Any) -> tuple[str, ...]: ...

    def train(self, config: Any, job: Job) -> str: ...

    def load(self, artifact: Artifact, device: Any) -> Any: ...


MASKS = "MASKS"  # a trainer's module says False where what it trains gives no masks of images alone
EVALUATE = "evaluate"  # function (predictor, samples, info of the artifact) of trainers with measures of their own
LOOK = "look"  # the same, giving sentences: what is wrong with a network whose masks need more than an image


def makes_masks(name: str) -> bool:
    """Whether artifacts of a trainer give masks of images alone, so that mIoU and overlays can be had of them."""
    return bool(getattr(get_trainer(name), MASKS, True))


def is_measured(name: str) -> bool:
    """Whether artifacts of a trainer can be evaluated at all."""
    return makes_masks(name) or own_measures(name) is not None


def own_measures(name: str) -> Callable[[Any, Any, Any], dict[str, Any]] | None:
    """What a trainer measures of its predictor on samples beside the usual, or in its place where it makes no masks."""
    found: Callable[[Any, Any, Any], dict[str, Any]] | None = getattr(get_trainer(name), EVALUATE, None)
    return found


def look_at(artifact: Artifact, samples: Samples, device: str) -> list[str]:
    """What is wrong with a network that has just been trained, tried on a few of its own training samples."""
    from maskmill.trainers.engine import pick_device
    from maskmill.trainers.engine.health import LOOKED_AT, one_answer

    name, info = artifact.info.trainer, artifact.info
    trainer = get_trainer(name)
    own = getattr(trainer, LOOK, None)
    if own is None and not makes_masks(name):
        return []
    predictor = trainer.load(artifact, pick_device(device))
    if own is not None:
        return list(own(predictor, samples, info))
    examples = [samples.example(position) for position in range(min(LOOKED_AT, len(samples)))]
    truths = [example.mask for example in examples if example.mask is not None]
    if len(truths) < len(examples):
        return []
    predicted = [one.labels for one in predictor.predict([example.image for example in examples])]
    found = one_answer(predicted, truths, info.label_space)
    return [found] if found else []


def get_trainer(name: str) -> Trainer:
    """The trainer's module, imported only now.

    Raises:
        ValueError: unknown name; lists the valid ones.
    """
    if name not in TRAINERS:
        known = ", ".join(sorted(TRAINERS))
        raise ValueError(f"trainer {name!r}: expected one of {known}{did_you_mean(name, TRAINERS)}")
    return cast(Trainer, importlib.import_module(TRAINERS[name]))


def get_importer(name: str) -> Importer:
    """The module that reads released checkpoints of a trainer's method.

    Raises:
        ValueError: none does; lists those that can be read.
    """
    if name not in IMPORTS:
        known = ", ".join(sorted(IMPORTS))
        raise ValueError(f"checkpoints of {name!r}: expected one of {known}{did_you_mean(name, IMPORTS)}")
    return cast(Importer, importlib.import_module(IMPORTS[name]))


def load_artifact(path: str, device: str = "auto") -> Any:
    """The predictor of a trained artifact folder.

    Raises:
        FileNotFoundError: no finished artifact there.
        ValueError: damaged weights, or a trainer that this version does not know.
    """
    from maskmill.trainers.engine import pick_device, read_artifact, read_info

    trainer = get_trainer(read_info(path).trainer)
    return trainer.load(read_artifact(path), pick_device(device))
