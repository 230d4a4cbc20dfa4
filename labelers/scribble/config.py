"""Options of `scribble`."""

from pydantic import Field

from maskmill.labelers.base import LabelerConfig


class Config(LabelerConfig):
    """Which model labels, and what of its answer is kept."""

    artifact: str = Field(description="folder of a trained segmenter: `maskmill train` leaves it")
    scales: tuple[float, ...] = Field(default=(0.75, 1.0, 1.25), min_length=1, description="logits are averaged")
    flip: bool = Field(default=True, description="average with the mirrored image")
    class_filter: bool = Field(
        default=True, description="classes that are neither drawn nor tagged cannot occur; off where strokes may lack"
    )
    confidence: float = Field(default=0.7, ge=0, lt=1, description="pixels that are less sure become 255")
    keep_share: float = Field(
        default=1.0, gt=0, le=1, description="of each class only so many of its pixels, the surest; the rest is 255"
    )
    min_agreement: float = Field(
        default=0.0, ge=0, le=1, description="abstain where the model agrees with less of the strokes' pixels"
    )
    min_decided: float = Field(default=0.05, ge=0, le=1, description="abstain where less of the image is decided")
