"""Mask to image: a ControlNet draws what a mask says, so the label is known before the image is.

Rectified cross-attention (FreestyleNet, CVPR 2023) can be added without training: words of class c speak only to
positions whose layout label is c. Without the fine-tuning of that paper its effect is weaker.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskmill.data_contracts import LabelSpace, Problem, Uint8Array, foreground_ids
from maskmill.generators.batches import Batches, fill
from maskmill.generators.capture import attention_layers
from maskmill.generators.config import ControlConfig as ControlConfig
from maskmill.generators.families import control_of, family_of
from maskmill.generators.layouts import ControlPalette, rectification, resize_nearest
from maskmill.generators.loading import load_pipeline, pick_device, resolve_model
from maskmill.generators.prompts import append_classes
from maskmill.generators.spans import Window, occurrences
from maskmill.generators.text_to_image import drawing_problem, generators_for, to_uint8, use_scheduler
from maskmill.generators.words import class_words, counted, joined


@dataclass(frozen=True, eq=False)
class LayoutRequest:
    """One image to draw. `mask` uint8 (h, w) of class ids; `names` are the words of `class_ids` in the prompt."""

    prompt: str
    mask: Uint8Array
    names: tuple[str, ...]
    class_ids: tuple[int, ...]
    seed: int
    negative_prompt: str | None = None
    mask_id: str | None = None


@dataclass(frozen=True, eq=False)
class DrawnLayout:
    """An image and its label: `mask` is the request's, resized to the image by nearest neighbour, otherwise
    untouched.
    """

    request: LayoutRequest
    image: Uint8Array
    mask: Uint8Array
    problem: Problem | None = None
    batch_size: int = 0  # images that it was drawn among, filled up


def request_from_mask(
    mask: Uint8Array,
    space: LabelSpace,
    config: ControlConfig,
    seed: int,
    *,
    scene: str = "",
    mask_id: str | None = None,
) -> LayoutRequest:
    """A request whose prompt names the mask's classes, the scene, and the class words again.

    Raises:
        ValueError: the mask holds no foreground class.
    """
    ids = foreground_ids(mask, space)
    if not ids:
        raise ValueError(f"mask {mask_id or ''}: no foreground class of label space {space.name} to draw")
    words = class_words(space)
    names = tuple(words[i] for i in ids)
    caption = config.template.format(objects=joined([counted(name) for name in names]))
    prompt = append_classes(f"{caption}, {scene}" if scene else caption, " ".join(names))
    return LayoutRequest(prompt, mask, names, tuple(ids), seed, config.negative_prompt, mask_id)


@dataclass
class Rectify:
    """Cross-attention with an additive mask of 0 and -inf on the conditional half; replaces the processor of one
    layer.
    """

    added: Tensor  # (B, 1, positions, tokens), unconditional half first where there is one

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend from positions to tokens; weights of closed tokens are exactly 0."""
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
        batch, positions, width = query.shape
        query, key, value = (
            t.view(batch, -1, attn.heads, width // attn.heads).transpose(1, 2) for t in (query, key, value)
        )
        mixed = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self.added.to(query.dtype), scale=attn.scale
        )
        mixed = mixed.transpose(1, 2).reshape(batch, positions, width)
        result: Tensor = attn.to_out[1](attn.to_out[0](mixed)) / attn.rescale_output_factor
        return result


