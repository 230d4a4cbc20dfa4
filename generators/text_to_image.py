"""Text to image and mask: draw with a diffusers pipeline and read the mask from its own attention (Dataset Diffusion
for UNets, ConceptAttention for joint-attention transformers; see `families`).

    engine = TextToImage(GeneratorConfig(model="starter"))
    drawn = engine.draw([request_from_row(row, space) for row in prompt_rows])

Each image has its own noise generator, and every call runs a full batch (the last request is repeated to fill it), so
an image depends on its request and the config only, whatever it is batched with.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from maskmill.data_contracts import Problem, Reason, Uint8Array
from maskmill.generators.attention_masks import ClassMaps, mask_of, signs_of
from maskmill.generators.batches import Batches, fill
from maskmill.generators.config import GeneratorConfig, MaskConfig
from maskmill.generators.families import family_of
from maskmill.generators.families.base import Encoded, Family, Watched
from maskmill.generators.loading import load_pipeline, pick_device, resolve_model
from maskmill.generators.practical import compile_parts, without_text_encoders
from maskmill.generators.requests import Request, names_of, request_from_row
from maskmill.generators.spans import ClassPrompt

__all__ = ["Drawn", "Request", "TextToImage", "names_of", "request_from_row", "text_to_image"]


@dataclass(frozen=True, eq=False)
class Drawn:
    """An image with its mask. `image` uint8 (H, W, 3); `mask` uint8 (H, W): 0, prompted ids, 255 = uncertain.

    `peaks`: class id to the peak of its attention map before min-max, a cheap sign that the object was drawn at all;
    `signs`, with `mask.lineup`: by class id all signs (see `attention_masks.signs_of`).
    """

    request: Request
    image: Uint8Array
    mask: Uint8Array
    peaks: dict[int, float] = field(default_factory=dict)
    shortened: bool = False  # words of the caption were cut so that the class words fit
    problem: Problem | None = None
    batch_size: int = 0  # images that it was drawn among, filled up
    signs: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def class_ids(self) -> list[int]:
        """Prompted classes that the mask holds, ascending."""
        found = set(np.unique(self.mask).tolist())
        return sorted(found.intersection(self.request.class_ids))

    @property
    def lost_ids(self) -> list[int]:
        """Prompted classes that the mask does not hold, ascending."""
        return sorted(set(self.request.class_ids) - set(self.class_ids))


def use_scheduler(pipeline: Any, name: str | None) -> None:
    """Swap the pipeline's scheduler for another of diffusers, keeping its noise schedule.

    Raises:
        ValueError: diffusers has no scheduler of that name.
    """
    if name is None:
        return
    import diffusers

    kind = getattr(diffusers, name, None)
    if kind is None or not issubclass(kind, diffusers.SchedulerMixin):
        raise ValueError(
            f"scheduler {name!r}: not a scheduler of diffusers; try DDIMScheduler or UniPCMultistepScheduler"
        )
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)


class Seeded(Protocol):
    """Whatever has a seed for its noise."""

    @property
    def seed(self) -> int:
        """In [0, 2**63)."""


def generators_for(requests: Sequence[Seeded]) -> list[Any]:
    """One CPU noise generator per request: the same noise on every device."""
    import torch

    return [torch.Generator("cpu").manual_seed(request.seed) for request in requests]


def to_uint8(images: Any) -> Uint8Array:
    """float (B, H, W, 3) in 0..1 to uint8."""
    rounded: Uint8Array = np.rint(np.clip(np.nan_to_num(images), 0, 1) * 255).astype(np.uint8)
    return rounded


@dataclass(frozen=True, eq=False)
class Batch:
    """Requests with their texts encoded; `shortened`: whether words of a caption were cut."""

    requests: list[Request]
    prompts: list[ClassPrompt]
    shortened: list[bool]
    encoded: Encoded


class TextToImage:
    """A loaded pipeline with its capture: one per process and config (see `text_to_image`)."""

    def __init__(self, config: GeneratorConfig, pipeline: Any | None = None) -> None:
        self.config = config
        self.device = pick_device(config.device)
        self.batches = Batches(config.batch_size, config.model, self.device)
        kind = family_of(resolve_model(config.model))
        self.pipeline = pipeline or load_pipeline(config.model, self.device, config.dtype, options=config)
        use_scheduler(self.pipeline, config.scheduler)
        self.family: Family = kind(self.pipeline, config, self.device)
        self.size = self.family.size
        if config.compile:
            compile_parts(self.pipeline, self.family)

    @property
    def scheduler_name(self) -> str:
        """Class name of the scheduler in use."""
        return type(self.pipeline.scheduler).__name__

    def prepare(self, request: Request) -> ClassPrompt:
        """Locate the class words of a request.

        Raises:
            ContractError: the class prompt is too long, repeats a class, or does not read as its names.
        """
        return self.family.locate(request.names, request.class_ids)

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        """Draw the requests, `batch_size` at a time, in order. Where the device's memory runs out, batches are halved
        from there on; the log and each image's provenance say so.

        Raises:
            ContractError: as `prepare`.
            MemoryError: a single image does not fit.
        """
        return self.batches.draw(requests, self._draw)

    def _draw(self, requests: Sequence[Request]) -> Iterator[list[Drawn]]:
        """Draw batch by batch; with text encoders to be freed, all texts are encoded first."""
        import torch

        size, parts = self.batches.size, self.batches.parts(requests)
        free = self.config.text_encoders == "free" and self.config.offload == "none"
        with torch.no_grad():
            ready = [self._encode(fill(part, size)) for part in parts] if free else None
            with without_text_encoders(self.pipeline, type(self.family)) if free else nullcontext():
                for number, part in enumerate(parts):
                    batch = self._encode(fill(part, size)) if ready is None else ready[number]
                    yield self._draw_batch(batch)[: len(part)]

    def _encode(self, requests: list[Request], family: Family | None = None) -> Batch:
        family = family or self.family
        prompts = [family.locate(request.names, request.class_ids) for request in requests]
        fitted = [family.fit(r.prompt, r.class_prompt) for r in requests]
        encoded = family.encode(requests, prompts, [text for text, _ in fitted])
        return Batch(requests, prompts, [cut for _, cut in fitted], encoded)

    def _draw_batch(self, batch: Batch) -> list[Drawn]:
        return self._read_batch({"": (self.family, batch)})[""]

    def compare(self, requests: Sequence[Request], masks: Mapping[str, MaskConfig]) -> dict[str, list[Drawn]]:
        """Draw once, and read the masks in several ways: by name, what `draw` would give with that `mask`.

        Raises:
            ContractError: as `prepare`.
            MemoryError: as `draw`.
            ValueError: a reading or layer that this model does not have.
        """
        import torch

        families: dict[str, Family] = {
            name: type(self.family)(self.pipeline, self.config.model_copy(update={"mask": mask}), self.device)
            for name, mask in masks.items()
        }
        with torch.no_grad():
            drawn = self.batches.draw(requests, lambda rest: self._compare(rest, families)) if masks else []
        return {name: [one[name] for one in drawn] for name in masks}

    def _compare(self, requests: Sequence[Request], families: Mapping[str, Family]) -> Iterator[list[dict[str, Drawn]]]:
        """Batch by batch, what each family reads of each request."""
        for part in self.batches.parts(requests):
            full = fill(part, self.batches.size)
            read = self._read_batch({name: (one, self._encode(full, one)) for name, one in families.items()})
            yield [{name: own[k] for name, own in read.items()} for k in range(len(part))]

    def _read_batch(self, readings: Mapping[str, tuple[Family, Batch]]) -> dict[str, list[Drawn]]:
        """Draw one batch, which each family has encoded for itself, and read it by all."""
        with ExitStack() as watching:
            watches = [
                (watching.enter_context(family.watch(batch.encoded)), family.config.mask)
                for family, batch in readings.values()
            ]
            images, flagged = self._run(next(batch for _, batch in readings.values()), watches)
            maps = [watched.maps() for watched, _ in watches]
        return {
            name: [self._drawn(batch, k, images[k], flagged[k], own, family.config.mask) for k, own in enumerate(read)]
            for (name, (family, batch)), read in zip(readings.items(), maps, strict=True)
        }

    def _drawn(self, batch: Batch, k: int, image: Any, flagged: bool, read: ClassMaps, config: MaskConfig) -> Drawn:
        request, ids = batch.requests[k], batch.requests[k].class_ids
        mask, peaks = mask_of(read, ids, self.size, config)
        signs = signs_of(read, mask, ids, config.power) if config.lineup else {}
        problem = drawing_problem(image, flagged)
        pixels, labels = to_uint8(image), mask.cpu().numpy()
        return Drawn(request, pixels, labels, peaks, batch.shortened[k], problem, len(batch.requests), signs)

    def _run(self, batch: Batch, watches: Sequence[tuple[Watched, MaskConfig]]) -> tuple[Any, list[bool]]:
        """Call the pipeline: float images (B, H, W, 3) and whether its safety checker blanked each."""
        firsts = [(watched, round(mask.first_step * self.config.steps)) for watched, mask in watches]
        for watched, first in firsts:
            watched.active = first == 0

        def done(step: int) -> None:
            for watched, first in firsts:
                watched.active = step + 1 >= first

        result = self.pipeline(
            **batch.encoded.arguments,
            height=self.size[0],
            width=self.size[1],
            num_inference_steps=self.config.steps,
            **{self.family.guidance: self.config.guidance},
            generator=generators_for(batch.requests),
            output_type="np",
            **self.family.after_step(done),
        )
        flagged = getattr(result, "nsfw_content_detected", None)
        return result.images, list(flagged or [False] * len(batch.requests))


def drawing_problem(image: Any, flagged: bool) -> Problem | None:
    """What is wrong with a drawn image: blanked by the safety checker, or not finite."""
    if flagged:
        return Problem(
            Reason.GENERATION_FAILED,
            "an image",
            "a blank one from the safety checker",
            "reword the prompt or change its seed",
        )
    if not np.isfinite(image).all():
        return Problem(
            Reason.GENERATION_FAILED,
            "finite pixels",
            "NaN or infinity",
            "set dtype to float32 or bfloat16, or vae_dtype to float32",
        )
    return None


@lru_cache(maxsize=2)
def text_to_image(config: GeneratorConfig) -> TextToImage:
    """The engine for a config, loaded once a process."""
    return TextToImage(config)
