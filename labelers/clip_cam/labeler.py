"""From images and tags to pseudo-masks without training: CLIP class maps, spread by its attention, refined by colours.

Source: Y. Lin et al., "CLIP is Also an Efficient Segmenter" (CLIP-ES), CVPR 2023; PAR as in WeCLIP, CVPR 2024. The
class maps are those of `vision.clip.response`, which the annotation score ASF uses too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskmill.data_contracts import IGNORE, LabelSpace, Reason, Uint8Array
from maskmill.labelers.base import Labeler, LabelItem, PseudoLabel, same_size
from maskmill.labelers.clip_cam.config import Config
from maskmill.vision.clip import (
    ClassResponse,
    ClipBackbone,
    DenseFeatures,
    TextBank,
    build_text_bank,
    clip_response,
    load_clip,
)
from maskmill.vision.device import pick_device
from maskmill.vision.refine import par, refine_many

Float32 = NDArray[np.float32]
GPU_BATCH = 16


@dataclass(frozen=True)
class ClipCam(Labeler):
    """The engine. Every forward and every backward holds exactly `batch` images, padded with blanks, because kernels
    round differently for other shapes. One image a forward, the default on a CPU, makes a
    label independent of its companions to the bit; in larger batches its place may still move the last bit of a map.
    """

    config: Config
    space: LabelSpace
    backbone: ClipBackbone
    bank: TextBank
    batch: int

    def label(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        """Pseudo-labels of images of any sizes; abstains where an image shows none of the classes."""
        inputs = [self.resize(item.image) for item in items]
        found: dict[int, PseudoLabel] = {}
        for positions in same_size([(x.shape[1], x.shape[2]) for x in inputs], self.batch):
            chosen = [items[p] for p in positions]
            tags, maps = self.class_maps(torch.stack([inputs[p] for p in positions]), [i.class_ids for i in chosen])
            found.update(zip(positions, self.refined(chosen, tags, maps), strict=True))
        return [found[position] for position in range(len(items))]

    def resize(self, image: Uint8Array) -> Tensor:
        """uint8 (3, h, w): long side `image_side` (or native), sides rounded to multiples of the patch, bicubic."""
        patch, side = self.backbone.patch, self.config.image_side
        factor = 1.0 if side is None else side / max(image.shape[:2])
        whole = math.ceil if self.config.rounding == "up" else round
        height, width = (max(patch, whole(s * factor / patch) * patch) for s in image.shape[:2])
        if (height, width) != image.shape[:2]:
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())

    def class_maps(self, images: Tensor, tags: Sequence[Sequence[int]]) -> tuple[list[tuple[int, ...]], list[Float32]]:
        """Class ids of each image (its tags, or what CLIP finds) and its maps float32 (K, h, w) in [0, 1].

        `images` uint8 (n, 3, h, w), n at most `batch`.
        """
        shown, response = self.respond(images, tags)
        maps = response.spread if self.config.affinity else response.cams
        owners = np.array(response.pair_image, int)
        return shown, [maps[np.flatnonzero(owners == image)].cpu().numpy() for image in range(len(images))]

    def respond(self, images: Tensor, tags: Sequence[Sequence[int]]) -> tuple[list[tuple[int, ...]], ClassResponse]:
        """As `class_maps`, but all maps of the batch, before and after the affinity."""
        blanks = self.batch - len(images)
        padded = torch.cat([images, images.new_zeros(blanks, *images.shape[1:])])
        dense = self.backbone.encode(
            self.backbone.normalise(padded.to(self.backbone.device)),
            self.config.n_attention if self.config.affinity else 0,
        )
        shown = self._shown(dense, tags)
        response = clip_response(
            self.backbone,
            dense,
            self.bank,
            [*shown, *[()] * blanks],
            scale=self.scale,
            box_threshold=self.config.box_threshold or self.space.cam_box_threshold,
            edge_fix=self.config.edge_fix,
            affinity=None if self.config.affinity else _identity(dense),
            whole=True,
            layer=self.config.cam_layer,
            contrast=self.config.contrast,
        )
        return shown, response

    @property
    def scale(self) -> float:
        """Factor from cosine to logit."""
        return 1 / self.config.temperature if self.config.temperature else self.backbone.logit_scale

    def _shown(self, dense: DenseFeatures, tags: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """The tags, ascending; for images without any, the classes at or above `tag_threshold` among all texts."""
        known = [tuple(sorted({i for i in ids if i in self.space.by_id})) for ids in tags]
        if self.config.find_tags == "never" or all(known):
            return known
        with torch.no_grad():
            embeddings = self.backbone.tail(dense.last_input)
        everything = self.bank.allowed([self.bank.class_ids] * len(embeddings))
        p = self.bank.log_probabilities(embeddings, everything, self.scale).exp().cpu().numpy()
        ids = np.array(self.bank.class_ids)
        return [
            own or tuple(int(i) for i in ids[p[image, : len(ids)] >= self.config.tag_threshold])
            for image, own in enumerate(known)
        ]

    def refined(
        self, items: Sequence[LabelItem], tags: Sequence[tuple[int, ...]], maps: Sequence[Float32]
    ) -> list[PseudoLabel]:
        """Pseudo-labels from what `class_maps` gave."""
        places = [place for place, ids in enumerate(tags) if ids]
        images = [_shrink(items[p].image, self.config.refine_side) for p in places]
        stacks = [
            with_background(maps[p], image.shape[:2], self.config) for p, image in zip(places, images, strict=True)
        ]
        refined = dict(zip(places, self._refine(images, stacks), strict=True))
        labels = []
        for place, item in enumerate(items):
            if place not in refined:
                labels.append(PseudoLabel.abstain(Reason.NO_CLASSES, "no image tag, and CLIP sees none of the classes"))
                continue
            shares = _enlarge(refined[place], item.image.shape[:2])
            labels.append(decide(shares, tags[place], self.space.background_id, self.config))
        return labels

    def _refine(self, images: Sequence[Uint8Array], stacks: Sequence[Float32]) -> list[Float32]:
        """Shares float32 (K + 1, H, W) that sum to 1 at each pixel."""
        if self.config.refine == "crf":
            options = replace(self.config.crf, iterations=self.config.crf_iterations)
            return refine_many(list(zip(images, stacks, strict=True)), options=options)
        if self.config.refine == "par":
            stacks = [self._par(image, stack) for image, stack in zip(images, stacks, strict=True)]
        return [stack / np.maximum(stack.sum(axis=0, keepdims=True), 1e-7) for stack in stacks]

    def _par(self, image: Uint8Array, stack: Float32) -> Float32:
        device = self.backbone.device
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].to(device).float()
        with torch.no_grad():
            out = par(pixels, torch.from_numpy(stack)[None].to(device), iterations=self.config.par_iterations)
        refined: Float32 = out[0].cpu().numpy()
        return refined


def load(config: Config, space: LabelSpace) -> ClipCam:
    """Load model and texts; on a GPU where there is one."""
    backbone = load_clip(config.model, config.pretrained, str(pick_device()), config.precision)
    bank = build_text_bank(space, backbone, config.templates, synonyms=config.synonyms)
    batch = config.batch or (GPU_BATCH if backbone.device.type == "cuda" else 1)
    return ClipCam(config, space, backbone, bank, batch)


def _identity(dense: DenseFeatures) -> Tensor:
    """Stands for the affinity where none is wanted."""
    n = dense.grid[0] * dense.grid[1]
    return torch.eye(n, device=dense.last_input.device).expand(len(dense.last_input), n, n)


def with_background(maps: Float32, size: tuple[int, ...], config: Config) -> Float32:
    """Maps (K, h, w) resized to `size`, after the background (1 - best map)^power: float32 (K + 1, H, W)."""
    full = np.stack([cv2.resize(m, (size[1], size[0]), interpolation=cv2.INTER_LINEAR) for m in maps])
    background = (1 - np.clip(full.max(axis=0), 0, 1)) ** config.background_power
    stack: Float32 = np.concatenate([background[None], full]).astype(np.float32)
    return stack


def decide(shares: Float32, class_ids: Sequence[int], background_id: int | None, config: Config) -> PseudoLabel:
    """Label and confidence from shares (K + 1, H, W), background first; unsure pixels become 255, and so does what is
    background in a space that has none. Abstains where too little is decided.
    """
    values = np.array([IGNORE if background_id is None else background_id, *class_ids], np.uint8)
    best = shares.max(axis=0)
    certainty: Uint8Array = np.rint(255 * best).astype(np.uint8)
    mask: Uint8Array = values[shares.argmax(axis=0)]
    mask[best < config.confidence] = IGNORE
    decided = float((mask != IGNORE).mean())
    if decided < config.min_decided:
        detail = f"expected {config.min_decided:.0%} of the pixels above {config.confidence}, found {decided:.1%}"
        return PseudoLabel.abstain(Reason.LOW_CONFIDENCE, detail)
    return PseudoLabel(mask, certainty)


def _shrink(image: Uint8Array, side: int) -> Uint8Array:
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return image
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    shrunk: Uint8Array = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return shrunk


def _enlarge(shares: Float32, size: tuple[int, ...]) -> Float32:
    if shares.shape[1:] == size[:2]:
        return shares
    full: Float32 = np.stack([cv2.resize(s, (size[1], size[0]), interpolation=cv2.INTER_LINEAR) for s in shares])
    return full
