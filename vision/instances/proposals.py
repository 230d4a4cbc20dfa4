"""From a proposal network to candidates: regions cut and scaled, the best cells decoded, near-copies dropped."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from maskmill.data_contracts import Uint8Array
from maskmill.vision.instances.base import Detections, Float32, unit
from maskmill.vision.instances.net import CELL, GRAIN, ProposalNet, Proposals, pool, shrink
from maskmill.vision.video.masks import Boxes, MaskCrop
from maskmill.vision.video.region import Region, whole_frame

Rgb = tuple[float, float, float]
MULTIPLE = 32


class DetectConfig(BaseModel):
    """How a region reaches the network, and which candidates come out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    side: int = Field(default=160, ge=32, description="long side of a search region's input")
    full_side: int = Field(default=384, ge=32, description="long side of the whole frame's input")
    patch: int = Field(default=128, ge=32, description="side of the Siamese network's box patches")
    most: int = Field(default=12, ge=1, description="candidates of a region")
    cells: int = Field(default=40, ge=1, description="best cells that are decoded")
    same: float = Field(default=0.8, gt=0, le=1, description="mask IoU above which the lower score is dropped")
    min_score: float = Field(default=0.02, ge=0, lt=1, description="candidates with a lower score are dropped")
    margin: float = Field(default=0.15, ge=0, description="by which boxes grow before they cut their masks")
    least: int = Field(default=12, ge=1, description="pixels of the smallest mask")


class ProposalSegmenter:
    """`InstanceSegmenter` over a `ProposalNet`. One image a forward, so that a result never depends on company."""

    def __init__(
        self, net: ProposalNet, config: DetectConfig, mean: Rgb, std: Rgb, fingerprint: str, device: torch.device
    ) -> None:
        self.net = net.to(device).eval().to(memory_format=torch.channels_last)
        self.config, self.fingerprint, self.device = config, fingerprint, device
        self._mean = np.array(mean, np.float32) * 255
        self._scale = 1 / (np.array(std, np.float32) * 255)

    def detect(self, image: Uint8Array, region: Region | None = None) -> Detections:
        """Candidates of `region`, or of the whole frame in finer detail."""
        side = self.config.full_side if region is None else self.config.side
        region = region or whole_frame(image.shape[:2])
        cut = image[region.top : region.top + region.height, region.left : region.left + region.width]
        inputs, size = self._input(cut, side)
        with torch.inference_mode():
            found = self.net(inputs)
            return decode(found, size, region, self.config)

    def embed(self, image: Uint8Array, boxes: Sequence[Boxes] | Boxes) -> Float32:
        """Unit vectors (n, D) of the box patches, all in one forward."""
        if not len(boxes):
            return np.zeros((0, self.net.config.descriptor), np.float32)
        patches = torch.from_numpy(np.stack([self._patch(image, box) for box in boxes])).to(self.device)
        with torch.inference_mode():
            features = self.net.describe(self.net.pyramid(patches.to(memory_format=torch.channels_last)))
            return unit(features.mean((2, 3)).cpu().numpy())

    def _input(self, cut: Uint8Array, side: int) -> tuple[Tensor, tuple[int, int]]:
        """Normalised (1, 3, h, w), padded to multiples of 32, and the size of what is not padding."""
        factor = side / max(cut.shape[:2])
        height, width = (max(1, round(length * factor)) for length in cut.shape[:2])
        padded = np.zeros((height + -height % MULTIPLE, width + -width % MULTIPLE, 3), np.float32)
        padded[:height, :width] = (resize(cut, height, width).astype(np.float32) - self._mean) * self._scale
        return torch.from_numpy(padded).permute(2, 0, 1)[None].to(self.device), (height, width)

    def _patch(self, image: Uint8Array, box: Boxes) -> Float32:
        """The box's pixels as a normalised square (3, s, s)."""
        height, width = image.shape[:2]
        x0, y0 = int(np.clip(box[0], 0, width - 1)), int(np.clip(box[1], 0, height - 1))
        x1, y1 = int(np.clip(np.ceil(box[2]), x0 + 1, width)), int(np.clip(np.ceil(box[3]), y0 + 1, height))
        side = self.config.patch
        pixels = resize(image[y0:y1, x0:x1], side, side).astype(np.float32)
        return np.asarray(((pixels - self._mean) * self._scale).transpose(2, 0, 1), np.float32)


