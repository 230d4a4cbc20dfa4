"""The checkpoint that the release of WeCLIP leaves, `WeCLIP_model_iter_30000.pth`, under the names of our decoder.

It is the state of the whole model: `decoder_fts_fuse` (MLPs and fusion), `decoder` (transformer and classifier), the
CLIP under `encoder`, and PAR's kernel.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskmill.data_contracts import LabelSpace
from maskmill.trainers.weclip.config import Config
from maskmill.trainers.weclip.model import Weclip, artifact_of
from maskmill.vision.weights import WeightsError, fitted

RULES = (
    (r"^decoder_fts_fuse\.linears_modulelist\.(\d+)\.proj\.", r"mlps.\1.0."),
    (r"^decoder_fts_fuse\.linears_modulelist\.(\d+)\.proj_2\.", r"mlps.\1.2."),
    (r"^decoder_fts_fuse\.linear_fuse\.", "fuse."),
    (r"^decoder\.transformer\.resblocks\.(\d+)\.attn\.", r"blocks.\1.attention."),
    (r"^decoder\.transformer\.resblocks\.(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
    (r"^decoder\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"blocks.\1.mlp.0."),
    (r"^decoder\.transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"blocks.\1.mlp.2."),
    (r"^decoder\.linear_pred\.", "head."),
)
SPARE = (r"encoder\.", r"par\.")
CLIP = "encoder.visual."
HALF = 2e-3  # relative error of weights that were stored in half precision


def own_name(key: str) -> str:
    """The decoder's name of a weight that the release calls `key`."""
    for pattern, name in RULES:
        if re.match(pattern, key):
            return re.sub(pattern, name, key)
    return key


def released_artifact(state: Mapping[str, Tensor], where: str, config: Config, space: LabelSpace) -> dict[str, Any]:
    """What an artifact holds, from the release's state: arguments of `save_artifact`.

    Raises:
        WeightsError: weights that are missing or of another shape (another number of classes, another tower), or a
            checkpoint whose frozen CLIP is not the one that `config` names.
    """
    model = Weclip(config, max(space.size, 2), torch.device("cpu"))
    _check_clip(state, where, model, config)
    model.decoder.load_state_dict(fitted(model.decoder.state_dict(), state, where, rename=own_name, spare=SPARE))
    return artifact_of(model, config, space)


def _check_clip(state: Mapping[str, Tensor], where: str, model: Weclip, config: Config) -> None:
    own = model.backbone.model.visual.state_dict()
    for key, value in state.items():
        name = key.removeprefix(CLIP)
        if key.startswith(CLIP) and name in own and not _same(value, own[name]):
            raise WeightsError(
                f"{where}: expected the frozen CLIP {config.model}/{config.pretrained}, found another {key}; name the "
                "CLIP that it was trained on: --set model=…, --set pretrained=FILE"
            )


def _same(value: Tensor, own: Tensor) -> bool:
    if value.shape != own.shape:
        return False
    return torch.allclose(value.float(), own.float(), rtol=HALF, atol=HALF * float(own.abs().max()))
