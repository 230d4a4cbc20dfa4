"""What joint-attention transformers share: concepts that travel along, and blocks that are read."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from maskmill.generators.config import Reading
from maskmill.generators.families.base import Encoded, Family
from maskmill.generators.joint_attention import JointWatch, Plan, Wanted
from maskmill.generators.joint_streams import TextStream
from maskmill.generators.requests import Request
from maskmill.generators.spans import ClassPrompt, Window, class_spans, encode, fit_prompt, occurrences


class JointFamily(Family):
    """Maps of concept tokens (the default), of the prompt's own class words, or of anchors spread over a graph."""

    readings: ClassVar[tuple[Reading, ...]] = ("concept", "cross", "anchor")
    last_blocks: ClassVar[int | None] = None  # concepts are read in this many of the last blocks; None: in all
    stream: ClassVar[TextStream] = TextStream()

    @property
    @abstractmethod
    def windows(self) -> list[tuple[Window, int]]:
        """The tokenizers whose tokens the transformer sees, each with the place of its first token. Class words are
        found, and concepts encoded, in the last.
        """

    @abstractmethod
    def embed(self, texts: list[str], negatives: list[str] | None) -> dict[str, Any]:
        """Texts as arguments of the pipeline; `prompt_embeds` (B, tokens, D) are the transformer's text tokens."""

    def native_size(self) -> tuple[int, int]:
        """The pipeline's own."""
        side = self.pipeline.default_sample_size * self.pipeline.vae_scale_factor
        return side, side

    def multiple(self) -> int:
        """Two latents a token, as all of these models have."""
        return int(self.pipeline.vae_scale_factor) * self.patch

    @property
    def patch(self) -> int:
        """Latents a token, along a side."""
        return 2

    def choose(self) -> None:
        """Blocks of the reading, and of the image attention that spreads maps."""
        count, mask = len(self.pipeline.transformer.transformer_blocks), self.config.mask
        middle: tuple[int, ...] = (count // 2,)
        if self.reading == "cross":
            blocks = middle  # one middle block does nearly all the grounding (Seg4Diff, NeurIPS 2025)
        else:
            blocks = tuple(range(0 if self.last_blocks is None else max(0, count - self.last_blocks), count))
        chosen, affinity = mask.blocks or blocks, mask.affinity_blocks or middle
        for key, numbers in (("blocks", chosen), ("affinity_blocks", affinity)):
            if wrong := [number for number in numbers if not 0 <= number < count]:
                raise ValueError(f"mask.{key} {wrong}: {self.config.model} has double-stream blocks 0 to {count - 1}")
        side = self.multiple()
        grid = (self.size[0] // side, self.size[1] // side)
        self.plan = Plan(self.reading, frozenset(chosen), frozenset(affinity if mask.power else ()), grid)
        self._concepts: dict[str, Any] = {}  # by word: encoded alone, so that no word depends on its neighbours

    def locate(self, names: Sequence[str], class_ids: Sequence[int]) -> ClassPrompt:
        """In each tokenizer that the transformer sees."""
        return [class_spans(window, names, class_ids) for window, _ in self.windows][-1]

    def fit(self, prompt: str, class_prompt: str) -> tuple[str, bool]:
        """Into the narrowest window."""
        window = min((window for window, _ in self.windows), key=lambda window: window.room)
        return fit_prompt(window, prompt, class_prompt)

    def encode(self, requests: Sequence[Request], prompts: Sequence[ClassPrompt], texts: Sequence[str]) -> Encoded:
        """The drawn texts, and for each image its classes and their rivals."""
        negatives = [request.negative_prompt or "" for request in requests]
        arguments = self.embed(list(texts), negatives if self.guided else None)
        wanted = [self._wanted(request, text) for request, text in zip(requests, texts, strict=True)]
        return Encoded(arguments, wanted)

    def _wanted(self, request: Request, text: str) -> Wanted:
        import torch

        words = [*request.names, *request.rivals(self.config.mask.background)]
        found = [
            [(at, where) for window, at in self.windows for where in occurrences(window, text, request.names)[k]]
            for k in range(len(request.names))
        ]
        positions = tuple(tuple(at + where for at, where in own) for own in found)
        return Wanted(torch.stack([self._concept(word) for word in words]), len(request.names), positions)

    def _concept(self, word: str) -> Any:
        """One token (D,) for a word: the mean of its pieces, without padding."""
        if word not in self._concepts:
            window, at = self.windows[-1]
            pieces = max(1, min(window.room, len(encode(window.tokenizer, word))))
            first = at + window.start
            self._concepts[word] = self.embed([word], None)["prompt_embeds"][0, first : first + pieces].mean(dim=0)
        return self._concepts[word]

    @contextmanager
    def watch(self, encoded: Encoded) -> Iterator[JointWatch]:
        """Hooks on the chosen blocks."""
        watched = JointWatch(self.pipeline.transformer, self.plan, encoded.classes, self.guided, self.stream)
        with watched.watching():
            yield watched

    def account(self) -> dict[str, Any]:
        """Blocks, grid and the words that compete."""
        plan = self.plan
        return {
            "grids": {"tokens": plan.grid},
            "blocks": sorted(plan.blocks),
            "affinity_blocks": sorted(plan.affinity),
            "background": list(self.config.mask.background),
        }

    def unwatched(self) -> list[Any]:
        """Double-stream blocks behind the last one that is read."""
        plan = self.plan
        last = max(plan.last_concept, *plan.blocks, *plan.affinity)
        return list(self.pipeline.transformer.transformer_blocks[last + 1 :])
