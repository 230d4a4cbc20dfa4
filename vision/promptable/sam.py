"""SAM: A. Kirillov et al., "Segment Anything", ICCV 2023."""

from typing import ClassVar

from maskmill.vision.promptable.base import PaddedFamily


class Sam(PaddedFamily):
    """The library's `SamModel`."""

    model_class: ClassVar[str] = "SamModel"
    processor_class: ClassVar[str] = "SamImageProcessor"
