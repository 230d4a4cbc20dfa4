"""The priors of PI-CLIP from a frozen CLIP: VVP from its tokens, VTP from its class map of a text, PIR from its
attention.

    priors = ClipPriors(PriorConfig(), {1: "hat", 2: "bag"})
    query, support = priors.encode(photo), priors.encode(exemplar)
    vvp, vtp = priors.vvp(query, [(support, mask)]), priors.vtp(query, 1)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import Uint8Array
from maskmill.trainers.engine import IMAGENET_MEAN, IMAGENET_STD, resize_image
from maskmill.trainers.few_shot.priors.config import PriorConfig
from maskmill.trainers.few_shot.priors.matching import contrast_match, masked_match
from maskmill.trainers.few_shot.priors.pir import refine
from maskmill.vision.clip import DenseFeatures, TextBank, class_cams, load_clip

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ClipView:
    """One image as the frozen CLIP sees it: `blocks` (L, D, h, w), the outputs that are matched; `dense` (one image,
    with attention) for class maps, None for an image that is only a support; `photo` (H, W), the size of its photo;
    `deep` (P, D, h, w), the blocks of `product_blocks`, of an example with its object cut out.
    """

    blocks: Tensor
    dense: DenseFeatures | None
    photo: tuple[int, ...] = ()
    deep: Tensor | None = None


class ClipPriors:
    """Frozen CLIP and text rows. One image a forward, so that a prior never depends on companions.

    `names` are the classes that can be asked for, by id; `base` those that training shows (rivals of
    `prompts: target+base`); `surroundings` the words of `background_words`.
    """

    def __init__(
        self,
        config: PriorConfig,
        names: Mapping[int, str],
        base: Sequence[int] = (),
        surroundings: Sequence[str] = (),
        device: str = "cpu",
    ) -> None:
        self.config, self.names, self.base = config, dict(names), tuple(base)
        self.backbone = load_clip(config.model, config.pretrained, device)
        self._words = tuple(surroundings) if config.background_words else ()
        self.bank = self._text_bank(self._words)

    def learn(self, name: str) -> int:
        """Id of a class by name; a new one gets an id and a text row. Other classes' target-only maps do not change."""
        for class_id, known in self.names.items():
            if known == name:
                return class_id
        class_id = max(self.names, default=0) + 1
        self.names[class_id] = name
        self.bank = self._text_bank(self._words)
        return class_id

    def _text_bank(self, words: Sequence[str]) -> TextBank:
        """Rows: `templates` of each class, `without` of each class, `templates` of each surrounding; unit length."""
        ids, config = sorted(self.names), self.config
        prompts = [[t.format(self.names[i]) for t in config.templates] for i in ids]
        prompts += [[config.without.format(self.names[i])] for i in ids]
        prompts += [[t.format(word) for t in config.templates] for word in words]
        rows = [self.backbone.encode_text(texts).mean(dim=0) for texts in prompts]
        matrix = F.normalize(torch.stack(rows), dim=-1)
        return TextBank(matrix, tuple(ids), tuple(texts[0] for texts in prompts))

    def rivals(self, class_id: int, labels: Sequence[int] | None = None) -> Tensor:
        """Which text rows compete for a query: bool (T,).

        With `target` prompts: the target, its absence, the surroundings. No label of the query is used unless the
        oracle is asked for, which needs `labels`.

        Raises:
            ValueError: oracle prompts without the query's labels.
        """
        chosen = {class_id}
        if self.config.prompts == "target+base":
            chosen |= set(self.base)
        if self.config.prompts == "oracle":
            if labels is None:
                raise ValueError("prompts: oracle needs the query's labels; take target, which needs none")
            chosen |= set(labels) & set(self.names)
        rows = self.bank.rows(sorted(chosen))
        n = len(self.bank.class_ids)
        mask = torch.zeros(len(self.bank.texts), dtype=torch.bool)
        mask[rows] = True
        mask[[row + n for row in rows]] = True
        mask[2 * n :] = True
        return mask.to(self.bank.matrix.device)

    def competing(self, class_id: int, labels: Sequence[int] | None = None) -> tuple[str, ...]:
        """The target's text and those of all rivals: what a class map depends on beside the image."""
        rows = self.rivals(class_id, labels).nonzero()[:, 0].tolist()
        return (self.names[class_id], *(self.bank.texts[row] for row in rows))

    def encode(
        self,
        image: Uint8Array,
        mask: Uint8Array | None = None,
        *,
        text: bool = True,
        photo: tuple[int, ...] | None = None,
    ) -> ClipView:
        """See an image (H, W, 3). With `mask_image` and a `mask` (H, W), its background becomes the mean colour.
        `photo` (H, W): the size of the photo that it was made of, where it was another.
        """
        config, photo = self.config, image.shape[:2] if photo is None else photo
        fitted = _fit(image, config.match_side, config.match_fit, self.backbone.patch)
        pixels = self._normalised(fitted, config.match_normalisation)
        if config.mask_image and mask is not None:
            object_ = resize_nearest((mask == 1).astype(np.uint8), fitted.shape[:2])
            pixels = pixels * torch.from_numpy(object_).to(pixels)
        count = config.n_attention if text else 0
        shared = text and self._one_input and not (config.mask_image and mask is not None)
        dense = self.backbone.encode(pixels[None], count if shared else 0, block_outputs=True)
        blocks, deep = self._blocks(dense, config.match_blocks), self._deep(dense)
        if not text:
            return ClipView(blocks, None, photo, deep)
        return ClipView(blocks, _light(dense) if shared else self._text_view(image, photo), photo, deep)

    def cut_out(self, view: ClipView, image: Uint8Array, mask: Uint8Array) -> ClipView:
        """The view of an example (H, W, 3) whose `deep` blocks see nothing but its object: mask (H, W) of 1 there."""
        config = self.config
        fitted = _fit(image, config.match_side, config.match_fit, self.backbone.patch)
        object_ = resize_nearest((mask == 1).astype(np.uint8), fitted.shape[:2])
        pixels = self._normalised(fitted, config.match_normalisation)
        dense = self.backbone.encode((pixels * torch.from_numpy(object_).to(pixels))[None], 0, block_outputs=True)
        return replace(view, deep=self._deep(dense))

    def _deep(self, dense: DenseFeatures) -> Tensor | None:
        count = self.config.product_blocks
        return self._blocks(dense, tuple(range(-1, -1 - count, -1))) if count else None

    @property
    def _one_input(self) -> bool:
        """Matching and class maps take the same pixels, so one forward serves both."""
        config = self.config
        same_side = config.text_side == config.match_side and config.match_fit == "long"
        return same_side and config.match_normalisation == "clip" and config.text_source == "photo"

    def _text_view(self, image: Uint8Array, photo: tuple[int, ...]) -> DenseFeatures:
        patch, side, source = self.backbone.patch, self.config.match_side, self.config.text_source
        if source == "photo":
            fitted = _fit(image, self.config.text_side, "long", patch)
        else:
            squashed = image
            if image.shape[:2] != (side, side):
                squashed = np.asarray(cv2.resize(image, (side, side)), np.uint8)
            fitted = _bicubic(squashed, _whole_size(photo if source == "canvas" else (side, side), 1.0, patch))
        return _light(self.backbone.encode(self._normalised(fitted, "clip")[None], self.config.n_attention))

    def _normalised(self, image: Uint8Array, how: str) -> Tensor:
        rgb = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(self.backbone.device)
        if how == "clip":
            return self.backbone.normalise(rgb)[0]
        mean, std = (torch.tensor(v, device=rgb.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (rgb[0].float() / 255 - mean) / std

    @torch.no_grad()
    def _blocks(self, dense: DenseFeatures, chosen: tuple[int, ...]) -> Tensor:
        """Residual-stream outputs of the `chosen` blocks, patch tokens only, before any final norm: (L, D, h, w)."""
        last = self.backbone.last_output(self.backbone.last_norm(dense.last_input), dense.last_input)
        outputs = [*dense.block_outputs, last]
        if max(-b if b < 0 else b + 1 for b in chosen) > len(outputs):
            raise ValueError(f"match_blocks, product_blocks: expected among {len(outputs)} blocks, found {chosen}")
        maps = [outputs[b][0, dense.prefix :].T.reshape(-1, *dense.grid) for b in chosen]
        return torch.stack(maps).float()

    def vvp(self, query: ClipView, supports: Sequence[tuple[ClipView, Uint8Array]]) -> Tensor:
        """Visual-visual prior (L, h, w) on the query's grid; (L * K, h, w) with `shots: concat`, K maps a block. With
        `product_blocks` the product is the last of L.

        `supports` as (view, mask (H, W) of 1 = object).
        """
        maps = torch.stack([self._match(query, view, mask) for view, mask in supports], dim=1)  # (L, K, h, w)
        return maps.flatten(0, 1) if self.config.shots == "concat" else maps.mean(dim=1)

    def _match(self, query: ClipView, support: ClipView, mask: Uint8Array) -> Tensor:
        config, size = self.config, query.blocks.shape[2:]
        object_ = (mask == 1).astype(np.uint8)
        grid = support.blocks.shape[2:]
        if config.contrast:
            share = resize_image(object_.astype(np.float32), grid[0], grid[1])
            weights = torch.from_numpy(share).to(query.blocks).flatten()
        else:
            weights = torch.from_numpy(resize_nearest(object_, (grid[0], grid[1]))).to(query.blocks).flatten()
        maps = []
        for q, s in zip(query.blocks.flatten(2), support.blocks.flatten(2), strict=True):
            if config.contrast:
                options = {"neighbours": config.neighbours, "temperature": config.contrast_temperature}
                maps.append(contrast_match(q, s, weights, centre=config.centre, **options))  # type: ignore[arg-type]
            else:
                maps.append(masked_match(q, s, weights))
        if config.product_blocks and query.deep is not None and support.deep is not None:
            object_cells = torch.from_numpy(resize_nearest(object_, (grid[0], grid[1]))).to(query.blocks).flatten()
            pairs = zip(query.deep.flatten(2), support.deep.flatten(2), strict=True)
            alone = torch.stack([masked_match(q, s, object_cells) for q, s in pairs]).mean(dim=0)
            maps.append(torch.stack(maps).mean(dim=0) * alone)
        return torch.stack(maps).view(-1, *size)

    def cam(self, query: ClipView, class_id: int, labels: Sequence[int] | None = None) -> Tensor:
        """Grad-CAM (h, w) in [0, 1] of the probability of the target's text. Works under no_grad, too."""
        dense = self._dense(query)
        allowed = self.rivals(class_id, labels)[None]
        scale = 1 / self.config.temperature if self.config.temperature else None
        rows = self.bank.rows([class_id])
        return class_cams(self.backbone, dense, [0], rows, self.bank, allowed, scale, layer=self.config.cam_layer)[0]

    def vtp(self, query: ClipView, class_id: int, labels: Sequence[int] | None = None) -> Tensor:
        """Visual-text prior with PIR, (h, w) in [0, 1] on the query's grid; all zero = no prior."""
        dense, config = self._dense(query), self.config
        if dense.attention is None:
            raise ValueError("vtp: expected attention; encode the query with text=True")
        cam = self.cam(query, class_id, labels)
        boxes = {"box_threshold": config.box_threshold, "box_peak": config.box_peak, "edge_fix": config.edge_fix}
        return refine(dense.attention[0], cam, **boxes)  # type: ignore[arg-type]

    def spread_out(self, map_: Tensor, view: ClipView) -> Tensor:
        """A map (h, w) as the decoder's grid takes it over: with `through_photo` at the size of what CLIP was shown."""
        config = self.config
        if not config.through_photo:
            return map_
        height, width = view.photo if config.text_source != "canvas_as_it_is" else (config.match_side,) * 2
        full = cv2.resize(map_.float().cpu().numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(full).to(map_)

    def _dense(self, query: ClipView) -> DenseFeatures:
        if query.dense is None:
            raise ValueError("cam: expected a view with text=True, found one for matching only")
        return query.dense


def _light(dense: DenseFeatures) -> DenseFeatures:
    """Without the block outputs, which are kept elsewhere."""
    return DenseFeatures(dense.last_input, dense.attention, dense.grid, dense.prefix)


def _fit(image: Uint8Array, side: int | None, fit: str, patch: int) -> Uint8Array:
    """Squash to (side, side), or the long side to `side` (None = native) with sides up to multiples of the patch."""
    if fit == "squash" and side is not None:
        return _bicubic(image, (side, side))
    factor = 1.0 if side is None else side / max(image.shape[:2])
    return _bicubic(image, _whole_size(image.shape[:2], factor, patch))


def _whole_size(size: tuple[int, ...], factor: float, patch: int) -> tuple[int, int]:
    return _whole(size[0] * factor, patch), _whole(size[1] * factor, patch)


def _bicubic(image: Uint8Array, size: tuple[int, int]) -> Uint8Array:
    if size == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _whole(length: float, patch: int) -> int:
    return max(patch, -(-round(length) // patch) * patch)


def resize_nearest(mask: Uint8Array, size: tuple[int, ...]) -> Uint8Array:
    """As torch's `nearest`: the source pixel at floor(i * scale)."""
    rows = np.arange(size[0]) * mask.shape[0] // size[0]
    columns = np.arange(size[1]) * mask.shape[1] // size[1]
    small: Uint8Array = mask[rows][:, columns]
    return small
