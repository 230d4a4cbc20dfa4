"""EoMT: T. Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, on DINOv2 and DINOv3."""

from typing import ClassVar

from torch import Tensor

from maskmill.vision.library_segmenters.base import LibrarySegmenter, query_logits


class Eomt(LibrarySegmenter):
    """The library's `EomtForUniversalSegmentation`. It has one input size; images are brought to it and back."""

    model_class: ClassVar[str] = "EomtForUniversalSegmentation"
    backbone: ClassVar[str] = "layers"
    heads: ClassVar[tuple[str, ...]] = ("class_predictor.", "criterion.")

    def logits(self, images: Tensor) -> Tensor:
        found = self.model(pixel_values=self.squared(images))
        return query_logits(found.class_queries_logits, found.masks_queries_logits)


class EomtDinov3(Eomt):
    """The library's `EomtDinov3ForUniversalSegmentation`."""

    model_class: ClassVar[str] = "EomtDinov3ForUniversalSegmentation"
