"""MM-Grounding-DINO: X. Zhao et al., "An Open and Comprehensive Pipeline for Unified Object Grounding", 2024."""

from typing import ClassVar

from maskmill.labelers.detect.families.grounding_dino import GroundingDino


class MmGroundingDino(GroundingDino):
    """Grounding DINO with learned scales in its scores; the library has a model of its own for it."""

    model_class: ClassVar[str] = "MMGroundingDinoForObjectDetection"
