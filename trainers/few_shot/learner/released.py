"""The checkpoint that BAM's release leaves of a fold's base learner (`best.pth`), under the names of our network."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from maskmill.data_contracts import LabelSpace
from maskmill.trainers.engine import PredictConfig
from maskmill.trainers.few_shot.learner.config import Config
from maskmill.trainers.few_shot.learner.train import LearnerNet, base_classes, describe
from maskmill.vision.segmenters import encoder_normalisation
from maskmill.vision.weights import fitted

RULES = (
    (r"^layer0\.7\.", "encoder.bn1."),  # the stem: three convolutions, each with its norm
    (r"^layer0\.", "encoder.conv1."),
    (r"^layer([1-4])\.", r"encoder.layer\1."),
    (r"^ppm\.features\.", "head.pools."),
    (r"^cls\.", "head.classify."),
)
TWICE = "encoder."  # the release names its stages a second time


def own_name(key: str) -> str:
    """The network's name of a weight that the release calls `key`, alone or in a wrapper for several GPUs."""
    key = key.removeprefix("module.")
    if key.startswith(TWICE):
        return f"again.{key}"
    for pattern, name in RULES:
        if re.match(pattern, key):
            return re.sub(pattern, name, key)
    return key


def released_artifact(state: Mapping[str, Tensor], where: str, config: Config, space: LabelSpace) -> dict[str, Any]:
    """What an artifact holds, from the release's state: arguments of `save_artifact`.

    Raises:
        WeightsError: weights that are missing or of another shape, as with another number of base classes.
    """
    ids = base_classes(space, config)
    net: nn.Module = LearnerNet(config, ids, space, "random")
    net.load_state_dict(fitted(net.state_dict(), state, where, rename=own_name, spare=(r"again\.",)))
    mean, std = encoder_normalisation(config.encoder)
    return {
        "modules": {"encoder": net.encoder, "head": net.head},
        "model": describe(config, ids),
        "mean": mean,
        "std": std,
        "predict": PredictConfig(fit="squash", size=config.augment.size),
    }
