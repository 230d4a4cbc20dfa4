"""The checkpoint that the release of DCFM leaves, `dcfm.pth`, under the names of our network.

It is the state of the whole network: VGG-16 with the layers of its classifier, which nothing uses, under `backbone`,
the group part under `fusion`, the enhancement under `aug`, and the decoder.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maskmill.data_contracts import LabelSpace
from maskmill.trainers.dcfm.config import Config
from maskmill.trainers.dcfm.consensus import consensus_of
from maskmill.trainers.dcfm.model import Dcfm
from maskmill.trainers.dcfm.train import artifact_of
from maskmill.vision.weights import fitted

VGG = {  # convolution of the release: its place in timm's list of VGG-16's layers
    **{"1_1": 0, "1_2": 2, "2_1": 5, "2_2": 7, "3_1": 10, "3_2": 12, "3_3": 14},
    **{"4_1": 17, "4_2": 19, "4_3": 21, "5_1": 24, "5_2": 26, "5_3": 28},
}
RULES = (
    (r"^fusion\.conv\.", "generation.residual."),
    (r"^fusion\.(query|key)_transform\.", r"generation.\1."),
    (r"^aug\.conv\.0\.", "enhancement.entry."),
    (r"^aug\.(query|key|value)_transform\.(\d)\.", r"enhancement.\1.\2."),
    (r"^decoder\.toplayer\.", "decoder.top."),
)
LEVELS = (  # of the decoder, numbered from 1 there and from 0 here; convolutions follow each other with norms between
    (r"^decoder\.latlayer(\d)\.convlayer\.(\d)\.", "laterals", (0, 2)),
    (r"^decoder\.enlayer(\d)\.enlayer\.(\d)\.", "merges", (0, 2)),
    (r"^decoder\.dslayer(\d)\.enlayer\.(\d)\.", "heads", (0, 2)),
    (r"^decoder\.dslayer(\d)\.predlayer\.(\d)\.", "heads", (None, None, 0)),
)
SPARE = (r"backbone\.classifier\.",)


def own_name(key: str) -> str:
    """Our name of a weight that the release calls `key`."""
    if found := re.match(r"^backbone\.conv\d\.conv(\d_\d)\.(.+)$", key):
        return f"encoder.features_{VGG[found[1]]}.{found[2]}" if found[1] in VGG else key
    for pattern, part, places in LEVELS:
        if found := re.match(pattern, key):
            return f"decoder.{part}.{int(found[1]) - 1}.{3 * places.index(int(found[2]))}.{key[found.end() :]}"
    for pattern, name in RULES:
        if re.match(pattern, key):
            return re.sub(pattern, name, key)
    return key


def released_artifact(state: Mapping[str, Tensor], where: str, config: Config, space: LabelSpace) -> dict[str, Any]:
    """What an artifact holds, from the release's state: arguments of `save_artifact`.

    Raises:
        WeightsError: weights that are missing, left over or of another shape: the settings of another preset.
    """
    model = Dcfm(config.model_copy(update={"encoder_weights": "random"}))
    model.load_state_dict(fitted(model.state_dict(), state, where, rename=own_name, spare=SPARE))
    return artifact_of(model, config, consensus_of(config))
