"""All that the trained parts never change: features of a frozen encoder, and priors. Pure functions of one image."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import Uint8Array, config_hash, content_id
from maskmill.trainers.engine import normalise, resize_image
from maskmill.trainers.few_shot.base import resize
from maskmill.trainers.few_shot.config import Config
from maskmill.trainers.few_shot.encoder import encoder_of
from maskmill.trainers.few_shot.kept import Features, Kept, Levels, Maps, Shot, TextView, shared_cache
from maskmill.trainers.few_shot.known import read_known
from maskmill.trainers.few_shot.priors import ClipPriors, plain_prior, product_with_text, resize_nearest
from maskmill.vision.segmenters import encoder_normalisation


class Featurizer:
    """The frozen encoder and, for `prior: pi_clip`, the frozen CLIP. One image a forward, so that no feature depends
    on companions; features of equal settings on one device are shared within a process.

    `names` are class names by id, `base` the ids that training shows.
    """

    def __init__(
        self,
        config: Config,
        names: Mapping[int, str],
        base: Sequence[int],
        surroundings: Sequence[str],
        device: torch.device,
    ) -> None:
        self.config, self.device = config, device
        self.encoder, channels = encoder_of(config, str(device))
        if config.encoder_norms == "batch":
            self.encoder = copy.deepcopy(self.encoder)  # its own: training moves the norms' statistics
        self.channels, self._third = sum(channels[-3:-1]), channels[-2]
        if config.mask_stage and not hasattr(self.encoder, "layer4"):
            raise ValueError(f"mask_stage: expected a ResNet of timm's, found {config.encoder}; set mask_stage: false")
        self.mean, self.std = encoder_normalisation(config.encoder)
        self.finer = self.channels - self._third
        self.known = None if config.base_learner is None else read_known(config.base_learner)
        self._head = None if self.known is None else self.known.head(channels[-1], device)
        self.clip = None
        if config.prior == "pi_clip":
            self.clip = ClipPriors(config.priors, names, base, surroundings, str(device))
        fields = ("encoder", "encoder_weights", "output_stride", "released_dilation", "size", "scale_levels")
        frozen = {name: getattr(config, name) for name in fields}
        self._encoder_space = config_hash(frozen if self.known is None else {**frozen, "learner": self.known.stamp})
        self._clip_space = config_hash(config.priors)
        matched = ("prior", "base", "mask_support", "mask_stage", "area_masks", "binary_masks")
        spaces: dict[str, Any] = {"encoder": self._encoder_space, "clip": self._clip_space}
        self._prior_space = config_hash({**spaces, **{name: getattr(config, name) for name in matched}})
        self._cache = shared_cache(config.cache_mb)

    def image(self, image: Uint8Array, key: str | None = None, *, photo: tuple[int, ...] | None = None) -> Features:
        """Features of a whole image (H, W, 3), squashed to the canvas; kept under `key` where one is given. `photo`:
        (height, width) of the photo that a view was made of, where it was another.
        """
        levels = self._kept(self._encoder_space, key, lambda: self._levels(image, None))
        clip = self.clip
        if clip is None:
            return Features(levels, None, key)
        view = self._kept(self._clip_space, key, lambda: TextView(clip.encode(image, photo=photo), {}))
        return Features(levels, view, key)

    def shot(self, image: Uint8Array, mask: Uint8Array, key: str | None = None) -> Shot:
        """A support (H, W, 3) with its mask (H, W) of 0, 1, 255, kept under `key` and what the mask shows."""
        if self.config.canvas_masks:
            mask = resize_nearest(mask, (self.config.size, self.config.size))
        features = self.image(image, key)
        levels, view, clip = features.levels, features.clip, self.clip
        cut = None if key is None else f"{key} cut by {content_id(mask.tobytes())}"
        if self.config.mask_support:
            levels = self._kept(self._encoder_space, cut, lambda: self._levels(image, mask))
        if clip is not None and self.config.priors.mask_image:
            view = self._kept(self._clip_space, cut, lambda: TextView(clip.encode(image, mask, text=False), {}))
        elif clip is not None and self.config.priors.product_blocks and view is not None:
            whole = view.view
            view = self._kept(self._clip_space, cut, lambda: TextView(clip.cut_out(whole, image, mask), {}))
        grid_mask = self.grid_mask(mask, levels.middle.shape[1:])
        if self.config.mask_stage:
            levels = Levels(levels.middle, self.last_stage(levels.middle[None], grid_mask[None])[0])
        return Shot(Features(levels, view, key), mask, grid_mask)

    @torch.no_grad()
    def last_stage(self, middle: Tensor, grid_masks: Tensor) -> Tensor:
        """A ResNet's last stage on the objects alone, (B, D, h', w'): the third stage's part of `middle` (B, C, h, w)
        times the masks (B, 1, h, w).
        """
        third: Tensor = middle[:, -self._third :] * grid_masks
        return self.encoder.layer4(third)  # type: ignore[no-any-return]

    @torch.no_grad()
    def base_logits(self, query: Features) -> Tensor:
        """What the base learner finds in an image, (1 + base classes, h', w').

        Raises:
            ValueError: there is none.
        """
        if self._head is None:
            raise ValueError("base_logits: expected a base learner, found none; set base_learner")
        return self._head(query.high[None])[0]  # type: ignore[no-any-return]

    def _kept(self, space: str, key: str | None, make: Callable[[], Kept]) -> Kept:
        if key is None or not self.config.cached:
            return make()
        return self._cache.get(f"{space} {self.device} {key}", make)

    def _levels(self, image: Uint8Array, mask: Uint8Array | None) -> Levels:
        middle, high = self.levels(self.pixels(image, mask)[None])
        return Levels(middle[0], high[0])

    def pixels(self, image: Uint8Array, mask: Uint8Array | None = None) -> Tensor:
        """An image (H, W, 3) as the encoder takes it, (3, S, S); of an example with `mask` the object alone."""
        size = self.config.size
        fitted = image if image.shape[:2] == (size, size) else resize_image(image, size, size)
        pixels = normalise(fitted, self.mean, self.std).to(self.device)
        if mask is not None:
            pixels = pixels * torch.from_numpy(resize_nearest((mask == 1).astype(np.uint8), (size, size))).to(pixels)
        return pixels

    @torch.no_grad()
    def levels(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder sees of images (B, 3, S, S) together: middle (B, C, h, w) and high (B, D, h', w')."""
        levels = self.encoder(pixels)[-3:]
        grid = (levels[0].shape[2], levels[0].shape[3])
        middle = [self._scaled(F.interpolate(x, grid, mode="bilinear", align_corners=False)) for x in levels[:2]]
        return torch.cat(middle, dim=1), levels[2]

    @functools.cached_property
    def grid(self) -> tuple[int, int]:
        """Cells of the decoder's grid."""
        return _grid(self._levels(np.zeros((self.config.size, self.config.size, 3), np.uint8), None).middle)

    def _scaled(self, level: Tensor) -> Tensor:
        if not self.config.scale_levels:
            return level
        return torch.cat([one / one.square().mean().sqrt().clamp_min(1e-6) for one in level.chunk(len(level))])

    def grid_mask(self, mask: Uint8Array, grid: Sequence[int]) -> Tensor:
        """Share of the object in each cell, (1, h, w); binary with `binary_masks`, where a small object keeps its
        fullest cell.
        """
        object_ = (mask == 1).astype(np.float32)
        if self.config.area_masks:
            share = torch.from_numpy(resize_image(object_, grid[0], grid[1]))[None]
        else:
            canvas = resize_nearest(object_.astype(np.uint8), (self.config.size, self.config.size))
            share = resize(torch.from_numpy(canvas)[None, None].float(), (grid[0], grid[1]))[0]
        if self.config.binary_masks:
            limit = min(0.5, float(share.max())) if self.config.area_masks else 0.5
            share = ((share >= limit) & (share > 0)).float()
        return share.to(self.device)

    def priors(
        self, query: Features, shots: Sequence[Shot], class_id: int, labels: Sequence[int] | None = None
    ) -> Tensor:
        """Prior maps (P, h, w) at the decoder's grid, from these supports together, kept where all images have keys.
        `labels`: the query's own, for oracle prompts only.
        """
        keys = [f.key for f in (query, *(s.features for s in shots))]
        if None in keys:
            return self._priors(query, shots, class_id, labels)
        texts = () if self.clip is None else self.clip.competing(class_id, labels)
        name = config_hash({"class": class_id, "texts": texts, "images": keys})
        return self._kept(self._prior_space, name, lambda: Maps(self._priors(query, shots, class_id, labels))).maps

    def _priors(self, query: Features, shots: Sequence[Shot], class_id: int, labels: Sequence[int] | None) -> Tensor:
        grid = (query.middle.shape[1], query.middle.shape[2])
        if self.config.prior == "none":
            return query.middle.new_zeros(0, *grid)
        if self.config.prior == "plain":
            return resize(self.plain(query, shots)[None, None], grid)[0]
        vvp = resize(self.vvp(query, shots)[None], grid)
        clip, view = self._clip_of(query)
        vtp = resize(clip.spread_out(self.vtp(query, class_id, labels), view.view)[None, None], grid)
        if self.config.priors.product_text:
            count = self.config.priors.products(len(shots))
            joint = product_with_text(vvp[0, -count:], vtp[0, 0])
            vvp = torch.cat([vvp[:, :-count], joint[None]], dim=1)
        return torch.cat([vvp, *[vtp] * self.config.text_channels], dim=1)[0]

    def plain(self, query: Features, shots: Sequence[Shot]) -> Tensor:
        """PFENet's prior (h', w') from the encoder's last features."""
        pairs = [(s.features.high, resize(s.grid_mask[None], _grid(s.features.high))[0, 0]) for s in shots]
        return plain_prior(query.high, pairs)

    def vvp(self, query: Features, shots: Sequence[Shot]) -> Tensor:
        """Visual-visual prior (L, h', w') at CLIP's grid of the query."""
        clip, view = self._clip_of(query)
        return clip.vvp(view.view, [(self._clip_of(s.features)[1].view, s.mask) for s in shots])

    def vtp(self, query: Features, class_id: int, labels: Sequence[int] | None = None) -> Tensor:
        """Visual-text prior (h', w') with PIR; kept beside the view, because it depends on the query alone."""
        clip, view = self._clip_of(query)
        key = clip.competing(class_id, labels)
        if key not in view.maps:
            view.maps[key] = clip.vtp(view.view, class_id, labels)
        return view.maps[key]

    def _clip_of(self, features: Features) -> tuple[ClipPriors, TextView]:
        if self.clip is None or features.clip is None:
            raise ValueError("priors: expected CLIP's view of the image, found none; set prior: pi_clip")
        return self.clip, features.clip


def canvas_target(mask: Uint8Array, size: int) -> Tensor:
    """Mask (H, W) of 0, 1, 255 squashed to (size, size), int64."""
    return torch.from_numpy(resize_nearest(mask, (size, size)).astype(np.int64))


def _grid(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]
