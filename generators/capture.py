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
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from maskmill.generators.joint_readings import CELLS

Processor = Callable[..., Tensor]


class Watcher(Protocol):
    """Whatever wants to look at the input (B, positions, channels) of attention layers."""

    def see_self(self, attn: Any, hidden: Tensor) -> None:
        """Called before a watched self-attention layer runs."""

    def see_cross(self, attn: Any, hidden: Tensor) -> None:
        """Called before a watched cross-attention layer runs."""


def attention_probabilities(attn: Any, queries_from: Tensor, keys_from: Tensor, bias: Tensor | None = None) -> Tensor:
    """Head-averaged attention of one layer in float32: (B, N, C) against (B, M, D) gives (B, N, M), rows summing to
    1. `bias` (B, 1, M) is added to the scores, as a mask of padding is.
    """
    query, key = attn.to_q(queries_from), attn.to_k(keys_from)
    batch, positions, width = query.shape
    heads = attn.heads
    query = query.view(batch, positions, heads, width // heads).transpose(1, 2).float()
    key = key.view(batch, -1, heads, width // heads).transpose(1, 2).float()
    mean: Tensor = torch.softmax(_biased(query @ key.transpose(-1, -2) * attn.scale, bias), dim=-1).mean(dim=1)
    return mean


def _biased(scores: Tensor, bias: Tensor | None) -> Tensor:
    return scores if bias is None else scores + bias[:, None].float()


class Words(NamedTuple):
    """Encoded words to read attention against: `embeds` (B, T, D), and `bias` (B, 1, T) where padding is masked."""

    embeds: Tensor
    bias: Tensor | None = None


@dataclass
class AttentionStore:
    """Running sums of the maps of one batch; its memory does not depend on the number of steps.

    `classes`: encoded class prompts, set before the pipeline is called; `beside`, where wanted: the same classes beside
    others that the image should not show. `project`: what the model does to all of them before its layers see them.
    `guided`: whether the batch holds an unconditional half. `self_sum` (B, r^2, r^2), `cross_sum` and `lineup_sum`
    (B, r^2, T) are float32 on the network's device.
    """

    classes: Words | None = None
    beside: Words | None = None
    project: Callable[[Tensor], Tensor] | None = None
    guided: bool = True
    active: bool = True  # maps are added only while this is set
    self_sum: Tensor | None = None
    cross_sum: Tensor | None = None
    lineup_sum: Tensor | None = None
    self_count: int = 0
    cross_count: int = 0

    def begin(
        self,
        class_embeds: Tensor | Words,
        guided: bool,
        beside: Words | None = None,
        project: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Forget the last batch and take the class prompts of the next one."""
        self.classes = class_embeds if isinstance(class_embeds, Words) else Words(class_embeds)
        self.beside, self.project, self.guided = beside, project, guided
        self.self_sum = self.cross_sum = self.lineup_sum = None
        self.self_count = self.cross_count = 0

    def conditional(self, hidden: Tensor) -> Tensor:
        """The conditional half of a layer's input."""
        return hidden[hidden.shape[0] // 2 :] if self.guided else hidden

    def see_self(self, attn: Any, hidden: Tensor) -> None:
        """Add a self-attention layer's map."""
        if not self.active:
            return
        wanted = self.conditional(hidden)
        self.add_self(attention_probabilities(attn, wanted, wanted))

    def see_cross(self, attn: Any, hidden: Tensor) -> None:
        """Add a cross-attention layer's map, read against the class prompts."""
        if not self.active:
            return
        wanted, classes, beside = self.conditional(hidden), *self.words(hidden.dtype)
        self.add_cross(attention_probabilities(attn, wanted, *classes))
        if beside is not None:
            self.add_lineup(attention_probabilities(attn, wanted, *beside))

    def words(self, dtype: torch.dtype) -> tuple[Words, Words | None]:
        """The class prompts that cross-attention is read against, and the line-up.

        Raises:
            RuntimeError: there are none yet.
        """
        if self.classes is None:
            raise RuntimeError("attention store: call begin(class_embeds, guided) before the pipeline")
        if self.project is not None:  # now, while the model runs: offloaded weights are on the device
            project, self.project = self.project, None
            self.classes = Words(project(self.classes.embeds), self.classes.bias)
            if self.beside is not None:
                self.beside = Words(project(self.beside.embeds), self.beside.bias)
        classes = Words(self.classes.embeds.to(dtype), self.classes.bias)
        beside = self.beside
        return classes, None if beside is None else Words(beside.embeds.to(dtype), beside.bias)

    def add_self(self, seen: Tensor) -> None:
        """Add one self-attention map (B, r^2, r^2)."""
        self.self_sum = seen if self.self_sum is None else self.self_sum.add_(seen)
        self.self_count += 1

    def add_cross(self, seen: Tensor) -> None:
        """Add one cross-attention map (B, r^2, T)."""
        self.cross_sum = seen if self.cross_sum is None else self.cross_sum.add_(seen)
        self.cross_count += 1

    def add_lineup(self, seen: Tensor) -> None:
        """Add the cross-attention map (B, r^2, T) of the line-up; there is one of them to each of the others."""
        self.lineup_sum = seen if self.lineup_sum is None else self.lineup_sum.add_(seen)

    @property
    def lineup(self) -> Tensor | None:
        """(B, r^2, T) of the line-up, averaged as the others."""
        return None if self.lineup_sum is None else self.lineup_sum / self.cross_count

    def averages(self) -> tuple[Tensor, Tensor]:
        """(self (B, r^2, r^2), cross (B, r^2, T)), averaged over heads, layers and steps; rows sum to 1."""
        if self.self_sum is None or self.cross_sum is None:
            raise RuntimeError(
                "attention store: no map was captured; the pipeline did not run through the watched layers"
            )
        return self.self_sum / self.self_count, self.cross_sum / self.cross_count


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(…, C) as (…, heads, C / heads)."""
    return tokens.reshape(*tokens.shape[:-1], heads, -1)


def head_mean(attn: Any, query: Tensor, key: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `attention_probabilities`, from projected queries (B, N, C) and keys (B, M, C), with the weights of as many
    heads at a time as CELLS allows.
    """
    heads = attn.heads
    query, key = (split_heads(part, heads).transpose(1, 2).float() for part in (query, key))
    total = torch.zeros(query.shape[0], query.shape[2], key.shape[2], device=query.device)
    at_once = max(1, CELLS // total.numel())
    for start in range(0, heads, at_once):
        few = slice(start, start + at_once)
        scores = query[:, few] @ key[:, few].transpose(-1, -2) * attn.scale
        total += torch.softmax(_biased(scores, bias), dim=-1).sum(dim=1)
    mean: Tensor = total / heads
    return mean


class FrugalStore(AttentionStore):
    """For UNets with many watched layers: takes the queries and keys that a layer projects anyhow, few heads at a
    time.
    """

    def see_self(self, attn: Any, hidden: Tensor) -> None:
        """Add a self-attention layer's map once its queries and keys are there."""
        if self.active:
            _once(attn, ("to_q", "to_k"), lambda *seen: self.add_self(head_mean(attn, *map(self.conditional, seen))))

    def see_cross(self, attn: Any, hidden: Tensor) -> None:
        """Add a cross-attention layer's map, read against the class prompts, once its queries are there."""
        if self.active:
            classes, beside = self.words(hidden.dtype)
            key = attn.to_k(classes.embeds)
            others = None if beside is None else attn.to_k(beside.embeds)

            def add(seen: Tensor) -> None:
                query = self.conditional(seen)
                self.add_cross(head_mean(attn, query, key, classes.bias))
                if others is not None and beside is not None:
                    self.add_lineup(head_mean(attn, query, others, beside.bias))

            _once(attn, ("to_q",), add)


def _once(attn: Any, parts: tuple[str, ...], then: Callable[..., None]) -> None:
    """Call `then` with what these projections of a layer give the next time, when all have run."""
    seen: dict[str, Tensor] = {}

    def hook(part: str) -> Callable[[Any, Any, Tensor], None]:
        def keep(module: Any, args: Any, output: Tensor) -> None:
            seen[part] = output
            handles[part].remove()
            if len(seen) == len(parts):
                then(*(seen[name] for name in parts))

        return keep

    handles = {part: getattr(attn, part).register_forward_hook(hook(part)) for part in parts}


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
        last = () if temb is None else (temb,)  # some processors take no fifth argument
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, *last)


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
