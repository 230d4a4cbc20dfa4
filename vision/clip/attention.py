"""Attention whose weights are wanted as well as what it makes of its values."""

import torch
from torch import Tensor, nn


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled queries, keys and values (B, heads, L, d) to what attention makes of them (B, L, heads * d), and the
    head-mean weights (B, L, L), added up in fp32. On a CPU one head of one image at a time, which stays in its cache.
    """
    batch, heads, length, _ = q.shape
    total = torch.zeros(batch, length, length, device=q.device)
    mixed = torch.empty_like(v)
    size = 1 if q.device.type == "cpu" else batch
    for start in range(0, batch, size):
        some = slice(start, start + size)
        wanted = total[some]
        for head in range(heads):
            weights = (q[some, head] @ k[some, head].transpose(1, 2)).softmax(dim=-1)
            wanted += weights
            mixed[some, head] = weights.to(v.dtype) @ v[some, head]
    return mixed.transpose(1, 2).reshape(batch, length, -1), total / heads


def head_mean(q: Tensor, k: Tensor) -> Tensor:
    """Scaled queries and keys (B, heads, L, d) to head-mean softmax weights (B, L, L), fp32, one head in memory at a
    time.
    """
    total = torch.zeros(q.shape[0], q.shape[2], k.shape[2], device=q.device)
    for head in range(q.shape[1]):
        total += (q[:, head] @ k[:, head].transpose(1, 2)).float().softmax(dim=-1)
    return total / q.shape[1]


def is_plain(attn: nn.Module) -> bool:
    """Whether attention is timm's own, and nothing is done to its values but what `from_norm_attended` does."""
    return type(attn).__name__ == "Attention" and all(
        hasattr(attn, name) for name in ("q_norm", "k_norm", "norm", "proj", "scale", "qkv")
    )


def mean(maps: list[Tensor]) -> Tensor | None:
    """Mean of equal tensors, added up in order; None of none."""
    if not maps:
        return None
    total = maps[0].clone()
    for one in maps[1:]:
        total += one
    return total / len(maps)
