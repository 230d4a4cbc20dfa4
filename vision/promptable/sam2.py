"""SAM 2 and 2.1 on single images: N. Ravi et al., "SAM 2: Segment Anything in Images and Videos", ICLR 2025."""

from typing import ClassVar

from maskmill.vision.promptable.base import SquareFamily


class Sam2(SquareFamily):
    """The library's `Sam2Model`."""

    model_class: ClassVar[str] = "Sam2Model"
    processor_class: ClassVar[str] = "Sam2ImageProcessor"
