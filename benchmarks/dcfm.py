"""What a group adds to saliency: the shared object of image groups, with and without other things beside it.

Arms of the paper's method on a small encoder (`preset: faithful` but for encoder, widths, size and steps): `plain`
(saliency: the same encoder and decoder, each image for itself), `dpg` (+ democratic prototypes), `dpg+scl` (+ self-
contrastive learning), `dcfm` (+ democratic feature enhancement: the published form). `ours` is the starter: every other
image votes by its best match. `dcfm_alone` and `ours_alone` are the networks of `dcfm` and `ours`, tested with each
image as a group of its own. All train on the same groups, from the same first weights, in the same order.
Metrics: S (`s`), max E, max F and MAE; `@groups` on the photo groups of `co_groups` (tested: groups that training never
saw, whose photos it never saw), `@distractors` on drawn groups in a style that training never saw, where every image
shows things of other classes beside the shared one. Writes a picture beside the JSON file.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Options, Record, is_train_key, parse_options
from benchmarks.paired import Units
from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    LabelSpace,
    Uint8Array,
    content_id,
    encode_image,
    list_shards,
    read_shard,
    write_bytes,
)
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.ingest import Source, ingest_stage, ingest_units
from maskmill.pipelines.ingest.drawn_groups import DrawnGroupsSource
from maskmill.pipelines.ingest.groups import GroupsSource
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.starter.drawn import KNOWN_STYLES, UNSEEN_STYLES, SceneConfig
from maskmill.trainers.dcfm.predict import GroupPredictor, group_metrics
from maskmill.trainers.engine import DataConfig, Samples, resize_image
from maskmill.trainers.engine.saliency import to_map
from maskmill.trainers.registry import load_artifact
from maskmill.vision.segmenters import PACKAGED_ENCODER

PARTS = ("plain", "dpg", "dpg+scl", "dcfm")
ARMS = (*PARTS, "ours")
ALONE = "_alone"  # after the name of an arm: its network, each image a group of its own
LONELY = ("dcfm", "ours")
SMALL: dict[str, Any] = {  # the published form on a small encoder
    "preset": "faithful",
    "encoder": PACKAGED_ENCODER,
    "encoder_weights": "auto",
    "feature_levels": (1, 2, 3, 4),
    "trained_layers": ("blocks.5", "blocks.6"),
    "width": 32,
    "members": 8,
    "lr": 1e-3,
    "encoder_lr_factor": 0.1,
    "grad_clip": 1.0,  # raw rank weights reach 10^5 on this grid
    "augment": {"fit": "squash", "scale": (1.0, 1.25), "rotate": 0.0, "size": 128, "brightness": 0.2, "contrast": 0.2},
}
MEASURES = ("s", "max_e", "max_f", "mae")
OBJECT = LabelSpace.from_names(["object"], name="object")
INDEX = "co_groups/groups.json"
SCENE_SIDE = 160
TRAIN_SEED, TEST_SEED = 0, 1
TILE = 96


@dataclass(frozen=True)
class Size:
    """How much of everything a budget allows."""

    groups: int  # drawn, to learn from
    members: int
    tested_groups: int
    tested_members: int
    settings: dict[str, Any]  # of the trainer


SIZES = {
    "small": Size(114, 8, 38, 6, {"steps": 250, "batch": 2, "warmup_steps": 10}),
    "full": Size(380, 8, 76, 8, {"steps": 1000, "batch": 2, "warmup_steps": 20}),
}


@dataclass(frozen=True)
class World:
    """Sample ids to learn from, and what is tested by metric suffix."""

    places: tuple[str, ...]
    train: tuple[str, ...]
    tested: dict[str, DataConfig]


def build_world(options: Options, size: Size, work: Path) -> World:
    """Draw and ingest all groups once for all seeds and arms."""
    drawn = ingest(_drawn(KNOWN_STYLES, size.groups, size.members, TRAIN_SEED), work / "drawn")
    unseen = ingest(_drawn(UNSEEN_STYLES, size.tested_groups, size.tested_members, TEST_SEED), work / "unseen")
    tested = {"distractors": DataConfig(samples=(unseen,))}
    photos, photo_ids, tested_ids = _photos(options, work)
    if tested_ids:
        tested["groups"] = DataConfig(samples=tuple(photos), ids=tuple(tested_ids))
    ids = [row["sample_id"] for row in _rows(drawn)]
    return World((drawn, *photos), (*ids, *photo_ids), tested)


def _drawn(styles: tuple[str, ...], count: int, members: int, seed: int) -> DrawnGroupsSource:
    """Groups in known styles show their things alone now and then; those of the unseen style never do."""
    scene = SceneConfig(size=SCENE_SIDE, styles=styles, seed=seed)
    alone = 0.25 if styles == KNOWN_STYLES else 0.0
    return DrawnGroupsSource(count=count, members=members, alone=alone, shared="object", scene=scene)


def ingest(source: Source, out: Path) -> str:
    """Sample shards of a source; says what was rejected."""
    map_units(ingest_stage(source, OBJECT), ingest_units(source, str(out)))
    rejects = [row for path in list_shards(f"{out}/rejects") for row in read_shard(path, DECISION).to_pylist()]
    if rejects:
        print(f"{source.kind}: {len(rejects)} items left out, e.g. {rejects[0]['detail']}", flush=True)
    return f"{out}/samples"


def _photos(options: Options, work: Path) -> tuple[list[str], list[str], list[str]]:
    """Shards of the photo groups, sample ids to learn from, and sample ids to test on."""
    places: dict[Path | None, str] = {}
    for root in dict.fromkeys((options.data, options.tested)):
        if root is None or not (root / INDEX).is_file():
            print(f"{root}: no {INDEX} there; its photo groups are left out", flush=True)
        else:
            places[root] = ingest(GroupsSource(root=str(root)), work / content_id(str(root))[:12])
    rows = {root: _rows(place) for root, place in places.items()}
    one = options.test_data is None
    test = [r for r in rows.get(options.tested, []) if not (one and is_train_key(r["group"]))]
    seen = {content_id(r["image"]["bytes"]) for r in test}
    learnt = [r for r in rows.get(options.data, []) if not (one and not is_train_key(r["group"]))]
    kept = [r["sample_id"] for r in learnt if content_id(r["image"]["bytes"]) not in seen]
    print(f"photo groups: learn from {len(kept)} images, test on {len(test)}", flush=True)
    return list(places.values()), kept, [r["sample_id"] for r in test]


def _rows(place: str) -> list[dict[str, Any]]:
    columns = ["sample_id", "group", "image"]
    return [row for path in list_shards(place) for row in read_shard(path, SAMPLE, columns).to_pylist()]


def train_arm(world: World, arm: str, seed: int, size: Size, folder: Path) -> str:
    """The artifact of one arm; a run that was cut off goes on from its checkpoint."""
    method: dict[str, Any] = {"preset": "starter"} if arm == "ours" else {**SMALL, "parts": arm}
    settings = {
        **method,
        "seed": seed,
        "schedule": "cosine",
        "precision": "fp32",
        "runtime": {"save_every": 25, "progress": False},
        **size.settings,
    }
    data = DataConfig(samples=world.places, ids=world.train)
    config = TrainConfig(trainer="dcfm", label_space=OBJECT, data=data, settings=settings)
    return train(config, str(folder / "run"), str(folder / "artifact"))


def measure(
    world: World, predictor: GroupPredictor, cache: Path, *, alone: bool = False
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """All measures on all that is tested, and S and MAE of each image; `alone` = each image is a group of its own."""
    found: dict[str, float] = {}
    units: dict[str, list[float]] = {}
    for name, data in world.tested.items():
        samples = Samples.open(data, str(cache))
        if alone:
            samples = replace(samples, infos=tuple(replace(info, group=None) for info in samples.infos))
        metrics = group_metrics(predictor, samples)
        scores = metrics.compute()
        found |= {f"{measure}@{name}": scores[measure] for measure in MEASURES}
        units |= {f"{measure}@{name}": values for measure, values in metrics.each().items()}
    return found, units


def picture(world: World, artifacts: Sequence[str], cache: Path, groups: int = 2, members: int = 6) -> Uint8Array:
    """Of some tested drawn groups: the images, their truth, and a row of maps an artifact."""
    samples = Samples.open(world.tested["distractors"], str(cache))
    sheets = []
    for positions in list(samples.groups.values())[:groups]:
        examples = [samples.example(position) for position in positions[:members]]
        rows = [[e.image for e in examples], [_grey(255 * e.mask) for e in examples if e.mask is not None]]
        for path in artifacts:
            maps = load_artifact(path, "cpu").predict_group([e.image for e in examples])
            rows.append([_grey(to_map(one.saliency)) for one in maps])
        sheets.append(np.concatenate([np.concatenate([_tile(t) for t in row], axis=1) for row in rows]))
    sheet: Uint8Array = np.concatenate([np.pad(s, ((0, 8), (0, 0), (0, 0)), constant_values=255) for s in sheets])
    return sheet


def _grey(values: Uint8Array) -> Uint8Array:
    grey: Uint8Array = np.repeat(values[..., None], 3, axis=2)
    return grey


def _tile(image: Uint8Array) -> Uint8Array:
    tile: Uint8Array = np.pad(resize_image(image, TILE, TILE), ((2, 2), (2, 2), (0, 0)), constant_values=255)
    return tile


def run(options: Options) -> None:
    """All arms of all seeds, each added as soon as it is measured."""
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    missing = [(seed, arm) for seed in options.seeds for arm in ARMS if not record.has(arm, seed)]
    world = build_world(options, size, work)
    units = Units(work / "units")
    for seed, arm in missing:
        artifact = train_arm(world, arm, seed, size, work / f"{arm}-{seed}")
        for name in (f"{arm}{ALONE}", arm) if arm in LONELY else (arm,):  # the arm itself last: it says all is done
            found, each = measure(world, load_artifact(artifact), work / "cache", alone=name != arm)
            units.add(name, seed, each)
            record.add(name, seed, found)
            print(f"seed {seed}: {name} " + " ".join(f"{k} {v:.3f}" for k, v in found.items()), flush=True)
    first = [work / f"{arm}-{options.seeds[0]}" / "artifact" for arm in ("plain", "dcfm", "ours")]
    if all(path.is_dir() for path in first):
        sheet = picture(world, [str(path) for path in first], work / "cache")
        write_bytes(str(options.json_path.with_suffix(".png")), encode_image(sheet))
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    told = [f"{measure}@{name}" for measure in ("s", "mae") for name in world.tested]
    print(units.table([*ARMS, *(f"{arm}{ALONE}" for arm in LONELY)], "plain", told, options.seeds))
    for arm in LONELY:  # what the group is worth to one and the same network
        print(units.table([arm], f"{arm}{ALONE}", told, options.seeds))
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    run(parse_options("dcfm", __doc__))
