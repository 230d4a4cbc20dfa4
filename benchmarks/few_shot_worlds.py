"""The worlds of the few-shot benchmarks: drawn scenes and street photos, with classes to hold out, as shards."""

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Options, is_train_key
from benchmarks.shards import Row, sample_row, write_rows
from maskmill.data_contracts import (
    LabelClass,
    LabelSpace,
    Uint8Array,
    decode_mask,
    encode_image,
    load_label_space,
)
from maskmill.starter.drawn import DRAWN_CLASSES, KNOWN_STYLES, UNSEEN_STYLES, SceneConfig, render_scene
from maskmill.trainers.engine import DataConfig

SCENE_SIDE = 160
NOT_GARMENTS = ("background", "skin", "hair")
#: Words that CLIP reads for the coarse classes, which are names of groups.
WORDS = {
    "outerwear": "coat or jacket",
    "top": "shirt",
    "hosiery": "tights",
    "footwear": "shoes",
    "bag": "purse",
    "accessory": "belt or scarf",
}
SURROUNDINGS = ("street", "wall", "building", "road", "tree", "grass", "sky", "door", "window", "floor", "fence", "car")


@dataclass(frozen=True)
class Size:
    """How much of everything a budget allows."""

    scenes: int
    tested_scenes: int
    photos: int
    tested_photos: int
    steps: int
    episodes: dict[int, int]  # by shots
    starts: int = 3  # of each network


@dataclass(frozen=True)
class World:
    """Training and tested samples (shards) in one label space; `episodes` are the options of its protocol."""

    name: str
    space: LabelSpace
    data: DataConfig
    test: DataConfig
    episodes: dict[str, Any]


def drawn_world(
    size: Size,
    folder: Path,
    known: tuple[str, ...] = KNOWN_STYLES,
    unseen: tuple[str, ...] = UNSEEN_STYLES,
    first: int = 1_000_000,
) -> World:
    """Scenes of known styles to learn from, of an unseen one to test on, numbered from `first`. Images with a held-out
    class are left out.
    """
    voc = load_label_space("voc")
    space = voc.model_copy(update={"classes": tuple(c for c in voc.classes if c.name in DRAWN_CLASSES)})

    def rows(styles: tuple[str, ...], numbers: range) -> Iterator[Row]:
        for number in numbers:  # classes take turns, so that each is shown often enough
            pair = (DRAWN_CLASSES[number % len(DRAWN_CLASSES)], DRAWN_CLASSES[(7 * number + 3) % len(DRAWN_CLASSES)])
            config = SceneConfig(
                size=SCENE_SIDE, styles=styles, classes=tuple(dict.fromkeys(pair)), max_objects=2, max_distractors=1
            )
            scene = render_scene(config, number)
            yield sample_row(encode_image(scene.image), scene.mask, space)

    data = as_data(rows(known, range(size.scenes)), folder / "drawn-train")
    test = DataConfig(
        samples=(write_rows(rows(unseen, range(first, first + size.tested_scenes)), folder / "drawn-test"),)
    )
    return World("drawn", space, data, test, {"drop_held_out": True, "min_share": 0.01})


def ccp_world(options: Options, size: Size, folder: Path) -> World | None:
    """Street photos in coarse garments; None where a folder lacks them. Every photo shows several garments, so training
    photos keep held-out ones, whose pixels are left out of the losses.
    """
    learnt, tested = read_photos(options.data), read_photos(options.tested)
    if options.test_data is None:
        learnt = [photo for photo in learnt if is_train_key(photo.key)]
        tested = [photo for photo in tested if not is_train_key(photo.key)]
    return photo_world(learnt, tested, size, folder)


def photo_world(learnt: Sequence["Photo"], tested: Sequence["Photo"], size: Size, folder: Path) -> World | None:
    """The world of these photos; None where one side has none."""
    if not learnt or not tested:
        print("ccp: no photos there; drawn scenes only", flush=True)
        return None
    space = garments(learnt[0].root)
    data = DataConfig(
        samples=(write_rows((p.row(space) for p in spread(learnt, size.photos, space)), folder / "ccp-train"),)
    )
    test = DataConfig(
        samples=(write_rows((p.row(space) for p in spread(tested, size.tested_photos, space)), folder / "ccp-test"),)
    )
    return World("ccp", space, data, test, {"drop_held_out": False, "held_out_pixels": "ignore", "min_share": 0.01})


@dataclass(frozen=True)
class Photo:
    """A street photo with its mask of fine labels."""

    root: Path
    key: str

    def mask(self) -> Uint8Array:
        """Coarse ids, without skin and hair."""
        fine = decode_mask((self.root / "masks" / f"{self.key}.png").read_bytes(), self.key)
        coarse: Uint8Array = coarse_ids(self.root)[fine]
        return coarse

    def row(self, space: LabelSpace) -> Row:
        return sample_row((self.root / "images" / f"{self.key}.jpg").read_bytes(), self.mask(), space)


def read_photos(root: Path | None) -> list[Photo]:
    """All photos with a mask, by name."""
    folder = None if root is None else root / "ccp"
    if folder is None or not (folder / "classes.json").is_file():
        return []
    stems = sorted(path.stem for path in (folder / "images").glob("*.jpg"))
    return [Photo(folder, stem) for stem in stems if (folder / "masks" / f"{stem}.png").is_file()]


@functools.cache
def coarse_ids(root: Path) -> NDArray[np.uint8]:
    """Coarse id of every fine id, 256 entries; what is no garment becomes 0, ids beyond the list 255."""
    found = json.loads((root / "classes.json").read_text())
    table = np.full(256, 255, np.uint8)
    for fine, coarse in enumerate(found["fine_to_coarse"]):
        table[fine] = 0 if found["coarse_classes"][coarse] in NOT_GARMENTS else coarse
    return table


def garments(root: Path) -> LabelSpace:
    """The coarse classes without skin and hair."""
    names = json.loads((root / "classes.json").read_text())["coarse_classes"]
    classes = [LabelClass(id=i, name=n, prompt=WORDS.get(n)) for i, n in enumerate(names) if n not in NOT_GARMENTS]
    return LabelSpace(name="garments", classes=tuple(classes), background_prompts=SURROUNDINGS)


def spread(photos: Sequence[Photo], count: int, space: LabelSpace) -> list[Photo]:
    """At most `count` photos in which classes take turns, so that rare ones are there."""
    pixels = np.array([np.bincount(p.mask().ravel(), minlength=256)[list(space.ids)] / p.mask().size for p in photos])
    lists = [[i for i in range(len(photos)) if pixels[i, c] >= 0.01] for c in range(len(space.ids))]
    chosen: dict[int, None] = {}
    for turn in range(len(photos)):
        for positions in lists:
            if turn < len(positions) and len(chosen) < count:
                chosen.setdefault(positions[turn])
    return [photos[i] for i in chosen]


def as_data(rows: Iterator[Row], folder: Path) -> DataConfig:
    """The rows as one Sample shard to train on."""
    return DataConfig(samples=(write_rows(rows, folder),))
