"""Photos with true masks for benchmarks of box labels: three sets in one label space, split by key, and their boxes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from benchmarks.common import Options, part_of, take_turns
from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array, content_id, decode_image, decode_mask
from maskmill.labelers import LabelItem

SETS = ("ccp", "davis", "weizmann_horses")
MIN_OBJECT = 40  # pixels; smaller fragments get no box of their own


@dataclass(frozen=True, eq=False)
class Photo:
    """One image with its true mask in the ids of the benchmark's space. `key` keeps a clip on one side of the split."""

    source: str
    key: str
    image: Uint8Array
    mask: Uint8Array

    @property
    def item(self) -> LabelItem:
        name = content_id(self.image.tobytes(), self.mask.tobytes())
        return LabelItem(name, self.image, boxes=object_boxes(self.mask))


@dataclass(frozen=True)
class Files:
    """Where a photo lies, before it is opened."""

    source: str
    key: str
    image: Path
    mask: Path


def object_boxes(mask: Uint8Array) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Tight boxes (N, 5) of each class's objects: parts less than 8 pixels apart are one object; crumbs have no box
    unless the class has nothing else.
    """
    rows = []
    for class_id in (int(i) for i in np.unique(mask) if i not in (0, IGNORE)):
        own = mask == class_id
        parts, count = ndimage.label(cv2.dilate(own.astype(np.uint8), np.ones((9, 9), np.uint8)))
        sizes = np.bincount(parts[own], minlength=count + 1)[1:]
        for part in range(1, count + 1):
            if sizes[part - 1] >= min(MIN_OBJECT, sizes.max()):
                y, x = np.nonzero(own & (parts == part))
                rows.append([class_id, x.min(), y.min(), x.max() + 1, y.max() + 1])
    return np.array(rows, np.float32).reshape(-1, 5)


def label_space(root: Path) -> LabelSpace:
    """Horse, moving object, and the coarse garments that the set itself names."""
    names = ["horse", "moving object"]
    if (root / "ccp" / "classes.json").is_file():
        names += list(json.loads((root / "ccp" / "classes.json").read_text())["coarse_classes"][1:])
    return LabelSpace.from_names(names, name="boxes")


def list_files(root: Path, source: str) -> list[Files]:
    """All pairs of one set; none where the set is not there."""
    if source == "davis":
        images = sorted(root.glob("davis/JPEGImages/*/*.jpg"))
        where = root / "davis" / "Annotations"
        pairs = [Files(source, p.parent.name, p, where / p.parent.name / f"{p.stem}.png") for p in images]
    else:
        images = sorted((root / source / "images").glob("*.jpg"))
        pairs = [Files(source, p.stem, p, root / source / "masks" / f"{p.stem}.png") for p in images]
    return [pair for pair in pairs if pair.mask.is_file()]


def choose(files: Sequence[Files], count: int, seed: int) -> list[Files]:
    """A seeded draw in which sequences take turns."""
    return take_turns(files, lambda one: one.key, count, [seed, 5])


def open_photo(files: Files, space: LabelSpace, root: Path) -> Photo | None:
    """Image and mask; None where nothing is marked in it."""
    image = decode_image(files.image.read_bytes(), str(files.image))
    mask = decode_mask(files.mask.read_bytes(), str(files.mask))
    if files.source == "ccp":
        coarse = np.array(json.loads((root / "ccp" / "classes.json").read_text())["fine_to_coarse"], np.uint8)
        mask = np.where(coarse[mask] == 0, 0, coarse[mask] + 2).astype(np.uint8)
    else:
        mask = ((mask > 0) * space.find("horse" if files.source == "weizmann_horses" else "moving object").id).astype(
            np.uint8
        )
    return Photo(files.source, files.key, image, mask) if mask.any() else None


@dataclass(frozen=True, eq=False)
class Parts:
    """Photos of the three parts, by hash of stem or sequence, and their label space."""

    train: list[Photo]
    dev: list[Photo]
    test: list[Photo]
    space: LabelSpace


def photos(options: Options, counts: tuple[int, int], seed: int) -> Parts:
    """Trained photos, and developed and tested ones, of every set that is there: at most `counts` of each set.

    With --test-data all of it is tested, and all of --data that is no development part may be learnt from.
    """
    if options.data is None or options.tested is None:
        raise FileNotFoundError(f"a2gnn: expected --data DIR with {', '.join(SETS)}")
    parts = Parts([], [], [], label_space(options.tested))
    apart = options.test_data is None
    for source in SETS:
        own, held = list_files(options.data, source), list_files(options.tested, source)
        learnt = [f for f in own if part_of(f.key) == "train" or (not apart and part_of(f.key) == "test")]
        developed = [f for f in own if part_of(f.key) == "dev"]
        held = [f for f in held if not apart or part_of(f.key) == "test"]
        if not learnt or not held:
            print(f"{source}: left out, {len(learnt)} images to learn from and {len(held)} to test", flush=True)
            continue
        for chosen, found, root in (
            (choose(learnt, counts[0], seed), parts.train, options.data),
            (choose(developed, counts[1], seed), parts.dev, options.data),
            (choose(held, counts[1], seed), parts.test, options.tested),
        ):
            found += [p for p in (open_photo(f, parts.space, root) for f in chosen) if p is not None]
    return parts
