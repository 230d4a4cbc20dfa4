"""Model folders of `transformers`: found, checked, named by their content, and loaded without a weight left to chance.

A model is a local folder or a hub id. Weights are safetensors alone, and the class comes from our own tables by the
folder's `model_type`: no code of the folder is ever run.
"""

import hashlib
import importlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from maskmill.data_contracts.texts import parse_json
from maskmill.data_contracts.words import did_you_mean
from maskmill.vision.model_folders import check_model_folder
from maskmill.vision.starter import starter_path

Precision = Literal["fp32", "bf16", "fp16"]
CONFIG = "config.json"
READ = ("*.json", "*.txt", "*.safetensors", "*.model")  # of a hub's repository; all that counts in a fingerprint
CARD = "README.md"  # fetched as well, for its licence
EXAMPLES = 4
STARTER, PROMPTABLE = "starter", "promptable"  # the name of the model that ships, and its folder in starter/


class ModelError(ValueError):
    """A model folder of another family than is wanted, or with weights that do not fit."""


@lru_cache(maxsize=16)
def model_folder(model: str) -> Path:
    """The folder that holds a model: a local one, the shipped promptable one (`starter`), or that of a hub id, fetched
    once into the hub's cache.

    Raises:
        FileNotFoundError: no such folder, and the hub does not give it.
        UnsafeModelError: a folder that brings code or pickles along.
    """
    path = starter_path(PROMPTABLE) if model == STARTER else Path(model).expanduser()
    if not path.is_dir():
        if path.is_absolute() or model.count("/") != 1 or model.startswith("."):
            raise FileNotFoundError(
                f"model {model!r}: no such folder; name a model folder, a hub id owner/name, or {STARTER!r}"
            )
        path = _fetched(model)
    check_model_folder(path)
    return path


def local_folder(model: str) -> Path | None:
    """The folder that holds a model on this machine; None for one that would have to be fetched.

    Raises:
        FileNotFoundError: a path with nothing there.
    """
    path = Path(model).expanduser()
    if model == STARTER or path.is_dir() or path.is_absolute() or model.count("/") != 1 or model.startswith("."):
        return model_folder(model)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, CONFIG)
    return Path(found).parent if isinstance(found, str) else None


def _fetched(model: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=[*READ, CARD]))
    except Exception as error:  # the hub raises a dozen kinds: offline, unknown, gated
        why = str(error).partition(". ")[0].partition("\n")[0][:200]
        raise FileNotFoundError(
            f"model {model!r}: no such folder, and the hub does not give it ({type(error).__name__}: {why}); give a "
            "local folder, accept the model's licence on the hub, or connect to the network"
        ) from error


@lru_cache(maxsize=16)
def model_fingerprint(model: str) -> str:
    """Hash of a model folder's configs, vocabulary and weights: their names and bytes."""
    root = model_folder(model)
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted({p for pattern in READ for p in root.rglob(pattern) if p.is_file()}):
        name = path.relative_to(root).as_posix().encode()
        digest.update(len(name).to_bytes(4, "little") + name + path.stat().st_size.to_bytes(8, "little"))
        with path.open("rb") as handle:
            while chunk := handle.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def model_type(folder: Path) -> str:
    """The family that a folder's config.json names.

    Raises:
        ModelError: no config.json, or one that names none.
    """
    path = folder / CONFIG
    found = parse_json(path.read_bytes()) if path.is_file() else None
    kind = found.get("model_type") if isinstance(found, Mapping) else None
    if not isinstance(kind, str):
        raise ModelError(
            f"{folder}: expected a config.json with a model_type, found {'none' if found is None else kind}"
        )
    return kind


def check_family(folder: Path, families: Iterable[str], task: str) -> str:
    """The folder's family, which must be one of `families`.

    Raises:
        ModelError: another one; lists those that do the task.
    """
    kind, known = model_type(folder), sorted(families)
    if kind not in known:
        hint = did_you_mean(kind, known)
        raise ModelError(f"{folder}: expected a model for {task} ({', '.join(known)}), found {kind!r}{hint}")
    return kind


def class_in(package: str, place: str) -> Any:
    """The class that a table of families names as "module:Class", the module one of `package`."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"{package}.{module}"), name)


def library_class(name: str) -> Any:
    """A class of transformers by name.

    Raises:
        ModelError: the installed release does not know it.
    """
    import transformers

    found = getattr(transformers, name, None)
    if found is None:
        release = transformers.__version__
        raise ModelError(f"transformers {release} has no {name}: pip install --upgrade transformers")
    return found


def load_model(name: str, folder: Path, device: Any, precision: Precision = "fp32") -> Any:
    """A model of class `name`, its weights those of the folder, in evaluation mode.

    Raises:
        ModelError: weights that are missing or of another shape: the library would have drawn them at random.
    """
    import torch

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    with quiet():
        model, info = library_class(name).from_pretrained(str(folder), dtype=kind, **options)
    missing, other = sorted(info["missing_keys"]), sorted(str(key) for key in info["mismatched_keys"])
    if missing or other:
        faults = [
            f"{len(keys)} {what} ({', '.join(keys[:EXAMPLES])}{', …' if len(keys) > EXAMPLES else ''})"
            for what, keys in (("missing", missing), ("of another shape", other))
            if keys
        ]
        raise ModelError(f"{folder}: expected all weights of {name}, found {'; '.join(faults)}")
    return model.to(device).eval()


def load_part(name: str, folder: Path) -> Any:
    """A processor or a tokenizer of class `name`, as the folder's settings say."""
    with quiet():
        return library_class(name).from_pretrained(str(folder), local_files_only=True)


@contextmanager
def quiet() -> Iterator[None]:
    """No bars for what loads in a moment, and no advice that depends on the installed release. Errors still show."""
    from transformers import utils

    logging: Any = utils.logging  # carries no types

    with ExitStack() as after, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        after.callback(logging.set_verbosity, logging.get_verbosity())
        logging.set_verbosity_error()
        if logging.is_progress_bar_enabled():
            after.callback(logging.enable_progress_bar)
            logging.disable_progress_bar()
        yield
