"""Options of `clip_cam`. The preset `faithful` is CLIP-ES on ViT-B/16; `starter` fits the model that ships with us."""

from dataclasses import asdict
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from maskmill.labelers.base import LabelerConfig
from maskmill.vision.crf_options import CrfOptions, laid_over

Refine = Literal["crf", "par", "none"]

FAITHFUL: dict[str, Any] = {
    "model": "ViT-B-16-quickgelu",
    "pretrained": "openai",
    "precision": "fp32",
    "templates": ("a clean origami {}.",),
    "synonyms": False,
    "image_side": None,
    "rounding": "up",
    "temperature": None,
    "cam_layer": "norm",
    "affinity": True,
    "n_attention": 8,
    "box_threshold": None,
    "edge_fix": False,
    "background_power": 1.0,
    "refine": "crf",
    "crf": {"backend": "pydensecrf", "image": "wrapped_bgr"},
    "crf_iterations": 10,
    "confidence": 0.95,
    "min_decided": 0.0,
}
PRESETS: dict[str, dict[str, Any]] = {"faithful": FAITHFUL, "starter": {}}


class Config(LabelerConfig):
    """`preset` fills in what is not given; the field defaults are those of `starter`."""

    presets: ClassVar = PRESETS
    later: ClassVar = {"rounding": "nearest", "crf": asdict(CrfOptions()), "contrast": 0.0}
    preset: Literal["faithful", "starter"] = Field(
        default="starter",
        description="values for all that is not given: faithful = CLIP-ES on ViT-B/16, starter = for the model "
        "that ships",
    )
    model: str = Field(default="starter", description="open_clip name, local folder, or `starter`")
    pretrained: str | None = Field(default=None, description="open_clip tag or weight file for a plain model name")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="of the blocks before the last")
    templates: tuple[str, ...] = Field(
        default=("a clean origami {}.",),
        min_length=1,
        description="sentences that put a class name in place of {}; their text embeddings are averaged",
    )
    synonyms: bool = Field(default=False, description="average a class's text over its synonyms")
    image_side: int | None = Field(default=416, ge=16, description="long side of the model's input; none = native")
    rounding: Literal["nearest", "up"] = Field(
        default="nearest", description="sides of the model's input, to multiples of the patch; the release rounds up"
    )
    temperature: float | None = Field(default=None, gt=0, description="of the class softmax; none = the model's own")
    cam_layer: Literal["norm", "output"] = Field(
        default="output", description="Grad-CAM on the last block's first LayerNorm (published), or on its output"
    )
    contrast: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share in the class maps of what each patch by itself says of the classes' texts (as ExCEL has it, "
        "without its training); 0 = Grad-CAM alone",
    )
    affinity: bool = Field(default=True, description="spread maps along the attention; false = raw Grad-CAM")
    n_attention: int = Field(default=8, ge=1, description="last blocks whose attention makes the affinity")
    box_threshold: float | None = Field(default=None, gt=0, lt=1, description="none = the label space's")
    edge_fix: bool = Field(default=True, description="boxes reach the last row and column of the grid")
    background_power: float = Field(default=1.5, gt=0, description="background = (1 - best map)^power")
    refine: Refine = Field(
        default="par", description="how the maps follow the image: par (pixel-adaptive), crf (dense CRF), none"
    )
    refine_side: int = Field(default=1024, ge=64, description="larger images are refined at this long side")
    par_iterations: int = Field(
        default=10, ge=1, description="rounds of pixel-adaptive refinement (PAR); more follow colour edges further"
    )
    crf_iterations: int = Field(default=10, ge=1, description="mean-field rounds of the dense CRF")
    crf: Annotated[CrfOptions, laid_over(CrfOptions())] = Field(
        default=CrfOptions(), description="of the dense CRF: backend, image (the release hands it wrapped_bgr), widths"
    )
    confidence: float = Field(default=0.0, ge=0, lt=1, description="pixels that are less sure become 255 (ignore band)")
    min_decided: float = Field(default=0.05, ge=0, le=1, description="abstain where less of the image is decided")
    find_tags: Literal["missing", "never"] = Field(
        default="missing", description="ask CLIP which classes an image without tags shows"
    )
    tag_threshold: float = Field(default=0.1, gt=0, lt=1, description="probability from which a class counts as shown")
    batch: int | None = Field(default=None, ge=1, description="images a forward; none = 1 on a CPU, 16 on a GPU")
