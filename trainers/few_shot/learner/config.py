"""Settings of `base_learner`. `faithful` is BAM's release, which PI-CLIP builds on."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from maskmill.trainers.engine import AugmentConfig, TrainerConfig
from maskmill.trainers.few_shot.episodes import EpisodeConfig

FAITHFUL: dict[str, Any] = {
    "encoder": "resnet50s",
    "encoder_weights": "hub",
    "output_stride": 8,
    "released_dilation": True,
    "width": 512,
    "augment": AugmentConfig(size=417, fit="native", scale=(0.5, 2.0), rotate=10.0, flip=0.5, blur=0.5),
    "batch": 12,
    "steps": 100 * (5_953 // 12),
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "lr": 2.5e-3,
    "encoder_lr_factor": 0.1,
    "schedule": "poly",
    "precision": "fp32",
    "seed": 321,
}
FAITHFUL_COCO: dict[str, Any] = {
    **FAITHFUL,
    "encoder_lr_factor": 1.0,
    "steps": 20 * (82_081 // 12),
    "episodes": EpisodeConfig(split="interleaved"),
}


class Config(TrainerConfig):
    """`episodes` says which classes are held out; the rest of it draws episodes, which there are none of here."""

    presets: ClassVar = {"starter": {}, "faithful": FAITHFUL, "faithful_coco": FAITHFUL_COCO}
    preset: Literal["starter", "faithful", "faithful_coco"] = Field(
        default="starter",
        description="values for all that is not given: faithful, faithful_coco = BAM's release on PASCAL-5i and on "
        "COCO-20i; starter = for small machines",
    )
    episodes: EpisodeConfig = Field(
        default=EpisodeConfig(), description="which classes are held out: they count as background"
    )
    encoder: str = Field(default="tf_efficientnet_lite0", description="timm encoder, trained with its batch norms")
    encoder_weights: str = Field(
        default="auto",
        description="first weights of the encoder: auto (those of the package, else random), random, hub, or a "
        "safetensors file",
    )
    output_stride: Literal[8, 16, 32] = Field(default=8, description="pixels of the image a cell of the features")
    released_dilation: bool = Field(
        default=False,
        description="a ResNet's last two stages dilate all of their blocks, as the releases' do; timm leaves the first",
    )
    width: int = Field(default=64, ge=8, description="channels of the head before its classifier")
    encoder_lr_factor: float = Field(default=0.1, gt=0, description="learning rate of the encoder as a share of `lr`")
    augment: AugmentConfig = Field(
        default=AugmentConfig(size=160, scale=(0.75, 1.5)), description="how an image becomes a training crop"
    )
