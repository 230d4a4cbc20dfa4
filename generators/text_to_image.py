"""Text to image and mask: draw with a Stable Diffusion pipeline and read the mask from its own attention (Dataset
Diffusion).

    engine = TextToImage(GeneratorConfig(model="starter")) drawn = engine.draw([request_from_row(row, space) for row
    in prompt_rows])

Each image has its own noise generator, and every call runs a full batch (the last request is repeated to fill it), so
an image depends on its request and the config only, whatever it is batched with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason, Uint8Array
from maskmill.generators.attention_masks import attention_mask
from maskmill.generators.capture import AttentionStore, Layer, attention_layers, choose_grid, watching
from maskmill.generators.config import GeneratorConfig
from maskmill.generators.loading import load_pipeline, pick_device
from maskmill.generators.spans import ClassPrompt, class_spans, fit_prompt
from maskmill.generators.words import spelled_out


@dataclass(frozen=True)
class Request:
    """One image to draw. `names` are the words that stand for `class_ids` in the class prompt, in the same order."""

    prompt: str
    names: tuple[str, ...]
    class_ids: tuple[int, ...]
    seed: int
    negative_prompt: str | None = None
    prompt_id: str | None = None

    @property
    def class_prompt(self) -> str:
        return " ".join(self.names)


@dataclass(frozen=True, eq=False)
class Drawn:
    """An image with its mask. `image` uint8 (H, W, 3); `mask` uint8 (H, W): 0, prompted ids, 255 = uncertain.

    `peaks`: class id to the peak of its attention map before min-max, a cheap sign that the object was drawn at all.
    """

    request: Request
    image: Uint8Array
    mask: Uint8Array
    peaks: dict[int, float] = field(default_factory=dict)
    shortened: bool = False  # words of the caption were cut so that the class words fit
    problem: Problem | None = None

    @property
    def class_ids(self) -> list[int]:
        """Prompted classes that the mask holds, ascending."""
        found = set(np.unique(self.mask).tolist())
        return sorted(found.intersection(self.request.class_ids))

    @property
    def lost_ids(self) -> list[int]:
        """Prompted classes that the mask does not hold, ascending."""
        return sorted(set(self.request.class_ids) - set(self.class_ids))


def names_of(class_prompt: str, class_ids: Sequence[int], space: LabelSpace) -> tuple[str, ...]:
    """The name of each class inside a class prompt, e.g. "potted plant dog" and ids 16, 12 to ("potted plant", "dog").

    A word that the space does not know is taken as it is where there are as many words as classes.

    Raises:
        ContractError: the prompt does not spell these classes in this order.
    """
    names: list[str] = []
    rest = class_prompt.strip()
    for class_id in class_ids:
        label = space.by_id.get(class_id)
        known = [] if label is None else [spelled_out(label), label.name, label.text, *label.synonyms]
        fitting = [k for k in known if (rest + " ").lower().startswith(k.lower() + " ")]
        if not fitting:
            break
        names.append(rest[: len(max(fitting, key=len))])
        rest = rest[len(names[-1]) :].strip()
    if len(names) == len(class_ids) and not rest:
        return tuple(names)
    if len(class_prompt.split()) == len(class_ids):
        return tuple(class_prompt.split())
    problem = Problem(
        Reason.BAD_PROMPT,
        f"the names of classes {list(class_ids)} of label space {space.name}, in this order",
        repr(class_prompt),
        "build prompts with generators.prompts, or use names and synonyms of the label space",
    )
    raise ContractError("class prompt", problem)


def request_from_row(row: Mapping[str, Any], space: LabelSpace, seed: int | None = None) -> Request:
    """A PROMPT row as a request; `seed` replaces the row's own."""
    ids = tuple(int(i) for i in row["class_ids"])
    return Request(
        prompt=str(row["prompt"]),
        names=names_of(str(row["class_prompt"]), ids, space),
        class_ids=ids,
        seed=int(row["seed"]) if seed is None else seed,
        negative_prompt=row["negative_prompt"],
        prompt_id=str(row["sample_id"]),
    )


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


def fill(requests: Sequence[Request], size: int) -> list[Request]:
    """Repeat the last request until there are `size`: kernels choose their order of sums by shape, so the shape is
    kept.
    """
    return [*requests, *[requests[-1]] * (size - len(requests))]


def to_uint8(images: Any) -> Uint8Array:
    """float (B, H, W, 3) in 0..1 to uint8."""
    rounded: Uint8Array = np.rint(np.clip(np.nan_to_num(images), 0, 1) * 255).astype(np.uint8)
    return rounded


