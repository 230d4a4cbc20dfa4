"""The affinity network: an encoder at stride 8, 1x1 convolutions over several of its levels, and one embedding a cell.

Source: A2GNN, arXiv 2106.04054. The released ResNet38 is replaced by any timm encoder; channel counts come from it.
With `nodes: levels` and without the head's norms, the rest is the released arithmetic.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import maskmill.vision.resnet38  # noqa: F401  (registers it with timm)
from maskmill.trainers.affinity.pairs import feature_distance, pairs_inside, to_window
from maskmill.vision.segmenters import build_encoder

Nodes = Literal["levels", "balanced"]
Cells = Literal["area", "released"]

STRIDE = 8
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
HIDDEN = 256  # of the class logits


@dataclass(frozen=True)
class ImageGraph:
    """One image as a graph of h x w cells of 8 x 8 pixels (the image padded right and below)."""

    nodes: Tensor  # float32 (C, h, w), non-negative: the encoder's levels, and the colours where they are balanced
    affinity: Tensor  # float32 (2r + 1)^2, h, w: a_ij in (0, 1] of the window, 0 outside the image
    prior: Tensor  # float32 (classes, h, w): class logits learnt from all images' seeds; classes 0 where none were

    @property
    def radius(self) -> int:
        return (int(len(self.affinity) ** 0.5) - 1) // 2

    @property
    def grid(self) -> tuple[int, int]:
        return int(self.nodes.shape[1]), int(self.nodes.shape[2])


class AffinityHead(nn.Module):
    """Levels (B, c_l, h, w) to an embedding (B, sum of widths, h, w) and class logits (B, classes, h, w).

    Embedding: each level goes through a 1x1 convolution and an ELU, their concatenation through another. Class logits:
    one hidden layer of `HIDDEN` over all levels, beside the embedding, so that neither bends the other.
    """

    def __init__(self, channels: tuple[int, ...], widths: tuple[int, ...], classes: int, *, norms: bool = True) -> None:
        """`norms`: each level goes through a batch norm first; the release has none."""
        super().__init__()
        if len(channels) != len(widths):
            raise ValueError(f"widths: expected {len(channels)} numbers, one a level, found {len(widths)}")
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) if norms else nn.Identity() for c in channels)
        reduce = [nn.Conv2d(c, width, 1, bias=False) for c, width in zip(channels, widths, strict=True)]
        self.reduce = nn.ModuleList(reduce)
        self.mix = nn.Conv2d(sum(widths), sum(widths), 1, bias=False)
        self.classify = nn.Sequential(
            nn.Dropout(0.2),
            nn.Conv2d(sum(channels), HIDDEN, 1),
            nn.ELU(),
            nn.Dropout(0.3),
            nn.Conv2d(HIDDEN, classes, 1),
        )
        for layer in reduce:
            nn.init.kaiming_normal_(layer.weight)
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        normed = [norm(x) for norm, x in zip(self.norms, levels, strict=True)]
        parts = [F.elu(reduce(x)) for reduce, x in zip(self.reduce, normed, strict=True)]
        return F.elu(self.mix(torch.cat(parts, dim=1))), self.classify(torch.cat(normed, dim=1))


class AffinityNet(nn.Module):
    """Encoder and head. The encoder's batch norms never train; `frozen` stops its weights as well."""

    def __init__(
        self,
        encoder: str,
        weights: str,
        widths: tuple[int, ...] | None,
        classes: int,
        *,
        frozen: bool,
        nodes: Nodes = "balanced",
        cells: Cells = "area",
        norms: bool = True,
        priors: bool = True,
    ) -> None:
        """`widths` None: any, for callers that want no more than the levels. `priors`: the class logits are learnt."""
        super().__init__()
        levels = _levels(encoder)
        self.encoder = build_encoder(encoder, weights, output_stride=STRIDE, out_indices=levels)
        info: Any = self.encoder.feature_info
        self.channels: tuple[int, ...] = tuple(info.channels())
        self.head = AffinityHead(self.channels, widths or (1,) * len(levels), classes, norms=norms)
        self.frozen, self.nodes, self.cells, self.priors = frozen, nodes, cells, priors
        self.encoder.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "AffinityNet":
        """As usual, but for the encoder's batch norms, which keep their statistics. Whole channels are still dropped
        where the encoder does so (ResNet38).
        """
        super().train(mode)
        self.encoder.eval()
        for part in self.encoder.modules():
            if isinstance(part, nn.Dropout2d):
                part.train(mode and not self.frozen)
        return self

    def encode(self, images: Tensor) -> list[Tensor]:
        """Levels (B, c_l, H/8, W/8), non-negative, of normalised images (B, 3, H, W); H and W multiples of 8."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return [F.relu(level) for level in self.encoder(images)]

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Levels, embedding and class logits."""
        levels = self.encode(images)
        embedding, logits = self.head(levels)
        return levels, embedding, logits

    def plain_nodes(self, images: Tensor, levels: list[Tensor]) -> Tensor:
        """Node features (B, C, h, w) that need no training: the levels as they are, or balanced and with the cells'
        colours.
        """
        if self.nodes == "levels":
            return torch.cat(levels, dim=1)
        grid = (int(levels[0].shape[2]), int(levels[0].shape[3]))
        return torch.cat([unit_level(level) for level in (*levels, colour_level(images, grid))], dim=1)

    def graphs(self, images: Tensor, radius: int) -> list[ImageGraph]:
        """One graph an image of normalised (B, 3, H, W); H and W multiples of 8."""
        levels, embedding, logits = self(images)
        nodes = self.plain_nodes(images, levels)
        inside = pairs_inside(torch.ones_like(embedding[:, 0], dtype=torch.bool), radius)
        affinity = to_window(torch.exp(-feature_distance(embedding, radius)) * inside, radius, 1.0)
        prior = logits if self.priors else logits[:, :0]
        return [ImageGraph(n, a, p) for n, a, p in zip(nodes, affinity, prior, strict=True)]


