"""Stable Diffusion XL: two text encoders whose states are joined, and a decoder that overflows in float16."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskmill.data_contracts import ContractError, Problem, Reason
from maskmill.generators.capture import AttentionStore, FrugalStore
from maskmill.generators.families.base import Control
from maskmill.generators.families.unet import UNetFamily
from maskmill.generators.spans import ClassPrompt, Window, class_spans


class StableDiffusionXL(UNetFamily):
    """At 1024 pixels its attention lives on grids of 64 and 32: both maps are read at a quarter of the latents."""

    name = "stable_diffusion_xl"
    pipeline_class = "StableDiffusionXLPipeline"
    control = Control("ControlNetModel", "StableDiffusionXLControlNetPipeline")
    text_encoders = ("text_encoder", "text_encoder_2")
    vae_overflows = True

    @classmethod
    def extra_parts(cls, folder: Path) -> Mapping[str, Any]:
        """No invisible watermark: whether one is drawn would depend on which packages are installed."""
        return {"add_watermarker": False}

    def finest(self, latent: tuple[int, int]) -> tuple[int, int]:
        """A quarter of the latents. Self-attention at half of them (64) can be asked for and costs 64 MB an image."""
        quarter = -(-max(latent) // 4)
        return quarter, quarter

    def locate(self, names: Sequence[str], class_ids: Sequence[int]) -> ClassPrompt:
        """Spans of the first tokenizer, which the second must share: the encoders' states are joined token by token."""
        first = super().locate(names, class_ids)
        second = class_spans(Window.clip(self.pipeline.tokenizer_2), names, class_ids)
        if first.spans != second.spans:
            expected, found = "the same tokens from both tokenizers", f"spans {first.spans} and {second.spans}"
            fix = "name other words for these classes in the prompt config's `words`"
            raise ContractError(f"class prompt {first.text!r}", Problem(Reason.BAD_PROMPT, expected, found, fix))
        return first

    def embed(self, texts: list[str], negatives: list[str] | None) -> dict[str, Any]:
        """With the pooled vectors that the UNet takes beside the tokens."""
        found = self.pipeline.encode_prompt(texts, None, self.device, 1, negatives is not None, negatives)
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        return {name: tensor for name, tensor in zip(names, found, strict=True) if tensor is not None}

    def store(self) -> AttentionStore:
        """Sixty layers of up to twenty heads are watched: what they compute anyhow is not computed again."""
        return FrugalStore()


FAMILY = StableDiffusionXL
