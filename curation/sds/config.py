"""SdsConfig: every choice that a score depends on. Speed settings (batch size, workers, device) are not here: they
change no score.
"""

from dataclasses import asdict, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from maskmill.curation.base import ScorerConfig
from maskmill.curation.cross_fit.config import CrossFitOptions
from maskmill.curation.sds.asf import IgnorePolicy
from maskmill.curation.sds.by_boxes_options import ByBoxesOptions
from maskmill.vision.clip import CamLayer
from maskmill.vision.crf_options import CrfOptions, crf_backend, laid_over

ImageScore = Literal["pcs", "drop", "divergence", "shift", "evidence"]
MaskScore = Literal["asf", "boundary", "both"]
Perturbation = Literal["tiles", "channels"]
CRF = CrfOptions(backend="auto")

MENDED: dict[str, Any] = {}  # the defaults below are the authors', with the slips of their code mended
FAITHFUL: dict[str, Any] = {  # what the released code computes, slips and all
    "perturbation": "channels",
    "crf": {"backend": "pydensecrf", "image": "wrapped_bgr"},
}
STARTER: dict[str, Any] = {  # chosen on photos, see benchmarks/sds_faults.py
    "labels": "prompt",
    "image_side": 256,
    "temperature": 0.2,
    "permutations": 3,
    "image_score": "evidence",
    "cam_layer": "output",
    "edge_fix": True,
    "refine": "none",
    "confidence": 0.0,
    "mask_score": "both",
}
PRESETS = {"faithful": FAITHFUL, "mended": MENDED, "starter": STARTER}


class SdsConfig(ScorerConfig):
    """Options of SDS. `preset` fills in what is not given: `faithful` is the release as it runs, `mended` the release
    as it was meant, `starter` ours.
    """

    kind: Literal["sds"] = Field(default="sds", exclude=True, description="name of the scorer")

    presets: ClassVar = PRESETS
    later: ClassVar = {
        "perturbation": "tiles",
        "crf": asdict(CRF),
        "judge": "clip",
        "by_boxes": ByBoxesOptions().model_dump(mode="json"),
        "cross_fit": CrossFitOptions().model_dump(mode="json"),
    }
    preset: Literal["faithful", "mended", "starter"] = Field(
        default="starter", description="values for all that is not given"
    )
    model: str = Field(default="starter", description="open_clip name, local folder, or `starter`")
    pretrained: str | None = Field(default=None, description="open_clip tag or weight file for a plain model name")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="floating point type of CLIP's forward pass"
    )
    templates: tuple[str, ...] = Field(
        default=("a clean origami {}.",),
        min_length=1,
        description="sentences that put a class name in place of {}; their text embeddings are averaged",
    )
    synonyms: bool = Field(default=False, description="average a class's text over its synonyms")
    labels: Literal["prompt", "mask"] = Field(default="mask", description="where an image's classes come from")
    image_side: int | None = Field(
        default=None, ge=32, description="resize to a square of this side; none = native size"
    )
    temperature: float | None = Field(default=None, gt=0, description="of the softmax; none = the model's own")
    perturbation: Perturbation = Field(
        default="tiles", description="what is shuffled: tiles (never into their own order), or, as released, channels"
    )
    grid: int = Field(default=4, ge=2, description="tiles per side")
    permutations: int = Field(default=1, ge=1, description="shuffled copies per image, averaged")
    image_score: ImageScore = Field(
        default="pcs",
        description="what judges the image: pcs (entropy gap under shuffling, as published), drop, divergence or "
        "shift (other measures of the same change), evidence (shift, half of it weighted by the probability of the "
        "image's own classes)",
    )
    asf_gate: float | None = Field(
        default=None, description="score masks only where image_score exceeds this; none = all"
    )
    cam_layer: CamLayer = Field(default="norm", description="norm: as published; output: plain class maps")
    n_attention: int = Field(default=8, ge=1, description="last blocks whose attention makes the affinity")
    box_threshold: float | None = Field(default=None, gt=0, lt=1, description="none = the label space's")
    edge_fix: bool = Field(default=False, description="let boxes reach the last row and column of the grid")
    refine: Literal["crf", "mean_field", "par", "none"] = Field(
        default="crf",
        description="how CLIP's own mask follows the image: crf (dense CRF), mean_field (our own dense CRF), par "
        "(pixel-adaptive), none",
    )
    crf: Annotated[CrfOptions, laid_over(CRF)] = Field(
        default=CRF, description="of the dense CRF: backend, image (the release hands it wrapped_bgr), steps, widths"
    )
    confidence: float = Field(default=0.95, ge=0, le=1, description="pseudo-mask pixels below this become 255")
    judge: Literal["clip", "cross_fit", "promptable"] = Field(
        default="clip",
        description="whose mask ASF compares with the annotation: clip; cross_fit = a segmenter fitted to the other "
        "folds of the data set, for classes that CLIP does not know; promptable = what SAM or its kin draws for the "
        "annotation's boxes, or SAM 3 for its class words",
    )
    cross_fit: CrossFitOptions = Field(
        default=CrossFitOptions(), description="with judge cross_fit: that segmenter; other judges do not read it"
    )
    by_boxes: ByBoxesOptions = Field(
        default=ByBoxesOptions(), description="with judge promptable: which model is asked; other judges do not read it"
    )
    ignore_policy: IgnorePolicy = Field(
        default="authors",
        description="pixels that CLIP leaves undecided: authors = they differ from every class and lower the "
        "score; exclude = they are not counted",
    )
    mask_score: MaskScore = Field(
        default="asf",
        description="what judges the mask: asf (pooled IoU, as published), boundary (do its borders lie on edges "
        "of the image), or both",
    )
    swap_check: bool = Field(default=False, description="let absent classes compete for each annotated region")
    swap_margin: float = Field(default=0.05, ge=0, description="lead in cosine by which an absent class wins a region")

    @model_validator(mode="after")
    def _has_a_model(self) -> "SdsConfig":
        if self.judge == "promptable" and self.by_boxes.model is None:
            raise ValueError(
                "judge promptable: expected `by_boxes.model`, a folder or hub id of SAM or its kin; found none"
            )
        return self

    @property
    def learns(self) -> bool:
        return self.judge == "cross_fit"

    @property
    def crf_in_use(self) -> CrfOptions:
        """Of the refinement that is wanted, with the backend by name."""
        backend = self.crf.backend if self.refine == "crf" else "mean_field"
        return replace(self.crf, backend=crf_backend(backend))
