"""Read attention maps out of a diffusers UNet while it draws, without changing what it draws.

The processors here wrap the ones that are installed already: those make the output (with whatever fused kernel they
use), ours only look. They are put where a map is wanted (one cross and one self resolution), every other layer stays
untouched.

    A_self  = softmax(Q K^T / sqrt d)                  rows: r^2 positions, columns: r^2 positions
    A_cross = softmax(Q K(e_class)^T / sqrt d)         rows: r^2 positions, columns: the tokens of the class prompt

Q comes from the conditional half of the batch ([unconditional, conditional]), K(e_class) from the class prompt, not
from the prompt that is drawn: *class-prompt cross-attention* (Dataset Diffusion, NeurIPS 2023). Both are averaged over
heads, layers and steps. Install after `enable_attention_slicing()` and similar switches (they replace processors), and
do not compile or fuse that UNet.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

Processor = Callable[..., Tensor]


class Watcher(Protocol):
    """Whatever wants to look at the input (B, positions, channels) of attention layers."""

    def see_self(self, attn: Any, hidden: Tensor) -> None:
        """Called before a watched self-attention layer runs."""

    def see_cross(self, attn: Any, hidden: Tensor) -> None:
        """Called before a watched cross-attention layer runs."""


def attention_probabilities(attn: Any, queries_from: Tensor, keys_from: Tensor) -> Tensor:
    """Head-averaged attention of one layer in float32: (B, N, C) against (B, M, D) gives (B, N, M), rows summing to
    1.
    """
    query, key = attn.to_q(queries_from), attn.to_k(keys_from)
    batch, positions, width = query.shape
    heads = attn.heads
    query = query.view(batch, positions, heads, width // heads).transpose(1, 2).float()
    key = key.view(batch, -1, heads, width // heads).transpose(1, 2).float()
    mean: Tensor = torch.softmax(query @ key.transpose(-1, -2) * attn.scale, dim=-1).mean(dim=1)
    return mean


@dataclass
class AttentionStore:
    """Running sums of the maps of one batch; its memory does not depend on the number of steps.

    `class_embeds` (B, T, D): encoded class prompts, set before the pipeline is called. `guided`: whether the batch
    holds an unconditional half. `self_sum` (B, r^2, r^2) and `cross_sum` (B, r^2, T) are float32 on the UNet's device.
    """

    class_embeds: Tensor | None = None
    guided: bool = True
    active: bool = True  # maps are added only while this is set
    self_sum: Tensor | None = None
    cross_sum: Tensor | None = None
    self_count: int = 0
    cross_count: int = 0

    def begin(self, class_embeds: Tensor, guided: bool) -> None:
        """Forget the last batch and take the class prompts of the next one."""
        self.class_embeds, self.guided = class_embeds, guided
        self.self_sum = self.cross_sum = None
        self.self_count = self.cross_count = 0

    def conditional(self, hidden: Tensor) -> Tensor:
        """The conditional half of a layer's input."""
        return hidden[hidden.shape[0] // 2 :] if self.guided else hidden

    def see_self(self, attn: Any, hidden: Tensor) -> None:
        """Add a self-attention layer's map."""
        if not self.active:
            return
        wanted = self.conditional(hidden)
        seen = attention_probabilities(attn, wanted, wanted)
        self.self_sum = seen if self.self_sum is None else self.self_sum.add_(seen)
        self.self_count += 1

    def see_cross(self, attn: Any, hidden: Tensor) -> None:
        """Add a cross-attention layer's map, read against the class prompts."""
        if not self.active:
            return
        if self.class_embeds is None:
            raise RuntimeError("attention store: call begin(class_embeds, guided) before the pipeline")
        wanted = self.conditional(hidden)
        seen = attention_probabilities(attn, wanted, self.class_embeds.to(wanted.dtype))
        self.cross_sum = seen if self.cross_sum is None else self.cross_sum.add_(seen)
        self.cross_count += 1

    def averages(self) -> tuple[Tensor, Tensor]:
        """(self (B, r^2, r^2), cross (B, r^2, T)), averaged over heads, layers and steps; rows sum to 1."""
        if self.self_sum is None or self.cross_sum is None:
            raise RuntimeError(
                "attention store: no map was captured; the pipeline did not run through the watched layers"
            )
        return self.self_sum / self.self_count, self.cross_sum / self.cross_count


@dataclass
class Watch:
    """A processor that lets `inner` do the work and shows the layer's input to `see`."""

    inner: Processor
    see: Callable[[Any, Tensor], None]

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Same output as `inner`."""
        self.see(attn, hidden_states)
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


@dataclass(frozen=True)
class Layer:
    """One attention layer: its processor's name, `self` or `cross`, and its grid of rows and columns."""

    name: str
    kind: str
    grid: tuple[int, int] = field(default=(0, 0))


def attention_layers(unet: Any, latent: tuple[int, int]) -> list[Layer]:
    """Attention layers of a UNet2DConditionModel for latents of (rows, columns), in the UNet's order.

    Every down block but the last halves the grid (rounding up); up blocks mirror down blocks.
    """
    levels = len(unet.config.down_block_types)
    layers = []
    for name in unet.attn_processors:
        parts = name.split(".")
        number = int(parts[1]) if parts[1].isdigit() else 0
        level = {"down_blocks": number, "up_blocks": levels - 1 - number}.get(parts[0], levels - 1)
        grid = (-(-latent[0] // 2**level), -(-latent[1] // 2**level))
        layers.append(Layer(name, "self" if ".attn1." in name else "cross", grid))
    return layers


def choose_grid(layers: list[Layer], kind: str, resolution: int | None, at_most: int) -> tuple[int, int]:
    """The grid whose longer side is `resolution`; without one, the finest grid of at most `at_most` (or the coarsest
    there is).

    Raises:
        ValueError: no layer has that resolution; lists those that exist.
    """
    grids = sorted({layer.grid for layer in layers if layer.kind == kind}, key=max)
    if resolution is None:
        return max([g for g in grids if max(g) <= at_most], key=max, default=grids[0])
    for grid in grids:
        if max(grid) == resolution:
            return grid
    known = ", ".join(str(max(g)) for g in grids)
    raise ValueError(f"{kind}-attention at resolution {resolution}: this UNet has {known} at this image size")


@contextmanager
def watching(unet: Any, store: Watcher, cross: list[Layer], own: list[Layer]) -> Iterator[None]:
    """Install watchers on the given cross and self layers; the processors that were there come back afterwards.

    Without a `with` the UNet is left as it was found even when the pipeline raises.
    """
    before = dict(unet.attn_processors)
    see = {layer.name: store.see_cross for layer in cross} | {layer.name: store.see_self for layer in own}
    watched = {name: Watch(inner, see[name]) if name in see else inner for name, inner in before.items()}
    unet.set_attn_processor(watched)
    try:
        yield
    finally:
        unet.set_attn_processor(before)
