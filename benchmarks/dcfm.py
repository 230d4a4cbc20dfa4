"""What a group adds to saliency: the shared object of image groups, with and without other things beside it.

Arms of the paper's method on a small encoder (`preset: faithful` but for encoder, widths, size and steps): `plain`
(saliency: the same encoder and decoder, each image for itself), `dpg` (+ democratic prototypes), `dpg+scl` (+ self-
contrastive learning), `dcfm` (+ democratic feature enhancement: the published form). `ours` is the very network of
`plain`, times what the votes of a frozen recogniser say is shared, votes and map refined along edges: nothing more is
trained. `plain+edges` is what that refinement makes of the maps of `plain`. `dcfm_alone` is the network of `dcfm` with
each image as a group of its own. All train on the same groups, from the same first weights, in the same order.
Metrics: S (`s`), max E, max F and MAE; `@groups` on the photo groups of `co_groups` in which the answer can be told
(tested: groups that training never saw, whose photos it never saw), `@garments` on those of one garment on a person
each, in which it hardly can; `@distractors` on drawn groups in a style that training never saw, where every image shows
things of other classes beside the shared one, `@seen` on such groups in styles that it saw. Beside the JSON file it
writes a picture, and S over the steps on some groups with distractors.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Options, Record, parse_options, role_of
from benchmarks.curves import Curves
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

SIDE = 224  # of drawn scenes and of what networks see, in pixels, so that borders can show
PARTS = ("plain", "dpg", "dpg+scl", "dcfm")
EDGES = "plain+edges"
ARMS = ("plain", EDGES, "ours", *PARTS[1:], "dcfm_alone")
TRAINED = {"ours": "plain", EDGES: "plain", "dcfm_alone": "dcfm"}  # the arm whose network it is
PICTURED = ("plain", "dcfm", "ours")
SMALL: dict[str, Any] = {  # the published form on a small encoder
    "preset": "faithful",
    "encoder": PACKAGED_ENCODER,
    "encoder_weights": "auto",
    "feature_levels": (1, 2, 3, 4),
    "trained_layers": ("blocks.5", "blocks.6"),
    "width": 32,
    "head_depth": 1,
    "norm": "group",  # without norms a few hundred steps at a rate that learns anything end in dead layers
    "members": 8,
    "lr": 2e-3,
    "encoder_lr_factor": 0.1,
    "grad_clip": 1.0,  # raw rank weights reach 10^5 on this grid
    "augment": {"fit": "squash", "scale": (1.0, 1.25), "rotate": 0.0, "size": SIDE, "brightness": 0.2, "contrast": 0.2},
    "consensus_weight": 2.0,  # of `ours`; no training sees it
}
WORDS = {"s": "S of some groups with distractors", "max_f": "max F of the same"}
GARMENTS = "ccp"  # source of the groups of one garment on a person each
MEASURES = ("s", "max_e", "max_f", "mae")
OBJECT = LabelSpace.from_names(["object"], name="object")
INDEX = "co_groups/groups.json"
TRAIN_SEED, TEST_SEED, DEV_SEED = 0, 1, 2
TILE = 96


@dataclass(frozen=True)
class Size:
    """How much of everything a budget allows."""

    groups: int  # drawn, to learn from
    members: int
    tested_groups: int
    tested_members: int
    settings: dict[str, Any]  # of the trainer
    watched: int = 8  # tested groups that are measured on the way


SIZES = {
    "small": Size(114, 8, 20, 6, {"steps": 250, "batch": 1, "warmup_steps": 10}),
    "full": Size(380, 8, 76, 8, {"steps": 1000, "batch": 2, "warmup_steps": 20}),
}


@dataclass(frozen=True)
class World:
    """Sample ids to learn from, what is tested by metric suffix, and some of it that is measured on the way."""

    places: tuple[str, ...]
    train: tuple[str, ...]
    tested: dict[str, DataConfig]
    watched: DataConfig


def build_world(options: Options, size: Size, work: Path) -> World:
    """Draw and ingest all groups once for all seeds and arms. Development parts hold no drawing of the unseen style."""
    drawn = ingest(_drawn(KNOWN_STYLES, size.groups, size.members, TRAIN_SEED, alone=0.25), work / "drawn")
    seed = DEV_SEED if options.dev else TEST_SEED
    styles = {"distractors": KNOWN_STYLES} if options.dev else {"distractors": UNSEEN_STYLES, "seen": KNOWN_STYLES}
    tested = {}
    for name, chosen in styles.items():
        place = ingest(_drawn(chosen, size.tested_groups, size.tested_members, seed), work / name)
        tested[name] = DataConfig(samples=(place,))
    watched = sorted({row["group"] for row in _rows(tested["distractors"].samples[0])})[: size.watched]
    ids = [row["sample_id"] for row in _rows(tested["distractors"].samples[0]) if row["group"] in watched]
    photos, photo_ids, by_kind = _photos(options, work)
    tested |= {kind: DataConfig(samples=tuple(photos), ids=tuple(ids)) for kind, ids in by_kind.items() if ids}
    learnt = [row["sample_id"] for row in _rows(drawn)]
    on_the_way = tested["distractors"].model_copy(update={"ids": tuple(ids)})
    return World((drawn, *photos), (*learnt, *photo_ids), tested, on_the_way)


def _drawn(styles: tuple[str, ...], count: int, members: int, seed: int, alone: float = 0.0) -> DrawnGroupsSource:
    """Groups of things among others; a share `alone` of them without."""
    scene = SceneConfig(size=SIDE, styles=styles, seed=seed)
    return DrawnGroupsSource(count=count, members=members, alone=alone, shared="object", scene=scene)


def ingest(source: Source, out: Path) -> str:
    """Sample shards of a source; says what was rejected."""
    map_units(ingest_stage(source, OBJECT), ingest_units(source, str(out)))
    rejects = [row for path in list_shards(f"{out}/rejects") for row in read_shard(path, DECISION).to_pylist()]
    if rejects:
        print(f"{source.kind}: {len(rejects)} items left out, e.g. {rejects[0]['detail']}", flush=True)
    return f"{out}/samples"


def _photos(options: Options, work: Path) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """Shards of the photo groups, sample ids to learn from, and sample ids to test on by kind."""
    places: dict[Path | None, str] = {}
    garments: set[str] = set()
    for root in dict.fromkeys((options.data, options.tested)):
        if root is None or not (root / INDEX).is_file():
            print(f"{root}: no {INDEX} there; its photo groups are left out", flush=True)
        else:
            places[root] = ingest(GroupsSource(root=str(root)), work / content_id(str(root))[:12])
            listed = json.loads((root / INDEX).read_text())["groups"]
            garments |= {group["name"] for group in listed if group.get("source") == GARMENTS}
    rows = {root: _rows(place) for root, place in places.items()}
    one = options.test_data is None

    def of(root: Path | None, role: str) -> list[dict[str, Any]]:
        return [r for r in rows.get(root, []) if not one or role_of(r["group"], dev=options.dev) == role]

    test = of(options.tested, "tested")
    seen = {content_id(r["image"]["bytes"]) for r in test}
    kept = [r["sample_id"] for r in of(options.data, "learn") if content_id(r["image"]["bytes"]) not in seen]
    print(f"photo groups: learn from {len(kept)} images, test on {len(test)}", flush=True)
    kinds: dict[str, list[str]] = {"groups": [], "garments": []}
    for row in test:
        kinds["garments" if row["group"] in garments else "groups"].append(row["sample_id"])
    return list(places.values()), kept, kinds


def _rows(place: str) -> list[dict[str, Any]]:
    columns = ["sample_id", "group", "image"]
    return [row for path in list_shards(place) for row in read_shard(path, SAMPLE, columns).to_pylist()]


def train_arm(world: World, arm: str, seed: int, size: Size, folder: Path) -> str:
    """The artifact of one arm; a run that was cut off goes on from its checkpoint."""
    settings = {
        **SMALL,
        "parts": arm,
        "consensus_weight": SMALL["consensus_weight"] if arm == "plain" else 0.0,
        "eval_every": max(1, size.settings["steps"] // 5),
        "seed": seed,
        "schedule": "cosine",
        "precision": "fp32",
        "runtime": {"save_every": 25, "progress": False},
        **size.settings,
    }
    data = DataConfig(samples=world.places, ids=world.train)
    config = TrainConfig(trainer="dcfm", label_space=OBJECT, data=data, val=world.watched, settings=settings)
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
            order = [place for places in samples.groups.values() for place in places]  # as groups are measured
            samples = replace(samples, infos=tuple(replace(samples.infos[place], group=None) for place in order))
        metrics = group_metrics(predictor, samples)
        scores = metrics.compute()
        found |= {f"{measure}@{name}": scores[measure] for measure in MEASURES}
        units |= {f"{measure}@{name}": values for measure, values in metrics.each().items()}
    return found, units


def picture(world: World, artifacts: Mapping[str, str], cache: Path, groups: int = 2, members: int = 6) -> Uint8Array:
    """Of some tested drawn groups: the images, their truth, and a row of maps an arm."""
    samples = Samples.open(world.tested["distractors"], str(cache))
    sheets = []
    for positions in list(samples.groups.values())[:groups]:
        examples = [samples.example(position) for position in positions[:members]]
        rows = [[e.image for e in examples], [_grey(255 * e.mask) for e in examples if e.mask is not None]]
        for arm, path in artifacts.items():
            maps = predictor_of(arm, path).predict_group([e.image for e in examples])
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


def predictor_of(arm: str, artifact: str) -> GroupPredictor:
    """The network of an arm as the arm uses it: that of `ours` is trained as `plain`."""
    predictor: GroupPredictor = load_artifact(artifact)
    if arm == "plain":
        predictor.consensus = None
    elif arm == EDGES and predictor.consensus is not None:
        predictor.consensus.weight = 0.0  # all votes count alike
    return predictor


def run(options: Options) -> None:
    """All arms of all seeds, each added as soon as it is measured."""
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    missing = [(seed, arm) for seed in options.seeds for arm in ARMS if not record.has(arm, seed)]
    world = build_world(options, size, work)
    units, curves = Units(work / "units"), Curves(work / "curves")
    for seed, arm in missing:
        trained = TRAINED.get(arm, arm)
        artifact = train_arm(world, trained, seed, size, work / f"{trained}-{seed}")
        found, each = measure(world, predictor_of(arm, artifact), work / "cache", alone=arm.endswith("_alone"))
        units.add(arm, seed, each)
        if arm == "ours" or trained == arm != "plain":  # what is watched on the way of `plain` has the votes
            curves.add(arm, seed, artifact)
        record.add(arm, seed, found)
        print(f"seed {seed}: {arm} " + " ".join(f"{k} {v:.3f}" for k, v in found.items()), flush=True)
    first = {arm: work / f"{TRAINED.get(arm, arm)}-{options.seeds[0]}" / "artifact" for arm in PICTURED}
    if all(path.is_dir() for path in first.values()):
        sheet = picture(world, {arm: str(path) for arm, path in first.items()}, work / "cache")
        write_bytes(str(options.json_path.with_suffix(".png")), encode_image(sheet))
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    told = [f"{measure}@{name}" for measure in ("s", "mae") for name in world.tested]
    print(units.table(ARMS, "plain", told, options.seeds))
    print(units.table(["dcfm"], "dcfm_alone", told, options.seeds))  # what the group is worth to the same network
    print(curves.table(ARMS, "s", options.seeds))
    curves.draw(ARMS, WORDS, options.seeds, options.json_path.with_suffix(".curves.png"))
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    run(parse_options("dcfm", __doc__, has_dev=True))
