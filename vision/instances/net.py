"""A small one-stage instance segmenter: prototypes and coefficients over a timm encoder, without classes.

Source of the design: "YOLACT: Real-time Instance Segmentation", ICCV 2019 (a mask is a sum of prototypes, weighted by
the coefficients of one cell and cut by its box). Here one head on stride 16 stands for all sizes, because a search
region brings its targets to about one size; the score is trained to be the IoU of the mask, not a class probability.
"""

from dataclasses import dataclass
from math import log

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.vision.segmenters import PACKAGED_ENCODER, build_encoder

CELL = 16  # pixels of a cell
GRAIN = 4  # pixels of a prototype pixel
SPREAD = 2.0  # distance to a box side, in cells, that an untrained head predicts


class ProposalConfig(BaseModel):
    """Which network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str = Field(default=PACKAGED_ENCODER, description="timm encoder")
    weights: str = Field(
        default="auto",
        description="first weights of the encoder: auto (those of the package, else random), random, hub, or a "
        "safetensors file",
    )
    width: int = Field(default=64, ge=8, description="channels of the network")
    prototypes: int = Field(default=16, ge=1, description="mask prototypes that candidates are mixed from")
    descriptor: int = Field(default=64, ge=2, description="length of descriptors and embeddings")


@dataclass(frozen=True)
class Proposals:
    """One candidate a cell. With h = H / 16 and w = W / 16 cells:"""

    scores: Tensor  # (B, h, w) logits of the mask's IoU
    reach: Tensor  # (B, 4, h, w) pixels from the cell's centre to left, top, right, bottom
    coefficients: Tensor  # (B, K, h, w)
    prototypes: Tensor  # (B, K, H / 4, W / 4)
    features: Tensor  # (B, D, h, w) to be averaged over an object's pixels

    def masks(self) -> Tensor:
        """Mask logits of every cell, (B, h * w, H / 4, W / 4); not yet cut by boxes."""
        cells = self.coefficients.flatten(2).transpose(1, 2)
        height, width = self.prototypes.shape[-2:]
        return (cells @ self.prototypes.flatten(2)).reshape(len(cells), -1, height, width)

    def boxes(self) -> Tensor:
        """Boxes (B, h * w, 4) as x0, y0, x1, y1 in pixels of the input."""
        centres = cell_centres(self.scores.shape[-2], self.scores.shape[-1], self.reach.device)
        reach = self.reach.flatten(2).transpose(1, 2)
        return torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], dim=-1)


def cell_centres(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """(x, y) of every cell in pixels, float32 (rows * columns, 2), row by row."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1).float() * CELL + CELL / 2


class ProposalNet(nn.Module):
    """Normalised images float32 (B, 3, H, W), H and W multiples of 32, to `Proposals`."""

    def __init__(self, config: ProposalConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder, config.weights)
        info = self.encoder.feature_info
        levels = {int(r): i for i, r in enumerate(info.reduction())}  # type: ignore[operator, union-attr]
        channels = [int(c) for c in info.channels()]  # type: ignore[operator, union-attr]
        if not {4, 8, 16, 32} <= levels.keys():
            raise ValueError(f"encoder {config.encoder}: expected strides 4, 8, 16 and 32, found {sorted(levels)}")
        self._levels = [levels[stride] for stride in (4, 8, 16, 32)]
        width, fine = config.width, max(config.width // 2, 8)
        self.lateral = nn.ModuleList(
            nn.Conv2d(channels[level], out, 1)
            for level, out in zip(self._levels, (fine, fine, width, width), strict=True)
        )
        self.narrow = nn.Conv2d(width, fine, 1)
        self.head = nn.Sequential(_block(width, width), _block(width, width))
        self.prototype = nn.Sequential(_block(fine, fine), _block(fine, fine), nn.Conv2d(fine, config.prototypes, 1))
        self.score = nn.Conv2d(width, 1, 1)
        self.reach = nn.Conv2d(width, 4, 1)
        self.coefficient = nn.Conv2d(width, config.prototypes, 1)
        self.descriptor = nn.Conv2d(channels[self._levels[1]] + channels[self._levels[2]], config.descriptor, 1)
        self._start()

    def _start(self) -> None:
        """Begin as a plain foreground segmenter: every cell takes prototype 0, on a box of usual size, at low score."""
        for layer in (self.score, self.reach, self.coefficient):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.score.bias.fill_(-3.0)  # type: ignore[union-attr]
            self.reach.bias.fill_(log(SPREAD))  # type: ignore[union-attr]
            self.coefficient.bias[0] = 1.0  # type: ignore[index]

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Encoder maps of strides 4, 8, 16 and 32."""
        maps = self.encoder(images)
        return [maps[level] for level in self._levels]

    def forward(self, images: Tensor) -> Proposals:
        maps = self.pyramid(images)
        c4, c8, c16, c32 = (layer(m) for layer, m in zip(self.lateral, maps, strict=True))
        p16 = c16 + F.interpolate(c32, c16.shape[-2:], mode="nearest")
        cells = self.head(p16)
        p8 = c8 + F.interpolate(self.narrow(p16), c8.shape[-2:], mode="bilinear", align_corners=False)
        p4 = c4 + F.interpolate(p8, c4.shape[-2:], mode="bilinear", align_corners=False)
        return Proposals(
            scores=self.score(cells)[:, 0],
            reach=self.reach(cells).clamp(max=5).exp() * CELL,
            coefficients=self.coefficient(cells),
            prototypes=self.prototype(p4),
            features=self.describe(maps),
        )

    def describe(self, maps: list[Tensor]) -> Tensor:
        """Descriptor map (B, D, h, w) from the encoder's strides 8 and 16."""
        coarse = shrink(maps[1], maps[2])
        described: Tensor = self.descriptor(torch.cat([coarse, maps[2]], dim=1))
        return described


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True))


def shrink(maps: Tensor, like: Tensor) -> Tensor:
    """Mean-pooled to the height and width of `like`."""
    return F.adaptive_avg_pool2d(maps, (like.shape[-2], like.shape[-1]))


def pool(features: Tensor, weights: Tensor) -> Tensor:
    """Unit vectors (n, D): features (D, h, w) averaged under each of the weights (n, h, w)."""
    flat = weights.flatten(1)
    mean = flat @ features.flatten(1).T.to(flat.dtype) / flat.sum(1, keepdim=True).clamp(min=1e-6)
    return F.normalize(mean, dim=1)
