"""Read maps out of a joint-attention transformer (MM-DiT: Stable Diffusion 3, FLUX) while it draws, without changing
what it draws.

A double-stream block holds n image tokens X and m text tokens P, each with projections and modulation of their own;
attention runs over both:

    O = softmax([Qx; Qp] [Kx; Kp]^T / sqrt(d)) [Vx; Vp]

ConceptAttention (ICML 2025, arXiv 2502.04320) sends *concept tokens* C along: they use the text stream's norms,
projections, gates and MLP, attend to image and concept tokens, and nobody attends to them.

    O_c = softmax(Qc [Kx; Kc]^T / sqrt(d)) [Vx; Vc]

What the image stream computed anyhow (Kx, Vx and O_x) is taken by hooks on `to_k`, `to_v` and `to_out`; only the few
concept tokens are computed in addition. Quadrants of the attention itself (`cross`, and image to image for spreading)
are computed again from Q and K for the chosen blocks alone, some rows at a time. Sums are kept, never single maps.
Install hooks after LoRAs are added; neither fuse projections nor compile watched blocks.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.generators.attention_masks import ClassMaps
from maskmill.generators.capture import split_heads
from maskmill.generators.config import Reading
from maskmill.generators.joint_readings import anchored, concept_shares, graph, quadrants


@dataclass(frozen=True, eq=False)
class Wanted:
    """What one image is read for: `concepts` (C, D) as the text encoder gives them, the `classes` first, then their
    rivals; and for each class the positions of its words in the prompt's text tokens.
    """

    concepts: Tensor
    classes: int
    positions: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Plan:
    """Which reading, from which blocks; `affinity` are the blocks whose image-to-image attention is summed."""

    reading: Reading
    blocks: frozenset[int]
    affinity: frozenset[int]
    grid: tuple[int, int]  # rows and columns of image tokens

    @property
    def last_concept(self) -> int:
        """The last block that concept tokens travel through; -1 where there are none."""
        return -1 if self.reading == "cross" else max(self.blocks)

    def wants_quadrants(self, index: int) -> bool:
        """Whether a block's attention itself is read."""
        return index in self.affinity or (self.reading == "cross" and index in self.blocks)


