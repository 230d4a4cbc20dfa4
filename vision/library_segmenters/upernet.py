"""UPerNet: T. Xiao et al., ECCV 2018, over any backbone of the library."""

from typing import ClassVar

from torch import Tensor

from maskmill.vision.library_segmenters.base import LibrarySegmenter


class UperNet(LibrarySegmenter):
    """The library's `UperNetForSemanticSegmentation`. In training its pooled maps need more than one image a batch."""

    model_class: ClassVar[str] = "UperNetForSemanticSegmentation"
    backbone: ClassVar[str] = "backbone"
    heads: ClassVar[tuple[str, ...]] = ("decode_head.", "auxiliary_head.")

    def logits(self, images: Tensor) -> Tensor:
        found: Tensor = self.model(pixel_values=images).logits
        return found
