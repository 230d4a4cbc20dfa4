"""The space that photos and words share: 160 directions of the classifier's features, and a unit row for each class.

A linear classifier scores photo features f with w_c . f + b_c; CLIP scores with the cosine of two embeddings. The space
brings one to the other: f is centred on the mean photo, projected by V (160 x 1280) and joined by a constant
`evidence`, so that a photo with little evidence has small cosines with every word (its softmax is flat); class rows are
unit vectors. V and the rows start as the best rank-160 factors of the classifier (singular vectors in the metric of the
features) and are distilled on photos and parts of photos without labels: Hinton et al., "Distilling the knowledge in a
neural network", 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from maskmill.starter.clip_training.photos import PhotoSet
from maskmill.starter.clip_training.teacher import head_features

DIMENSIONS = 160
BIAS_SHARE = 0.3  # of the classifier's class offsets at the mean photo; all of it favours classes that the photos hold


@dataclass(frozen=True)
class Space:
    """`mean` (1280,), `directions` (160, 1280), `rows` (1000, 160) unit, `scale` = exp(logit_scale), `evidence`."""

    mean: Tensor
    directions: Tensor
    rows: Tensor
    scale: float
    evidence: float

    def embed(self, features: Tensor) -> Tensor:
        """(..., 1280) to (..., 160), not normalised."""
        return (features - self.mean) @ self.directions.T

    def save(self, path: Path) -> None:
        torch.save(asdict(self), path)

    @classmethod
    def load(cls, path: Path) -> Space:
        return cls(**torch.load(path, weights_only=True))


@torch.inference_mode()
def pooled_features(teacher: nn.Module, photos: PhotoSet, parts: int, seed: int) -> Tensor:
    """Mean head features of whole photos and of `parts` random windows of each: (n * (1 + parts), 1280)."""
    rng = np.random.default_rng(seed)
    out = []
    for start in range(0, len(photos.last), 64):
        maps = head_features(teacher, torch.from_numpy(np.array(photos.last[start : start + 64])).float())
        out.append(maps.mean((2, 3)))
        side = maps.shape[-1]
        for _ in range(parts):
            size = int(rng.integers(side // 3, side - 2))
            top, left = rng.integers(0, side + 1 - size, 2)
            out.append(maps[:, :, top : top + size, left : left + size].mean((2, 3)))
    return torch.cat(out)


def learn_space(teacher: nn.Module, features: Tensor, mean: Tensor, *, steps: int = 400, seed: int = 0) -> Space:
    """Distil the classifier into the space.

    Args:
        features: (n, 1280) pooled features of photos and their parts.
        mean: (1280,) features of the mean photo.
    """
    torch.manual_seed(seed)
    classifier = cast(Any, teacher).classifier
    rows = (classifier.weight - classifier.weight.mean(0)).detach()
    offsets = (classifier.weight @ mean + classifier.bias).detach()
    centred = features - mean
    target = (centred @ rows.T + BIAS_SHARE * (offsets - offsets.mean())).softmax(1)
    directions, unit_rows = _factors(rows, centred)
    directions.requires_grad_(True)
    unit_rows.requires_grad_(True)
    scale, evidence = torch.tensor(3.3, requires_grad=True), torch.tensor(8.0, requires_grad=True)
    optimizer = torch.optim.Adam(
        [
            {"params": [directions], "lr": 2e-4},
            {"params": [unit_rows], "lr": 1e-3},
            {"params": [scale, evidence], "lr": 1e-2},
        ]
    )
    for _ in range(steps):
        index = torch.randint(0, len(centred), (512,))
        embedded = centred[index] @ directions.T
        length = (embedded.square().sum(1, keepdim=True) + evidence**2).sqrt()
        logits = (embedded / length) @ functional.normalize(unit_rows, dim=1).T * scale.exp()
        loss = functional.kl_div(logits.log_softmax(1), target[index], reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Space(
        mean,
        directions.detach(),
        functional.normalize(unit_rows.detach(), dim=1),
        scale.detach().exp().item(),
        evidence.detach().abs().item(),
    )


def _factors(rows: Tensor, centred: Tensor) -> tuple[Tensor, Tensor]:
    """Rank-160 factors of the classifier: SVD of W S^1/2 with S the (shrunk) covariance of the features."""
    covariance = centred.T @ centred / len(centred)
    size = covariance.shape[0]
    covariance = 0.9 * covariance + 0.1 * torch.eye(size) * covariance.trace() / size
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(1e-8).sqrt() @ vectors.T
    inverse = vectors * values.clamp_min(1e-8).rsqrt() @ vectors.T
    left, singular, right = torch.linalg.svd(rows @ root, full_matrices=False)
    keep = singular[:DIMENSIONS]
    # Shrinking the singular values' influence on both sides loses the least accuracy once rows are unit vectors.
    directions = right[:DIMENSIONS] @ inverse * keep[:, None] ** 0.1
    return directions.contiguous(), functional.normalize(left[:, :DIMENSIONS] * keep**0.25, dim=1)


def mean_photo(feature_sets: Sequence[Tensor]) -> Tensor:
    """Mean of the sets' means, so that a large set does not move the centre: (1280,)."""
    return torch.stack([features.mean(0) for features in feature_sets]).mean(0)
