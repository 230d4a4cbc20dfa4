"""Options of `abd`. Presets `faithful` and `faithful_bcp` are the released recipes; `starter` fits small machines."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from maskmill.trainers.engine import AugmentConfig, TrainerConfig
from maskmill.vision.segmenters import SegmenterConfig

Host = Literal["supervised", "cross_teaching", "bcp"]

#: Patients whose slices are the first 68 and the first 136 lines of the released list, which is what the release calls
#: 3 and 7 labelled patients: 5 and 10 % of 70.
LABELLED = {
    3: ("patient038", "patient050", "patient099"),
    7: ("patient021", "patient038", "patient049", "patient050", "patient058", "patient099", "patient100"),
}
UNET = {"architecture": "ssl4mis_unet", "weights": "random"}
SWIN = {"architecture": "swin_unet", "weights": "hub"}

RELEASE: dict[str, Any] = {
    "network": UNET,
    "labelled_groups": LABELLED[7],
    "precision": "fp32",
    "test_zoom": "nearest",
    "float_images": True,
    "strong_view": True,
    "displace_unlabelled": True,
    "geometry": "released",
    "jitter": 0.8,
    "hole_label": "background",
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "seed": 1337,
    "keep_best": True,
    "eval_every": 200,
}
#: Cases of PROMISE12 whose slices are the first 202 of the training set: 20 % of 35.
PROMISE12_LABELLED = tuple(f"Case{number:02d}" for number in range(7))
FAITHFUL: dict[str, Any] = {
    **RELEASE,
    "host": "cross_teaching",
    "partner": SWIN,
    "displace_labelled": True,
    "augment": {"size": 224, "fit": "squash"},
    "batch": 8,
    "unlabelled_batch": 8,
    "steps": 30_000,
    "schedule": "poly",
    "pretrain_share": 0.0,
    "consistency": 0.1,
    "ramp": True,
    "inverse_weight": 2.0,
    "inverse_share": 2 / 3,
    "inverse_idles": True,
    "coin": 0.0,
}
FAITHFUL_BCP: dict[str, Any] = {
    **RELEASE,
    "host": "bcp",
    "partner": UNET,
    "displace_labelled": False,
    "augment": {"size": 256, "fit": "squash"},
    "batch": 12,
    "unlabelled_batch": 12,
    "steps": 40_000,
    "pretrain_share": 0.25,
    "paste_both_ways": False,
    "schedule": "constant",
    "consistency": 1.0,
    "ramp": False,
    "coin": 0.5,
    "students": "same",
    "teacher_start": "student",
    "teacher_mode": "train",
    "ema": 0.99,
    "ema_warm_up": False,
    "whole_background": True,
    "paste_edge": False,
    "halves_apart": True,
}
FAITHFUL_PROMISE12: dict[str, Any] = {
    **FAITHFUL,
    "labelled_groups": PROMISE12_LABELLED,
    "inverse_weight": 1.0,
    "inverse_share": 1.0,
    "cutout_image": False,
}
PRESETS: dict[str, dict[str, Any]] = {
    "faithful": FAITHFUL,
    "faithful_3": {**FAITHFUL, "labelled_groups": LABELLED[3]},
    "faithful_promise12": FAITHFUL_PROMISE12,
    "faithful_bcp": FAITHFUL_BCP,
    "faithful_bcp_3": {**FAITHFUL_BCP, "labelled_groups": LABELLED[3]},
    "starter": {},
}


class Config(TrainerConfig):
    """`preset` fills in what is not given; the field defaults are those of `starter`.

    The host trains network 1 (weak view), which is the one that predicts, beside network 2 (strong view). Without
    `strong_view` and both displacements it is the plain host; `supervised` is network 1 on the labelled part alone.
    """

    presets: ClassVar = PRESETS
    later: ClassVar = {
        **TrainerConfig.later,
        "inverse_idles": False,
        "paste_edge": True,
        "halves_apart": False,
        "test_zoom": "smooth",
        "lend": "any",
        "keep_best": False,
        "float_images": False,
    }
    preset: Literal["faithful", "faithful_3", "faithful_promise12", "faithful_bcp", "faithful_bcp_3", "starter"] = (
        Field(
            default="starter",
            description="values for all that is not given: faithful (on Cross Teaching) and faithful_bcp are the "
            "released recipes with ACDC's 7 labelled patients, faithful_3 and faithful_bcp_3 with 3, "
            "faithful_promise12 with PROMISE12's 7; starter fits small machines",
        )
    )
    host: Host = Field(
        default="cross_teaching",
        description="method that ABD is added to: cross_teaching, bcp, or supervised (labelled samples alone)",
    )
    network: SegmenterConfig = Field(
        default=SegmenterConfig(), description="network 1, which predicts; architecture ssl4mis_unet = the release's"
    )
    partner: SegmenterConfig = Field(
        default=SegmenterConfig(architecture="segformer", encoder="mit_b0", weights="random"),
        description="network 2, which sees the strong view; architecture swin_unet = the release's",
    )
    batch: int = Field(default=4, ge=1, description="labelled samples a step")
    unlabelled_batch: int = Field(default=4, ge=1, description="unlabelled samples a step")
    labelled_groups: tuple[str, ...] | None = Field(
        default=None, description="groups whose masks may be opened; none = every sample that has a mask"
    )

    strong_view: bool = Field(
        default=True, description="give network 2 a view with other brightness and contrast and a hole"
    )
    displace_unlabelled: bool = Field(default=True, description="ABD-R")
    displace_labelled: bool = Field(default=True, description="ABD-I")
    grid: int = Field(default=4, ge=2, description="patches along a side")
    candidates: int = Field(default=4, ge=1, description="confident patches that ABD-R chooses from")
    lend: Literal["any", "organs"] = Field(
        default="any",
        description="ABD-R: candidates are any patches, as published, or those in which the lending network finds an "
        "organ",
    )
    coin: float = Field(default=0.0, ge=0, le=1, description="chance that ABD-R takes the most confident patch instead")
    inverse_probability: float = Field(default=0.5, ge=0, le=1, description="chance that ABD-I acts on an image")
    inverse_weight: float = Field(default=1.0, ge=0, description="weight of ABD-I's loss (λ_I)")
    inverse_share: float = Field(default=1.0, ge=0, le=1, description="share of the run in which ABD-I acts")
    inverse_idles: bool = Field(
        default=False,
        description="when ABD-I no longer acts, its images still pass through the networks, whose norms see them, as "
        "released",
    )
    pretrain_share: float = Field(default=0.3, ge=0, lt=1, description="share of the run on labelled samples alone")
    consistency: float = Field(default=0.3, ge=0, description="weight of the losses between the networks")
    ramp: bool = Field(default=True, description="let that weight rise over the run")

    augment: AugmentConfig = Field(
        default=AugmentConfig(size=96, scale=(0.9, 1.3), rotate=20.0),
        description="how an image becomes a training crop",
    )
    float_images: bool = Field(
        default=False,
        description="images as floats: deep ones (`deep` of a volume source) keep all values, and views are not "
        "rounded to 8 bits",
    )
    geometry: Literal["augment", "released"] = Field(
        default="augment", description="as `augment` says, or quarter turns, flips and ±20° with nearest neighbour"
    )
    jitter: float = Field(default=0.5, ge=0, lt=1, description="brightness and contrast of the strong view, ±")
    cutout: float = Field(default=0.5, ge=0, le=1, description="chance of a hole in the strong view")
    cutout_image: bool = Field(default=True, description="false = hole in the label alone, as released for PROMISE12")
    hole_label: Literal["ignore", "background"] = Field(default="ignore", description="what the label says in a hole")
    frozen_stages: int = Field(
        default=0, ge=0, description="stages of a pre-trained encoder, stem included, that keep their weights and norms"
    )
    frozen_depthwise: bool = Field(default=False, description="pre-trained encoders keep their depthwise filters")
    partner_lr_factor: float = Field(default=1.0, gt=0, description="learning rate of network 2 as a share of `lr`")
    test_zoom: Literal["smooth", "nearest"] = Field(
        default="smooth",
        description="resampling at test time: smooth, or nearest neighbour there and back, as released",
    )

    keep_best: bool = Field(
        default=False,
        description="with validation samples, the network of the best evaluation (Dice by patient) enters BCP's second "
        "phase and the artifact, as released; else the last",
    )
    paste_both_ways: bool = Field(default=True, description="bcp: in the first phase, both halves into each other")
    paste_edge: bool = Field(
        default=True, description="bcp: the rectangle may touch the last row and column, which the release's never does"
    )
    halves_apart: bool = Field(
        default=False,
        description="bcp: the two halves of a batch pass through a network one after the other, as released: norms see "
        "each by itself",
    )
    pseudo_weight: float = Field(default=0.5, ge=0, description="bcp: weight of the pseudo-labelled region")
    ema: float = Field(default=0.99, ge=0, lt=1, description="bcp: how much of itself the teacher keeps a step")
    ema_warm_up: bool = Field(default=True, description="bcp: keep at most 1 - 1 / (steps + 1)")
    teacher_start: Literal["student", "average"] = Field(
        default="average",
        description="bcp: begins as network 1 after the first phase, or as its mean",
    )
    teacher_mode: Literal["eval", "train"] = Field(default="eval", description="bcp: norms and dropout of the teacher")
    students: Literal["different", "same"] = Field(
        default="same", description="bcp: network 2 pre-trains by itself, or copies network 1 and its optimiser"
    )
    whole_background: bool = Field(default=False, description="bcp: class 0 of the masked Dice ignores the mask")

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.augment.size % self.grid:
            raise ValueError(f"augment.size: expected a multiple of grid={self.grid}, found {self.augment.size}")
        if self.candidates >= self.grid**2:
            raise ValueError(f"candidates: expected fewer than the {self.grid**2} patches, found {self.candidates}")
        if self.host == "bcp" and (self.batch % 2 or self.unlabelled_batch != self.batch):
            raise ValueError(
                "host bcp mixes halves of equal batches: expected batch = unlabelled_batch, an even number, "
                f"found {self.batch} and {self.unlabelled_batch}"
            )
        if self.host == "bcp" and self.two_networks and self.students == "same" and self.network != self.partner:
            raise ValueError("students: same needs network = partner; give both the same, or set students: different")
        return self

    @property
    def two_networks(self) -> bool:
        """Whether there is a network 2: in Cross Teaching always, in BCP where anything of ABD is on."""
        if self.host == "bcp":
            return self.strong_view or self.displaces
        return self.host == "cross_teaching"

    @property
    def displaces(self) -> bool:
        """Whether any displacement is on."""
        return self.displace_unlabelled or self.displace_labelled

    @property
    def pretrain_steps(self) -> int:
        """Steps of the first phase: labelled samples alone, nothing between the networks, nothing displaced."""
        return 0 if self.host == "supervised" else int(self.pretrain_share * self.steps)
