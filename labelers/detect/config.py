"""Options of `detect`."""

from pydantic import Field, field_validator

from maskmill.labelers.base import LabelerConfig
from maskmill.vision.pretrained import Precision


class Config(LabelerConfig):
    """Options of `detect`; the model's family is that of its folder."""

    model: str = Field(
        description="folder or hub id of a model of transformers: Grounding DINO, MM-Grounding-DINO, OWLv2, or SAM 3"
    )
    precision: Precision = Field(default="fp32", description="of the model's weights: fp32, bf16 or fp16")
    threshold: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="least score of a box; none = the family's own: 0.3 Grounding DINO, 0.2 OWLv2, 0.5 SAM 3",
    )
    template: str | None = Field(
        default=None,
        description="sentence with the class name in place of {}; none = the family's own: {} Grounding DINO and "
        "SAM 3, a photo of a {} OWLv2",
    )
    nms: float = Field(
        default=0.5, gt=0, le=1, description="of two boxes of one class with more IoU than this the lower score goes"
    )
    most: int = Field(default=100, ge=1, description="boxes of a class on one photo; the best stay")
    words: int | None = Field(
        default=None,
        ge=1,
        description="class names a text; none = the family's own: 16 Grounding DINO, 64 OWLv2, 1 SAM 3. Long label "
        "spaces are asked part by part",
    )
    batch: int | None = Field(
        default=None, ge=1, description="images of one size a forward; none = 1 on a CPU, 4 on a GPU"
    )

    @field_validator("template")
    @classmethod
    def _has_a_place(cls, template: str | None) -> str | None:
        if template is not None and "{}" not in template:
            raise ValueError(f"expected {{}} where the class name goes, found {template!r}")
        return template
