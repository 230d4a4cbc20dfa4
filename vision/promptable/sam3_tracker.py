"""SAM 3's tracker on single images: boxes and points, as SAM 2 takes them (N. Carion et al., 2025)."""

from typing import ClassVar

from maskmill.vision.promptable.base import SquareFamily


class Sam3Tracker(SquareFamily):
    """The library's `Sam3TrackerModel`."""

    model_class: ClassVar[str] = "Sam3TrackerModel"
    processor_class: ClassVar[str] = "Sam3ImageProcessor"
