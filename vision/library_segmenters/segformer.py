"""SegFormer: E. Xie et al., NeurIPS 2021."""

from typing import ClassVar

from torch import Tensor

from maskmill.vision.library_segmenters.base import LibrarySegmenter


class Segformer(LibrarySegmenter):
    """The library's `SegformerForSemanticSegmentation`."""

    model_class: ClassVar[str] = "SegformerForSemanticSegmentation"
    backbone: ClassVar[str] = "segformer"
    heads: ClassVar[tuple[str, ...]] = ("decode_head.",)

    def logits(self, images: Tensor) -> Tensor:
        found: Tensor = self.model(pixel_values=images).logits
        return found