def resize(image: Uint8Array, height: int, width: int) -> Uint8Array:
    """Area averaging when shrinking, bilinear when growing."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    flag = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=flag), np.uint8)


def decode(found: Proposals, size: tuple[int, int], region: Region, config: DetectConfig) -> Detections:
    """The best candidates of one image: `size` (h, w) is the input without padding, `region` where it came from."""
    scores, cells = _best_cells(found, size, config)
    if not len(cells):
        return Detections.none(found.features.shape[1])
    coefficients = found.coefficients[0].flatten(1)[:, cells].T
    logits = (coefficients @ found.prototypes[0].flatten(1)).reshape(-1, *found.prototypes.shape[-2:])
    logits = torch.where(
        _inside(found.boxes()[0, cells], logits.shape[-2:], config.margin), logits, logits.new_tensor(-9)
    )
    logits[:, -(-size[0] // GRAIN) :] = -9
    logits[:, :, -(-size[1] // GRAIN) :] = -9
    chosen = _different(logits > 0, config)
    shares = shrink(logits[chosen].sigmoid(), found.features)
    descriptors = pool(found.features[0], shares).cpu().numpy()
    maps, kept = logits[chosen].cpu().numpy(), scores[chosen].cpu().numpy()
    masks = [_mask(one, size, region) for one in maps]
    good = [i for i, mask in enumerate(masks) if mask.area >= config.least]
    if not good:
        return Detections.none(descriptors.shape[1])
    boxes = np.stack([masks[i].box for i in good])
    return Detections(boxes, kept[good], tuple(masks[i] for i in good), descriptors[good])


def _best_cells(found: Proposals, size: tuple[int, int], config: DetectConfig) -> tuple[Tensor, Tensor]:
    """Scores and numbers of the best cells, best first; cells of the padding are left out."""
    scores = found.scores[0].sigmoid().clone()
    scores[-(-size[0] // CELL) :] = 0
    scores[:, -(-size[1] // CELL) :] = 0
    best, cells = scores.flatten().sort(descending=True, stable=True)
    count = min(config.cells, int((best > config.min_score).sum()))
    return best[:count], cells[:count]


def _inside(boxes: Tensor, grid: torch.Size, margin: float) -> Tensor:
    """Prototype pixels inside each grown box, bool (n, H / 4, W / 4)."""
    grown = margin * (boxes[:, 2:] - boxes[:, :2])
    low, high = (boxes[:, :2] - grown)[:, :, None], (boxes[:, 2:] + grown)[:, :, None]
    x = (torch.arange(grid[1], device=boxes.device) + 0.5) * GRAIN
    y = (torch.arange(grid[0], device=boxes.device) + 0.5) * GRAIN
    across, down = (x > low[:, 0]) & (x < high[:, 0]), (y > low[:, 1]) & (y < high[:, 1])
    return down[:, :, None] & across[:, None, :]


def _different(masks: Tensor, config: DetectConfig) -> list[int]:
    """Positions, best first, without empty masks and without near-copies of better ones."""
    flat = masks.flatten(1).float()
    areas = flat.sum(1)
    shared = flat @ flat.T
    overlap = (shared / (areas[:, None] + areas[None] - shared).clamp(min=1)).cpu().numpy()
    chosen: list[int] = []
    for position in np.flatnonzero(areas.cpu().numpy() > 0):
        if len(chosen) == config.most:
            break
        if all(overlap[position, other] <= config.same for other in chosen):
            chosen.append(int(position))
    return chosen


def _mask(logits: Float32, size: tuple[int, int], region: Region) -> MaskCrop:
    """Logits on the prototype grid to a mask in the frame; only the part around positive logits is enlarged."""
    grid = -(-size[0] // GRAIN), -(-size[1] // GRAIN)
    scale = region.height / size[0], region.width / size[1]
    height, width = round(grid[0] * GRAIN * scale[0]), round(grid[1] * GRAIN * scale[1])
    full = cv2.resize(logits[: grid[0], : grid[1]], (width, height), interpolation=cv2.INTER_LINEAR)
    return MaskCrop.of(full[: region.height, : region.width] > 0, region.top, region.left)