class MaskToImage:
    """A loaded ControlNet pipeline: one per process and config (see `mask_to_image`)."""

    def __init__(self, config: ControlConfig, space: LabelSpace, pipeline: Any | None = None) -> None:
        self.config, self.space = config, space
        self.device = pick_device(config.device)
        self.batches = Batches(config.batch_size, config.model, self.device)
        self.palette = ControlPalette.for_space(space, config.colours, config.background, config.palette)
        self.family = family_of(resolve_model(config.model))
        if config.rectified and self.family.denoiser != "unet":
            raise ValueError(f"rectified: {self.family.name} has no cross-attention to rectify; set it to false")
        self.pipeline = pipeline or load_pipeline(
            config.model, self.device, config.dtype, config.controlnet, options=config
        )
        use_scheduler(self.pipeline, config.scheduler)
        scale = self.pipeline.vae_scale_factor * (1 if self.family.denoiser == "unet" else 2)
        if config.height % 8 or config.width % 8 or config.height % scale or config.width % scale:
            raise ValueError(f"height {config.height} and width {config.width} must be multiples of {max(8, scale)}")

    def control_map(self, mask: Uint8Array) -> Uint8Array:
        """The RGB map that the ControlNet sees: exactly the image's size, palette colours only."""
        return self.palette.paint(self.sized(mask), self.space.background_id or 0)

    def sized(self, mask: Uint8Array) -> Uint8Array:
        """A mask at the image's size: the label of the image, and all that drawing it looks at."""
        return resize_nearest(mask, (self.config.height, self.config.width))

    def draw(self, requests: Sequence[LayoutRequest]) -> list[DrawnLayout]:
        """Draw the requests, `batch_size` at a time, in order; an image depends on its own request only. Batches are
        halved where the device's memory runs out.

        Raises:
            MemoryError: a single image does not fit.
        """
        return self.batches.draw(requests, self._draw)

    def _draw(self, requests: Sequence[LayoutRequest]) -> Iterator[list[DrawnLayout]]:
        for part in self.batches.parts(requests):
            yield self._draw_batch(fill(part, self.batches.size))[: len(part)]

    def _draw_batch(self, requests: list[LayoutRequest]) -> list[DrawnLayout]:
        config, control = self.config, control_of(self.family)
        maps = np.stack([self.control_map(request.mask) for request in requests])
        seen = torch.from_numpy(maps).permute(0, 3, 1, 2).float() / 255
        arguments: dict[str, Any] = {control.argument: seen * (1 - control.low) + control.low}
        if control.negative:
            arguments["negative_prompt"] = [request.negative_prompt or "" for request in requests]
        rectified = self._rectified(requests) if config.rectified else nullcontext()
        with torch.no_grad(), rectified, _certain(self.pipeline.vae):
            result = self.pipeline(
                prompt=[request.prompt for request in requests],
                **arguments,
                height=config.height,
                width=config.width,
                num_inference_steps=config.steps,
                guidance_scale=config.guidance,
                controlnet_conditioning_scale=config.conditioning_scale,
                control_guidance_end=config.control_end,
                generator=generators_for(requests),
                output_type="np",
            )
        flagged = list(getattr(result, "nsfw_content_detected", None) or [False] * len(requests))
        return [
            DrawnLayout(request, to_uint8(image), self.sized(request.mask), drawing_problem(image, bad), len(requests))
            for request, image, bad in zip(requests, result.images, flagged, strict=True)
        ]

    @contextmanager
    def _rectified(self, requests: list[LayoutRequest]) -> Iterator[None]:
        """Put rectifying processors on every cross-attention layer of the UNet for one call."""
        unet, scale = self.pipeline.unet, self.pipeline.vae_scale_factor
        window, before = Window.clip(self.pipeline.tokenizer), dict(unet.attn_processors)
        positions = [occurrences(window, r.prompt, r.names) for r in requests]
        layers = attention_layers(unet, (self.config.height // scale, self.config.width // scale))
        added = {}
        for grid in {layer.grid for layer in layers}:
            parts = [
                rectification(self.sized(r.mask), grid, where, r.class_ids, window.length)
                for r, where in zip(requests, positions, strict=True)
            ]
            own = torch.from_numpy(np.stack(parts))[:, None].to(self.device)
            added[grid] = torch.cat([torch.zeros_like(own), own]) if self.config.guidance > 1 else own
        rectifiers = {layer.name: Rectify(added[layer.grid]) for layer in layers if layer.kind == "cross"}
        unet.set_attn_processor({name: rectifiers.get(name, inner) for name, inner in before.items()})
        try:
            yield
        finally:
            unet.set_attn_processor(before)


@contextmanager
def _certain(vae: Any) -> Iterator[None]:
    """Control maps that a pipeline encodes are taken at the mean of their distribution: some pipelines would sample it
    with noise that is nobody's own, and images would depend on their batch.
    """
    encode = vae.encode

    def mean(*args: Any, **kwargs: Any) -> Any:
        found = encode(*args, **kwargs)
        found.latent_dist.sample = lambda generator=None: found.latent_dist.mode()
        return found

    vae.encode = mean
    try:
        yield
    finally:
        del vae.encode


@lru_cache(maxsize=1)
def _engine(config_json: str, space: LabelSpace) -> MaskToImage:
    return MaskToImage(ControlConfig.model_validate_json(config_json), space)


def mask_to_image(config: ControlConfig, space: LabelSpace) -> MaskToImage:
    """The engine for a config, loaded once a process."""
    return _engine(config.model_dump_json(), space)
