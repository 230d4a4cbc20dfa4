"""DPT: R. Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021."""

from typing import ClassVar

from torch import Tensor

from maskmill.vision.library_segmenters.base import LibrarySegmenter


class Dpt(LibrarySegmenter):
    """The library's `DPTForSemanticSegmentation`. It knows square grids alone: images are brought to its size."""

    model_class: ClassVar[str] = "DPTForSemanticSegmentation"
    backbone: ClassVar[str] = "dpt"
    heads: ClassVar[tuple[str, ...]] = ("head.", "auxiliary_head.")

    def logits(self, images: Tensor) -> Tensor:
        found: Tensor = self.model(pixel_values=self.squared(images)).logits
        return found
