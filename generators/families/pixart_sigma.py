"""PixArt-Sigma: cross-attention to T5."""

from collections.abc import Callable
from typing import Any

from maskmill.generators.families.cross import TEXT_TOKENS, CrossFamily
from maskmill.generators.spans import Window


class PixArtSigma(CrossFamily):
    """T5's states are projected once."""

    name = "pixart_sigma"
    pipeline_class = "PixArtSigmaPipeline"

    @property
    def project(self) -> Callable[[Any], Any] | None:
        """Of the transformer; some have none."""
        found: Callable[[Any], Any] | None = self.denoising.caption_projection
        return found

    @property
    def window(self) -> Window:
        """T5's tokenizer."""
        return Window.t5(self.pipeline.tokenizer, TEXT_TOKENS)

    def states(self, texts: list[str], negatives: list[str] | None, *, drawn: bool = True) -> tuple[Any, ...]:
        """T5's; words and prompts are encoded alike."""
        found: tuple[Any, ...] = self.pipeline.encode_prompt(
            texts,
            negatives is not None,
            negatives if negatives is not None else "",
            1,
            self.device,
            clean_caption=False,
            max_sequence_length=self.window.length,
        )
        return found

    def after_step(self, done: Callable[[int], None]) -> dict[str, Any]:
        """The older kind of callback."""
        return {"callback": lambda step, timestep, latents: done(step), "callback_steps": 1}


FAMILY = PixArtSigma
