"""What a group shares, without training: votes among the features of a frozen recogniser at full resolution.

Ours. A saliency network says that something is salient, cell by cell and image by image; whether the same thing is in
the other images is a question for features that know classes, at a size at which they are a map. No weight is learnt.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.trainers.dcfm.config import Config
from maskmill.trainers.dcfm.prototypes import RANGE_EPS, agreement, match_votes
from maskmill.vision.refine import par
from maskmill.vision.refine.par import POSITION_WEIGHT
from maskmill.vision.segmenters import build_encoder


class Consensus(nn.Module):
    """A frozen encoder whose `layers` are compared on the grid of the second of them (of the only one).

    `encode` gives features of images, `votes` what the group makes of them. Each layer's features are scaled to unit
    length cell by cell, laid side by side, and the group's mean is taken off: what all cells have in common says
    nothing.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.weight, self.threshold = config.consensus_weight, config.consensus_threshold
        self.level, self.edges = config.consensus_level, config.consensus_edges
        self.size, self.layers = config.consensus_size, config.consensus_layers
        encoder = build_encoder(config.encoder, config.encoder_weights, out_indices=config.feature_levels)
        self.encoder = encoder.requires_grad_(False)
        self._found: dict[str, Tensor] = {}
        for name in self.layers:
            self._module(name).register_forward_hook(self._keeper(name))
        self.eval()

    def _module(self, name: str) -> nn.Module:
        try:
            return self.encoder.get_submodule(name)
        except AttributeError:
            known = ", ".join(dict.fromkeys(".".join(n.split(".")[:2]) for n, _ in self.encoder.named_parameters()))
            raise ValueError(f"consensus_layers: expected names among {known}, found {name!r}") from None

    def _keeper(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._found[name] = output

        return keep

    def train(self, mode: bool = True) -> "Consensus":
        """Always in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Features (N, C, h, w) of normalised images (N, 3, H, W)."""
        self.encoder(images)
        found = [self._found[name].float() for name in self.layers]
        self._found.clear()
        middle = found[min(1, len(found) - 1)]
        grid = middle.shape[2], middle.shape[3]
        return torch.cat([F.normalize(_on(one, grid), dim=1) for one in found], dim=1)

    @torch.no_grad()
    def votes(self, features: Tensor, saliency: Tensor) -> tuple[Tensor, Tensor]:
        """Votes (N, 1, h, w) of one group, of mean 0 and deviation 1 in each image, and each image's agreement (N,).

        `features` from `encode`; `saliency` (N, 1, H, W) in [0, 1] has no say in the votes (what is salient is in the
        logits already), only in what stands for an image when it is asked how well it agrees. In a group of one the
        votes are 0 and the agreement is 1.
        """
        count, grid = len(features), (features.shape[2], features.shape[3])
        mates = torch.ones(count, count, dtype=torch.bool, device=features.device)
        unit = F.normalize(features - features.mean(dim=(0, 2, 3), keepdim=True), dim=1)
        votes = match_votes(unit, unit.new_zeros(count, grid[0] * grid[1]), mates)
        votes = votes - votes.mean(dim=1, keepdim=True)
        votes = votes / votes.square().mean(dim=1, keepdim=True).sqrt().clamp_min(RANGE_EPS)
        weights = F.adaptive_avg_pool2d(saliency, grid).flatten(1) * votes.sigmoid()
        seeds = torch.einsum("ncp,np->nc", unit.flatten(2), weights)
        return votes.reshape(count, 1, *grid), agreement(seeds, mates)

    def shared(self, logits: Tensor, votes: Tensor, images: Tensor) -> Tensor:
        """Logits (N, 1, H, W) of sigmoid(logits) times what `favour` makes of the votes: salient, and shared.

        `logits` and `votes` on any grids; `images` (N, 3, H, W), of any scale, are what votes and map are aligned to.
        """
        size = images.shape[2:]
        logits, votes = (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (logits, votes))
        both = F.logsigmoid(logits) + self.favour(aligned(votes, images, self.edges[0]), logits.sigmoid())
        if self.edges[1]:
            both = aligned(both.exp(), images, self.edges[1]).clamp_min(1e-30).log()
        return both - torch.log(-torch.expm1(both.clamp_max(-1e-6)))

    def favour(self, votes: Tensor, saliency: Tensor) -> Tensor:
        """Logarithm of the factor (N, 1, H, W) by which votes lower a map: sigmoid(weight (votes - threshold)), over
        its value at the quantile `level` of what is salient in the image, and at most 1.
        """
        factor = F.logsigmoid(self.weight * (votes - self.threshold))
        if self.level is None:
            return factor
        kept = [quantile(own, mass, self.level) for own, mass in zip(factor, saliency, strict=True)]
        return (factor - torch.stack(kept).view(-1, 1, 1, 1)).clamp_max(0)


def quantile(values: Tensor, mass: Tensor, level: float) -> Tensor:
    """The smallest of the values up to which a share `level` of all mass lies; both of one shape."""
    order = values.flatten().argsort()
    reached = mass.flatten()[order].cumsum(0)
    place = torch.searchsorted(reached, level * reached[-1]).clamp_max(len(order) - 1)
    return values.flatten()[order[place]]


def aligned(maps: Tensor, images: Tensor, rounds: int) -> Tensor:
    """Maps (N, 1, H, W) after so many rounds of PAR on images (N, 3, H, W), on their own scale again. One image at a
    time: its 48 neighbours' weights are many.
    """
    if not rounds:
        return maps
    spread = [par(image[None], own[None], iterations=rounds) for image, own in zip(images, maps, strict=True)]
    return torch.cat(spread) / (1 + POSITION_WEIGHT) ** rounds


def _on(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features on a grid: means where it is coarser, bilinear where it is finer."""
    if features.shape[2] > grid[0]:
        return F.adaptive_avg_pool2d(features, grid)
    if features.shape[2:] == torch.Size(grid):
        return features
    return F.interpolate(features, grid, mode="bilinear", align_corners=False)


def consensus_of(config: Config) -> Consensus | None:
    """The consensus that the settings ask for."""
    return Consensus(config) if config.consensus_weight else None
