"""The checkpoint that the release of SCL on PFENet leaves, under the names of our network.

It is the state of the whole model: reductions, merges, classifiers, and the frozen backbone under `layer0` to
`layer4`: ImageNet's, with running statistics that drifted in training. With `encoder_norms: stored` the backbone is
left aside, and `encoder_weights` take its place.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from maskmill.data_contracts import LabelSpace
from maskmill.trainers.engine import PredictConfig
from maskmill.trainers.few_shot.config import Config
from maskmill.trainers.few_shot.learner.released import own_name as learner_name
from maskmill.trainers.few_shot.model import FewShotNet
from maskmill.vision.segmenters import encoder_normalisation
from maskmill.vision.weights import fitted

RULES = (
    (r"^down_supp\.", "down_support."),
    (r"^supp_init_merge\.", "decoder.support_merge."),
    (r"^init_merge\.", "decoder.query_merge."),
    (r"^alpha_conv\.", "decoder.inter_scale."),
    (r"^beta_conv\.(\d+)\.0\.", r"decoder.blocks.\1.0.0."),
    (r"^beta_conv\.(\d+)\.2\.", r"decoder.blocks.\1.1.0."),
    (r"^inner_cls\.", "decoder.inner."),
    (r"^res1\.", "decoder.gather."),
    (r"^res2\.0\.", "decoder.last.0.0."),
    (r"^res2\.2\.", "decoder.last.1.0."),
    (r"^cls\.", "decoder.head."),
)
SPARE = (r"layer[0-4]\.",)
DEEP, FIRST = 1024, ("down_query.0.weight", "down_support.0.weight")


def own_name(key: str) -> str:
    """The network's name of a weight that the release calls `key`, alone or in a wrapper for several GPUs."""
    key = key.removeprefix("module.")
    for pattern, name in RULES:
        if re.match(pattern, key):
            return re.sub(pattern, name, key)
    return key


def stage_name(key: str) -> str:
    """The encoder's name of a weight of the release's backbone, which is the base learner's."""
    return (
        learner_name(key).removeprefix("encoder.") if re.match(SPARE[0], key.removeprefix("module.")) else f"net.{key}"
    )


def released_artifact(state: Mapping[str, Tensor], where: str, config: Config, space: LabelSpace) -> dict[str, Any]:
    """What an artifact holds, from the release's state: arguments of `save_artifact`.

    The release puts the deeper features first, ours the finer ones: the reductions' input channels change places.

    Raises:
        ValueError: a config that is not SCL on PFENet. WeightsError: weights that are missing or of another shape.
    """
    if not config.scl or config.base != "pfenet":
        raise ValueError(f"{where}: only checkpoints of SCL on PFENet can be read: --set preset=scl")
    from maskmill.trainers.few_shot.encoder import encoder_of
    from maskmill.trainers.few_shot.train import stamps

    encoder, widths = encoder_of(config, "cpu")
    channels = sum(widths[-3:-1])
    modules: dict[str, nn.Module] = {}
    if config.encoder_norms == "batch":
        modules["encoder"] = copy.deepcopy(encoder)
        theirs = fitted(encoder.state_dict(), state, where, rename=stage_name, spare=(r"net\.",))
        modules["encoder"].load_state_dict(theirs, strict=False)  # counters of batches may be missing
    net = FewShotNet(config, channels, config.prior_channels)
    found = fitted(net.state_dict(), state, where, rename=own_name, spare=SPARE)
    for name in FIRST:
        found[name] = found[name].roll(channels - DEEP, dims=1)
    net.load_state_dict(found)
    mean, std = encoder_normalisation(config.encoder)
    return {
        "modules": {"net": net, **modules},
        "model": {"channels": channels, "priors": config.prior_channels, "stamps": list(stamps(config))},
        "mean": mean,
        "std": std,
        "predict": PredictConfig(fit="squash", size=config.size),
    }
