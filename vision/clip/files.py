"""Weight files of CLIP models: whose they are, which activation they were trained with, and into the model they go."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

from maskmill.vision.weights import code_mentions, fitted, is_torchscript, read_state

WEIGHTS = frozenset({".safetensors", ".bin", ".pth", ".pt"})
OPENAI_ONLY = frozenset({"input_resolution", "context_length", "vocab_size"})  # names that no other file of a CLIP has
SPARE = (*sorted(OPENAI_ONLY), r"(.+\.)?attn_mask$", r".*\.position_ids$")  # of files; no weights


def load_weight_file(clip: Any, path: str) -> None:
    """Fill an open_clip model from a file: OpenAI's archive, safetensors or a checkpoint with open_clip's names.

    Raises:
        WeightsError: weights that are missing, left over or of another shape; says how many, with examples.
    """
    known = clip.state_dict()
    clip.load_state_dict(fitted(known, read_state(path), path, spare=SPARE), strict=False)


def file_activation(path: str) -> str | None:
    """What a weight file was trained with: "quick_gelu", "gelu", or None where it does not say."""
    if not Path(path).is_file() or Path(path).suffix not in WEIGHTS:
        return None
    if not is_torchscript(path):
        return "quick_gelu" if set(_names(path)) >= OPENAI_ONLY else None
    return "quick_gelu" if code_mentions(path, r"1\.702|QuickGELU") else "gelu"


def _names(path: str) -> Iterator[str]:
    """The names in a weight file; of a checkpoint all tensors are read for them."""
    if path.endswith(".safetensors"):
        with safe_open(path, "pt") as file:
            yield from file.keys()
    else:
        yield from read_state(path)
