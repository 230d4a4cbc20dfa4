"""Options of the training-free priors. `faithful` is the release of PI-CLIP; the field defaults are for the starter
CLIP.
"""

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from maskmill.data_contracts import WithPresets
from maskmill.vision.clip import CamLayer, clip_fingerprint

Prompts = Literal["target", "target+base", "oracle"]
TextSource = Literal["photo", "canvas", "canvas_as_it_is"]

#: Texts of the release where they are not a class's name; other classes go by their name in VOC's label space.
PASCAL_WORDS = {
    **{name: name for name in ("aeroplane", "diningtable", "motorbike", "pottedplant")},
    "bird": "bird avian",
    "chair": "chair seat",
    "person": "person with clothes,people,human",
    "tvmonitor": "tvmonitor screen",
}
#: The same for COCO; "sknowboard" is the release's spelling, and so is VOC's name for six classes.
COCO_WORDS = {
    "person": "person with clothes,people,human",
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "bird": "bird avian",
    "backpack": "backpack,bag",
    "umbrella": "umbrella,parasol",
    "handbag": "handbag,purse",
    "tie": "necktie",
    "snowboard": "sknowboard",
    "baseball glove": "glove",
    "spoon": "dessertspoon",
    "chair": "chair seat",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor screen",
    "remote": "remote control",
    "hair drier": "hairdrier,blowdrier",
}

FAITHFUL: dict[str, Any] = {
    "model": "ViT-B-16-quickgelu",
    "pretrained": "openai",
    "match_side": 473,
    "match_fit": "squash",
    "match_normalisation": "imagenet",
    "mask_image": True,
    "contrast": False,
    "centre": False,
    "neighbours": 1,
    "shots": "concat",
    "text_side": None,
    "cam_layer": "norm",
    "edge_fix": False,
    "templates": ("a photo of {}.",),
    "background_words": False,
    "prompts": "oracle",
    "text_source": "canvas",
    "through_photo": True,
    "words": PASCAL_WORDS,
    "box_peak": 254,
}
FAITHFUL_COCO: dict[str, Any] = {**FAITHFUL, "text_source": "canvas_as_it_is", "words": COCO_WORDS}
# Chosen on development episodes: benchmarks.few_shot_choices.
STARTER: dict[str, Any] = {"product_blocks": 4, "product_text": True}
PRESETS: dict[str, dict[str, Any]] = {"faithful": FAITHFUL, "faithful_coco": FAITHFUL_COCO, "starter": STARTER}


