"""How images are drawn and their masks are read: the config, which needs no model to be read."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Reading = Literal["cross", "concept", "anchor"]
PaletteName = Literal["space", "ade20k"]
BACKGROUND = (
    "background",
    "sky",
    "ground",
    "floor",
    "wall",
)  # what images hold beside objects, as ConceptAttention does


class MaskConfig(BaseModel):
    """How maps become masks. A resolution of None takes the finest grid that is at most 16 (cross) or 32 (self), or for
    Stable Diffusion XL a quarter of the latents.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reading: Reading | None = Field(
        default=None,
        description="where maps come from: cross (attention to the class words), concept (ConceptAttention) or anchor "
        "(AnchorDiff); null = cross for UNets, concept for joint-attention transformers",
    )
    cross_resolution: int | None = Field(
        default=None,
        description="UNets: side of the grid whose cross-attention is read, in cells; null = the finest that is at "
        "most 16, for Stable Diffusion XL a quarter of the latents",
    )
    self_resolution: int | None = Field(
        default=None,
        description="UNets: side of the grid whose self-attention spreads the maps, in cells; null = the finest that "
        "is at most 32, for Stable Diffusion XL a quarter of the latents",
    )
    blocks: tuple[int, ...] | None = Field(
        default=None,
        description="transformers: numbers of the blocks that are read; null = the family's",
    )
    affinity_blocks: tuple[int, ...] | None = Field(
        default=None, description="transformers: blocks whose image attention spreads the maps; null = the middle one"
    )
    background: tuple[str, ...] = Field(
        default=BACKGROUND, description="transformers: words that compete with the classes for every place"
    )
    power: int = Field(
        default=4, ge=0, description="how often attention among image places is applied to the maps; 0 = not at all"
    )
    foreground: float = Field(
        default=0.6, gt=0, le=1, description="share of a map's range above which a pixel gets its class (alpha)"
    )
    uncertain: float = Field(
        default=0.5, ge=0, le=1, description="share below which a pixel is background; between both it is 255 (beta)"
    )
    first_step: float = Field(
        default=0.0, ge=0, lt=1, description="share of the steps, from the noisiest on, whose attention is left out"
    )

    lineup: bool = Field(
        default=False,
        description="UNets, PixArt-Sigma, Sana: read the words of the label space's other classes as well, and note in "
        "provenance how the prompted ones stand among them (`signs`); changes no image and no mask",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "MaskConfig":
        if self.uncertain > self.foreground:
            raise ValueError(f"uncertain ({self.uncertain}) must not be above foreground ({self.foreground})")
        if self.reading == "anchor" and self.power == 0:
            raise ValueError("reading anchor spreads one token over a graph: power must be at least 1")
        return self


class Lora(BaseModel):
    """A low-rank adaptation of the model's weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="a .safetensors file, or a folder with exactly one")
    scale: float = Field(default=1.0, description="how strongly it acts; 0 changes nothing")


class PracticalConfig(BaseModel):
    """What makes a large model fit: where its parts lie, in which precision, and how the decoder works."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = Field(default="auto", description="auto (cuda, else mps, else cpu), or torch's name of a device")
    dtype: str = Field(
        default="auto", description="auto (float16 on CUDA, float32 elsewhere), float32, float16 or bfloat16"
    )
    vae_dtype: str = Field(
        default="auto", description="of the autoencoder; auto: as dtype, but float32 where the family's overflows in it"
    )
    offload: Literal["none", "model", "sequential"] = Field(
        default="none",
        description="keep weights in the host's memory: model (a part at a time on the device) or sequential (a layer)",
    )
    vae_slicing: bool = Field(default=False, description="decode image by image")
    vae_tiling: bool = Field(default=False, description="decode in overlapping tiles; large images change a little")
    loras: tuple[Lora, ...] = Field(default=(), description="low-rank adaptations, added in this order")
    quantize: Literal["none", "bitsandbytes_8bit", "bitsandbytes_4bit", "torchao_int8", "quanto_int8"] = Field(
        default="none", description="weights of the denoiser in fewer bits, by a package that must be installed"
    )


class GeneratorConfig(PracticalConfig):
    """How images are drawn. `height` and `width` None: the model's own size; `scheduler` None: the one in its
    folder.
    """

    model: str = Field(default="starter", description="diffusers folder, hub id, `starter` or `starter-mmdit`")
    height: int | None = Field(
        default=None, ge=8, description="of the drawn image in pixels, a multiple of 8; null = the model's own"
    )
    width: int | None = Field(
        default=None, ge=8, description="of the drawn image in pixels, a multiple of 8; null = the model's own"
    )
    steps: int = Field(default=20, ge=1, description="denoising steps")
    guidance: float = Field(
        default=3.0,
        ge=0,
        description="scale of guidance: 3 suits the starter, 7.5 is usual for Stable Diffusion, 3.5 for FLUX.1-dev",
    )
    scheduler: str | None = Field(
        default=None,
        description="class name in diffusers, such as UniPCMultistepScheduler; null = the one in the model's folder",
    )
    batch_size: int = Field(
        default=8,
        ge=1,
        description="images drawn at once, halved where memory runs out; another size may move single grey levels",
    )
    text_encoders: Literal["keep", "free"] = Field(
        default="keep", description="free: encode all prompts of a shard first, then take the encoders off the device"
    )
    compile: bool = Field(default=False, description="compile the decoder and the blocks that are not watched")
    mask: MaskConfig = Field(default=MaskConfig(), description="how attention maps become masks")


class ControlConfig(PracticalConfig):
    """How masks become images. `colours`: class name to the RGB that the ControlNet learnt, where it is not the
    space's own.
    """

    model: str = Field(description="diffusers folder or hub id of the base model")
    controlnet: str = Field(description="diffusers folder or hub id of a ControlNet of its family")
    height: int = Field(default=512, ge=8, description="of the drawn image in pixels")
    width: int = Field(default=512, ge=8, description="of the drawn image in pixels")
    steps: int = Field(default=30, ge=1, description="denoising steps")
    guidance: float = Field(default=7.5, ge=0, description="scale of classifier-free guidance")
    scheduler: str | None = Field(
        default=None, description="class name in diffusers; null = the one in the model's folder"
    )
    conditioning_scale: float = Field(default=1.0, ge=0, description="weight of the ControlNet's say")
    control_end: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the steps, from the noisiest on, that the ControlNet takes part in",
    )
    rectified: bool = Field(
        default=False, description="UNets: let the words of a class speak only to the places where the mask has it"
    )
    palette: PaletteName = Field(
        default="space",
        description="colours of the condition: the label space's own, or ade20k, which public segmentation ControlNets "
        "learnt; a mask with a class that has none there is an error",
    )
    colours: dict[str, tuple[int, int, int]] = Field(
        default={},
        description="class name -> red, green, blue that the ControlNet learnt, where they are not the palette's",
    )
    background: tuple[int, int, int] = Field(
        default=(0, 0, 0), description="red, green, blue of the background in the condition"
    )
    template: str = Field(default="a photo of {objects}", description="caption; {objects} stands for the class names")
    negative_prompt: str | None = Field(default=None, description="what the picture must not show; null = nothing")
    batch_size: int = Field(default=4, ge=1, description="images drawn at once")


# keys that came later: left out of hashes while they say what was done before, so that finished runs stay valid
_LATER: dict[str, Any] = {
    "vae_dtype": "auto",
    "vae_slicing": False,
    "vae_tiling": False,
    "loras": [],
    "quantize": "none",
    "compile": False,
    "reading": None,
    "blocks": None,
    "affinity_blocks": None,
    "background": list(BACKGROUND),
    "lineup": False,
    "palette": "space",
}
_NOWHERE_SEEN = ("offload", "text_encoders")  # they move weights about; no number changes


def settings_for_hash(settings: Any) -> Any:
    """The JSON values of a generator's config that its results depend on, for hashes: what says where weights lie is
    left out, and so are keys of later versions at their defaults. Applies to dicts inside dicts.
    """
    if not isinstance(settings, dict):
        return settings
    return {
        key: settings_for_hash(value)
        for key, value in settings.items()
        if key not in _NOWHERE_SEEN and not (key in _LATER and value == _LATER[key])
    }
