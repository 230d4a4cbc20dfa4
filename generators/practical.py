"""What makes a large model fit on one machine: precision a part, offloading, LoRAs, fewer bits, decoding in pieces."""

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from maskmill.generators.config import Lora, PracticalConfig
from maskmill.generators.families.base import Family
from maskmill.vision.model_folders import UnsafeModelError

QUANTIZERS: dict[str, tuple[str, str, dict[str, Any]]] = {  # option: (package, diffusers' backend, its arguments)
    "bitsandbytes_8bit": ("bitsandbytes", "bitsandbytes_8bit", {"load_in_8bit": True}),
    "bitsandbytes_4bit": ("bitsandbytes", "bitsandbytes_4bit", {"load_in_4bit": True}),
    "torchao_int8": ("torchao", "torchao", {"quant_type": "int8wo"}),
    "quanto_int8": ("optimum.quanto", "quanto", {"weights_dtype": "int8"}),
}


def dtypes(family: type[Family], options: PracticalConfig, kind: Any) -> Any:
    """What `from_pretrained` takes as dtype: one for all parts, or one for the autoencoder and one for the rest."""
    import torch

    half = kind in (torch.float16, torch.bfloat16)
    if options.vae_dtype != "auto":
        vae = getattr(torch, options.vae_dtype)
    else:
        vae = torch.float32 if family.vae_overflows and half else kind
    return kind if vae == kind else {"vae": vae, "default": kind}


def quantization(option: str, part: str, kind: Any) -> Any:
    """diffusers' quantisation config for the denoiser.

    Raises:
        ImportError: the package is not installed.
    """
    package, backend, arguments = QUANTIZERS[option]
    if not _installed(package):
        fix = f"install it (pip install {package.replace('.', '-')}), or set quantize: none"
        raise ImportError(f"quantize {option}: needs the package {package}, which is not installed; {fix}")
    from diffusers.quantizers import PipelineQuantizationConfig  # type: ignore[attr-defined]

    if option == "bitsandbytes_4bit":
        arguments = {**arguments, "bnb_4bit_compute_dtype": kind}
    make: Any = PipelineQuantizationConfig
    return make(quant_backend=backend, quant_kwargs=arguments, components_to_quantize=[part])


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name is missing
        return False


def lora_file(lora: Lora) -> Path:
    """The weights of a LoRA.

    Raises:
        FileNotFoundError: nothing there, or several files to choose from.
        UnsafeModelError: a file of another kind, which could run code.
    """
    path = Path(lora.path).expanduser()
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            listed = ", ".join(file.name for file in found) or "none"
            raise FileNotFoundError(f"lora {lora.path}: expected one .safetensors file, found {listed}; name the file")
        return found[0]
    if not path.is_file():
        raise FileNotFoundError(f"lora {lora.path}: no such file or folder")
    if path.suffix != ".safetensors":
        raise UnsafeModelError(f"lora {lora.path}: expected .safetensors, found {path.suffix}; convert it first")
    return path


@lru_cache(maxsize=32)
def _hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16))
    return digest.hexdigest()


def lora_fingerprint(lora: Lora) -> str:
    """Hash of a LoRA's weights."""
    path = lora_file(lora)
    found = path.stat()
    return _hash(path, found.st_size, found.st_mtime_ns)


def add_loras(pipeline: Any, loras: Sequence[Lora]) -> None:
    """Add LoRAs beside the weights, each with its scale.

    Raises:
        ImportError: peft is not installed.
    """
    if not loras:
        return
    if not _installed("peft"):
        raise ImportError("loras: need the package peft, which is not installed; pip install 'maskmill[lora]'")
    for number, lora in enumerate(loras):
        path = lora_file(lora)
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=f"lora{number}")
    pipeline.set_adapters([f"lora{k}" for k in range(len(loras))], [lora.scale for lora in loras])


def settle(pipeline: Any, options: PracticalConfig, device: str) -> Any:
    """Put a pipeline where it will work. On the CPU there is nothing to offload from: `offload` does nothing."""
    if options.vae_tiling:
        pipeline.vae.enable_tiling()
    if options.vae_slicing:
        pipeline.vae.enable_slicing()
    cast_latents(pipeline.vae)
    if options.offload == "none" or device == "cpu":
        return pipeline.to(device)
    if options.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    return pipeline


def cast_latents(vae: Any) -> None:
    """Let a decoder of one precision take latents of another."""

    def cast(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].to(vae.dtype), *args[1:])

    first = getattr(vae, "post_quant_conv", None)
    (vae.decoder if first is None else first).register_forward_pre_hook(cast)


@contextmanager
def without_text_encoders(pipeline: Any, family: type[Family]) -> Iterator[None]:
    """Take the text encoders off the device while images are drawn from texts that are encoded already."""
    import torch

    names = [name for name in family.text_encoders if getattr(pipeline, name, None) is not None]
    taken = {name: getattr(pipeline, name) for name in names}
    places = {name: next(encoder.parameters()).device for name, encoder in taken.items()}
    for name, encoder in taken.items():
        setattr(pipeline, name, None)
        encoder.to("cpu")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        for name, encoder in taken.items():
            setattr(pipeline, name, encoder.to(places[name]))


def compile_parts(pipeline: Any, family: Family) -> None:
    """Compile the decoder and what is not watched of the denoiser, in place; kernels are made at the first image."""
    for module in (pipeline.vae.decoder, *family.unwatched()):
        module.compile()
