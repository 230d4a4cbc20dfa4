"""The labelers by name. A new one is a sub-package with the four names of `LabelerModule`, and one line here."""

import importlib
from typing import Any, Protocol, cast

from maskmill.data_contracts import LabelSpace
from maskmill.data_contracts.words import did_you_mean
from maskmill.labelers.base import Labeler, LabelerConfig
from maskmill.vision.model_cards import ModelFacts, model_facts
from maskmill.vision.pretrained import Precision

LABELERS = {
    "few_shot": "maskmill.labelers.few_shot",
    "a2gnn": "maskmill.labelers.a2gnn",
    "clip_cam": "maskmill.labelers.clip_cam",
    "scribble": "maskmill.labelers.scribble",
    "co_saliency": "maskmill.labelers.co_saliency",
    "video": "maskmill.labelers.video",
    "semi_supervised": "maskmill.labelers.semi_supervised",
    "promptable": "maskmill.labelers.promptable",
    "detect": "maskmill.labelers.detect",
    "prompted_video": "maskmill.labelers.prompted_video",
}


class LabelerModule(Protocol):
    """What the sub-package of a labeler offers.

    `VERSION` rises whenever a change of code changes results. `stamps` names what a label depends on beside config and
    sample: weights of models, artifacts of trainers. `load` gives the engine. One that loads models of other people has
    `models(config)` as well: each folder or hub id with its precision.
    """

    VERSION: int
    Config: type[LabelerConfig]

    def stamps(self, config: Any) -> tuple[str, ...]: ...

    def load(self, config: Any, space: LabelSpace) -> Labeler: ...


def get_labeler(name: str) -> LabelerModule:
    """The labeler's module, imported only now.

    Raises:
        ValueError: unknown name; lists the valid ones.
    """
    if name not in LABELERS:
        known = ", ".join(sorted(LABELERS))
        raise ValueError(f"labeler {name!r}: expected one of {known}{did_you_mean(name, LABELERS)}")
    return cast(LabelerModule, importlib.import_module(LABELERS[name]))


def load_labeler(name: str, config: LabelerConfig, space: LabelSpace) -> Labeler:
    """The engine of a labeler, behind its refiner where the config names one."""
    engine = get_labeler(name).load(config, space)
    if config.refiner is None:
        return engine
    from maskmill.labelers.refiner import with_refiner

    return with_refiner(engine, config.refiner, space)


def labeler_stamps(name: str, config: LabelerConfig) -> tuple[str, ...]:
    """What its labels depend on beside config and sample, the refiner's included."""
    own = get_labeler(name).stamps(config)
    if config.refiner is None:
        return own
    from maskmill.labelers.refiner import refiner_stamps

    return (*own, *refiner_stamps(config.refiner))


def labeler_models(name: str, config: LabelerConfig) -> list[ModelFacts]:
    """Licence and weights of the models from elsewhere that this labeler and its refiner load; CLIP is not among them.

    Raises:
        FileNotFoundError: no such model.
    """
    found = getattr(get_labeler(name), "models", None)
    named: list[tuple[str, Precision]] = [] if found is None else list(found(config))
    if config.refiner is not None and config.refiner.model is not None:
        named.append((config.refiner.model, config.refiner.precision))
    return [model_facts(model, precision) for model, precision in named]
