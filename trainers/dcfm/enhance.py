"""Democratic feature enhancement: self-attention inside each image whose weaker positive links are raised by rank."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rank_weights(logits: Tensor) -> Tensor:
    """Weights (..., n) of attention logits (..., n): (rank + 1)^3 where a logit is not negative (rank 0 = the largest
    of its row, ties by position), 1 where it is. Carries no gradient; reaches n^3, which fp16 cannot hold.
    """
    order = logits.detach().argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(-1, order, places)
    raised = (ranks + 1).to(logits.dtype) ** 3
    return torch.where(logits.detach() >= 0, raised, torch.ones_like(raised))


class FeatureEnhancement(nn.Module):
    """DFE: x = relu(conv(x)); output = (softmax(A) * W) V + x with A = Q K^T / sqrt(C) and W = `rank_weights(A)`.

    `rows`: `raw` = the release, whose rows do not sum to 1 (up to n^2 (n + 1)^2 / 4 / n); `normalised` divides each
    row by its sum, so that the links stay within the range of V, and adds them to what came in, not to relu(conv(x)).
    Call it in fp32.
    """

    def __init__(self, channels: int, rows: Literal["raw", "normalised"] = "raw") -> None:
        super().__init__()
        self.rows = rows
        self.entry = nn.Conv2d(channels, channels, 1)
        self.query, self.key, self.value = (_two_layers(channels) for _ in range(3))

    def silence_links(self) -> None:
        """Let the links add nothing until training gives them something to add."""
        for parameter in self.value[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Enhance `x` (N, C, h, w)."""
        entered = F.relu(self.entry(x))
        query, key, value = (layer(entered).flatten(2) for layer in (self.query, self.key, self.value))
        logits = query.transpose(1, 2) @ key / math.sqrt(x.shape[1])
        links = torch.softmax(logits, dim=-1) * rank_weights(logits)
        base = entered
        if self.rows == "normalised":
            links, base = links / links.sum(dim=-1, keepdim=True), x
        enhanced: Tensor = (value @ links.transpose(1, 2)).reshape(x.shape) + base
        return enhanced


def _two_layers(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1))
