"""Democratic prototype generation and self-contrastive learning.

Source: S. Yu, J. Xiao, B. Zhang, E. Lim, "Democracy Does Matter: Comprehensive Feature Mining for Co-Salient Object
Detection" (DCFM), CVPR 2022. Several groups go through at once: `mates` bool (N, N) says which images share a group.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Seeds = Literal["fixed", "identity", "trained", "matches"]
CHUNK_NUMBERS = 2**24  # numbers in one piece of the affinity: 64 MB of fp32
CONTRAST_EPS = 1e-5
VOTE_GAIN = 50.0  # votes of one image differ by hundredths
VOTE_BONUS = 0.5  # how much of a cosine a salient match is worth
RANGE_EPS = 1e-12


@dataclass(frozen=True, eq=False)
class Mined:
    """What a group yields. `features` (N, C, h, w); `response` (N, 1, h, w) in [0, 1]; `prototype` (N, C), the same
    for all images of a group; `seeds` (N, C).
    """

    features: Tensor
    response: Tensor
    prototype: Tensor
    seeds: Tensor


class PrototypeGeneration(nn.Module):
    """DPG: each image picks a seed by looking at all of its group, every seed votes on every position with equal
    weight, and the vote's prototype modulates the features.

    `seeds`: `fixed` = the release, whose query and key layers get no gradient and stay as they were initialised;
    `identity` = the same pick by plain cosine similarity; `trained` = a soft pick through which gradients flow;
    `matches` = no seed votes, but every other image, by its best match for each position (see `match_votes`); a linear
    saliency head says which matches count, and is all that a group of one has.
    `clip`: the release cuts negative cosines off in evaluation mode only; `always` does so in training too.
    """

    def __init__(self, channels: int, seeds: Seeds = "fixed", clip: Literal["eval", "always"] = "eval") -> None:
        super().__init__()
        self.seeds, self.clip = seeds, clip
        self.residual = nn.Conv2d(channels, channels, 1)
        if seeds in ("fixed", "trained"):
            self.query = nn.Conv2d(channels, channels, 1)
            self.key = nn.Conv2d(channels, channels, 1)
        if seeds == "trained":
            self.sharpness = nn.Parameter(torch.tensor(math.log(20.0)))
        if seeds == "matches":
            self.saliency = nn.Conv2d(channels, 1, 1)
            self.vote_weights = nn.Parameter(torch.tensor([1.0, -0.2]))  # for the object, for the rest

    def forward(self, x5: Tensor, mates: Tensor, matched: Tensor | None = None) -> Mined:
        """Mine `x5` (N, C, h, w). `matched` (N, D, h, w): what `matches` compares instead of x5."""
        x = x5 + self.residual(x5)
        unit = F.normalize(x if matched is None else matched, dim=1)
        if self.seeds == "matches":
            response = self._matched_response(x, unit, mates)
            weight = response.flatten(2) / response.sum(dim=(2, 3)).clamp_min(RANGE_EPS)[..., None]
            seeds = F.normalize((unit.flatten(2) * weight).sum(dim=2), dim=1)
        else:
            if self.seeds == "trained":
                seeds = self._soft_seeds(x, unit, mates)
            else:
                seeds = pick_seeds(unit, self._hard_scores(x, unit, mates))
            response = vote(unit, seeds, mates, clip=self.clip == "always" or not self.training)
        weighted = x * response
        prototype = group_mean(weighted.mean(dim=(2, 3)), mates)
        return Mined(x * prototype[:, :, None, None] + weighted, response, prototype, seeds)

    @torch.no_grad()
    def _hard_scores(self, x: Tensor, unit: Tensor, mates: Tensor) -> Tensor:
        query, key = (self.query(x), self.key(x)) if self.seeds == "fixed" else (unit, unit)
        return seed_scores(query, key, mates)

    def _matched_response(self, x: Tensor, unit: Tensor, mates: Tensor) -> Tensor:
        """Saliency of each position, raised by votes for the object and lowered by votes for the rest."""
        logits: Tensor = self.saliency(x)
        salient = torch.sigmoid(logits).flatten(1)
        for weight, bonus in zip(VOTE_GAIN * self.vote_weights, (salient, 1 - salient), strict=True):
            votes = match_votes(unit, bonus, mates)
            logits = logits + weight * (votes - votes.mean(dim=1, keepdim=True)).reshape(logits.shape)
        return torch.sigmoid(logits)

    def _soft_seeds(self, x: Tensor, unit: Tensor, mates: Tensor) -> Tensor:
        """Unit seeds (N, C): the mean of all positions by the softmax of their scores; gradients flow."""
        query, key = F.normalize(self.query(x), dim=1), F.normalize(self.key(x), dim=1)
        scores = seed_scores(query, key, mates) * math.sqrt(x.shape[1])
        weights = torch.softmax(scores * self.sharpness.exp(), dim=1)
        return F.normalize(torch.einsum("ncp,np->nc", unit.flatten(2), weights), dim=1)


def group_mean(values: Tensor, mates: Tensor) -> Tensor:
    """Mean of `values` (N, ...) over each image's group."""
    weights = mates.to(values.dtype)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return torch.einsum("nm,m...->n...", weights, values)


