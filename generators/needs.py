"""How much memory and disk a generator wants: arithmetic from numbers of parameters and sizes, nothing is measured.

Parameters of a folder on this machine are counted in the headers of its weights; those of models that are not fetched
yet stand in a table, counted from their published configs. Reading this brings no model library along.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskmill.data_contracts.texts import parse_json
from maskmill.generators.config import GeneratorConfig

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
QUANTIZED = {"bitsandbytes_8bit": 1.0, "torchao_int8": 1.0, "quanto_int8": 1.0, "bitsandbytes_4bit": 0.5}
STORED = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1}
DENOISERS = ("unet", "transformer")
DECODER_CHANNELS = 256  # of the autoencoder's last level: three such tensors of the image's size live at once
WORKING = 1 << 30  # what a layer and the library hold beside all that is counted
TILE = 512 * 512  # pixels of a decoder's tile


@dataclass(frozen=True)
class Model:
    """Parameters by part, bytes on disk, and the model's own side in pixels; `token` pixels a side of a place that
    attention maps are read at.
    """

    parts: Mapping[str, int]
    disk: int
    side: int
    token: int


CLIP_L, CLIP_G, T5_XXL, QWEN_VL = 123_060_480, 694_659_840, 4_762_310_656, 8_292_166_656
VAES = {"unet": 83_653_863, "transformer": 83_819_683}  # of 4 and of 16 channels, where a model has no other


def _published(side: int, token: int, stored: int, denoiser: str, size: int, **others: int) -> Model:
    parts = {denoiser: size, "vae": VAES[denoiser], **others}
    return Model(parts, stored * sum(parts.values()), side, token)


_SD3 = {"text_encoder": 123_650_304, "text_encoder_2": CLIP_G, "text_encoder_3": T5_XXL}
_FLUX = {"text_encoder": CLIP_L, "text_encoder_2": T5_XXL}
PUBLISHED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _published(
        512, 16, 4, "unet", 859_520_964, text_encoder=CLIP_L, safety_checker=304_000_000
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": _published(
        1024, 32, 4, "unet", 2_567_463_684, text_encoder=CLIP_L, text_encoder_2=CLIP_G
    ),
    "stabilityai/stable-diffusion-3-medium-diffusers": _published(1024, 16, 2, "transformer", 2_028_328_000, **_SD3),
    "stabilityai/stable-diffusion-3.5-medium": _published(1024, 16, 2, "transformer", 2_243_171_520, **_SD3),
    "stabilityai/stable-diffusion-3.5-large": _published(1024, 16, 2, "transformer", 8_056_627_520, **_SD3),
    "black-forest-labs/FLUX.1-dev": _published(1024, 16, 2, "transformer", 11_901_408_320, **_FLUX),
    "black-forest-labs/FLUX.1-schnell": _published(1024, 16, 2, "transformer", 11_891_178_560, **_FLUX),
    "Qwen/Qwen-Image": _published(1024, 16, 2, "transformer", 20_430_401_088, vae=126_892_531, text_encoder=QWEN_VL),
}


def model_at(folder: Path) -> Model:
    """What the headers of a folder's weights and its configs say."""
    parts: dict[str, int] = {}
    disk = 0
    for path in sorted(folder.glob("*/*.safetensors")):
        with path.open("rb") as handle:
            header = parse_json(handle.read(int.from_bytes(handle.read(8), "little")))
        numbers = [_count(entry["shape"]) for name, entry in header.items() if name != "__metadata__"]
        parts[path.parent.name] = parts.get(path.parent.name, 0) + sum(numbers)
        disk += path.stat().st_size
    factor = 2 ** (len(_setting(folder, "vae", "block_out_channels", [1, 1, 1, 1])) - 1)
    joint = (folder / "transformer").is_dir()
    latents = _setting(folder, "transformer" if joint else "unet", "sample_size", 128)
    rows = latents if isinstance(latents, int) else max(latents)
    return Model(parts, disk, rows * factor, factor * (2 if joint else 4))


def _count(shape: list[int]) -> int:
    found = 1
    for length in shape:
        found *= length
    return found


def _setting(folder: Path, part: str, key: str, default: object) -> Any:
    try:
        return parse_json((folder / part / "config.json").read_text(encoding="utf-8")).get(key) or default
    except (OSError, ValueError):
        return default


@dataclass(frozen=True)
class Needs:
    """Bytes: of weights on the device at once, of the device's memory at its peak, and of the disk."""

    weights: int
    memory: int
    disk: int

    @property
    def words(self) -> str:
        """One line for a person."""
        memory, weights, disk = (f"{value / 1e9:.1f} GB" for value in (self.memory, self.weights, self.disk))
        told = f"about {memory} of memory on its device (weights: {weights}) and {disk} of disk"
        return f"{told}; arithmetic from parameters and sizes, not measured"


def needs(config: GeneratorConfig, model: Model) -> Needs:
    """What drawing with a model wants. A dtype of auto counts as float16, as on CUDA."""
    width = BYTES.get(config.dtype, 2.0)
    height, across = config.height or model.side, config.width or model.side
    sizes = {
        part: int(count * (QUANTIZED.get(config.quantize, width) if part in DENOISERS else width))
        for part, count in model.parts.items()
    }
    drawing = sum(size for part, size in sizes.items() if not part.startswith("text_encoder"))
    if config.offload == "sequential":
        weights = 0
    elif config.offload == "model":
        weights = max(sizes.values(), default=0)
    else:
        weights = drawing if config.text_encoders == "free" else sum(sizes.values())
    decoded = 1 if config.vae_slicing else config.batch_size
    pixels = min(height * across, TILE) if config.vae_tiling else height * across
    overflows = "unet" in model.parts and "text_encoder_2" in model.parts  # Stable Diffusion XL's decoder
    vae_width = BYTES.get(config.vae_dtype, 4.0 if overflows else width)
    decoder = int(3 * DECODER_CHANNELS * pixels * decoded * vae_width)
    places = (height // model.token) * (across // model.token)
    maps = 4 * places * places * config.batch_size if config.mask.power else 0
    memory = weights + decoder + maps + WORKING
    if config.text_encoders == "free" and config.offload == "none":
        memory = max(memory, sum(sizes.values()) + WORKING)  # texts are encoded first
    return Needs(weights, memory, model.disk)


def needs_of(config: GeneratorConfig, folder: Path | None) -> Needs | None:
    """What a generator wants; None for a model that is neither here nor in the table."""
    model = PUBLISHED.get(config.model) if folder is None else model_at(folder)
    return None if model is None else needs(config, model)
