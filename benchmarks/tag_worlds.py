"""Images with tags and true masks for `benchmarks.weclip`: drawn scenes, a style held out, and photos by sequence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import Options, is_train_key, take_turns
from maskmill.data_contracts import LabelSpace, Uint8Array, decode_image, decode_mask, load_label_space
from maskmill.pipelines.run.config import load_run_config
from maskmill.starter.drawn import KNOWN_STYLES, UNSEEN_STYLES, SceneConfig, render_scene


@dataclass(frozen=True)
class Size:
    """How much of everything a budget allows."""

    scenes: int
    tested_scenes: int
    frames: int  # of a sequence
    horses: int
    tested_photos: int
    steps: int


SIZES = {
    "small": Size(scenes=720, tested_scenes=60, frames=6, horses=48, tested_photos=60, steps=150),
    "full": Size(scenes=2000, tested_scenes=240, frames=25, horses=120, tested_photos=240, steps=600),
}
SCENE_SIDE = 160


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and its true mask in the ids of its world's label space."""

    image: Uint8Array
    mask: Uint8Array


@dataclass(frozen=True, eq=False)
class World:
    """What is trained on and what is tested, in one label space."""

    name: str
    space: LabelSpace
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]


def drawn_world(size: Size, seed: int, *, dev: bool = False) -> World:
    """Known styles to learn from, an unseen one to test on; for development the last known one is held out instead."""
    learnt, tested = (KNOWN_STYLES[:-1], KNOWN_STYLES[-1:]) if dev else (KNOWN_STYLES, UNSEEN_STYLES)

    def scenes(styles: tuple[str, ...], count: int, offset: int) -> tuple[Pair, ...]:
        config = SceneConfig(size=SCENE_SIDE, styles=styles, max_objects=2, seed=seed)
        return tuple(Pair(s.image, s.mask) for s in (render_scene(config, offset + i) for i in range(count)))

    test = scenes(tested, size.tested_scenes, 1_000_000)
    return World("drawn", load_label_space("voc"), scenes(learnt, size.scenes, 0), test)


def photo_world(options: Options, size: Size, seed: int) -> World:
    """DAVIS and horses, halved by sequence and stem; with --test-data all of --data is learnt from. For development
    the part for learning is halved once more.
    """
    config = load_run_config("davis")
    names: dict[str, str] = config.model_dump()["source"]["names_by_group"]
    train = [] if options.data is None else list(_photos(options.data, names, size))
    test = train if options.tested == options.data else list(_photos(options.tested, names, size))
    if options.test_data is None:
        train = [photo for photo in train if is_train_key(photo.key)]
        test = [photo for photo in test if not is_train_key(photo.key)]
    if options.dev:
        train, test = ([p for p in train if is_train_key(f"dev {p.key}") == learnt] for learnt in (True, False))
    shared = {photo.name for photo in train} & {photo.name for photo in test}
    chosen = _spread([photo for photo in test if photo.name in shared], size.tested_photos, seed)
    learnt = [photo for photo in train if photo.name in shared]
    space = config.space
    return World("photos", space, tuple(p.load(space) for p in learnt), tuple(p.load(space) for p in chosen))


@dataclass(frozen=True)
class Photo:
    """A photo of one class. `key` keeps frames of a sequence on one side of the split."""

    key: str
    name: str
    image: Path
    mask: Path

    def load(self, space: LabelSpace) -> Pair:
        image = decode_image(self.image.read_bytes(), str(self.image))
        binary = decode_mask(self.mask.read_bytes(), str(self.mask)) > 0
        return Pair(image, (binary * space.find(self.name).id).astype(np.uint8))


def _photos(root: Path | None, names: dict[str, str], size: Size) -> Iterable[Photo]:
    if root is None:
        raise FileNotFoundError("weclip: expected --data DIR with davis/ and weizmann_horses/")
    for folder in sorted(root.glob("davis/JPEGImages/*")):
        frames = sorted(folder.glob("*.jpg")) if folder.name in names else []
        for path in frames[:: max(1, -(-len(frames) // size.frames))]:
            mask = root / "davis" / "Annotations" / folder.name / f"{path.stem}.png"
            yield Photo(folder.name, names[folder.name], path, mask)
    horses = root / "weizmann_horses"
    for path in sorted(horses.glob("images/*.jpg"))[: size.horses]:
        yield Photo(path.stem, "horse", path, horses / "masks" / f"{path.stem}.png")


def _spread(photos: Sequence[Photo], count: int, seed: int) -> list[Photo]:
    """At most `count` photos in a seeded order in which classes take turns."""
    return take_turns(photos, lambda photo: photo.name, count, [seed, 4])
