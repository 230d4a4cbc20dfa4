"""Settings of `few_shot`. The presets are the two releases; the field defaults, `starter`, fit small machines."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from maskmill.trainers.engine import AugmentConfig, TrainerConfig
from maskmill.trainers.engine.config import Schedule
from maskmill.trainers.few_shot.base import GramShots
from maskmill.trainers.few_shot.canvas import TestFit
from maskmill.trainers.few_shot.episodes import EpisodeConfig
from maskmill.trainers.few_shot.presets import PRESETS
from maskmill.trainers.few_shot.priors import PriorConfig
from maskmill.trainers.few_shot.scl import CrossIou, InterScale, Split


class Config(TrainerConfig):
    """`preset` fills in what is not given: `scl` = SCL on PFENet, PASCAL-5i; `pi_clip` = PI-CLIP on HDMNet; both also
    with the settings for COCO-20i.
    """

    presets: ClassVar = PRESETS
    later: ClassVar = {
        **TrainerConfig.later,
        "through_grid": False,
        "test_fit": "squash",
        "canvas_logits": False,
        "released_dilation": False,
        "mask_stage": False,
        "start": "drawn",
        "start_seed": None,
        "split": "hard",
        "support_detached": False,
        "support_from": 0.0,
        "base_learner": None,
        "gram_shots": "bam",
        "canvas_masks": False,
        "encoder_norms": "stored",
    }
    preset: Literal["starter", "scl", "scl_coco", "pi_clip", "pi_clip_coco"] = Field(
        default="starter",
        description="values for all that is not given: scl = SCL on PFENet, pi_clip = PI-CLIP on HDMNet, both for "
        "PASCAL-5i; scl_coco, pi_clip_coco = the same for COCO-20i; starter = for small machines",
    )
    steps: int = Field(default=400, ge=1, description="optimiser steps of the whole training")
    batch: int = Field(default=8, ge=1, description="episodes a step")
    lr: float = Field(default=2e-3, gt=0, description="highest learning rate, reached after warm-up")
    schedule: Schedule = Field(
        default="poly",
        description="how the learning rate falls after warm-up; triangle rises to the middle and falls again",
    )

    episodes: EpisodeConfig = Field(
        default=EpisodeConfig(), description="which classes are held out, and how episodes are drawn"
    )
    shots: int = Field(default=1, ge=1, description="labelled examples of a training episode")
    test_shots: int = Field(default=1, ge=1, description="labelled examples of a tested episode")
    test_episodes: int = Field(default=200, ge=1, description="tested episodes a seed")
    test_seeds: tuple[int, ...] | None = Field(
        default=None, min_length=1, description="metrics are means over these seeds; null = `seed` alone"
    )

    encoder: str = Field(default="tf_efficientnet_lite0", description="timm encoder; its weights are frozen")
    encoder_norms: Literal["stored", "batch"] = Field(
        default="stored",
        description="the encoder's batch norms in training: as stored, or by the statistics of each batch, which move "
        "the stored ones, so that the artifact holds the encoder, too (SCL's release)",
    )
    encoder_weights: str = Field(
        default="auto",
        description="first weights of the encoder: auto (those of the package, else random), random, hub, or a "
        "safetensors file",
    )
    base_learner: str | None = Field(
        default=None,
        description="artifact of trainer base_learner: its encoder takes the place of encoder_weights, and what it "
        "finds of the base classes becomes background (BAM, PI-CLIP)",
    )
    gram_shots: GramShots = Field(
        default="bam",
        description="base_learner: how several examples' distances to the query are weighed: by a small network that "
        "is trained (bam), or as in PI-CLIP's release, where it is not",
    )
    output_stride: Literal[8, 16, 32] = Field(default=8, description="pixels of the image a cell of the features")
    released_dilation: bool = Field(
        default=False,
        description="a ResNet's last two stages dilate all of their blocks, as the releases' do; timm leaves the first",
    )
    size: int = Field(default=160, ge=16, description="side of the canvas in pixels: images are squashed to it")
    test_fit: TestFit = Field(
        default="squash",
        description="how an image reaches the canvas at test time: squash, or corner (PFENet, SCL: aspect kept, sides "
        "down to multiples of 8, black to the right and below)",
    )
    canvas_logits: bool = Field(
        default=False, description="logits are enlarged to the canvas first, then to the image, as in the releases"
    )
    scale_levels: bool = Field(
        default=True, description="divide each level of features by its root mean square over the image"
    )
    mask_support: bool = Field(
        default=False, description="blacken (to the mean colour) an example's background before the encoder"
    )
    mask_stage: bool = Field(
        default=False,
        description="plain prior: an example's object is cut out before the last stage of a ResNet as well (PFENet)",
    )
    area_masks: bool = Field(default=True, description="masks reach the grid as area shares, not by exact pixels")
    canvas_masks: bool = Field(
        default=False,
        description="base hdmnet_released: masks are brought to the canvas first, and from there to CLIP's grid and "
        "the stages by nearest neighbour, as released",
    )
    binary_masks: bool = Field(default=True, description="threshold them there")

    base: Literal["pfenet", "hdmnet", "hdmnet_released"] = Field(
        default="pfenet",
        description="network: PFENet's, a light one in the manner of HDMNet's, or HDMNet's as PI-CLIP's release has it",
    )
    width: int = Field(default=64, ge=8, description="channels of the network")
    scales: tuple[float, ...] = Field(
        default=(1.0, 0.5, 0.25), min_length=1, description="of pfenet's pyramid: shares of the grid, or cells a side"
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="of the reduced features; the releases: 0.5")

    prior: Literal["none", "plain", "pi_clip"] = Field(
        default="plain",
        description="maps that the network sees beside the features: none, plain (PFENet's cosine), pi_clip (CLIP's)",
    )
    priors: PriorConfig = Field(default=PriorConfig(), description="how CLIP's maps are computed")

    scl: bool = Field(default=False, description="self- and cross-guidance of SCL; needs base: pfenet")
    inter_scale_source: InterScale = Field(
        default="current",
        description="scl: what finer levels of an example's second pass take over: of the same pass (current), or "
        "of the first (initial, the release)",
    )
    split: Split = Field(
        default="soft",
        description="scl: an example's object is split by what its first segmentation finds (hard, the release), or "
        "each cell counts in both vectors by its probability (soft)",
    )
    support_detached: bool = Field(
        default=False,
        description="scl: an example's losses teach its own merge and reduction alone, not what the query shares",
    )
    support_from: float = Field(
        default=2 / 3,
        ge=0,
        lt=1,
        description="scl: share of the run after which an example's losses begin; the release: 0",
    )
    through_grid: bool = Field(
        default=False,
        description="pfenet: a level is enlarged to the whole grid before the next one takes it over (the release)",
    )
    support_weight: float = Field(
        default=0.5,
        ge=0,
        description="scl: weight of each example's loss; at 0.5 both together count as much as the query's; the "
        "release: 1",
    )
    inner_weight: float = Field(
        default=1.0, ge=0, description="weight of the losses on the pyramid's inner predictions"
    )
    cross_iou: CrossIou = Field(
        default="both",
        description="scl: what judges an example: IoU of both sides (PFENet version), or of the object alone "
        "(CANet version)",
    )
    object_weight: float = Field(
        default=3.0, gt=0, description="weight of an object's pixel in the query's loss; the releases: 1"
    )
    support_object_weight: float = Field(
        default=1.0, gt=0, description="scl: the same in the examples' losses; the release: 1"
    )
    prior_gain: float = Field(
        default=5.0, gt=0, description="factor of the prior maps in pfenet's merge; the release: 1"
    )
    target_stride: int = Field(
        default=2, ge=1, description="losses are taken on the canvas shrunk by this; the releases: 1"
    )

    start: Literal["drawn", "by_name"] = Field(
        default="drawn",
        description="first weights: drawn one after another, or each by its name and the seed, so that networks that "
        "differ in a part begin alike in all others",
    )
    start_seed: int | None = Field(default=None, description="seed of first weights by name; null = `seed`")
    lr_parity: float = Field(
        default=1.0, gt=0, description="learning rate of new layers as a multiple of `lr`; the releases: 10"
    )
    augment: AugmentConfig | None = Field(
        default=None, description="random views; null = flips only, of frozen features"
    )
    cached: bool = Field(default=True, description="keep frozen features of every image (needs augment: null)")
    cache_mb: int = Field(
        default=4096, ge=0, description="MB of memory for such features; beyond it the least used are made again"
    )

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.scl and self.base != "pfenet":
            raise ValueError("scl: needs base: pfenet, whose support path it trains; hdmnet matches supports directly")
        if self.scl and self.shots != 1:
            raise ValueError(f"scl: expected shots=1 (K shots need no retraining), found {self.shots}")
        whole = self.prior == "pi_clip" and self.priors.shots == "concat" and not self.scl
        if whole and self.test_shots != self.shots:
            raise ValueError(
                f"test_shots: priors.shots: concat makes a network for {self.shots} example(s) alone, found test_shots "
                f"{self.test_shots}; set test_shots: {self.shots}, or priors: {{shots: mean}}"
            )
        if self.base_learner is not None and self.scl:
            raise ValueError(
                "base_learner: merges with a network that is not SCL's; set scl: false, or no base_learner"
            )
        if self.base_learner is not None and self.test_shots != self.shots:
            raise ValueError(
                f"test_shots: with base_learner a network is for {self.shots} example(s) alone, found test_shots "
                f"{self.test_shots}; set test_shots: {self.shots}"
            )
        if self.canvas_masks and self.base != "hdmnet_released":
            raise ValueError(f"canvas_masks: is for base: hdmnet_released, found {self.base}; set canvas_masks: false")
        alone = not self.cached and self.prior != "pi_clip" and self.base_learner is None
        if self.encoder_norms == "batch" and not alone:
            raise ValueError(
                "encoder_norms: batch lets features depend on their batch: set cached: false, prior: plain or none and "
                "no base_learner, or encoder_norms: stored"
            )
        if self.cached and self.augment is not None:
            raise ValueError("cached: frozen features are those of whole images; set cached: false, or augment: null")
        if self.augment is not None and self.augment.size != self.size:
            raise ValueError(f"augment.size: expected the canvas of {self.size}, found {self.augment.size}")
        return self

    @property
    def prior_channels(self) -> int:
        """Prior maps that the decoder takes: VVP, then VTP (twice for hdmnet, as released)."""
        if self.prior == "pi_clip":
            return self.priors.channels(self.shots) + self.text_channels
        return 1 if self.prior == "plain" else 0

    @property
    def text_channels(self) -> int:
        """Channels of VTP: the same map twice for both of HDMNet's, as released."""
        return 1 if self.base == "pfenet" else 2

    @property
    def target_size(self) -> int:
        """Side of the masks that losses compare with."""
        return max(1, self.size // self.target_stride)
