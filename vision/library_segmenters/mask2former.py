"""Mask2Former: B. Cheng et al., CVPR 2022, its queries summed to a semantic map."""

from typing import ClassVar

from torch import Tensor

from maskmill.vision.library_segmenters.base import LibrarySegmenter, query_logits


class Mask2Former(LibrarySegmenter):
    """The library's `Mask2FormerForUniversalSegmentation`."""

    model_class: ClassVar[str] = "Mask2FormerForUniversalSegmentation"
    backbone: ClassVar[str] = "model.pixel_level_module.encoder"
    heads: ClassVar[tuple[str, ...]] = ("class_predictor.", "criterion.")

    def logits(self, images: Tensor) -> Tensor:
        found = self.model(pixel_values=images)
        return query_logits(found.class_queries_logits, found.masks_queries_logits)
