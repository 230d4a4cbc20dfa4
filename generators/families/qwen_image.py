"""Qwen-Image: double-stream blocks alone, an instructed language model as text encoder, guidance in two calls."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.generators.families.joint import JointFamily
from maskmill.generators.joint_streams import TextStream, concept_attention
from maskmill.generators.spans import Window, encode

TEXT_TOKENS = 256  # that every prompt is padded to, masked; the model takes up to 1024


def turned(tokens: Tensor, places: Tensor) -> Tensor:
    """Queries or keys (n, heads, d) turned by complex angles (n or 1, d / 2)."""
    from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen

    found: Tensor = apply_rotary_emb_qwen(tokens[None], places, use_real=False)[0]
    return found


class QwenTextStream(TextStream):
    """Text has places of its own, behind the image's. All concepts stand where the prompt's first token stands, so that
    their order says nothing.
    """

    calls = True

    def embed(self, transformer: Any, concepts: Tensor) -> Tensor:
        """Normed, then embedded."""
        embedded: Tensor = transformer.txt_in(transformer.txt_norm(concepts))
        return embedded

    def placed(self, part: str, tokens: Tensor, rotary: Any) -> Tensor:
        """By the angles of the stream that the projection belongs to."""
        places = {"to_q": rotary[0], "to_k": rotary[0], "add_k_proj": rotary[1]}
        return turned(tokens, places[part]) if part in places else tokens

    def travel(
        self, block: Any, stream: Tensor, temb: Tensor, key: Tensor, value: Tensor, rotary: Any = None
    ) -> tuple[Tensor, Tensor]:
        """As Stable Diffusion 3's, with modulation behind plain norms."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = block.txt_mod(temb)[:, None].chunk(6, dim=-1)
        normed = block.txt_norm1(stream) * (1 + scale) + shift
        outputs = concept_attention(block.attn, normed, key, value, lambda own: turned(own, rotary[1][:1]))
        stream = stream + gate * block.attn.to_add_out(outputs[None])
        inner = block.txt_norm2(stream) * (1 + scale_mlp) + shift_mlp
        return outputs, stream + gate_mlp * block.txt_mlp(inner)


class QwenImage(JointFamily):
    """Each text is encoded alone, behind the pipeline's instruction, and padded to one length: padding to the longest
    of a batch, as the pipeline does it, would let an image depend on its companions by rounding.
    """

    name = "qwen_image"
    pipeline_class = "QwenImagePipeline"
    control: ClassVar[None] = None
    text_encoders = ("text_encoder",)
    guidance = "true_cfg_scale"
    stream = QwenTextStream()

    @property
    def windows(self) -> list[tuple[Window, int]]:
        """The prompt's tokens come first; what closes the instruction stands behind them."""
        ending = self.pipeline.prompt_template_encode.partition("{}")[2]
        tokenizer = self.pipeline.tokenizer
        return [(Window(tokenizer, TEXT_TOKENS + 1 - len(encode(tokenizer, ending)), 0), 0)]

    def embed(self, texts: list[str], negatives: list[str] | None) -> dict[str, Any]:
        """States (B, TEXT_TOKENS, D) of the language model, and which of them are no padding."""
        given = {"": texts} if negatives is None else {"": texts, "negative_": negatives}
        found = {}
        for prefix, own in given.items():
            found[f"{prefix}prompt_embeds"], found[f"{prefix}prompt_embeds_mask"] = self._states(own)
        return found

    def _states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        known = {
            text: self.pipeline.encode_prompt([text], self.device, max_sequence_length=TEXT_TOKENS)[0][0]
            for text in dict.fromkeys(texts)
        }
        states = [known[text] for text in texts]
        lengths = torch.tensor([len(own) for own in states], device=states[0].device)
        mask = torch.arange(TEXT_TOKENS, device=lengths.device)[None] < lengths[:, None]
        return torch.stack([F.pad(own, (0, 0, 0, TEXT_TOKENS - len(own))) for own in states]), mask.long()


FAMILY = QwenImage
