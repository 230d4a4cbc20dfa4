"""The checkpoint that the release of SCWSSOD leaves, `model-36.pt`, under the names of our network.

It is the state of the whole network: ResNet-50 under `bkbone`, channel gates `caXY`, the top `sa55`, the aggregations
`famXY`, the refinements `srmX` and the heads `linearX`; X counts levels from 5, the deepest, to 2.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maskmill.data_contracts import LabelSpace
from maskmill.trainers.scwssod.config import Config
from maskmill.trainers.scwssod.model import SaliencyNet
from maskmill.trainers.scwssod.train import artifact_of, build, check
from maskmill.vision.weights import fitted

RULES = (
    (r"^bkbone\.", "encoder."),
    (r"^sa55\.conv0\.", "top.body.0."),
    (r"^sa55\.bn0\.", "top.body.1."),
    (r"^sa55\.conv2\.", "top.affine."),
    (r"^ca55\.", "top.context."),
    (r"^ca(\d)5\.", r"contexts.\1."),
    (r"^fam(\d)\d\.", r"aggregates.\1."),
    (r"^srm5\.", "top.refine."),
    (r"^srm(\d)\.", r"refines.\1."),
    (r"^linear(\d)\.", r"heads.\1."),
)
PARTS = {
    "context": {"conv0": "body.0", "bn0": "body.1", "conv1": "gate.1", "conv2": "gate.3"},
    "refine": {"conv1": "body.0", "bn1": "body.1", "conv2": "affine"},
    "aggregate": {
        **{"conv0": "low.0", "bn0": "low.1", "conv1": "high.0", "bn1": "high.1", "conv2": "context.0"},
        **{"bn2": "context.1", "conv_l": "from_low", "conv_d1": "from_high", "conv_d2": "from_context"},
        **{"conv_att1": "scores.0", "conv_att2": "scores.1", "conv_att3": "scores.2"},
        **{"conv3": "out.0", "bn3": "out.1"},
    },
}
FINEST = 2  # the release's number of the finest level, ours is 0


def own_name(key: str) -> str:
    """Our name of a weight that the release calls `key`."""
    for pattern, name in RULES:
        if re.match(pattern, key):
            return _inside(re.sub(pattern, name, key))
    return key


def _inside(name: str) -> str:
    if found := re.match(r"^(contexts|aggregates|refines|heads)\.(\d)\.(.+)$", name):
        name = f"{found[1]}.{int(found[2]) - FINEST}.{found[3]}"
    if found := re.match(r"^(.*(context|refine|aggregate)s?(?:\.\d)?)\.((?:conv|bn)\w+)\.(.+)$", name):
        return f"{found[1]}.{PARTS[found[2]].get(found[3], found[3])}.{found[4]}"
    return name


def released_artifact(state: Mapping[str, Tensor], where: str, config: Config, space: LabelSpace) -> dict[str, Any]:
    """What an artifact holds, from the release's state: arguments of `save_artifact`.

    Raises:
        WeightsError: weights that are missing, left over or of another shape: the settings of another preset.
        ValueError: a label space that is not one foreground over background.
    """
    check(space)
    model: SaliencyNet = build(config, "random")
    model.load_state_dict(fitted(model.state_dict(), state, where, rename=own_name))
    return artifact_of(model, config)
