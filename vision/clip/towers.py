"""The image tower of the starter CLIP: a dilated EfficientNet-Lite0 trunk under a few transformer blocks.

Importing this module registers the tower with timm, after which `open_clip` builds it like any other timm tower:

    import maskmill.vision.clip.towers  # registers "vit_hybrid_lite0_16" model, _, preprocess =
    open_clip.create_model_and_transforms("local-dir:starter/clip")

The tower is a timm `VisionTransformer` with standard attribute names (`patch_embed`, `blocks[i].norm1`, `.attn.qkv`,
`.attn.proj`, `.ls1`, `.norm2`, `.mlp`, `.ls2`), no class token, no final norm and average pooling: the image embedding
is a linear function of the mean patch token, and every patch token can be compared with a text embedding directly.
Stride 16, any input whose sides are multiples of 16.

Trunk: Tan and Le, "EfficientNet", ICML 2019, in its "lite" variant (ReLU6, no squeeze-and-excitation), whose last
stage is dilated instead of strided (Chen et al., "DeepLab", 2017).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import timm
import torch
from timm.layers.hybrid_embed import HybridEmbed
from timm.models import VisionTransformer, generate_default_cfgs, register_model
from torch import Tensor, nn

from maskmill.vision.clip.folding import Frozen

TOWER_NAME = "vit_hybrid_lite0_16"
STRIDE = 16
WIDTH = 320
DEPTH = 4
HEADS = 5
MLP_RATIO = 0.5

#: Channels that the trunk hands to the token projection.
HEAD_CHANNELS = 1280
MIDDLE_CHANNELS = 112
#: Angular frequencies of the position channels, in radians per half image side.
POSITION_FREQUENCIES = (0.5 * math.pi, math.pi, 2.0 * math.pi)
POSITION_CHANNELS = 4 * len(POSITION_FREQUENCIES)
TRUNK_CHANNELS = HEAD_CHANNELS + MIDDLE_CHANNELS + POSITION_CHANNELS
#: The stage (index in timm's `blocks`) whose output is the last before dilation begins.
MIDDLE_STAGE = 4


class LiteTrunk(nn.Module):
    """EfficientNet-Lite0 at output stride 16 that keeps its head's and its middle features.

    `forward`: float (B, 3, H, W) in [-1, 1] → (B, 1280 + 112 + 12, H/16, W/16): the classifier's features before
    pooling, the last features before dilation, and the cosines and sines of the token's place in the image.
    Batch norms always use their stored statistics, whatever mode the tower is in: a few photos must not move them.
    While no weight learns they are folded into the convolutions.
    """

    num_features = TRUNK_CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model("tf_efficientnet_lite0", pretrained=False, output_stride=STRIDE, num_classes=0)
        self.frozen = Frozen()
        self.eval()

    def train(self, mode: bool = True) -> LiteTrunk:
        super().train(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        net = cast(Any, self.frozen.of(self.net))
        x = net.bn1(net.conv_stem(x.to(memory_format=torch.channels_last) if net is not self.net else x))
        middle = x
        for stage, block in enumerate(net.blocks):
            x = block(x)
            if stage == MIDDLE_STAGE:
                middle = x
        head = net.bn2(net.conv_head(x))
        place = position_channels(head.shape[-2], head.shape[-1], head).expand(len(head), -1, -1, -1)
        return torch.cat([head, middle, place], dim=1)


def position_channels(height: int, width: int, like: Tensor) -> Tensor:
    """Cosines and sines of the token centres, which run from -1 to 1 on both axes: (1, 12, height, width).

    The dot product of two tokens' channels depends on their distance only, so attention can favour near tokens at any
    input size without a position embedding.
    """

    def waves(n: int) -> Tensor:
        centre = (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) * (2.0 / n) - 1.0
        return torch.stack([f(w * centre) for w in POSITION_FREQUENCIES for f in (torch.cos, torch.sin)])

    rows = waves(height)[:, :, None].expand(-1, -1, width)
    columns = waves(width)[:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns])[None]


default_cfgs = generate_default_cfgs(
    {
        TOWER_NAME: {
            "input_size": (3, 224, 224),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "first_conv": "patch_embed.backbone.net.conv_stem",
            "classifier": "head",
        }
    }
)


@register_model
def vit_hybrid_lite0_16(
    pretrained: bool = False,
    num_classes: int = 0,
    global_pool: str = "avg",
    img_size: int = 224,
    drop_path_rate: float = 0.0,
    patch_drop_rate: float = 0.0,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: str | None = None,
) -> VisionTransformer:
    """Build the tower with random weights; open_clip fills them in from its checkpoint.

    Raises:
        ValueError: if `pretrained` is set; the weights exist only as part of the starter CLIP.
    """
    if pretrained:
        raise ValueError(f"{TOWER_NAME} has no weights of its own: load the starter CLIP folder through open_clip")
    grid = img_size // STRIDE
    embed = partial(HybridEmbed, backbone=LiteTrunk(), feature_size=grid, feature_ratio=STRIDE)
    tower = VisionTransformer(
        img_size=img_size,
        patch_size=1,
        num_classes=num_classes,
        global_pool=cast(Any, global_pool),
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=MLP_RATIO,
        init_values=1e-2,
        class_token=False,
        pos_embed="none",
        final_norm=False,
        fc_norm=False,
        dynamic_img_size=True,
        drop_path_rate=drop_path_rate,
        patch_drop_rate=patch_drop_rate,
        embed_layer=embed,
    )
    tower.pretrained_cfg = tower.default_cfg = default_cfgs[TOWER_NAME].default.to_dict()
    return tower
