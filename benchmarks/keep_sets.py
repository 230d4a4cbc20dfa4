"""The photos of `sds_keep`: clean samples of six sets as an ingested folder gives them, split by hash."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import Options, part_of, take_turns
from maskmill.data_contracts import (
    IGNORE,
    LabelSpace,
    Uint8Array,
    decode_image,
    decode_mask,
    foreground_ids,
    load_label_space,
)
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.run.config import load_run_config

#: Photos drawn from each set. The classes of Caltech are few and whole: a class of three photos has no worst case.
COUNTS = {
    "small": {"davis": 150, "horses": 60, "people": 60, "ccp": 60, "camvid": 60, "caltech": 150},
    "full": {"davis": 800, "horses": 300, "people": 300, "ccp": 500, "camvid": 400, "caltech": 1500},
}
CALTECH_CLASSES = {"small": 14, "full": 200}
CAMVID_BLOCK = 450  # frame numbers in a block that hangs together: 15 s


@dataclass(frozen=True)
class Photo:
    """A clean sample. `tags`: class ids that something beside the mask says it shows, or None. `lookup` turns the
    file's mask values into ids of the space.
    """

    path: Path
    key: str
    tags: tuple[int, ...] | None
    mask_path: Path | None = None
    lookup: Uint8Array | None = None
    clip: str | None = None
    index: int | None = None

    def image(self) -> Uint8Array:
        return decode_image(self.path.read_bytes(), str(self.path))

    def mask(self) -> Uint8Array | None:
        if self.mask_path is None or self.lookup is None:
            return None
        return np.asarray(self.lookup[decode_mask(self.mask_path.read_bytes(), str(self.mask_path))], dtype=np.uint8)

    def classes(self, space: LabelSpace) -> tuple[int, ...]:
        """The classes that the photo counts for: those of its mask, or of its tags where it has none."""
        mask = self.mask()
        return tuple(foreground_ids(mask, space)) if mask is not None else self.tags or ()


@dataclass(frozen=True)
class PhotoSet:
    """The photos of one source and the label space in which they are scored."""

    name: str
    space: LabelSpace
    photos: tuple[Photo, ...]


def load_sets(options: Options) -> list[PhotoSet]:
    """What is drawn of every set that the tested folder holds: of the test part (with --dev the development part), or
    of all of it with --test-data. The draw is the same for every seed.

    Raises:
        FileNotFoundError: none of them is there.
    """
    root = options.tested
    loaders: tuple[Callable[[Path], PhotoSet | None], ...] = (_davis, _horses, _people, _ccp, _camvid, _caltech)
    found = [s for load in loaders if root is not None and (s := load(root)) is not None and s.photos]
    if not found:
        raise FileNotFoundError(f"{root}: expected davis/, weizmann_horses/, ccp/ … as the data's README lays them out")
    return [_drawn(s, options) for s in found]


def _drawn(photos: PhotoSet, options: Options) -> PhotoSet:
    part = "dev" if options.dev else "test"
    usable = [p for p in photos.photos if options.test_data is not None or part_of(p.key) == part]
    turn = {"davis": lambda p: p.clip, "camvid": lambda p: p.clip, "caltech": lambda p: str(p.tags)}
    if photos.name == "caltech":
        names = take_turns(sorted({str(p.tags) for p in usable}), str, CALTECH_CLASSES[options.budget], (1,))
        usable = [p for p in usable if str(p.tags) in names]
    by = turn.get(photos.name, lambda p: p.key)
    drawn = take_turns(usable, by, COUNTS[options.budget][photos.name], (1,))
    return PhotoSet(photos.name, photos.space, tuple(drawn))


def _only(class_id: int) -> Uint8Array:
    """Every value of a binary mask but 0 is `class_id`."""
    lookup = np.full(256, class_id, dtype=np.uint8)
    lookup[0] = 0
    return lookup


def _davis(root: Path) -> PhotoSet | None:
    """Sequences whose name says what moves; names and label space are those of configs/davis.yaml."""
    config = load_run_config("davis")
    if not isinstance(config.source, FolderSource):
        raise TypeError("configs/davis.yaml: expected a folder source, which names the sequences")
    photos = []
    for folder in sorted(root.glob("davis/JPEGImages/*")):
        name = config.source.names_by_group.get(folder.name)
        for path in sorted(folder.glob("*.jpg")) if name else ():
            own = config.space.find(name or "").id
            mask = root / "davis" / "Annotations" / folder.name / f"{path.stem}.png"
            photos.append(Photo(path, folder.name, (own,), mask, _only(own), folder.name, int(path.stem)))
    return PhotoSet("davis", config.space, tuple(photos))


def _one_class(root: Path, name: str, folder: str, class_name: str) -> PhotoSet:
    space = load_label_space("voc")
    own = space.find(class_name).id
    paths = sorted((root / folder / "images").glob("*.jpg"))
    photos = (Photo(p, p.stem, (own,), root / folder / "masks" / f"{p.stem}.png", _only(own)) for p in paths)
    return PhotoSet(name, space, tuple(photos))


def _horses(root: Path) -> PhotoSet:
    return _one_class(root, "horses", "weizmann_horses", "horse")


def _people(root: Path) -> PhotoSet:
    return _one_class(root, "people", "human_foreground", "person")


def _ccp(root: Path) -> PhotoSet | None:
    """Garments in the twelve kinds of configs/ccp.yaml; the set's tags are the second witness."""
    if not (file := root / "ccp" / "image_tags.json").is_file():
        return None
    config = load_run_config("ccp")
    remap = {int(k): int(v) for k, v in getattr(config.source, "remap", {}).items()}
    lookup = np.array([remap.get(value, 0) for value in range(256)], dtype=np.uint8)
    photos = []
    for stem, tags in sorted(json.loads(file.read_text()).items()):
        mask = file.parent / "masks" / f"{stem}.png"
        if mask.is_file():
            said = tuple(sorted({remap[t] for t in tags} - {0}))
            photos.append(Photo(file.parent / "images" / f"{stem}.jpg", stem, said, mask, lookup))
    return PhotoSet("ccp", config.space, tuple(photos))


def _camvid(root: Path) -> PhotoSet:
    """Road scenes: every mask is full of classes, and nothing but the mask says which."""
    space = load_label_space("camvid")
    lookup = np.full(256, IGNORE, dtype=np.uint8)
    lookup[list(space.ids)] = space.ids
    photos = []
    for path in sorted((root / "camvid" / "images").glob("*.jpg")):
        clip, number = re.fullmatch(r"(.+)_\D*(\d+)", path.stem).groups()  # type: ignore[union-attr]
        mask = root / "camvid" / "masks" / f"{path.stem}.png"
        key = f"{clip}-{int(number) // CAMVID_BLOCK}"
        photos.append(Photo(path, key, None, mask, lookup, clip, int(number)))
    return PhotoSet("camvid", space, tuple(photos))


def _caltech(root: Path) -> PhotoSet | None:
    """Photos with a name and no mask."""
    if not (table := root / "caltech101_small" / "labels.csv").is_file():
        return None
    with table.open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    space = LabelSpace.from_names(sorted({row["name"] for row in rows}), "caltech")
    photos = (Photo(table.parent / r["file"], r["file"], (space.find(r["name"]).id,)) for r in rows)
    return PhotoSet("caltech", space, tuple(photos))
