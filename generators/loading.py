"""Pipelines by name (a folder, a hub id, or one that ships), and a fingerprint of the files that decide a result."""

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from maskmill.generators.config import PracticalConfig
from maskmill.vision.device import AUTO
from maskmill.vision.device import pick_device as pick_any
from maskmill.vision.model_folders import check_model_folder
from maskmill.vision.starter import starter_path

SHIPPED = {"starter": "generator", "starter-mmdit": "generator_mmdit"}  # folders inside starter/
READ_FROM_DISK = (".json", ".txt", ".safetensors", ".bin", ".model")


@lru_cache(maxsize=8)
def resolve_model(model: str) -> Path:
    """The folder that holds a model: one that ships (`starter`, `starter-mmdit`), a local folder, or a hub id
    (downloaded once into the hub's cache).

    Raises:
        FileNotFoundError: no such folder, and the hub does not give it.
        UnsafeModelError: a folder that brings code or pickles along.
    """
    path = starter_path(SHIPPED[model]) if model in SHIPPED else Path(model).expanduser()
    if path.is_dir():
        check_model_folder(path)
        return path
    if path.is_absolute() or model.count("/") != 1:
        raise FileNotFoundError(
            f"model {model!r}: no such folder; name a diffusers folder, a hub id owner/name, or 'starter'"
        )
    from diffusers import DiffusionPipeline

    try:
        folder = Path(DiffusionPipeline.download(model))
    except Exception as error:  # the hub raises a dozen kinds: offline, unknown, gated
        why = str(error).partition(". ")[0].partition("\n")[0][:200]
        raise FileNotFoundError(
            f"model {model!r}: no such folder, and the hub does not give it ({type(error).__name__}: {why}); give a "
            f"local folder (--set generate.generator.model=DIR), take `starter`, or connect to the network"
        ) from error
    check_model_folder(folder)
    return folder


def local_model(model: str) -> Path | None:
    """The folder that holds a model on this machine; None for one that would have to be fetched.

    Raises:
        FileNotFoundError: a path with nothing there.
    """
    path = Path(model).expanduser()
    if model in SHIPPED or path.is_dir() or path.is_absolute() or model.count("/") != 1:
        return resolve_model(model)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "model_index.json")
    return Path(found).parent if isinstance(found, str) else None


@lru_cache(maxsize=8)
def model_fingerprint(model: str) -> str:
    """Hash of a model folder's configs, vocabulary and weights (names and bytes): what provenance calls the
    revision.
    """
    root = resolve_model(model)
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in root.rglob("*") if p.suffix in READ_FROM_DISK and p.is_file()):
        name = path.relative_to(root).as_posix().encode()
        digest.update(len(name).to_bytes(4, "little") + name + path.stat().st_size.to_bytes(8, "little"))
        with path.open("rb") as handle:
            while chunk := handle.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def torch_dtype(name: str, device: str) -> Any:
    """`float32`, `float16`, `bfloat16`, or `auto`: float16 on CUDA, float32 elsewhere."""
    import torch

    return getattr(torch, ("float16" if device.startswith("cuda") else "float32") if name == "auto" else name)


def pick_device(device: str) -> str:
    """As `vision.device.pick_device`; `auto` is Apple's GPU too, where there is one and the environment is silent."""
    import torch

    apple = device == "auto" and AUTO not in os.environ and torch.backends.mps.is_available()
    return "mps" if apple else str(pick_any(device))


def load_pipeline(
    model: str,
    device: str = "cpu",
    dtype: str = "auto",
    controlnet: str | None = None,
    options: PracticalConfig | None = None,
) -> Any:
    """The pipeline of a model's family, or with `controlnet` that of its ControlNets; progress bars off.

    `options` say where parts lie, in which precision, and what is added to them; `device` and `dtype` stand for
    themselves.

    Raises:
        UnknownFamilyError: a model that no family here draws with, or a ControlNet of another one.
        ImportError: a package that `loras` or `quantize` needs; says how it is installed.
    """
    import diffusers

    from maskmill.generators.families import check_controlnet, control_of, family_of  # these bring torch along
    from maskmill.generators.practical import add_loras, dtypes, quantization, settle

    classes: Any = diffusers  # its from_pretrained methods carry no types
    options = options or PracticalConfig()
    folder = resolve_model(model)
    family, kind = family_of(folder), torch_dtype(dtype, device)
    parts: dict[str, Any] = {"torch_dtype": dtypes(family, options, kind), **family.extra_parts(folder)}
    if options.quantize != "none":
        parts["quantization_config"] = quantization(options.quantize, family.denoiser, kind)
    with _silence():
        if controlnet is None:
            kind_of = getattr(classes, family.pipeline_class)
        else:
            control = control_of(family)
            kind_of = getattr(classes, control.pipeline)
            control_class = getattr(classes, control.model)
            place = check_controlnet(resolve_model(controlnet), family)
            parts["controlnet"] = control_class.from_pretrained(place, torch_dtype=kind, use_safetensors=True)
        pipeline = kind_of.from_pretrained(folder, use_safetensors=True, **parts)
        add_loras(pipeline, options.loras)
    pipeline.set_progress_bar_config(disable=True)
    return settle(pipeline, options, device)


@contextmanager
def _silence() -> Iterator[None]:
    """No bars for parts that load in a moment, and no advice that depends on the installed release (the keyword `dtype`
    that it asks for is unknown to older ones; an AutoencoderTiny is what the folder means to hold). Errors still show.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    with ExitStack() as after, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for library in (diffusers_logging, transformers_logging):
            after.callback(library.set_verbosity, library.get_verbosity())
            library.set_verbosity_error()
            if library.is_progress_bar_enabled():
                after.callback(library.enable_progress_bar)
                library.disable_progress_bar()
        yield
