"""What a family of promptable models is: images to embeddings, prompts to mask logits, logits back to the photo."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import Uint8Array
from maskmill.vision.pretrained import Precision, load_model, load_part

Size = tuple[int, int]  # height, width


@dataclass(frozen=True, eq=False)
class Call:
    """Prompts of one image that have one shape: P of them, each with N points, or a box, or both. Photo's pixels."""

    points: Tensor | None = None  # float32 (P, N, 2): x, y
    signs: Tensor | None = None  # int64 (P, N): 1 = on the object, 0 = not on it
    boxes: Tensor | None = None  # float32 (P, 4): x0, y0, x1, y1

    def __len__(self) -> int:
        parts = self.points if self.boxes is None else self.boxes
        return 0 if parts is None else len(parts)

    def scaled(self, factor: tuple[float, float]) -> "Call":
        """Coordinates times `factor` (across, down): pixels of the model's input."""
        points = None if self.points is None else self.points * torch.tensor(factor)
        boxes = None if self.boxes is None else self.boxes * torch.tensor((*factor, *factor))
        return Call(points, self.signs, boxes)

    def part(self, start: int, stop: int) -> "Call":
        """Some of the prompts."""
        cut = slice(start, stop)
        points = None if self.points is None else self.points[cut]
        signs = None if self.signs is None else self.signs[cut]
        return Call(points, signs, None if self.boxes is None else self.boxes[cut])

    def arguments(self, device: torch.device) -> dict[str, Tensor]:
        """As the library's models take them, for a batch of one image."""
        named = {"input_points": self.points, "input_labels": self.signs, "input_boxes": self.boxes}
        return {name: value[None].to(device) for name, value in named.items() if value is not None}


@dataclass(frozen=True, eq=False)
class Family(ABC):
    """A loaded model. Its own file names the library's classes; most need no more than that."""

    model_class: ClassVar[str]
    processor_class: ClassVar[str]

    model: Any
    processor: Any  # the library's image processor

    @classmethod
    def load(cls, folder: Path, device: object, precision: Precision) -> Self:
        """The model with the folder's weights, on a device.

        Raises:
            ModelError: weights that do not fit the family.
        """
        return cls(load_model(cls.model_class, folder, device, precision), load_part(cls.processor_class, folder))

    @property
    def device(self) -> torch.device:
        found: torch.device = self.model.device
        return found

    def pixels(self, image: Uint8Array) -> Tensor:
        """The model's input of a photo uint8 (H, W, 3): (3, S, S), whatever the photo's size.

        The library guesses the order of axes; a photo of one or three rows would be read as (channels, H, W).
        """
        found = self.processor(images=np.array(image), return_tensors="pt", input_data_format="channels_last")
        pixels: Tensor = found["pixel_values"][0]
        return pixels

    def embed(self, pixels: Tensor) -> list[Any]:
        """One embedding an image of a batch (B, 3, S, S)."""
        with torch.inference_mode():
            return self.split(self.model.get_image_embeddings(pixels.to(self.device, self.model.dtype)))

    def decode(self, embedding: Any, call: Call, size: Size, *, several: bool) -> tuple[Tensor, Tensor]:
        """Logits float32 (P, M, h, w) of a call's masks, and the IoU (P, M) that the model expects of each.

        `several` asks for the model's three readings of a prompt (whole, part, subpart), else for one. `size` is that
        of the photo.
        """
        asked = call.scaled(self.factor(size)).arguments(self.device)
        with torch.inference_mode():
            found = self.model(**self.joined(embedding), **asked, multimask_output=several)
        return found.pred_masks[0].float(), found.iou_scores[0].float()

    @abstractmethod
    def factor(self, size: Size) -> tuple[float, float]:
        """Pixels of the model's input in a photo's pixel, across and down."""

    @abstractmethod
    def split(self, embeddings: Any) -> list[Any]:
        """The library's embeddings of a batch, image by image, each a batch of one."""

    @abstractmethod
    def joined(self, embedding: Any) -> dict[str, Any]:
        """Arguments of the model's forward that hand an embedding back."""

    @abstractmethod
    def real(self, logits: Tensor, size: Size) -> Tensor:
        """The part of logits (..., h, w) that shows the photo and no padding."""

    @abstractmethod
    def restore(self, logits: Tensor, size: Size) -> Tensor:
        """Logits (h, w) of one mask at the photo's size, as the library enlarges them: float32 (H, W)."""


class PaddedFamily(Family):
    """The photo at its own proportions in the upper left of a square: SAM and its kin."""

    @property
    def side(self) -> int:
        return int(self.processor.size["longest_edge"])

    def resized(self, size: Size) -> Size:
        """Height and width of the photo inside the square, rounded as the library does."""
        factor = self.side / max(size)
        return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)

    def factor(self, size: Size) -> tuple[float, float]:
        height, width = self.resized(size)
        return width / size[1], height / size[0]

    def split(self, embeddings: Any) -> list[Any]:
        return list(embeddings.split(1))

    def joined(self, embedding: Any) -> dict[str, Any]:
        return {"image_embeddings": embedding}

    def real(self, logits: Tensor, size: Size) -> Tensor:
        height, width = self.resized(size)
        rows = max(1, round(height * logits.shape[-2] / self.side))
        return logits[..., :rows, : max(1, round(width * logits.shape[-1] / self.side))]

    def restore(self, logits: Tensor, size: Size) -> Tensor:
        height, width = self.resized(size)
        square = _enlarged(logits, (self.side, self.side))
        return _enlarged(square[:height, :width], size)


class SquareFamily(Family):
    """The photo stretched to a square: SAM 2 and what came after it."""

    def factor(self, size: Size) -> tuple[float, float]:
        side = self.processor.size
        return side["width"] / size[1], side["height"] / size[0]

    def split(self, embeddings: Any) -> list[Any]:
        """Feature maps come level by level, each (B, C, h, w)."""
        return [[level[i : i + 1] for level in embeddings] for i in range(len(embeddings[-1]))]

    def joined(self, embedding: Any) -> dict[str, Any]:
        return {"image_embeddings": list(embedding)}

    def real(self, logits: Tensor, size: Size) -> Tensor:
        return logits

    def restore(self, logits: Tensor, size: Size) -> Tensor:
        return _enlarged(logits, size)


def _enlarged(logits: Tensor, size: Size) -> Tensor:
    return F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0]
