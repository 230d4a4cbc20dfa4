"""Stable Diffusion 3 and 3.5: CLIP's tokens in front, T5's behind, and only blocks with two streams."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskmill.generators.families.base import Control
from maskmill.generators.families.joint import JointFamily
from maskmill.generators.spans import Window

T5_TOKENS, CLIP_TOKENS = 256, 77


class StableDiffusion3(JointFamily):
    """With T5, concepts are encoded by it; a folder without T5 has CLIP's tokens alone. Maps come from all blocks."""

    name = "stable_diffusion_3"
    pipeline_class = "StableDiffusion3Pipeline"
    control = Control("SD3ControlNetModel", "StableDiffusion3ControlNetPipeline", "control_image")
    text_encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")

    @classmethod
    def extra_parts(cls, folder: Path) -> Mapping[str, Any]:
        """No T5 where there is none: its zeros stand for it."""
        return {} if (folder / "text_encoder_3").is_dir() else {"text_encoder_3": None, "tokenizer_3": None}

    @property
    def windows(self) -> list[tuple[Window, int]]:
        """CLIP at 0; T5, where the folder has it, behind."""
        clip = Window.clip(self.pipeline.tokenizer)
        if self.pipeline.tokenizer_3 is None:
            return [(clip, 0)]
        return [(clip, 0), (Window.t5(self.pipeline.tokenizer_3, T5_TOKENS), clip.length)]

    @property
    def patch(self) -> int:
        """As the transformer says."""
        return int(self.pipeline.transformer.config.patch_size)

    @property
    def behind(self) -> int:
        """Tokens behind CLIP's: T5's, or the zeros that stand for it. A small model, whose CLIP takes fewer tokens
        than the usual 77, learnt as many zeros as that.
        """
        clip = int(self.pipeline.tokenizer.model_max_length)
        if self.pipeline.tokenizer_3 is not None:
            return self.windows[-1][0].length
        return clip if clip < CLIP_TOKENS else T5_TOKENS

    def embed(self, texts: list[str], negatives: list[str] | None) -> dict[str, Any]:
        """Joined by the pipeline; pooled vectors go into the modulation."""
        found = self.pipeline.encode_prompt(
            texts,
            None,
            None,
            self.device,
            1,
            negatives is not None,
            negatives,
            max_sequence_length=self.behind,
        )
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        return {name: tensor for name, tensor in zip(names, found, strict=True) if tensor is not None}


FAMILY = StableDiffusion3
