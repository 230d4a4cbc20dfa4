"""FLUX.1: T5's tokens as text, rotary positions, and single-stream blocks behind those with two streams."""

from typing import Any

from maskmill.generators.families.base import Control
from maskmill.generators.families.joint import JointFamily
from maskmill.generators.spans import Window

T5_TOKENS = 512
FEW_STEP_TOKENS = 256  # of FLUX.1-schnell, which is told no guidance


class Flux(JointFamily):
    """Guidance is distilled into the model: a call has one half, and a negative prompt has no say. Concepts are read
    in the last four double-stream blocks (15 to 18 of FLUX.1's 0 to 18).
    """

    name = "flux"
    pipeline_class = "FluxPipeline"
    control = Control("FluxControlNetModel", "FluxControlNetPipeline", "control_image", low=-1.0, negative=False)
    text_encoders = ("text_encoder", "text_encoder_2")
    last_blocks = 4

    @property
    def guided(self) -> bool:
        """Never: guidance is a number that the model is told."""
        return False

    @property
    def windows(self) -> list[tuple[Window, int]]:
        """T5 alone; CLIP gives a pooled vector."""
        told = self.pipeline.transformer.config.guidance_embeds
        return [(Window.t5(self.pipeline.tokenizer_2, T5_TOKENS if told else FEW_STEP_TOKENS), 0)]

    def embed(self, texts: list[str], negatives: list[str] | None) -> dict[str, Any]:
        """T5's tokens and CLIP's pooled vector."""
        length = self.windows[0][0].length
        tokens, pooled, _ = self.pipeline.encode_prompt(texts, None, self.device, 1, max_sequence_length=length)
        return {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}

    def unwatched(self) -> list[Any]:
        """All single-stream blocks as well."""
        return [*super().unwatched(), *self.pipeline.transformer.single_transformer_blocks]


FAMILY = Flux
