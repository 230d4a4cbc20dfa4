"""What transformers with separate self- and cross-attention share: one grid of tokens, text whose padding is masked."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from maskmill.generators.capture import AttentionStore, FrugalStore, Layer, Words
from maskmill.generators.families.unet import UNetFamily

TEXT_TOKENS = 300  # that the pipelines take
CLOSED = -10_000.0  # what the models add to the scores of padding
NAMES = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")


class CrossFamily(UNetFamily):
    """Class-prompt cross-attention, read in the middle third of the blocks; self-attention of the middle one spreads
    it. Padding is masked where it is read, as where it is drawn.
    """

    control: ClassVar[None] = None
    text_encoders = ("text_encoder",)
    denoiser = "transformer"

    @property
    def denoising(self) -> Any:
        """The transformer."""
        return self.pipeline.transformer

    @property
    @abstractmethod
    def project(self) -> Callable[[Any], Any] | None:
        """Texts are projected once for all blocks."""

    @property
    def guided(self) -> bool:
        """As the pipelines decide."""
        return self.config.guidance > 1

    def native_size(self) -> tuple[int, int]:
        """The transformer's own."""
        side = self.denoising.config.sample_size * self.pipeline.vae_scale_factor
        return side, side

    def multiple(self) -> int:
        """A token's side in pixels."""
        return int(self.pipeline.vae_scale_factor) * int(self.denoising.config.patch_size)

    def choose(self) -> None:
        """Blocks whose cross-attention is read, and blocks whose self-attention spreads it."""
        count, mask = len(self.denoising.transformer_blocks), self.config.mask
        third = range(count // 3, max(count // 3 + 1, count - count // 3))
        chosen, affinity = mask.blocks or tuple(third), mask.affinity_blocks or (count // 2,)
        for key, numbers in (("blocks", chosen), ("affinity_blocks", affinity)):
            if wrong := [number for number in numbers if not 0 <= number < count]:
                raise ValueError(f"mask.{key} {wrong}: {self.config.model} has blocks 0 to {count - 1}")
        side = self.multiple()
        grid = (self.size[0] // side, self.size[1] // side)
        self.grids = (grid, grid)
        self.cross_layers = [Layer(f"transformer_blocks.{i}.attn2.processor", "cross", grid) for i in sorted(chosen)]
        self.self_layers = [Layer(f"transformer_blocks.{i}.attn1.processor", "self", grid) for i in sorted(affinity)]
        self.blocks = (sorted(chosen), sorted(affinity))

    def embed(self, texts: list[str], negatives: list[str] | None) -> dict[str, Any]:
        """States of the text encoder and which of them are padding; captions are taken as they are, and so is the
        size.
        """
        given = dict(zip(NAMES, self.states(texts, negatives), strict=True))
        known = {name: tensor for name, tensor in given.items() if tensor is not None}
        return {**known, "negative_prompt": None, "use_resolution_binning": False}

    @abstractmethod
    def states(self, texts: list[str], negatives: list[str] | None, *, drawn: bool = True) -> tuple[Any, ...]:
        """What the pipeline's `encode_prompt` gives, in the order of NAMES; `drawn`: as prompts, else plain words."""

    def words(self, texts: list[str]) -> Words:
        """With the model's own bias on padding."""
        embeds, mask, _, _ = self.states(texts, None, drawn=False)
        return Words(embeds, (1 - mask.float())[:, None] * CLOSED)

    def store(self) -> AttentionStore:
        """Sequences are long: what the layers compute anyhow is not computed again."""
        return FrugalStore()

    def account(self) -> dict[str, Any]:
        """Grid and blocks."""
        return {"grids": {"tokens": self.grids[0]}, "blocks": self.blocks[0], "affinity_blocks": self.blocks[1]}

    def unwatched(self) -> list[Any]:
        """Blocks in which nothing is read."""
        read = {*self.blocks[0], *self.blocks[1]}
        return [block for number, block in enumerate(self.denoising.transformer_blocks) if number not in read]