def best_matches(query: Tensor, key: Tensor, chunk: int | None = None, bonus: Tensor | None = None) -> Tensor:
    """Best product (N, n, N) of each position of `query` with any position of each image of `key`, both (N, C, h, w);
    `bonus` (N, n) is added for the matched position.

    Works through `chunk` target images at a time, so that memory grows with N instead of N squared.
    """
    images, channels = query.shape[:2]
    q = query.flatten(2).transpose(1, 2).reshape(-1, channels)
    k = key.flatten(2)
    positions = k.shape[2]
    chunk = chunk or max(1, CHUNK_NUMBERS // (images * positions * positions))
    best = []
    for start in range(0, images, chunk):
        part = k[start : start + chunk].permute(1, 0, 2).reshape(channels, -1)
        products = (q @ part).reshape(images, positions, -1, positions)
        if bonus is not None:
            products = products + bonus[start : start + chunk]
        best.append(products.amax(dim=3))
    return torch.cat(best, dim=2)


def seed_scores(query: Tensor, key: Tensor, mates: Tensor, chunk: int | None = None) -> Tensor:
    """Score (N, n) of each position of `query`, `key` (N, C, h, w): the best match in each image of its group (its own
    included), averaged over these images.
    """
    weights = mates.to(query.dtype)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return torch.einsum("npm,nm->np", best_matches(query, key, chunk) / math.sqrt(query.shape[1]), weights)


def match_votes(unit: Tensor, bonus: Tensor, mates: Tensor, chunk: int | None = None) -> Tensor:
    """Votes (N, n) for each position of `unit` (N, C, h, w): the best match (cosine + VOTE_BONUS x `bonus` (N, n) of
    the matched position) in each other image of its group, averaged over these images; 0 in a group of one.
    """
    others = mates & ~torch.eye(len(mates), dtype=torch.bool, device=mates.device)
    weights = others.to(unit.dtype) / others.sum(dim=1, keepdim=True).clamp_min(1)
    return torch.einsum("npm,nm->np", best_matches(unit, unit, chunk, VOTE_BONUS * bonus), weights)


def pick_seeds(unit: Tensor, scores: Tensor) -> Tensor:
    """Seeds (N, C): the features `unit` (N, C, h, w) of unit length at each image's highest score (N, n); tied
    positions are added up.
    """
    chosen = (scores == scores.amax(dim=1, keepdim=True)).to(unit.dtype)
    return torch.einsum("ncp,np->nc", unit.flatten(2), chosen)


def vote(unit: Tensor, seeds: Tensor, mates: Tensor, *, clip: bool) -> Tensor:
    """Response map (N, 1, h, w) in [0, 1]: the mean cosine with all seeds of the group, stretched by min and max."""
    cosines = torch.einsum("ncp,mc->nmp", unit.flatten(2), seeds)
    cosines = cosines.clamp_min(0) if clip else cosines
    weights = mates.to(unit.dtype)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return stretch(torch.einsum("nmp,nm->np", cosines, weights), unit.shape[2:])


def stretch(values: Tensor, grid: torch.Size) -> Tensor:
    """Values (N, n) as maps (N, 1, h, w), each from 0 at its minimum to 1 at its maximum."""
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    return ((values - low) / (high - low + RANGE_EPS)).reshape(len(values), 1, *grid)


def agreement(seeds: Tensor, mates: Tensor) -> Tensor:
    """Mean cosine (N,) of each image's seed with the seeds of the other images; 1 for a group of one image."""
    others = mates & ~torch.eye(len(mates), dtype=torch.bool, device=mates.device)
    unit = F.normalize(seeds, dim=1)
    cosines = (unit @ unit.T * others).sum(dim=1)
    count = others.sum(dim=1)
    return torch.where(count > 0, cosines / count.clamp_min(1), torch.ones_like(cosines))


def self_contrast(prototype: Tensor, inside: Tensor, outside: Tensor, mates: Tensor) -> Tensor:
    """SCL: -log(d(p, p+) + eps) - log(1 - d(p, p-) + eps) with d = (1 + cosine) / 2, averaged over groups; cosine is
    a b / (|a| |b| + eps), as in the release.

    `prototype`, `inside`, `outside` (N, C): prototypes of the whole features, of those on the object, and of the rest.
    """
    near, far = ((1 + _cosine(prototype, other)) / 2 for other in (inside, outside))
    losses = -torch.log(near + CONTRAST_EPS) - torch.log(1 - far + CONTRAST_EPS)
    return mean_over_groups(losses, mates)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    lengths: Tensor = a.norm(dim=1) * b.norm(dim=1)
    return (a * b).sum(dim=1) / (lengths + CONTRAST_EPS)


def mean_over_groups(values: Tensor, mates: Tensor) -> Tensor:
    """Mean over groups of the mean over their images."""
    weights = 1 / mates.sum(dim=1).to(values.dtype)
    return (values * weights).sum() / weights.sum()
