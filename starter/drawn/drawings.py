"""The shipped drawings: other people's emoji, cut out, by style and VOC class.

Sources, licences and attribution: starter/drawn/README.md.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskmill.data_contracts.labels import load_label_space

DRAWN_DIR = Path(__file__).resolve().parent
KNOWN_STYLES = ("noto", "twemoji", "fluent")
UNSEEN_STYLES = ("openmoji",)
ALL_STYLES = KNOWN_STYLES + UNSEEN_STYLES
_FOLDERS = dict.fromkeys(ALL_STYLES, DRAWN_DIR)

VOC = load_label_space("voc")
VOC_CLASSES = tuple(label.name for label in VOC.classes)
CLASS_IDS = {name: index for index, name in enumerate(VOC_CLASSES, start=1)}
# No style has an emoji of a dining table.
DRAWN_CLASSES = tuple(name for name in VOC_CLASSES if name != "diningtable")


@dataclass(frozen=True, eq=False)
class Drawing:
    """One cut-out drawing. `levels`: uint8 (h, w, 4), colour times alpha, each level half the size of the last."""

    style: str
    class_name: str | None
    name: str
    codepoint: str | None
    levels: tuple[NDArray[np.uint8], ...]

    @property
    def class_id(self) -> int:
        """VOC id 1..20; 0 for a distractor."""
        return CLASS_IDS[self.class_name] if self.class_name else 0


@dataclass(frozen=True, eq=False)
class Drawings:
    """Drawings of some styles: `by_class[class][style]` and `distractors[style]` of shipped styles are never empty."""

    styles: tuple[str, ...]
    by_class: dict[str, dict[str, tuple[Drawing, ...]]]
    distractors: dict[str, tuple[Drawing, ...]]

    @property
    def classes(self) -> tuple[str, ...]:
        """VOC names that every loaded style can draw, in VOC order."""
        return tuple(n for n in VOC_CLASSES if set(self.by_class.get(n, {})) == set(self.styles))

    @property
    def missing(self) -> tuple[str, ...]:
        """VOC names that at least one loaded style cannot draw."""
        return tuple(n for n in VOC_CLASSES if n not in self.classes)


def _halve(image: NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)))
    rows, columns = padded.shape[0] // 2, padded.shape[1] // 2
    mean: NDArray[np.float32] = padded.reshape(rows, 2, columns, 2, 4).mean(axis=(1, 3), dtype=np.float32)
    return mean


def _levels(rgba: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], ...]:
    """Premultiply, then halve until the longer side is 8 pixels or less."""
    level = rgba.astype(np.float32)
    level[..., :3] *= level[..., 3:] / 255
    levels = [level]
    while max(levels[-1].shape[:2]) > 8:
        levels.append(_halve(levels[-1]))
    return tuple(np.rint(one).astype(np.uint8) for one in levels)


def known_styles() -> tuple[str, ...]:
    """The styles that ship and those of `add_styles`."""
    return tuple(_FOLDERS)


def add_styles(folder: Path) -> tuple[str, ...]:
    """Make this process know the styles of a folder that `starter.drawn.build` wrote; returns their names.

    They may lack classes: `pick_drawing` draws a class in the styles that have it.

    Raises:
        FileNotFoundError: no index there. ValueError: a style that is known from another folder.
    """
    styles = tuple(dict.fromkeys(row["style"] for row in _index(folder)))
    if taken := [style for style in styles if _FOLDERS.get(style, folder) != folder]:
        raise ValueError(f"{folder}: the style {taken[0]!r} is already drawn from {_FOLDERS[taken[0]]}: rename it")
    _FOLDERS.update(dict.fromkeys(styles, folder))
    return styles


def _index(folder: Path) -> list[dict[str, Any]]:
    if not (folder / "index.json").is_file():
        raise FileNotFoundError(f"{folder}/index.json is missing; the drawings ship in starter/drawn of the checkout")
    rows: list[dict[str, Any]] = json.loads((folder / "index.json").read_text())
    return rows


@lru_cache(maxsize=8)
def load_drawings(styles: tuple[str, ...] = KNOWN_STYLES) -> Drawings:
    """Load the atlases of `styles`; cached, so every caller in a process shares one copy (about 13 MB a style).

    Raises:
        ValueError: unknown or no style. FileNotFoundError: the starter folder is not there.
    """
    if not styles or set(styles) - set(_FOLDERS):
        raise ValueError(f"styles: expected some of {', '.join(_FOLDERS)}, found {styles}")
    folders = dict.fromkeys(_FOLDERS[style] for style in styles)
    listed = [row for folder in folders for row in _index(folder)]
    atlases = {style: np.asarray(Image.open(_FOLDERS[style] / f"{style}.png")) for style in styles}
    by_class: dict[str, dict[str, tuple[Drawing, ...]]] = {}
    distractors: dict[str, tuple[Drawing, ...]] = {}
    for row in listed:
        style, class_name = row["style"], row["class_name"]
        if style not in atlases:
            continue
        left, top, width, height = row["rect"]
        levels = _levels(atlases[style][top : top + height, left : left + width])
        drawing = Drawing(style, class_name, row["name"], row["codepoint"], levels)
        table = distractors if class_name is None else by_class.setdefault(class_name, {})
        table[style] = (*table.get(style, ()), drawing)
    return Drawings(styles, by_class, distractors)