class TextToImage:
    """A loaded pipeline with its capture: one per process and config (see `text_to_image`)."""

    def __init__(self, config: GeneratorConfig, pipeline: Any | None = None) -> None:
        self.config = config
        self.device = pick_device(config.device)
        self.pipeline = load_pipeline(config.model, self.device, config.dtype) if pipeline is None else pipeline
        use_scheduler(self.pipeline, config.scheduler)
        scale = self.pipeline.vae_scale_factor
        native = self.pipeline.unet.config.sample_size
        rows, columns = (native, native) if isinstance(native, int) else native
        self.size = (config.height or rows * scale, config.width or columns * scale)
        if self.size[0] % scale or self.size[1] % scale:
            raise ValueError(f"height and width {self.size}: must be multiples of {scale} for {config.model}")
        self._choose_layers((self.size[0] // scale, self.size[1] // scale))

    def _choose_layers(self, latent: tuple[int, int]) -> None:
        layers = attention_layers(self.pipeline.unet, latent)
        cross = choose_grid(layers, "cross", self.config.mask.cross_resolution, 16)
        own = choose_grid(layers, "self", self.config.mask.self_resolution, 32)
        self.grids = (cross, own)
        self.cross_layers: list[Layer] = [la for la in layers if la.kind == "cross" and la.grid == cross]
        self.self_layers: list[Layer] = [la for la in layers if la.kind == "self" and la.grid == own]

    @property
    def scheduler_name(self) -> str:
        """Class name of the scheduler in use."""
        return type(self.pipeline.scheduler).__name__

    def prepare(self, request: Request) -> ClassPrompt:
        """Locate the class words of a request.

        Raises:
            ContractError: the class prompt is too long, repeats a class, or does not read as its names.
        """
        return class_spans(self.pipeline.tokenizer, request.names, request.class_ids)

    def draw(self, requests: Sequence[Request]) -> list[Drawn]:
        """Draw the requests, `batch_size` at a time, in order.

        Raises:
            ContractError: as `prepare`.
        """
        size = self.config.batch_size
        drawn: list[Drawn] = []
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            drawn += self._draw_batch(fill(batch, size))[: len(batch)]
        return drawn

    def _draw_batch(self, requests: list[Request]) -> list[Drawn]:
        import torch

        prompts = [self.prepare(request) for request in requests]
        fitted = [fit_prompt(self.pipeline.tokenizer, r.prompt, r.class_prompt) for r in requests]
        store = AttentionStore()
        with torch.no_grad(), watching(self.pipeline.unet, store, self.cross_layers, self.self_layers):
            embeds, _ = self.pipeline.encode_prompt([p.text for p in prompts], self.device, 1, False)
            store.begin(embeds, guided=self.config.guidance > 1)
            images, flagged = self._run([prompt for prompt, _ in fitted], requests, store)
            self_maps, cross_maps = store.averages()
        results = []
        for k, request in enumerate(requests):
            mask, peaks = attention_mask(
                self_maps[k], cross_maps[k], prompts[k], self.grids, self.size, self.config.mask
            )
            problem = drawing_problem(images[k], flagged[k])
            pixels = to_uint8(images[k])
            results.append(Drawn(request, pixels, mask.cpu().numpy(), peaks, fitted[k][1], problem))
        return results

    def _run(self, prompts: list[str], requests: list[Request], store: AttentionStore) -> tuple[Any, list[bool]]:
        """Call the pipeline: float images (B, H, W, 3) and whether its safety checker blanked each."""
        first = round(self.config.mask.first_step * self.config.steps)
        store.active = first == 0

        def after_step(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            store.active = step + 1 >= first
            return tensors

        result = self.pipeline(
            prompt=prompts,
            negative_prompt=[request.negative_prompt or "" for request in requests],
            height=self.size[0],
            width=self.size[1],
            num_inference_steps=self.config.steps,
            guidance_scale=self.config.guidance,
            generator=generators_for(requests),
            output_type="np",
            callback_on_step_end=after_step,
        )
        return result.images, list(result.nsfw_content_detected or [False] * len(prompts))


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
            "set dtype to float32 or bfloat16, or upcast the VAE",
        )
    return None


@lru_cache(maxsize=2)
def text_to_image(config: GeneratorConfig) -> TextToImage:
    """The engine for a config, loaded once a process."""
    return TextToImage(config)