def freeze_as_released(encoder: nn.Module, name: str) -> None:
    """Keep what the release keeps: all that lies before the first level of stride 4 (there: the first convolution and
    the blocks of stride 2), and scale and shift of every norm.
    """
    early = _before_stride_4(name)
    for key, parameter in encoder.named_parameters():
        if key in early:
            parameter.requires_grad_(False)
    for part in encoder.modules():
        if isinstance(part, NORMS):
            part.requires_grad_(False)


def _before_stride_4(name: str) -> set[str]:
    """Names of the parameters that an encoder's levels of stride below 4 depend on."""
    import timm

    with torch.device("meta"):
        model: Any = timm.create_model(name, features_only=True)
        levels = model(torch.zeros(1, 3, 64, 64))
    for level, reduction in zip(levels, model.feature_info.reduction(), strict=True):
        if reduction < 4:
            level.sum().backward(retain_graph=True)
    return {key for key, parameter in model.named_parameters() if parameter.grad is not None}


def unit_level(level: Tensor) -> Tensor:
    """A level whose cells have mean length 1 over the image, however many channels: none drowns the others."""
    return level / level.square().sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True).sqrt().clamp(min=1e-6)


def colour_level(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean colour of each cell of normalised images (B, 3, H, W), split by sign to be non-negative: (B, 6, h, w)."""
    mean = F.interpolate(images, size=grid, mode="area")
    centred = mean - mean.mean(dim=(2, 3), keepdim=True)
    return torch.cat([F.relu(centred), F.relu(-centred)], dim=1)


def _levels(encoder: str) -> tuple[int, ...]:
    """Indices of the levels that lie at stride 8 once the encoder is dilated there.

    Raises:
        ValueError: the encoder has none.
    """
    import timm

    with torch.device("meta"):
        info: Any = timm.create_model(encoder, features_only=True).feature_info
    found = tuple(i for i, reduction in enumerate(info.reduction()) if reduction >= STRIDE)
    if not found:
        raise ValueError(f"encoder {encoder!r}: expected levels at stride 8 or more, found {info.reduction()}")
    return found