class JointWatch:
    """Running sums of one batch, filled by hooks while the pipeline runs (see `watching`). `guided`: whether a call's
    batch is [unconditional, conditional]; then the second half is read. Images are read one by one, so what is read
    of one does not depend on its companions.
    """

    def __init__(self, transformer: Any, plan: Plan, wanted: Sequence[Wanted], guided: bool) -> None:
        self.active = True  # sums grow only while this is set
        self._transformer, self._plan, self._wanted, self._guided = transformer, plan, wanted, guided
        self._sums: list[Tensor | None] = [None] * len(wanted)
        self._affinity: list[Tensor | None] = [None] * len(wanted)
        self._count = 0  # readings
        self._streams: list[Tensor] = []
        self._seen: dict[str, Tensor] = {}
        self._temb: Tensor | None = None
        self._rotary: tuple[Tensor, Tensor] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on the blocks that are read; all are gone afterwards."""
        plan = self._plan
        with ExitStack() as after:
            for index, block in enumerate(self._transformer.transformer_blocks):
                if index > plan.last_concept and not plan.wants_quadrants(index):
                    continue
                attn = block.attn
                hooks = [block.register_forward_pre_hook(self._on_enter(index), with_kwargs=True)]
                parts = ["to_k", *(["to_v"] if index <= plan.last_concept else [])]
                parts += ["to_q", "add_k_proj"] if plan.wants_quadrants(index) else []
                hooks += [getattr(attn, part).register_forward_hook(self._on_part(part)) for part in parts]
                hooks.append(attn.to_out[0].register_forward_pre_hook(self._on_output(index, block)))
                for hook in hooks:
                    after.callback(hook.remove)
            yield

    def maps(self) -> list[ClassMaps]:
        """What was read of each image.

        Raises:
            RuntimeError: the pipeline did not run through the watched blocks.
        """
        found = []
        rows, columns = self._plan.grid
        for wanted, total, affinity in zip(self._wanted, self._sums, self._affinity, strict=True):
            if total is None:
                raise RuntimeError("joint attention: no map was read; the pipeline did not run through the blocks")
            mean = (total / self._count)[:, : wanted.classes]
            if self._plan.reading == "anchor":
                mean = anchored(mean)
            spreads = None if affinity is None else affinity / affinity.sum(dim=1, keepdim=True).clamp_min(1e-12)
            found.append(ClassMaps(mean.T.reshape(-1, rows, columns), spreads, "bilinear"))
        return found

    def _half(self, batch: Tensor) -> Tensor:
        return batch[batch.shape[0] // 2 :] if self._guided else batch

    def _on_enter(self, index: int) -> Any:
        def enter(block: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if not self.active:
                return
            self._seen = {}
            self._temb, self._rotary = self._half(kwargs["temb"]), kwargs.get("image_rotary_emb")
            if index == 0 and self._plan.last_concept >= 0:
                embed = self._transformer.context_embedder
                self._streams = [embed(wanted.concepts[None]) for wanted in self._wanted]

        return enter

    def _on_part(self, name: str) -> Any:
        def part(module: Any, args: Any, output: Tensor) -> None:
            if self.active:
                self._seen[name] = self._half(output)

        return part

    def _on_output(self, index: int, block: Any) -> Any:
        def output(module: Any, args: tuple[Tensor, ...]) -> None:
            if self.active:
                self._read(index, block, self._half(args[0]))

        return output

    def _read(self, index: int, block: Any, outputs: Tensor) -> None:
        """Add what block `index` shows, from the attention outputs (B, n, H * d) of its image tokens."""
        plan = self._plan
        seen, self._seen = self._seen, {}  # concept tokens pass the same projections, and their hooks
        for k, wanted in enumerate(self._wanted):
            own = {part: self._heads(block.attn, part, tensor[k]) for part, tensor in seen.items()}
            if index <= plan.last_concept:
                concepts = self._travel(k, block, own["to_k"], own["to_v"])
                if index in plan.blocks:
                    self._sums[k] = _added(self._sums[k], concept_shares(outputs[k], concepts))
            if plan.wants_quadrants(index):
                text, image = quadrants(own["to_q"], own["to_k"], own["add_k_proj"], wanted.positions)
                if plan.reading == "cross" and index in plan.blocks:
                    self._sums[k] = _added(self._sums[k], text)
                if index in plan.affinity:
                    gated = graph(image, outputs[k]) if plan.reading == "anchor" else image
                    self._affinity[k] = _added(self._affinity[k], gated)
        self._count += index in plan.blocks

    def _heads(self, attn: Any, part: str, tokens: Tensor) -> Tensor:
        """Queries, keys or values (n, heads, d), normalised and rotated as the block does it."""
        found: Tensor = split_heads(tokens, attn.heads)
        norms = {"to_q": attn.norm_q, "to_k": attn.norm_k, "add_k_proj": attn.norm_added_k}
        if (norm := norms.get(part)) is not None:
            found = norm(found)
        if self._rotary is None or part not in ("to_q", "to_k"):
            return found  # text stands at position zero, where turning changes nothing
        from diffusers.models.embeddings import apply_rotary_emb

        angles = tuple(angle[-found.shape[0] :] for angle in self._rotary)  # text comes first
        rotated: Tensor = apply_rotary_emb(found[None], angles, sequence_dim=1)[0]  # type: ignore[arg-type]
        return rotated

    def _travel(self, k: int, block: Any, key: Tensor, value: Tensor) -> Tensor:
        """Take image k's concept tokens through a block; their attention outputs (C, H * d), before the projection."""
        assert self._temb is not None
        outputs, self._streams[k] = travel(block, self._streams[k], self._temb[k : k + 1], key, value)
        return outputs


def travel(block: Any, stream: Tensor, temb: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Concept tokens (1, C, D) through a double-stream block, beside image keys and values (n, heads, d): their
    attention outputs (C, heads * d) and the tokens after the block. The last block of Stable Diffusion 3 has no text
    stream behind its attention: there the tokens come back as they were.
    """
    attn = block.attn
    ends = bool(attn.context_pre_only)
    if ends:
        normed = block.norm1_context(stream, temb)
    else:
        normed, gate, shift, scale, gate_mlp = block.norm1_context(stream, emb=temb)
    query, own_key, own_value = (
        project(normed)[0].unflatten(-1, (attn.heads, -1))
        for project in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    )
    query = query if attn.norm_added_q is None else attn.norm_added_q(query)
    own_key = own_key if attn.norm_added_k is None else attn.norm_added_k(own_key)
    mixed = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        torch.cat([key, own_key]).transpose(0, 1)[None],
        torch.cat([value, own_value]).transpose(0, 1)[None],
    )
    outputs = mixed[0].transpose(0, 1).flatten(1).to(query.dtype)
    if ends:
        return outputs, stream
    stream = stream + gate[:, None] * attn.to_add_out(outputs[None])
    inner = block.norm2_context(stream) * (1 + scale[:, None]) + shift[:, None]
    return outputs, stream + gate_mlp[:, None] * block.ff_context(inner)


def _added(total: Tensor | None, seen: Tensor) -> Tensor:
    return seen if total is None else total.add_(seen)
