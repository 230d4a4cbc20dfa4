"""The text stream of joint-attention transformers, which concept tokens travel along: what differs from one kind of
block to another.

A concept uses the text stream's norms, projections, gates and MLP, attends to image and concept tokens, and nobody
attends to it (ConceptAttention, arXiv 2502.04320):

    O_c = softmax(Qc [Kx; Kc]^T / sqrt(d)) [Vx; Vc]
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


class TextStream:
    """Stable Diffusion 3's and FLUX's blocks. Text stands at position zero, where turning changes nothing; a guided
    call's batch is [unconditional, conditional].
    """

    calls: ClassVar[bool] = False  # guidance in two calls a step, the conditional one first, rather than two halves

    def embed(self, transformer: Any, concepts: Tensor) -> Tensor:
        """Concepts (1, C, D) of the text encoder as the first block's text tokens."""
        embedded: Tensor = transformer.context_embedder(concepts)
        return embedded

    def placed(self, part: str, tokens: Tensor, rotary: Any) -> Tensor:
        """Normalised queries or keys (n, heads, d) turned to their places; `part` names the projection."""
        if rotary is None or part not in ("to_q", "to_k"):
            return tokens
        from diffusers.models.embeddings import apply_rotary_emb

        angles = tuple(angle[-tokens.shape[0] :] for angle in rotary)  # text comes first
        turned: Tensor = apply_rotary_emb(tokens[None], angles, sequence_dim=1)[0]
        return turned

    def travel(
        self, block: Any, stream: Tensor, temb: Tensor, key: Tensor, value: Tensor, rotary: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Concept tokens (1, C, D) through a double-stream block, beside image keys and values (n, heads, d): their
        attention outputs (C, heads * d) and the tokens after the block. The last block of Stable Diffusion 3 has no
        text stream behind its attention: there the tokens come back as they were.
        """
        attn = block.attn
        if attn.context_pre_only:
            return concept_attention(attn, block.norm1_context(stream, temb), key, value), stream
        normed, gate, shift, scale, gate_mlp = block.norm1_context(stream, emb=temb)
        outputs = concept_attention(attn, normed, key, value)
        stream = stream + gate[:, None] * attn.to_add_out(outputs[None])
        inner = block.norm2_context(stream) * (1 + scale[:, None]) + shift[:, None]
        return outputs, stream + gate_mlp[:, None] * block.ff_context(inner)


def concept_attention(
    attn: Any, normed: Tensor, key: Tensor, value: Tensor, turn: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Attention outputs (C, heads * d) of modulated concept tokens (1, C, D) over image and concept tokens, before the
    projection; `turn` puts their queries and keys (C, heads, d) in their places.
    """
    query, own_key, own_value = (
        project(normed)[0].unflatten(-1, (attn.heads, -1))
        for project in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    )
    query = query if attn.norm_added_q is None else attn.norm_added_q(query)
    own_key = own_key if attn.norm_added_k is None else attn.norm_added_k(own_key)
    if turn is not None:
        query, own_key = turn(query), turn(own_key)
    mixed = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        torch.cat([key, own_key]).transpose(0, 1)[None],
        torch.cat([value, own_value]).transpose(0, 1)[None],
    )
    return mixed[0].transpose(0, 1).flatten(1).to(query.dtype)
