"""From image tags to masks: what each stage of CLIP's pseudo-labels adds, and how far WeCLIP's decoder gets with them.

Arms: `cam` (Grad-CAM of the starter CLIP), `cam+affinity`, `cam+affinity+par`, `cam+affinity+crf`: labels of the tested
images from their tags, without training. `weclip`: a decoder trained on tags alone, tested without tags;
`fully_supervised`: the same decoder and schedule, trained on the true masks.
Metrics: `miou@drawn`, trained on scenes of known styles and tested on a style that training never saw; `miou@photos`,
DAVIS frames (the class is in the sequence's name) and horses, tested on sequences and stems that training never saw, in
classes that both parts have.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Options, Record, is_train_key, parse_options, take_turns
from data_contracts import (
    SAMPLE,
    LabelSpace,
    Uint8Array,
    decode_image,
    decode_mask,
    encode_image,
    encode_mask,
    foreground_ids,
    load_label_space,
    pair_id,
    shard_name,
    write_shard,
)
from generators.drawn import KNOWN_STYLES, UNSEEN_STYLES, SceneConfig, render_scene
from labelers import LabelItem
from labelers.clip_cam import Config as CamConfig
from labelers.clip_cam import load as load_cam
from pipelines.config import load_run_config
from pipelines.train import TrainConfig, train
from trainers.engine import DataConfig, SegmentationMetrics, read_artifact

CAM_ARMS: dict[str, dict[str, Any]] = {
    "cam": {"affinity": False, "refine": "none"},
    "cam+affinity": {"refine": "none"},
    "cam+affinity+par": {"refine": "par"},
    "cam+affinity+crf": {"refine": "crf"},
}
DECODER_ARMS = {"weclip": "tags", "fully_supervised": "masks"}


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
    "small": Size(scenes=240, tested_scenes=60, frames=6, horses=48, tested_photos=60, steps=100),
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


def drawn_world(size: Size, seed: int) -> World:
    """Known styles to learn from, an unseen one to test on."""

    def scenes(styles: tuple[str, ...], count: int, offset: int) -> tuple[Pair, ...]:
        config = SceneConfig(size=SCENE_SIDE, styles=styles, max_objects=2, seed=seed)
        return tuple(Pair(s.image, s.mask) for s in (render_scene(config, offset + i) for i in range(count)))

    test = scenes(UNSEEN_STYLES, size.tested_scenes, 1_000_000)
    return World("drawn", load_label_space("voc"), scenes(KNOWN_STYLES, size.scenes, 0), test)


def photo_world(options: Options, size: Size, seed: int) -> World:
    """DAVIS and horses, halved by sequence and stem; with --test-data all of --data is learnt from."""
    config = load_run_config("davis")
    names: dict[str, str] = config.model_dump()["source"]["names_by_group"]
    train = [] if options.data is None else list(_photos(options.data, names, size))
    test = train if options.tested == options.data else list(_photos(options.tested, names, size))
    if options.test_data is None:
        train = [photo for photo in train if is_train_key(photo.key)]
        test = [photo for photo in test if not is_train_key(photo.key)]
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


def cam_miou(world: World, settings: dict[str, Any]) -> float:
    """mIoU of `clip_cam` labels on the tested images, given their tags."""
    labeler = load_cam(
        CamConfig(**{"min_decided": 0.0, "confidence": 0.0, "find_tags": "never", **settings}), world.space
    )
    metrics = SegmentationMetrics(world.space)
    for number, pair in enumerate(world.test):
        item = LabelItem(str(number), pair.image, class_ids=tuple(foreground_ids(pair.mask, world.space)))
        found = labeler.label([item])[0].mask
        blank = np.full(pair.mask.shape, world.space.background_id, np.uint8)
        metrics.update(blank if found is None else found, pair.mask)
    return float(metrics.compute()["miou"])


def decoder_miou(world: World, supervision: str, size: Size, seed: int, folder: Path) -> float:
    """mIoU of the trained decoder on the tested images; a run that was cut off goes on from its checkpoint."""
    data = DataConfig(samples=(_shards(world.train, world.space, folder / "train"),))
    test = DataConfig(samples=(_shards(world.test, world.space, folder / "test"),))
    settings = {
        "supervision": supervision,
        "seed": seed,
        "steps": size.steps,
        "precision": "fp32",
        "runtime": {"save_every": 20, "progress": False},
    }
    config = TrainConfig(trainer="weclip", label_space=world.space, data=data, val=test, settings=settings)
    artefact = train(config, str(folder / supervision / "run"), str(folder / supervision / "artefact"))
    return float(read_artifact(artefact).metrics["miou"])


def _shards(pairs: Sequence[Pair], space: LabelSpace, folder: Path) -> str:
    """The pairs as one Sample shard."""
    rows = []
    for pair in pairs:
        image, mask = encode_image(pair.image), encode_mask(pair.mask, space.palette)
        rows.append(
            {
                "sample_id": pair_id(image, mask),
                "image": {"bytes": image, "path": None},
                "mask": {"bytes": mask, "path": None},
                "height": pair.mask.shape[0],
                "width": pair.mask.shape[1],
                "class_ids": foreground_ids(pair.mask, space),
                "provenance": {"source": "benchmark"},
            }
        )
    unique = list({row["sample_id"]: row for row in rows}.values())
    write_shard(str(folder / shard_name(0)), SAMPLE.table(unique), SAMPLE, stage="benchmark", fingerprint=folder.name)
    return str(folder)


def run(options: Options) -> None:
    """All arms of all seeds, each added as soon as it is measured."""
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    for seed in options.seeds:
        arms = [arm for arm in (*CAM_ARMS, *DECODER_ARMS) if not record.has(arm, seed)]
        worlds = [drawn_world(size, seed), photo_world(options, size, seed)] if arms else []
        for arm in arms:
            if arm in CAM_ARMS:
                settings = CAM_ARMS[arm]
                found = {f"miou@{world.name}": cam_miou(world, settings) for world in worlds}
            else:
                found = {
                    f"miou@{world.name}": decoder_miou(
                        world, DECODER_ARMS[arm], size, seed, work / f"{seed}" / world.name
                    )
                    for world in worlds
                }
            record.add(arm, seed, found)
            print(f"seed {seed}: {arm} {found}", flush=True)
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    run(parse_options("weclip", __doc__))
