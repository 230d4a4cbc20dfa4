"""The scorers by name. A new one is a module with the four names of `ScorerModule`, and one line here."""

import importlib
from typing import Any, Protocol, cast

from maskmill.curation.base import Scorer, ScorerConfig
from maskmill.data_contracts import LabelSpace
from maskmill.data_contracts.words import did_you_mean

SCORERS = {
    "cross_fit": "maskmill.curation.cross_fit",
    "sds": "maskmill.curation.sds",
}


class ScorerModule(Protocol):
    """What the module of a scorer offers.

    `VERSION` rises whenever a change of code changes scores. `identity` names all that a score depends on beside
    sample, seed and label space: options, weights of models. `load` gives the engine.
    """

    VERSION: int
    Config: type[ScorerConfig]

    def identity(self, config: Any) -> dict[str, Any]: ...

    def load(self, config: Any, space: LabelSpace) -> Scorer: ...


def get_scorer(name: str) -> ScorerModule:
    """The scorer's module, imported only now.

    Raises:
        ValueError: unknown name; lists the valid ones.
    """
    if name not in SCORERS:
        raise ValueError(f"scorer {name!r}: expected one of {', '.join(sorted(SCORERS))}{did_you_mean(name, SCORERS)}")
    return cast(ScorerModule, importlib.import_module(SCORERS[name]))


def load_scorer(config: ScorerConfig, space: LabelSpace) -> Scorer:
    """The engine of a scorer, with the embeddings of the model that `embed` names."""
    engine = get_scorer(config.kind).load(config, space)
    if config.embed is None:
        return engine
    from maskmill.curation.embedded import Embedded
    from maskmill.vision.embedders import load_embedder

    return Embedded(engine, load_embedder(config.embed))


def scorer_identity(config: ScorerConfig) -> dict[str, Any]:
    """All that a score depends on beside sample, seed and label space, the weights behind `embed` included."""
    own = get_scorer(config.kind).identity(config)
    if config.embed is None:
        return own
    from maskmill.vision.embedders import embed_stamps

    return {**own, "embed": [config.embed.model_dump(mode="json"), *embed_stamps(config.embed)]}