class PriorConfig(WithPresets):
    """How VVP, VTP and PIR are computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    presets: ClassVar = PRESETS
    later: ClassVar = {
        "text_source": "photo",
        "through_photo": False,
        "words": {},
        "box_peak": 255,
        "product_blocks": 0,
        "product_text": False,
    }
    preset: Literal["faithful", "faithful_coco", "starter"] = Field(
        default="starter",
        description="values for all that is not given: faithful, faithful_coco = the release of PI-CLIP on PASCAL and "
        "on COCO, starter = for the CLIP that ships",
    )
    model: str = Field(default="starter", description="open_clip name, local folder, or `starter`")
    pretrained: str | None = Field(default=None, description="open_clip tag or weight file for a plain model name")

    # VVP: matching
    match_side: int = Field(default=320, ge=16, description="of CLIP's input for matching, in pixels")
    match_fit: Literal["squash", "long"] = Field(
        default="long", description="both sides to match_side (squash), or the long one"
    )
    match_normalisation: Literal["clip", "imagenet"] = Field(
        default="clip", description="mean and deviation of the input: CLIP's own, or ImageNet's (the release)"
    )
    match_blocks: tuple[int, ...] = Field(
        default=(-1, -2), min_length=1, description="blocks whose outputs are matched; -1 = the last"
    )
    mask_image: bool = Field(
        default=False, description="blacken (to the mean colour) an example's background before the encoder"
    )
    centre: bool = Field(
        default=True, description="subtract the examples' mean feature from both sides before the cosine"
    )
    contrast: bool = Field(
        default=True, description="compare the best match in the object with the best match behind it"
    )
    contrast_temperature: float = Field(
        default=0.1, gt=0, description="softness of that comparison, in units of the cosine"
    )
    neighbours: int = Field(default=8, ge=1, description="best matches that are averaged; published: 1")
    product_blocks: int = Field(
        default=0,
        ge=0,
        description="one more map: the one above times the best match of the cut-out object, averaged over so many "
        "last blocks; 0 = none",
    )
    product_text: bool = Field(
        default=False, description="that map, from 0 to 1, is multiplied by the root of the text's map as well"
    )
    shots: Literal["mean", "concat"] = Field(
        default="mean",
        description="maps of K examples: their mean (one network for any K), or K channels a block (concat)",
    )

    # VTP: class map of a text
    text_side: int | None = Field(
        default=320, ge=16, description="long side of the input for the class map of a text, in pixels; null = native"
    )
    text_source: TextSource = Field(
        default="photo",
        description="what that input is made of: the photo; or, as released, the image squashed to match_side, brought "
        "to the photo's size again (canvas, PASCAL) or left as it is (canvas_as_it_is, COCO)",
    )
    through_photo: bool = Field(
        default=False,
        description="the map is enlarged to the photo's size before the decoder's grid takes it, as released",
    )
    words: dict[str, str] = Field(
        default={}, description="texts of classes, by their name in the label space, in place of that space's own"
    )
    prompts: Prompts = Field(
        default="target",
        description="rivals of the target's text: target = none, target+base = the training classes, oracle = the "
        "query's own labels (a leak, for upper bounds)",
    )
    templates: tuple[str, ...] = Field(
        default=("a photo of {}.",),
        min_length=1,
        description="sentences that put a class name in place of {}; their text embeddings are averaged",
    )
    without: str = Field(default="a photo without {}.", description="sentence for the absence of the class")
    background_words: bool = Field(default=True, description="the label space's words for surroundings compete as well")
    temperature: float | None = Field(default=None, gt=0, description="of the class softmax; null = the model's own")
    cam_layer: CamLayer = Field(
        default="output",
        description="where Grad-CAM reads: norm = the last block's first LayerNorm (published), output = its output",
    )

    # PIR: refinement
    n_attention: int = Field(default=8, ge=1, description="last blocks whose attention makes the affinity")
    box_threshold: float = Field(
        default=0.4,
        gt=0,
        lt=1,
        description="share of a map's peak from which its blobs get the boxes that the map counts in",
    )
    box_peak: Literal[254, 255] = Field(
        default=255,
        description="what a map's peak becomes in 8 bits before the boxes; 254 as released, where an epsilon below the "
        "bar keeps maps under 1",
    )
    edge_fix: bool = Field(
        default=True, description="let boxes reach the last row and column of the grid, which the release's never do"
    )

    @model_validator(mode="after")
    def _has_a_product(self) -> "PriorConfig":
        if self.product_text and not self.product_blocks:
            raise ValueError("product_text: expected product_blocks of 1 or more, found 0; set product_blocks")
        return self

    @property
    def leaks(self) -> bool:
        """True where prompts are made from the query's own labels: an upper bound, never a result."""
        return self.prompts == "oracle"

    @property
    def stamp(self) -> str:
        """Fingerprint of the frozen weights."""
        return clip_fingerprint(self.model, self.pretrained)

    def channels(self, shots: int) -> int:
        """Channels of VVP for so many supports."""
        return len(self.match_blocks) * self._maps(shots) + self.products(shots)

    def products(self, shots: int) -> int:
        """The last so many of them, which are products."""
        return self._maps(shots) if self.product_blocks else 0

    def _maps(self, shots: int) -> int:
        return shots if self.shots == "concat" else 1
