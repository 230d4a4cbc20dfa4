"""Model folders hold numbers and settings: one that brings code of its own is refused before any library opens it."""

from pathlib import Path
from typing import Any

from maskmill.data_contracts.texts import TextError, parse_json

CODE = frozenset({".py", ".pyc", ".so", ".pyd", ".dll", ".sh"})
PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib", ".dill", ".npy", ".npz"})
RUNS_CODE = frozenset({"auto_map", "custom_pipeline", "custom_pipelines", "trust_remote_code"})  # keys of configs


class UnsafeModelError(ValueError):
    """A model folder that could run code when it is loaded."""


def check_model_folder(folder: Path) -> None:
    """Refuse a folder with Python, compiled code, pickles, or configs that name code to run.

    Raises:
        UnsafeModelError: names the file, and what to do.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in CODE:
            raise _unsafe(path, "code", "use a model of a family that the library itself knows")
        if path.suffix.lower() in PICKLES and path.is_file():
            fix = "save the weights as .safetensors, from a program that you trust, and remove this file"
            raise _unsafe(path, "a pickle, which can run code", fix)
        if path.suffix.lower() == ".json" and path.is_file() and (key := _code_key(path)):
            raise _unsafe(path, f"the key {key!r}, which names code to run", "remove the key, or use another model")


def _code_key(path: Path) -> str | None:
    """The first key that names code.

    Raises:
        UnsafeModelError: a config that cannot be looked through; a library may read more of it.
    """
    try:
        return _find(parse_json(path.read_bytes()))
    except TextError as error:
        raise _unsafe(path, f"settings that cannot be looked through ({error})", "use another model") from error


def _find(value: Any) -> str | None:
    if isinstance(value, dict):
        named = next((key for key in value if key in RUNS_CODE and value[key]), None)
        return named or next((found for inner in value.values() if (found := _find(inner))), None)
    if isinstance(value, list):
        return next((found for inner in value if (found := _find(inner))), None)
    return None


def _unsafe(path: Path, found: str, fix: str) -> UnsafeModelError:
    return UnsafeModelError(f"{path}: expected weights in .safetensors and plain settings, found {found}; {fix}")
