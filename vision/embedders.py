"""One vector an image, by a model that was made for looking alike: DINOv2 and v3, SigLIP, or any open_clip model.

A folder of transformers is known by its config.json; everything else is an open_clip name, address or folder, of any
architecture: nothing but its image embedding is read.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from maskmill.data_contracts import Uint8Array
from maskmill.vision.batches import thickened
from maskmill.vision.device import pick_device
from maskmill.vision.embed_options import EmbedOptions
from maskmill.vision.pretrained import (
    CONFIG,
    Precision,
    check_family,
    load_model,
    load_part,
    model_fingerprint,
    model_folder,
)

Vector = NDArray[np.float32]
VERSION = 1
FAMILIES = {  # model_type: the library's model and image processor
    "dinov2": ("Dinov2Model", "BitImageProcessor"),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "BitImageProcessor"),
    "dinov3_vit": ("DINOv3ViTModel", "DINOv3ViTImageProcessor"),
    "dinov3_convnext": ("DINOv3ConvNextModel", "DINOv3ViTImageProcessor"),
    "siglip": ("SiglipVisionModel", "SiglipImageProcessor"),  # SigLIP, and SigLIP 2 of fixed size
    "siglip2": ("Siglip2VisionModel", "Siglip2ImageProcessor"),  # SigLIP 2 of any size
}
WITHOUT_CONFIG = "open_clip_config.json"


class Embedder(ABC):
    """The model, ready. Images go through it one by one: a kernel may round otherwise in a batch."""

    device: torch.device

    @abstractmethod
    def vector(self, image: Uint8Array) -> torch.Tensor:
        """The model's embedding (D,) of an image uint8 (H, W, 3)."""

    def embed(self, image: Uint8Array) -> Vector:
        """Float32 (D,) of length 1, rounded to half precision as it is stored."""
        with torch.inference_mode():
            found = self.vector(thickened(image)).float().cpu().numpy()
        unit: Vector = (found / max(float(np.linalg.norm(found)), 1e-12)).astype(np.float16).astype(np.float32)
        return unit


@dataclass(frozen=True, eq=False)
class LibraryEmbedder(Embedder):
    """A vision model of transformers: its pooled output."""

    model: Any
    processor: Any
    device: torch.device

    def vector(self, image: Uint8Array) -> torch.Tensor:
        read = self.processor(images=np.array(image), return_tensors="pt", input_data_format="channels_last")
        asked = {name: value.to(self.device) for name, value in read.items()}
        asked["pixel_values"] = asked["pixel_values"].to(self.model.dtype)
        found: torch.Tensor = self.model(**asked).pooler_output[0]
        return found


@dataclass(frozen=True, eq=False)
class ClipEmbedder(Embedder):
    """An open_clip model of any architecture: its image embedding."""

    model: Any
    preprocess: Any
    device: torch.device

    def vector(self, image: Uint8Array) -> torch.Tensor:
        pixels = self.preprocess(Image.fromarray(image))[None].to(self.device)
        found: torch.Tensor = self.model.encode_image(pixels)[0]
        return found


def is_library_model(model: str) -> bool:
    """Whether a name means a folder of transformers and not one of open_clip: a hub id of plain form, or a folder with
    config.json and no open_clip_config.json.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return (path / CONFIG).is_file() and not (path / WITHOUT_CONFIG).is_file()
    return model.count("/") == 1 and ":" not in model and not path.is_absolute()


@functools.cache
def load_embedder(options: EmbedOptions) -> Embedder:
    """The model, loaded once a process; on a GPU where there is one.

    Raises:
        FileNotFoundError: no such model. ModelError: a folder of another family; lists those that embed.
        ValueError: a name that open_clip does not know.
    """
    device = pick_device()
    if not is_library_model(options.model):
        from maskmill.vision.clip.opening import open_clip_model

        clip, preprocess = open_clip_model(options.model, options.pretrained, str(device))
        return ClipEmbedder(clip.eval(), preprocess, device)
    folder = model_folder(options.model)
    name, processor = FAMILIES[check_family(folder, FAMILIES, "embeddings of images")]
    return LibraryEmbedder(load_model(name, folder, device, options.precision), load_part(processor, folder), device)


def embed_stamps(options: EmbedOptions) -> list[str]:
    """What an embedding depends on beside the options: our version and the weights."""
    from maskmill.vision.clip import clip_fingerprint

    if is_library_model(options.model):
        return [f"embed {VERSION}", model_fingerprint(options.model)]
    precision: Precision = options.precision
    return [f"embed {VERSION}", clip_fingerprint(options.model, options.pretrained, precision)]
