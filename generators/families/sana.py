"""Sana: linear self-attention and cross-attention to Gemma, on the coarse grid of a deep autoencoder."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maskmill.generators.capture import AttentionStore, split_heads
from maskmill.generators.families.cross import TEXT_TOKENS, CrossFamily
from maskmill.generators.spans import Window

SIDE = 32  # that the pipeline wants heights and widths to be multiples of


def linear_attention(attn: Any, hidden: Tensor) -> Tensor:
    """Head-averaged weights (B, N, N) of ReLU linear attention, rows summing to 1: relu(q_i) . relu(k_j) over its sum.
    Heads are added up one by one. A row that nothing answers to attends to itself.
    """
    query, key = attn.to_q(hidden), attn.to_k(hidden)
    query = query if attn.norm_q is None else attn.norm_q(query)
    key = key if attn.norm_k is None else attn.norm_k(key)
    query, key = (split_heads(part, attn.heads).transpose(1, 2).float().relu() for part in (query, key))
    itself = torch.eye(hidden.shape[1], device=hidden.device)
    total = torch.zeros(hidden.shape[0], hidden.shape[1], hidden.shape[1], device=hidden.device)
    for head in range(attn.heads):
        weights = query[:, head] @ key[:, head].transpose(-1, -2)
        sums = weights.sum(dim=-1, keepdim=True)
        total += torch.where(sums > 0, weights / sums.clamp_min(1e-15), itself)
    mean: Tensor = total / attn.heads
    return mean


class LinearStore(AttentionStore):
    """Sums of linear self-attention; queries and keys of cross-attention as the model norms them."""

    def see_self(self, attn: Any, hidden: Tensor) -> None:
        """Add a self-attention layer's map."""
        if self.active:
            self.add_self(linear_attention(attn, self.conditional(hidden)))

    def see_cross(self, attn: Any, hidden: Tensor) -> None:
        """Add a cross-attention layer's map, read against the class prompts."""
        super().see_cross(_Normed(attn), hidden)


class _Normed:
    """A layer whose projections are normed, as its own processor does."""

    def __init__(self, attn: Any) -> None:
        self.heads, self.scale = attn.heads, attn.scale
        self._attn = attn

    def to_q(self, hidden: Tensor) -> Tensor:
        """Queries."""
        query: Tensor = self._attn.to_q(hidden)
        return query if self._attn.norm_q is None else self._attn.norm_q(query)

    def to_k(self, words: Tensor) -> Tensor:
        """Keys."""
        key: Tensor = self._attn.to_k(words)
        return key if self._attn.norm_k is None else self._attn.norm_k(key)


class Sana(CrossFamily):
    """Prompts are drawn behind the pipeline's instruction to Gemma; class words are read without it."""

    name = "sana"
    pipeline_class = "SanaPipeline"

    def multiple(self) -> int:
        """A token's side, and what the pipeline asks for."""
        return max(SIDE, super().multiple())

    @property
    def grid_side(self) -> int:
        """A token's side in pixels."""
        return super().multiple()

    def choose(self) -> None:
        """As the others; tokens may be finer than what sizes are multiples of."""
        super().choose()
        grid = (self.size[0] // self.grid_side, self.size[1] // self.grid_side)
        self.grids = (grid, grid)

    @property
    def project(self) -> Callable[[Any], Any] | None:
        """Projected and normed."""
        transformer = self.denoising
        return lambda states: transformer.caption_norm(transformer.caption_projection(states))

    @property
    def window(self) -> Window:
        """Gemma's tokenizer: start-of-text and words; the last place is kept free."""
        tokenizer = self.pipeline.tokenizer
        return Window(tokenizer, min(tokenizer.model_max_length, TEXT_TOKENS), 1)

    def states(self, texts: list[str], negatives: list[str] | None, *, drawn: bool = True) -> tuple[Any, ...]:
        """Gemma's."""
        instruction = inspect.signature(type(self.pipeline).__call__).parameters["complex_human_instruction"].default
        found: tuple[Any, ...] = self.pipeline.encode_prompt(
            texts,
            negatives is not None,
            negatives if negatives is not None else "",
            1,
            self.device,
            clean_caption=False,
            max_sequence_length=self.window.length,
            complex_human_instruction=instruction if drawn else None,
        )
        return found

    def store(self) -> AttentionStore:
        """Its self-attention is linear, and its grid small."""
        return LinearStore()


FAMILY = Sana
