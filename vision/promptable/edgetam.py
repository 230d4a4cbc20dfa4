"""EdgeTAM on single images: C. Zhou et al., "EdgeTAM: On-Device Track Anything Model", CVPR 2025."""

from typing import ClassVar

from maskmill.vision.promptable.base import SquareFamily


class EdgeTam(SquareFamily):
    """The library's `EdgeTamModel`."""

    model_class: ClassVar[str] = "EdgeTamModel"
    processor_class: ClassVar[str] = "Sam2ImageProcessor"
