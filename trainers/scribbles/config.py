"""Settings that trainers on scribbles share."""

from pydantic import Field

from maskmill.trainers.engine import AugmentConfig, TrainerConfig
from maskmill.trainers.scribbles.view import Supervision


class ScribbleConfig(TrainerConfig):
    """A method's own config inherits from this, and gives `augment` its default."""

    augment: AugmentConfig = Field(description="how an image becomes a training crop")
    encoder_lr_factor: float = Field(default=1.0, ge=0, description="learning rate of the encoder as a share of `lr`")
    supervision: Supervision = Field(
        default="scribbles",
        description="scribbles; or masks: the fully supervised upper bound, nothing of the method beside it",
    )
    xy_sigma_cells: float = Field(
        default=6.0, gt=0, description="distance over which cells count as near, in cells of the loss grid"
    )
    colour_sigma_normalised: float = Field(
        default=0.1,
        gt=0,
        description="difference over which colours count as alike, in units of the mean/std-normalised image",
    )
