"""What a family of detectors is: class names to a text, images and a text to boxes with a score a class."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from maskmill.data_contracts import Uint8Array
from maskmill.vision.pretrained import ModelError, Precision, load_model, load_part

Size = tuple[int, int]  # height, width


@dataclass(frozen=True, eq=False)
class Text:
    """Some class names as the model reads them: arguments of its forward for one image, and where each name stands."""

    inputs: dict[str, Tensor]
    places: tuple[tuple[int, ...], ...] = ()  # tokens of each name, where the model scores tokens


@dataclass(frozen=True, eq=False)
class Family(ABC):
    """A loaded model with its processor and tokenizer."""

    model_class: ClassVar[str]
    processor_class: ClassVar[str]
    tokenizer_class: ClassVar[str]
    threshold: ClassVar[float]
    template: ClassVar[str] = "{}"
    words: ClassVar[int]  # class names a text
    same_boxes: ClassVar[bool] = False  # whatever the text, the model looks at the same places

    model: Any
    processor: Any  # the library's image processor
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path, device: object, precision: Precision) -> Self:
        """The model with the folder's weights, on a device.

        Raises:
            ModelError: weights that do not fit the family.
        """
        model = load_model(cls.model_class, folder, device, precision)
        return cls(model, load_part(cls.processor_class, folder), load_part(cls.tokenizer_class, folder))

    def pixels(self, image: Uint8Array) -> Tensor:
        """The model's input (3, h, w) of a photo uint8 (H, W, 3)."""
        found = self.processor(images=np.array(image), return_tensors="pt", input_data_format="channels_last")
        pixels: Tensor = found["pixel_values"][0]
        return pixels

    @abstractmethod
    def texts(self, names: Sequence[str], most: int) -> list[tuple[range, Text]]:
        """Texts of at most `most` names each, with the positions of the names in them."""

    def scores(self, pixels: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        """Boxes float32 (B, Q, 4) as x0, y0, x1, y1 in shares of the input, and scores (B, Q, C) of the text's names.

        `pixels` (B, 3, h, w), all of one size.
        """
        device, dtype = self.model.device, self.model.dtype
        inputs = {name: _repeated(value, len(pixels)).to(device) for name, value in text.inputs.items()}
        with torch.inference_mode():
            return self.read(self.model(pixel_values=pixels.to(device, dtype), **inputs), text)

    @abstractmethod
    def read(self, found: Any, text: Text) -> tuple[Tensor, Tensor]:
        """Boxes and scores, as `scores` gives them, from what the model answers."""

    def extent(self, size: Size) -> tuple[float, float]:
        """Width and height in the photo's pixels of what boxes are shares of."""
        return float(size[1]), float(size[0])


def _repeated(value: Tensor, count: int) -> Tensor:
    return value.repeat(count, *[1] * (value.dim() - 1))


def corners(boxes: Tensor) -> Tensor:
    """Centre and size (..., 4) to x0, y0, x1, y1."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def in_steps(count: int, most: int) -> list[range]:
    """0 to `count` in ranges of at most `most`."""
    return [range(start, min(count, start + most)) for start in range(0, count, most)]


def too_long(name: str, tokens: int, limit: int) -> ModelError:
    """What to say of a class name that no text has room for."""
    return ModelError(f"class {name!r}: expected at most {limit} tokens, found {tokens}; give it a shorter prompt")
