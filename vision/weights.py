"""Weight files that people have, read without running what is in them: safetensors, PyTorch checkpoints, TorchScript.

A TorchScript archive (OpenAI's `ViT-B-16.pt`) is a zip of tensors, a pickle that says where each belongs, and code.
`torch.jit.load` would compile the code; here the pickle is read by an unpickler that knows tensors, lists and plain
objects and refuses every other name, and the code is never more than text.
"""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from maskmill.vision.weight_files import no_code, read_safetensors

NESTS = ("state_dict", "model_state_dict", "model_state", "model", "net")  # where checkpoints keep the weights
EXAMPLES = 4
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


class WeightsError(ValueError):
    """A weight file that cannot be read, or that does not fit; counts what fits and gives examples of what does not."""


def read_state(path: str) -> dict[str, Tensor]:
    """All tensors by name of a weight file, or of the only one in a folder: .safetensors, a PyTorch checkpoint (weights
    only), or a TorchScript archive. Weights that a checkpoint keeps under `state_dict` or `model` are found there;
    `module.` is cut off.

    Raises:
        ValueError: no such file, or none of these formats. UnsafeModelError: one that would have to run code.
    """
    path = weight_file(path)
    if not Path(path).is_file():
        raise WeightsError(f"weights {path!r}: expected a weight file (.safetensors, .pt, .pth), found no such file")
    if path.lower().endswith(".safetensors"):
        return read_safetensors(path)
    with no_code(path):
        if is_torchscript(path):
            return _torchscript_state(path)
        return _plain(torch.load(path, map_location="cpu", weights_only=True), path)


def weight_file(path: str) -> str:
    """The weight file that `path` names: itself, or the only one in a folder.

    Raises:
        WeightsError: a folder with none, or with several.
    """
    if not Path(path).is_dir():
        return path
    found = sorted(p for p in Path(path).iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if len(found) != 1:
        named = ", ".join(p.name for p in found[:EXAMPLES]) or "none"
        raise WeightsError(f"weights {path!r}: expected one weight file in this folder, found {named}; name the file")
    return str(found[0])


def is_torchscript(path: str) -> bool:
    """Whether a file is a TorchScript archive: a zip with code beside the tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def code_mentions(path: str, pattern: str) -> bool:
    """Whether the text of a TorchScript archive's code matches; nothing of it is run."""
    with zipfile.ZipFile(path) as archive:
        texts = (archive.read(name).decode("utf-8", "replace") for name in archive.namelist() if name.endswith(".py"))
        return any(re.search(pattern, text) for text in texts)


def fitted(
    target: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    where: str,
    *,
    rename: Callable[[str], str] | None = None,
    spare: Sequence[str] = (),
) -> dict[str, Tensor]:
    """The tensors of `state` under the names of `target`, in its dtypes.

    `rename` gives the name in the target for one in the file. `spare` are patterns of names that the file may have
    beside the target's (a classifier head); counters of batch norms may be missing.

    Raises:
        WeightsError: missing names, names left over, or other shapes; says how many of each, with examples.
    """
    renamed = {rename(key) if rename else key: value for key, value in state.items()}
    needed = [key for key in target if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in renamed]
    shapes = [
        f"{key} {tuple(renamed[key].shape)} for {tuple(target[key].shape)}"
        for key in needed
        if key in renamed and renamed[key].shape != target[key].shape
    ]
    left = [key for key in renamed if key not in target and not any(re.match(pattern, key) for pattern in spare)]
    if missing or shapes or left:
        fit = len(needed) - len(missing) - len(shapes)
        faults = [
            f"{len(names)} {what} ({', '.join(names[:EXAMPLES])}{', …' if len(names) > EXAMPLES else ''})"
            for what, names in (("missing", missing), ("of another shape", shapes), ("left over", left))
            if names
        ]
        raise WeightsError(f"{where}: {fit} of {len(needed)} weights fit; {'; '.join(faults)}")
    return {key: renamed[key].to(target[key].dtype) for key in target if key in renamed}


def _plain(found: Any, path: str) -> dict[str, Tensor]:
    for nest in NESTS:
        if isinstance(found, Mapping) and isinstance(found.get(nest), Mapping):
            found = found[nest]
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise WeightsError(f"{path}: expected weights by name, found {type(found).__name__} without tensors")
    wrapped = all(key.startswith("module.") for key in tensors)
    return {key.removeprefix("module.") if wrapped else key: value for key, value in tensors.items()}


class _Node:
    """An object of the archive: a module with its attributes, of whatever class it was."""

    def __init__(self, *_: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state) if isinstance(state, Mapping) else {}


class _Reader(pickle.Unpickler):
    """Builds tensors, lists and `_Node`s, and refuses every other name."""

    def __init__(self, file: IO[bytes], storages: Callable[[str, torch.dtype], Tensor]) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Node
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.jit._pickle" and name in ("build_intlist", "build_doublelist", "build_boollist"):
            return list
        if module == "torch.jit._pickle" and name == "build_tensorlist":
            return list
        raise pickle.UnpicklingError(
            f"a TorchScript archive that names {module}.{name}, which is no tensor and no module"
        )

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, *_ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"a TorchScript archive with a {kind!r} in place of a storage")
        return self._storages(str(key), dtype)


_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def _rebuild(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
    """A tensor as a view of its storage, which is a flat tensor here. A view beyond its end raises."""
    return storage.as_strided(tuple(size), tuple(stride), int(offset)).clone()


def _torchscript_state(path: str) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).removesuffix(
            "constants.pkl"
        )

        def storage(key: str, dtype: torch.dtype) -> Tensor:
            return torch.frombuffer(bytearray(archive.read(f"{root}data/{key}")), dtype=dtype)

        with archive.open(f"{root}data.pkl") as file:
            top = _Reader(file, storage).load()
    state: dict[str, Tensor] = {}
    _flatten(top, "", state)
    if not state:
        raise WeightsError(f"{path}: a TorchScript archive without tensors")
    return state


def _flatten(node: Any, prefix: str, state: dict[str, Tensor]) -> None:
    """Tensors by the dotted names that `state_dict` gives them."""
    if not isinstance(node, _Node):
        return
    for name, value in node.attributes.items():
        if isinstance(value, Tensor):
            state[f"{prefix}{name}"] = value
        else:
            _flatten(value, f"{prefix}{name}.", state)
