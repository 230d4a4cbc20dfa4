"""From a name to an open_clip model: addresses, checks in words, and what a set of arguments stands for as a hash."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from maskmill.data_contracts import content_id
from maskmill.data_contracts.words import did_you_mean
from maskmill.vision.clip.files import WEIGHTS, file_activation, load_weight_file
from maskmill.vision.model_folders import check_model_folder
from maskmill.vision.pretrained import Precision
from maskmill.vision.weight_files import no_code

LOCK = threading.Lock()
"""Held while a model is loaded: its random weights come from the process's own generator."""


def open_clip_model(model: str, pretrained: str | None = None, device: str = "cpu") -> tuple[Any, Any]:
    """An open_clip model of any architecture, and its own preprocessing of a PIL image; for embeddings alone.

    Raises:
        As `load_clip`, but for towers: none is refused.
    """
    import open_clip

    with LOCK:
        clip, _ = open_model(model, pretrained, device)
    cfg = open_clip.transform.PreprocessCfg(**clip.visual.preprocess_cfg)
    return clip.requires_grad_(False), open_clip.transform.image_transform_v2(cfg, is_train=False)


def open_model(model: str, pretrained: str | None, device: str) -> tuple[Any, str]:
    """The model as open_clip makes it, and its address. The caller holds `LOCK`."""
    import open_clip

    import maskmill.vision.clip.towers  # noqa: F401  (registers the starter's tower with timm)

    address = _address(model)
    if address.startswith("local-dir:"):
        check_model_folder(Path(address.removeprefix("local-dir:")))
    _check_names(address, pretrained)
    file = pretrained if pretrained and Path(pretrained).suffix in WEIGHTS else None
    _check_activation(address, pretrained, open_clip.get_model_config(address))
    with torch.random.fork_rng(devices=[]), _quiet(), no_code(pretrained or model):
        torch.manual_seed(0)
        clip = open_clip.create_model(address, pretrained=None if file else pretrained, device=device)
    if file:
        load_weight_file(clip, file)
    return clip, address


def open_tokenizer(address: str) -> Any:
    """The tokenizer of an address."""
    import open_clip

    with _quiet(), no_code(address):
        return open_clip.get_tokenizer(address)


def clip_fingerprint(model: str, pretrained: str | None = None, precision: Precision = "fp32") -> str:
    """What `load_clip` with these arguments will give, as a hash, without loading it: for config hashes of stages.

    Folders and weight files count by content, names and tags by name (a tag's weights never change).
    """
    address = _address(model)
    files: list[Path] = [Path(pretrained)] if pretrained and Path(pretrained).is_file() else []
    if address.startswith("local-dir:"):
        folder = Path(address.removeprefix("local-dir:"))
        files += sorted(p for p in folder.iterdir() if p.suffix in WEIGHTS | {".json"})
        address = "local-dir"
    tag = None if files else pretrained
    return content_id(address, tag, precision, *(part for path in files for part in (path.name, path.read_bytes())))


def _address(model: str) -> str:
    if model == "starter":
        from maskmill.vision.starter import starter_path

        return f"local-dir:{starter_path('clip')}"
    if ":" not in model and (Path(model) / "open_clip_config.json").is_file():
        return f"local-dir:{model}"
    return model


def _check_names(address: str, pretrained: str | None) -> None:
    """Names that open_clip does not know, in words; addresses (`hf-hub:` …) and files speak for themselves."""
    import open_clip
    from open_clip.pretrained import is_pretrained_cfg

    if ":" in address:
        return
    if address not in (known := open_clip.list_models()):
        ways = "a name of open_clip, a folder with open_clip_config.json, hf-hub:OWNER/NAME, or `starter`"
        raise ValueError(f"CLIP model {address!r}: no such model{did_you_mean(address, known)}; give {ways}")
    if pretrained and not is_pretrained_cfg(address, pretrained) and not Path(pretrained).exists():
        tags = open_clip.list_pretrained_tags_by_model(address)
        hint = did_you_mean(pretrained, tags)
        raise ValueError(
            f"weights {pretrained!r} of CLIP model {address}: no file and no tag{hint}; tags: {', '.join(tags)}"
        )


def _check_activation(address: str, pretrained: str | None, config: dict[str, Any] | None) -> None:
    """OpenAI's weights were trained with QuickGELU; open_clip only warns when the model has another activation. Of a
    file its own code or its keys tell whether it is OpenAI's; weights alone do not say what they were trained with.
    """
    if config is None or pretrained is None:
        return
    quick = bool(config.get("quick_gelu", False))
    if (pretrained == "openai" or file_activation(pretrained) == "quick_gelu") and not quick:
        raise ValueError(
            f"{address}/{pretrained}: expected a QuickGELU model, found GELU. Fix: name {address}-quickgelu, which is "
            "the same network with the activation that these weights were trained with"
        )
    if file_activation(pretrained) == "gelu" and quick:
        raise ValueError(
            f"{address}/{pretrained}: expected a GELU model, for the file's own code has no QuickGELU. Fix: name "
            f"{address.removesuffix('-quickgelu')}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip's root-logger warning about random weights: `pretrained=None` asks for them."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
