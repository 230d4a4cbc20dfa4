"""One vector an image, by a model that was made for looking alike: DINOv2 and v3, SigLIP, or any open_clip model.

A folder of transformers is known by its config.json; everything else is an open_clip name, address or folder, of any
architecture: nothing but its image embedding is read.
"""

import functools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskmill.data_contracts import Uint8Array
from maskmill.vision.batches import Batches, thickened
from maskmill.vision.device import fastest, pick_device
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

Vectors = NDArray[np.float32]
Inputs = dict[str, Tensor]  # what a model reads of one image, or (batch first) of some
VERSION = 3
GPU_BATCH = 16
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
    """The model, ready. Each forward holds exactly `batches.size` inputs of one shape, the last of them again where
    there are fewer, because kernels round otherwise for other shapes: a vector does not depend on its companions.
    """

    device: torch.device
    batches: Batches

    @abstractmethod
    def inputs(self, image: Uint8Array) -> Inputs:
        """What the model reads of an image uint8 (H, W, 3): tensors by name, on the CPU, without a batch's axis."""

    @abstractmethod
    def vectors(self, inputs: Inputs) -> Tensor:
        """The model's embeddings (B, D) of inputs (B, …) on its device."""

    def embed(self, images: Sequence[Uint8Array]) -> Vectors:
        """Float32 (N, D) of length 1, rounded to half precision as they are stored, of N >= 1 images uint8 (H, W, 3).

        Raises:
            MemoryError: a single image does not fit.
        """
        read = [self.inputs(thickened(image)) for image in images]
        alike: dict[tuple[torch.Size, ...], list[int]] = defaultdict(list)
        for place, one in enumerate(read):
            alike[tuple(value.shape for value in one.values())].append(place)
        found: dict[int, Vectors] = {}
        for places in alike.values():
            found.update(zip(places, self.batches.run([read[p] for p in places], self._batch), strict=True))
        return np.stack([found[place] for place in range(len(read))])

    def bare_rate(self, image: Uint8Array) -> float:
        """Images a second that the model embeds in full batches of this one's size, nothing else done."""
        size = self.batches.size
        inputs = self._filled([self.inputs(thickened(image))], size)
        with torch.inference_mode():
            return size / fastest(lambda: self.vectors(inputs), self.device)

    def _batch(self, some: Sequence[Inputs], size: int) -> list[Vectors]:
        with torch.inference_mode():
            found = self.vectors(self._filled(some, size))[: len(some)].float().cpu().numpy()
        return [_unit(one) for one in found]

    def _filled(self, some: Sequence[Inputs], size: int) -> Inputs:
        """A batch of exactly `size`: not blanks, of which a model that reads any size would have nothing to read."""
        whole = [*some, *[some[-1]] * (size - len(some))]
        return {name: torch.stack([one[name] for one in whole]).to(self.device) for name in some[0]}


def _unit(found: Vectors) -> Vectors:
    return np.asarray((found / max(float(np.linalg.norm(found)), 1e-12)).astype(np.float16), np.float32)


@dataclass(frozen=True, eq=False)
class LibraryEmbedder(Embedder):
    """A vision model of transformers: its pooled output."""

    model: Any
    processor: Any
    device: torch.device
    batches: Batches

    def inputs(self, image: Uint8Array) -> Inputs:
        read = self.processor(images=np.array(image), return_tensors="pt", input_data_format="channels_last")
        return {name: value[0] for name, value in read.items()}

    def vectors(self, inputs: Inputs) -> Tensor:
        found: Tensor = self.model(
            **{**inputs, "pixel_values": inputs["pixel_values"].to(self.model.dtype)}
        ).pooler_output
        return found


@dataclass(frozen=True, eq=False)
class ClipEmbedder(Embedder):
    """An open_clip model of any architecture: its image embedding."""

    model: Any
    preprocess: Any
    device: torch.device
    batches: Batches

    def inputs(self, image: Uint8Array) -> Inputs:
        return {"image": self.preprocess(Image.fromarray(image))}

    def vectors(self, inputs: Inputs) -> Tensor:
        found: Tensor = self.model.encode_image(inputs["image"])
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
    batches = Batches(GPU_BATCH if device.type == "cuda" else 1, options.model, "or take a smaller model")
    if not is_library_model(options.model):
        from maskmill.vision.clip.opening import open_clip_model

        clip, preprocess = open_clip_model(options.model, options.pretrained, str(device))
        return ClipEmbedder(clip.eval(), preprocess, device, batches)
    folder = model_folder(options.model)
    name, processor = FAMILIES[check_family(folder, FAMILIES, "embeddings of images")]
    model = load_model(name, folder, device, options.precision)
    return LibraryEmbedder(model, load_part(processor, folder), device, batches)


def embed_stamps(options: EmbedOptions) -> list[str]:
    """What an embedding depends on beside the options: our version and the weights."""
    from maskmill.vision.clip import clip_fingerprint

    if is_library_model(options.model):
        return [f"embed {VERSION}", model_fingerprint(options.model)]
    precision: Precision = options.precision
    return [f"embed {VERSION}", clip_fingerprint(options.model, options.pretrained, precision)]
