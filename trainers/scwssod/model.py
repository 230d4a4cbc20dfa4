"""The saliency network: four encoder levels, aggregation by learned gates (AGGM), refinement (SRM), four heads."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.trainers.engine import initialise, widened

Fusion = Literal["aggm", "mean", "cat"]
Gate = Literal["raw", "neutral", "softmax"]
SMALLEST = 1e-4  # AGGM's denominator is kept this far from 0, its sign kept


def conv_bn_relu(channels_in: int, channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2), nn.BatchNorm2d(channels), nn.ReLU()
    )


def enlarge(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size[-2:], mode="bilinear", align_corners=False)


class Context(nn.Module):
    """ReLU(BN(conv1x1(x))) times a channel gate sigmoid(conv1x1(ReLU(conv1x1(GAP(deep)))))."""

    def __init__(self, channels: int, deep: int, width: int) -> None:
        super().__init__()
        self.body = conv_bn_relu(channels, width, 1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(deep, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor, deep: Tensor) -> Tensor:
        out: Tensor = self.body(x) * self.gate(deep)
        return out


class Refine(nn.Module):
    """SRM: u = ReLU(BN(conv3x3(x))), [w, b] = conv3x3(u), out = ReLU(w u + b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = conv_bn_relu(width, width, 3)
        self.affine = nn.Conv2d(width, 2 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        u = self.body(x)
        weight, bias = self.affine(u).chunk(2, dim=1)
        return F.relu(weight * u + bias)


class Top(nn.Module):
    """The deepest level: ReLU(w l + b) with l = ReLU(BN(conv3x3(f5))) and [w, b] = conv3x3(f5), gated, refined."""

    def __init__(self, deep: int, width: int) -> None:
        super().__init__()
        self.body = conv_bn_relu(deep, width, 3)
        self.affine = nn.Conv2d(deep, 2 * width, 3, padding=1)
        self.context = Context(width, deep, width)
        self.refine = Refine(width)

    def forward(self, deep: Tensor) -> Tensor:
        weight, bias = self.affine(deep).chunk(2, dim=1)
        out: Tensor = self.refine(self.context(F.relu(weight * self.body(deep) + bias), deep))
        return out


class Aggregate(nn.Module):
    """AGGM: low-level, high-level and context features, gated by each other and averaged with learned weights.

    z1 = ReLU(conv(L) up(H)), z2 = ReLU(up(conv(H)) L), z3 = ReLU(up(conv(G)) L); a_k = GAP(conv3x3(z_k)), one scalar a
    sample; out = ReLU(BN(conv3x3((a1 z1 + a2 z2 + a3 z3) / (a1 + a2 + a3)))). The raw denominator may cross 0:
    `smallest` is the least |a1 + a2 + a3| of the last forward; with `floor` it is kept away from 0 (the release does
    not). `neutral` gates are raw ones that all begin at 1.

    `fusion` without gates: `mean` of the three, or `cat`, which puts them side by side into the last convolution
    (GCPANet, from which the release comes).
    """

    def __init__(self, low: int, width: int, fusion: Fusion, gate: Gate, *, floor: bool = True) -> None:
        super().__init__()
        self.fusion, self.gate, self.floor = fusion, gate, floor
        self.low, self.high, self.context = (conv_bn_relu(c, width, 3) for c in (low, width, width))
        self.from_low, self.from_high, self.from_context = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        scored = 3 if fusion == "aggm" else 0
        self.fan_in = 9 * width
        self.scores = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for _ in range(scored))
        self.out = conv_bn_relu(3 * width if fusion == "cat" else width, width, 3)
        self.smallest = torch.tensor(float("inf"))

    def forward(self, low: Tensor, high: Tensor, context: Tensor) -> Tensor:
        fine, coarse, whole = self.low(low), self.high(high), self.context(context)
        parts = [
            F.relu(self.from_low(fine) * enlarge(coarse, fine.shape)),
            F.relu(enlarge(self.from_high(coarse), fine.shape) * fine),
            F.relu(enlarge(self.from_context(whole), fine.shape) * fine),
        ]
        out: Tensor = self.out(self.fuse(parts))
        return out

    def fuse(self, parts: list[Tensor]) -> Tensor:
        """Weighted mean of z1, z2, z3 (N, C, h, w); without AGGM the plain mean, or all three as (N, 3 C, h, w)."""
        if self.fusion == "mean":
            return torch.stack(parts).mean(dim=0)
        if self.fusion == "cat":
            return torch.cat(parts, dim=1)
        scores = [widened(conv(part)).mean(dim=(1, 2, 3)) for conv, part in zip(self.scores, parts, strict=True)]
        return self.weigh(parts, torch.stack(scores))

    def weigh(self, parts: list[Tensor], scores: Tensor) -> Tensor:
        """The mean of the parts under scalars (3, N), unchanged when all scalars are multiplied by one number."""
        if self.gate == "softmax":
            shares = (scores / self.fan_in**0.5).softmax(dim=0)
        else:
            total = scores.sum(dim=0)
            self.smallest = total.detach().abs().min()
            least = torch.where(total < 0, -SMALLEST, SMALLEST)
            shares = scores / (torch.where(total.abs() < SMALLEST, least, total) if self.floor else total)
        mixed = sum(a[:, None, None, None] * widened(z) for a, z in zip(shares, parts, strict=True))
        return torch.as_tensor(mixed).to(parts[0].dtype)


class SaliencyNet(nn.Module):
    """Normalised images (N, 3, H, W) of any size to logits (N, 1, H, W) of heads 2, 3, 4 and 5; head 2 predicts."""

    def __init__(
        self, encoder: Any, width: int, fusion: Fusion = "aggm", gate: Gate = "raw", *, floor: bool = True
    ) -> None:
        super().__init__()
        self.encoder = encoder
        channels = encoder.feature_info.channels()
        if len(channels) != 4:
            raise ValueError(f"encoder: expected levels of stride 4, 8, 16 and 32, found {len(channels)} levels")
        deep = channels[3]
        self.top = Top(deep, width)
        self.contexts = nn.ModuleList(Context(deep, deep, width) for _ in range(3))
        self.aggregates = nn.ModuleList(Aggregate(c, width, fusion, gate, floor=floor) for c in channels[:3])
        self.refines = nn.ModuleList(Refine(width) for _ in range(3))
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for _ in range(4))
        initialise(self)
        if gate != "raw":
            for aggregate in self.aggregates:
                for score in aggregate.scores:  # type: ignore[union-attr]
                    nn.init.zeros_(score.weight)  # begin as the plain mean
                    if gate == "neutral":
                        nn.init.ones_(score.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        *lows, deep = self.encoder(images)
        found = [self.top(deep)]
        for level in (2, 1, 0):  # levels 4, 3, 2
            context = self.contexts[level](deep, deep)
            found.append(self.refines[level](self.aggregates[level](lows[level], found[-1], context)))
        return [enlarge(head(x), images.shape) for head, x in zip(self.heads, reversed(found), strict=True)]

    @property
    def smallest_denominator(self) -> Tensor:
        """The least |a1 + a2 + a3| of the last forward, over levels and samples."""
        return torch.stack([m.smallest for m in self.aggregates if isinstance(m, Aggregate)]).min()


class BinaryLogits(nn.Module):
    """Two class logits (N, 2, H, W) whose softmax is head 2's sigmoid."""

    def __init__(self, net: SaliencyNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)[0]
        return torch.cat([torch.zeros_like(logits), logits], dim=1)
