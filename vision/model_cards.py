"""What a model folder says of itself beside its numbers: its licence, and how much memory its weights take."""

import struct
from dataclasses import dataclass
from pathlib import Path

from maskmill.data_contracts.texts import TextError, parse_json, parse_yaml
from maskmill.vision.pretrained import CARD, CONFIG, Precision, model_folder, model_type

NOT_STATED = "not stated"
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
WHOLE = frozenset({"I64", "I32", "I16", "I8", "U8", "BOOL"})  # types that a precision leaves alone
WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FIRST_IMAGE, MORE_IMAGES = 0.9e9, 0.3e9  # bytes at 1,024 pixels, read off SAM 2 tiny (benchmarks.promptable_cost)


@dataclass(frozen=True)
class ModelFacts:
    """What is said of a model wherever its output goes."""

    model: str
    family: str
    licence: str
    weights_bytes: int

    @property
    def words(self) -> str:
        return f"{self.model} ({self.family}, licence {self.licence}, weights of {self.weights_bytes / 1e9:.2f} GB)"


def model_facts(model: str, precision: Precision = "fp32") -> ModelFacts:
    """Of a local folder, or of a hub id that is fetched.

    Raises:
        FileNotFoundError: no such model. ModelError: no config.json that names a family.
    """
    folder = model_folder(model)
    return ModelFacts(model, model_type(folder), licence_of(folder), weights_bytes(folder, precision))


def licence_of(folder: Path) -> str:
    """What the card (README.md) states as `license`, by name where the name is its own; else `not stated`."""
    card = folder / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if not text.startswith("---"):
        return NOT_STATED
    try:
        head = parse_yaml(text.split("---", 2)[1])
    except TextError:
        return NOT_STATED
    stated = head.get("license") if isinstance(head, dict) else None
    if stated == "other" and isinstance(head.get("license_name"), str):
        return str(head["license_name"])
    return stated if isinstance(stated, str) and stated else NOT_STATED


def weights_bytes(folder: Path, precision: Precision) -> int:
    """Bytes of a folder's weights on its device at a precision, read off the heads of its safetensors files."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            head = parse_json(handle.read(length))
        for name, entry in head.items():
            if name != "__metadata__":
                start, stop = entry["data_offsets"]
                kind = entry["dtype"]
                width = WIDTHS.get(kind, 4) if kind in WHOLE else BYTES[precision]
                total += (stop - start) // WIDTHS.get(kind, 4) * width
    return total


def memory_bytes(facts: ModelFacts, side: int, batch: int = 1) -> int:
    """About how much memory of its device a promptable model takes for `batch` images of `side` pixels at once.

    Weights are counted; the rest is one model's, scaled by area, and so no more than a hint of the order.
    """
    return facts.weights_bytes + round((FIRST_IMAGE + (batch - 1) * MORE_IMAGES) * (side / 1024) ** 2)


def input_side(folder: Path) -> int:
    """Pixels of the square that a model's processor makes of an image; 1,024 where it does not say."""
    for name in ("preprocessor_config.json", "processor_config.json", CONFIG):
        path = folder / name
        size = parse_json(path.read_bytes()).get("size") if path.is_file() else None
        if isinstance(size, dict) and (sides := [v for v in size.values() if isinstance(v, int)]):
            return max(sides)
    return 1024
