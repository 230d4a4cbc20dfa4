"""Read maps out of a joint-attention transformer (MM-DiT: Stable Diffusion 3, FLUX, Qwen-Image) while it draws, without
changing what it draws.

A double-stream block holds n image tokens X and m text tokens P, each with projections and modulation of their own;
attention runs over both:

    O = softmax([Qx; Qp] [Kx; Kp]^T / sqrt(d)) [Vx; Vp]

ConceptAttention (ICML 2025, arXiv 2502.04320) sends *concept tokens* along the text stream (see `joint_streams`). What
the image stream computed anyhow (Kx, Vx and O_x) is taken by hooks on `to_k`, `to_v` and `to_out`; only the few concept
tokens are computed in addition. Quadrants of the attention itself (`cross`, and image to image for spreading)
are computed again from Q and K for the chosen blocks alone, some rows at a time. Sums are kept, never single maps.
Install hooks after LoRAs are added; neither fuse projections nor compile watched blocks.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from maskmill.generators.attention_masks import ClassMaps
from maskmill.generators.capture import split_heads
from maskmill.generators.config import Reading
from maskmill.generators.joint_readings import anchored, concept_shares, graph, quadrants
from maskmill.generators.joint_streams import TextStream


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
    """Running sums of one batch, filled by hooks while the pipeline runs (see `watching`). `guided`: whether there is
    an unconditional part, a half of each batch or a call of its own as `texts` has it; it is not read. Images are read
    one by one, so what is read of one does not depend on its companions.
    """

    def __init__(
        self,
        transformer: Any,
        plan: Plan,
        wanted: Sequence[Wanted],
        guided: bool,
        texts: TextStream = TextStream(),  # noqa: B008  (it keeps nothing)
    ) -> None:
        self.active = True  # sums grow only while this is set
        self._transformer, self._plan, self._wanted, self._texts = transformer, plan, wanted, texts
        self._halves, self._calls = guided and not texts.calls, guided and texts.calls
        self._conditional = True  # whether the call that runs is the conditional one
        self._sums: list[Tensor | None] = [None] * len(wanted)
        self._affinity: list[Tensor | None] = [None] * len(wanted)
        self._count = 0  # readings
        self._streams: list[Tensor] = []
        self._seen: dict[str, Tensor] = {}
        self._temb: Tensor | None = None
        self._rotary: Any = None
        self._open: Tensor | None = None  # bool (B, text tokens): which are no padding; None: all are seen

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on the blocks that are read; all are gone afterwards."""
        plan = self._plan
        with ExitStack() as after:
            if self._calls:
                self._conditional = False
                after.callback(self._transformer.register_forward_pre_hook(self._on_call).remove)
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

    @property
    def _reading(self) -> bool:
        return self.active and self._conditional

    def _half(self, batch: Tensor) -> Tensor:
        return batch[batch.shape[0] // 2 :] if self._halves else batch

    def _on_call(self, transformer: Any, args: Any) -> None:
        self._conditional = not self._conditional

    def _on_enter(self, index: int) -> Any:
        def enter(block: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if not self._reading:
                return
            self._seen = {}
            self._temb, self._rotary = self._half(kwargs["temb"]), kwargs.get("image_rotary_emb")
            self._open = kwargs.get("encoder_hidden_states_mask")
            if index == 0 and self._plan.last_concept >= 0:
                self._streams = [self._texts.embed(self._transformer, one.concepts[None]) for one in self._wanted]

        return enter

    def _on_part(self, name: str) -> Any:
        def part(module: Any, args: Any, output: Tensor) -> None:
            if self._reading:
                self._seen.setdefault(name, self._half(output))  # the block's own; concepts of another watch come later

        return part

    def _on_output(self, index: int, block: Any) -> Any:
        def output(module: Any, args: tuple[Tensor, ...]) -> None:
            if self._reading:
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
                words = own["add_k_proj"] if self._open is None else own["add_k_proj"][self._open[k]]
                text, image = quadrants(own["to_q"], own["to_k"], words, wanted.positions)
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
        return self._texts.placed(part, found, self._rotary)

    def _travel(self, k: int, block: Any, key: Tensor, value: Tensor) -> Tensor:
        """Take image k's concept tokens through a block; their attention outputs (C, H * d), before the projection."""
        assert self._temb is not None
        outputs, self._streams[k] = self._texts.travel(
            block, self._streams[k], self._temb[k : k + 1], key, value, self._rotary
        )
        return outputs


def _added(total: Tensor | None, seen: Tensor) -> Tensor:
    return seen if total is None else total.add_(seen)
