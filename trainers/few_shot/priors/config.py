"""Options of the training-free priors. `faithful` is the release of PI-CLIP; the field defaults are for the starter
CLIP.
"""

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from maskmill.data_contracts import WithPresets
from maskmill.vision.clip import CamLayer, clip_fingerprint

Prompts = Literal["target", "target+base", "oracle"]

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
}
PRESETS: dict[str, dict[str, Any]] = {"faithful": FAITHFUL, "starter": {}}


class PriorConfig(WithPresets):
    """How VVP, VTP and PIR are computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    presets: ClassVar = PRESETS
    preset: Literal["faithful", "starter"] = "starter"
    model: str = "starter"  # open_clip name, local folder, or `starter`
    pretrained: str | None = None

    # VVP: matching
    match_side: int = Field(default=320, ge=16)
    match_fit: Literal["squash", "long"] = "long"  # both sides to match_side, or the long one
    match_normalisation: Literal["clip", "imagenet"] = "clip"
    match_blocks: tuple[int, ...] = Field(default=(-1, -2), min_length=1)  # whose outputs are matched; -1 = the last
    mask_image: bool = False  # blacken (to the mean colour) a support's background before the encoder
    centre: bool = True  # subtract the supports' mean feature from both sides before the cosine
    contrast: bool = True  # compare the best match in the object with the best match behind it
    contrast_temperature: float = Field(default=0.1, gt=0)
    neighbours: int = Field(default=8, ge=1)  # best matches that are averaged; the published maximum is 1
    shots: Literal["mean", "concat"] = "mean"  # of K supports' maps: one network for any K, or K channels a block

    # VTP: class map of a text
    text_side: int | None = Field(default=320, ge=16)  # long side; None = native
    prompts: Prompts = "target"  # rivals of the target: none, the training classes, or (a leak) the query's own labels
    templates: tuple[str, ...] = Field(default=("a photo of {}.",), min_length=1)
    without: str = "a photo without {}."
    background_words: bool = True  # the label space's words for surroundings compete as well
    temperature: float | None = Field(default=None, gt=0)  # of the softmax; None = the model's own
    cam_layer: CamLayer = "output"  # last block's first LayerNorm (published), or its output

    # PIR: refinement
    n_attention: int = Field(default=8, ge=1)
    box_threshold: float = Field(default=0.4, gt=0, lt=1)
    edge_fix: bool = True  # boxes reach the last row and column

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
        return len(self.match_blocks) * (shots if self.shots == "concat" else 1)
