"""What selection may be asked for, and the two presets."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from maskmill.data_contracts import WithPresets

Share = Annotated[float, Field(ge=0, le=1)]


class Calibrated(BaseModel):
    """A threshold read off the scores themselves.

    `typical` rejects what scores less than `share` of what is typical of its class and clip, so that a class which
    CLIP knows badly is held against itself; with `spreads`, also what lies that many spreads below the typical score,
    where the scores lie close together. `quantile` keeps the best share `keep`. `otsu` splits the histogram where the
    variance between both sides is largest. `mixture` fits two normal distributions and cuts where the upper one takes
    over; it cuts nothing unless two describe the scores better than one (a flat distribution counts as two, too). The
    last two reject at most the share `max_rejected`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["typical", "quantile", "otsu", "mixture"] = Field(
        description="how the threshold is read off the scores; see above"
    )
    share: Share = Field(
        default=0.4, description="typical: share of the typical score below which a sample is rejected"
    )
    spreads: float | None = Field(
        default=None,
        gt=0,
        description="typical: also reject what lies this many spreads below the typical score; null = by the share "
        "alone",
    )
    keep: Share = Field(default=0.5, description="quantile: share of the samples that pass")
    max_rejected: Share = Field(
        default=0.5, description="otsu, mixture: largest share of the samples that they may reject"
    )


Threshold = float | Calibrated | None

FAITHFUL: dict[str, Any] = {}  # the defaults of the fields are SDS as released: 0.1 belongs to permuted channels
MENDED: dict[str, Any] = {"pcs_tau": {"method": "mixture", "max_rejected": 0.5}}  # shuffled tiles have no published tau
STARTER: dict[str, Any] = {  # shares chosen on photos, see benchmarks/sds_keep.py
    "pcs_tau": None,
    "image_score_tau": {"method": "typical", "share": 0.18},
    "min_score": {"method": "typical", "share": 0.35, "spreads": 3.5},
    "rho": 1.0,
    "group_by": "class",
    "swap": "drop",
    "near_duplicates": "best",
}
PRESETS = {"faithful": FAITHFUL, "mended": MENDED, "starter": STARTER}


class SelectConfig(WithPresets):
    """How stored scores become decisions. `preset` fills in what is not given.

    `faithful` is SDS as released: no deduplication, label swaps ignored; its `pcs_tau` of 0.1 was chosen for a score
    of permuted channels. `mended` is the same for shuffled tiles, the threshold read off the scores. `starter` gates
    on the image score and on ASF, both calibrated, drops near-duplicates and swaps, and keeps all that pass.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    presets: ClassVar = PRESETS
    later: ClassVar = {"strata": []}
    preset: Literal["faithful", "mended", "starter"] = Field(
        default="starter",
        description="values for all that is not given: faithful = SDS as released, mended = the same for shuffled "
        "tiles, starter = ours",
    )
    strata: tuple[Literal["scene", "style", "generator"], ...] = Field(
        default=(),
        description="kinds of strata by which scores are corrected before anything is decided, where provenance names "
        "them: scene = surroundings asked for; style = the caption in front of its first ' of ' (a drawing, a photo); "
        "generator = the model",
    )
    pcs_tau: Threshold = Field(default=0.1, description="keep iff pcs is above this, strictly; null = no such gate")
    max_entropy: float | None = Field(default=None, description="keep iff the entropy of the whole image is below this")
    image_score_tau: Threshold = Field(default=None, description="keep iff image_score is above this, strictly")
    calibrate_by: Literal["all", "class"] = Field(
        default="all",
        description="what a calibrated image_score_tau or pcs_tau is read off: all samples; or those of each class, "
        "and a sample fails if it does in each of its classes",
    )
    min_score: Threshold = Field(default=None, description="keep iff asf is at least this")
    swap: Literal["drop", "keep"] = Field(
        default="keep",
        description="samples where CLIP prefers an absent class, or whose image looks like those of another class and "
        "unlike those of its own",
    )
    negatives: Literal["drop", "keep"] = Field(
        default="drop",
        description="samples whose mask shows no object: keep all of them, unseen by gates and shares, or none",
    )
    near_duplicates: Literal["best", "cluster", "keep"] = Field(
        default="keep",
        description="best: drop a sample if a better kept one is that similar; cluster: one of each chain of similar "
        "samples stays; keep: ignore",
    )
    duplicate_similarity: float = Field(default=0.96, ge=-1, le=1, description="cosine; not below dedup.threshold")
    leaks: Literal["drop", "keep"] = Field(default="drop", description="samples that are in a test set, too")
    leak_similarity: float = Field(default=0.96, ge=-1, le=1, description="cosine; not below dedup.threshold")
    rank_by: Literal["asf", "image_score", "pcs"] = Field(default="asf", description="score that ranks survivors")
    group_by: Literal["n_classes", "class"] = Field(
        default="n_classes",
        description="n_classes: the best share of the samples with equally many classes (as published); class: the "
        "best share of the samples of each class, and their union",
    )
    rho: Share | None = Field(default=None, description="share to keep of each group; null = see keep_fraction")
    keep_fraction: Share = Field(default=0.5, description="without rho: share of all samples to end up with")
    min_keep: int = Field(default=0, ge=0, description="least number to keep of each group, where it has as many")
    max_per_class: int | None = Field(default=None, ge=0, description="with group_by class: most to take for a class")
    quotas: dict[int, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict, description="with group_by class: class id -> number to take, in place of the share rho"
    )

    @model_validator(mode="after")
    def _check_quotas(self) -> "SelectConfig":
        if self.group_by != "class" and (self.quotas or self.max_per_class is not None):
            raise ValueError("quotas and max_per_class count samples of a class: they need group_by = class")
        return self
