"""Swin-Unet, network 2 of the release of ABD: a Swin transformer and its mirror image, joined level by level.

Source: H. Cao et al., "Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation", 2021; blocks are timm's.
Weights keep the names of the release, so that its files and Swin's own fit.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn

SWIN_UNET = "swin_unet"
PATCH = 4
SPARE = (r".*\.attn_mask$", r".*relative_position_index$")
PRETRAINED = "swin_tiny_patch4_window7_224.ms_in1k"  # timm's copy of Swin-T's ImageNet weights


class Expand(nn.Module):
    """Tokens (B, h, w, C), each spread over `factor` x `factor`: (B, factor h, factor w, C'), C' = `out`."""

    def __init__(self, width: int, factor: int, out: int) -> None:
        super().__init__()
        self.factor, self.out = factor, out
        self.expand = nn.Linear(width, factor * factor * out, bias=False)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        x = self.expand(x).view(batch, height, width, self.factor, self.factor, self.out)
        x = x.transpose(2, 3).reshape(batch, height * self.factor, width * self.factor, self.out)
        spread: Tensor = self.norm(x)
        return spread


class Stage(nn.Module):
    """Blocks of one resolution; windows are shifted in every second one. Then halved (`downsample`) or doubled."""

    def __init__(self, width: int, side: int, heads: int, window: int, drops: Sequence[float], then: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(
                width,
                (side, side),
                heads,
                window_size=window,
                shift_size=(number % 2) * (window // 2),
                drop_path=drop,
                dynamic_mask=True,  # other sizes than `side` are padded to whole windows
            )
            for number, drop in enumerate(drops)
        )
        self.downsample = PatchMerging(width) if then == "down" else None
        self.upsample = Expand(width, 2, width // 2) if then == "up" else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        for change in (self.downsample, self.upsample):
            x = x if change is None else change(x)
        return x


class Embed(nn.Module):
    """Images (B, 3, H, W) to tokens (B, H/4, W/4, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return tokens


class SwinUnet(nn.Module):
    """Images (B, 3, H, W), sides multiples of 32, to logits (B, classes, H, W). `size` is the side that windows are cut
    for; the defaults are Swin-T, the release's.
    """

    requires_divisible_input_shape = True
    output_stride = 32

    def __init__(
        self,
        classes: int,
        size: int = 224,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        last = len(depths) - 1
        widths, sides = [width * 2**i for i in range(last + 1)], [size // PATCH // 2**i for i in range(last + 1)]
        drops = iter(torch.linspace(0, drop_path, sum(depths)).tolist())
        rates = [[next(drops) for _ in range(depth)] for depth in depths]
        levels = list(zip(widths, sides, heads, rates, strict=True))
        self.patch_embed = Embed(width)
        self.layers = nn.ModuleList(
            Stage(w, s, h, window, rate, "down" if number < last else "none")
            for number, (w, s, h, rate) in enumerate(levels)
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.layers_up = nn.ModuleList([Expand(widths[-1], 2, widths[-1] // 2)])
        self.concat_back_dim = nn.ModuleList([nn.Identity()])
        for number, (w, s, h, rate) in reversed(list(enumerate(levels[:-1]))):
            self.layers_up.append(Stage(w, s, h, window, rate, "up" if number else "none"))
            self.concat_back_dim.append(nn.Linear(2 * w, w))
        self.norm_up = nn.LayerNorm(width)
        self.up = Expand(width, PATCH, width)
        self.output = nn.Conv2d(width, classes, 1, bias=False)
        self.apply(_initialised)

    @property
    def encoder(self) -> "SwinUnet":
        """Itself: where trainers look for strides."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        x, passed = self.patch_embed(images), []
        for stage in self.layers:
            passed.append(x)
            x = stage(x)
        x = self.layers_up[0](self.norm(x))
        for number, finer in enumerate(reversed(passed[:-1]), 1):
            x = self.layers_up[number](self.concat_back_dim[number](torch.cat([x, finer], dim=-1)))
        logits: Tensor = self.output(self.up(self.norm_up(x)).permute(0, 3, 1, 2))
        return logits


def _initialised(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def mirrored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Swin classifier's tensors by the names of `SwinUnet`: its own, and each stage's blocks a second time for the
    stage across. Names of timm, which counts the halving to the stage behind it, are those of Swin's authors then.
    """
    ours = {key: value for key, value in state.items() if not key.startswith("head")}
    if "layers.3.downsample.norm.weight" in ours:
        ours = {re.sub(r"^layers\.(\d)\.downsample", _before, key): value for key, value in ours.items()}
    stages = 1 + max((int(key.split(".")[1]) for key in ours if key.startswith("layers.")), default=0)
    for key in [key for key in ours if re.match(r"layers\.\d\.blocks\.", key)]:
        across = stages - 1 - int(key.split(".")[1])
        if across:
            ours[re.sub(r"^layers\.\d", f"layers_up.{across}", key)] = ours[key]
    return ours


def _before(found: re.Match[str]) -> str:
    return f"layers.{int(found[1]) - 1}.downsample"


def load_swin(network: SwinUnet, weights: str) -> None:
    """First weights: random, hub (timm's download of Swin-T's), or a file of Swin-T's, of timm's or of its authors'.
    What the classifier has not (joins, expansions, the output) stays random.

    Raises:
        WeightsError: a file that does not fit.
    """
    from maskmill.vision.weights import fitted, read_state

    if weights in ("random", "auto"):
        return
    if weights == "hub":
        import timm

        state = timm.create_model(PRETRAINED.partition(".")[0], pretrained=True).state_dict()
    else:
        state = read_state(weights)
    found = mirrored(state)
    wanted = {key: value for key, value in network.state_dict().items() if key in found or _of_swin(key)}
    network.load_state_dict(fitted(wanted, found, weights, spare=SPARE), strict=False)


def _of_swin(key: str) -> bool:
    """Whether a Swin classifier must bring this weight."""
    return key.startswith(("patch_embed.", "layers.", "norm.")) or ".blocks." in key
