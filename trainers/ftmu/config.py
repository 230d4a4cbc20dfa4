"""Options of tracking and of the agent's training. `faithful` is the paper's preset; the defaults suit small CPUs."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from maskmill.trainers.engine import TrainerConfig
from maskmill.vision.video.region import RegionConfig

FAITHFUL: dict[str, Any] = {
    "steps": 20_000,  # the release's `e_iters`; the paper names no number
    "grad_clip": None,
    "precision": "fp32",
    "state": "patches",
    "hidden": (2048, 512),
    "trunk": "resnet50",
    "lr": 1e-4,
    "critic_lr": 5e-4,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "decay_every": 200,
    "entropy": 0.0,
    "normalise_advantage": False,
    "trace": 0.0,
    "price": 0.0,
    "warm_start": 0.0,
    "batch": 20,
    "length": 10,
    "track": {
        "actions": "history",
        "patience": 3,
        "assignment": "independent",
        "aligned": False,
        "region": {"snap": False, "first": 0.1, "small": 0.1, "medium": 0.4, "large": 1.2},
    },
}
RELEASED: dict[str, Any] = {  # what the public code does where it differs from the paper
    **FAITHFUL,
    "lr": 1e-6,
    "critic_lr": 5e-6,
    "decay_every": 500,
    "discount": 0.99,
    "trace": 1.0,  # returns of the whole video
    "offset": 0.0,  # the reward is 100 J^3
    "batch": 1,
    "length": 100_000,  # whole videos
    "track": {**FAITHFUL["track"], "patience": None, "box_share": 0.0, "gate": 0.0},  # masks alone, never lost
}


class TrackConfig(BaseModel):
    """One frame to the next: matching, search region, and what the agent may decide.

    `actions: history` gives it one binary decision (0 = update the template, 1 = keep it); `patience` keeps in a row
    mean "lost": the whole frame is then matched by appearance and the agent asked again. `joint` gives it both
    decisions at once, 2 x method + (0 = update, 1 = keep), where the methods are overlap, likeness (of descriptors that
    the region's pass has left) and appearance on the whole frame.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    actions: Literal["history", "joint"] = Field(
        default="history",
        description="history: the agent decides update or keep; joint: method of matching and update in one decision",
    )
    patience: int | None = Field(default=3, ge=0, description="N; none = never lost, 0 = appearance on every frame")
    after_rejection: Literal["reset", "keep"] = Field(
        default="reset", description="the counter after an appearance match that the agent did not take"
    )
    box_share: float = Field(
        default=0.5, ge=0, le=1, description="alpha: weight of the boxes' overlap, masks get the rest"
    )
    gate: float = Field(default=0.05, ge=0, lt=1, description="matches at or below this overlap count as none")
    min_similarity: float = Field(default=0.0, ge=-1, lt=1, description="appearance matches below this count as none")
    aligned: bool = Field(default=True, description="overlaps are taken with the template moved to the last centre")
    assignment: Literal["independent", "hungarian"] = Field(
        default="hungarian", description="may two targets take one candidate (the paper), or not"
    )
    search_whole_after: int = Field(
        default=5, ge=1, description="frames without a candidate until the region is the frame"
    )
    region: RegionConfig = Field(default=RegionConfig(), description="how far the search region reaches")

    @property
    def choices(self) -> int:
        """How many actions the agent has."""
        return 6 if self.actions == "joint" else 2


class Config(TrainerConfig):
    """Settings of `ftmu`. `batch` counts clips a step; `preset: faithful` fills in what is not given."""

    presets: ClassVar = {"faithful": FAITHFUL, "released": RELEASED, "small": {}}

    preset: Literal["faithful", "released", "small"] = Field(
        default="small",
        description="values for all that is not given: faithful = the paper's, released = the public code's, small = "
        "for small CPUs",
    )
    segmenter: str = Field(description="artifact folder of `proposals`, or torchvision's name of a Mask R-CNN")
    segmenter_weights: str = Field(
        default="hub", description="of a Mask R-CNN: hub, random, a file, or a folder with one"
    )
    steps: int = Field(default=150, ge=1, description="optimiser steps of the whole training")
    batch: int = Field(default=24, ge=1, description="clips a step")
    length: int = Field(default=16, ge=2, description="frames of a training clip")
    optimizer: Literal["adamw", "adam", "sgd"] = Field(default="adam", description="which optimiser")
    lr: float = Field(default=2e-3, gt=0, description="of the actor")
    critic_lr: float = Field(default=4e-3, gt=0, description="learning rate of the critic")
    weight_decay: float = Field(default=0.0, ge=0, description="of the optimiser")
    decay_every: int | None = Field(
        default=None, ge=1, description="iterations between decays by 0.99; none = schedule"
    )
    grad_clip: float | None = Field(
        default=1.0, gt=0, description="largest L2 norm of all gradients together; null = not clipped"
    )
    state: Literal["shared", "patches"] = Field(
        default="shared", description="a few numbers that matching has at hand, or pooled features of masked frames"
    )
    trunk: str = Field(default="resnet50", description="timm model behind `patches`")
    trunk_weights: str = Field(default="hub", description="hub, auto, random, or a file of timm's or torchvision's")
    hidden: tuple[int, ...] = Field(
        default=(64, 64), min_length=1, description="widths of the hidden layers of actor and critic"
    )
    discount: float = Field(default=0.9, ge=0, lt=1, description="gamma")
    trace: float = Field(default=0.9, ge=0, le=1, description="lambda of the advantages; 0 = one-step TD, as published")
    entropy: float = Field(
        default=0.01, ge=0, description="weight of the policy's entropy, against a policy of one action"
    )
    normalise_advantage: bool = Field(default=True, description="bring advantages of a step to mean 0 and deviation 1")
    price: float = Field(default=1.0, ge=0, description="reward (in units of 100) that one whole-frame match costs")
    warm_start: float = Field(
        default=2.5,
        ge=0,
        description="added to the first logit of the single action that is best on the clips; 0 = none",
    )
    offset: float = Field(default=10.0, ge=0, description="of the reward, added above J = 0.1 and taken off below")
    track: TrackConfig = Field(
        default=TrackConfig(actions="joint"), description="how matching works, and what the agent may decide"
    )
