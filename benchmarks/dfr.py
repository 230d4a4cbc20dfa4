"""Classes from scribbles: partial cross-entropy, + the static kernel (Gated CRF), + DFR, and true masks.

Arms: `partial_ce`, `static`, `dfr` (our reading of the paper: no code of it is public), `dilated` (`static` in a window
that reaches 8 cells), `ours` (that with a head whose calibrated affinity stands beside colours once both together tell
strokes apart better than colours alone), `fully_supervised`. All share encoder, decoder, first weights, order of
samples, crops, schedule and steps; settings that no arm names are those of `preset: faithful` but for the network and
what fits a CPU.
Metrics: `dice` on ACDC with its real scribbles (and `dice_rv`, `dice_myo`, `dice_lv`): 3D Dice of a class in a volume,
mean over the volumes of patients that training never saw, mean over the classes; `boundary_f` of the same slices;
`affinity_auc` and `colour_auc`, how well head and colours tell pairs at true borders; `ratio_kernel` and
`ratio_colour`, mean weight on pairs of strokes of one class by that on different ones; `miou@ccp` on Clothing
Co-Parsing (coarse classes) with scribbles simulated from the masks, tested on photos that training never saw. A set
that is not in the folder is said and left out. Budget `long` takes 800 steps instead of 300, on ACDC alone, and
`--arms` runs some arms alone. Below the table stands mIoU over the steps, also drawn beside the JSON
file.
"""

import functools
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Options, Record, parse_options, role_of
from benchmarks.curves import Curves
from benchmarks.paired import Units
from benchmarks.scribble_sets import Scribbled, write_sets
from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array, decode_image, decode_mask, load_label_space
from maskmill.data_contracts.sums import read_json
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.dfr.config import PRESETS
from maskmill.trainers.dfr.measures import boundary_f
from maskmill.trainers.engine import SegmentationMetrics
from maskmill.trainers.engine.history import read_log
from maskmill.trainers.registry import load_artifact
from maskmill.vision.scribbles import simulate_scribble
from maskmill.vision.segmenters import PACKAGED_ENCODER

DILATED: dict[str, Any] = {"dilations": (1, 2, 4, 8), "xy_sigma_cells": 6.0}
ARMS: dict[str, dict[str, Any]] = {
    "partial_ce": {"reg_weight": 0.0, "fc_weight": 0.0},
    "static": {"kernel": "static", "fc_weight": 0.0},
    "dfr": {},
    "dilated": {"kernel": "static", "fc_weight": 0.0, **DILATED},
    "ours": {"kernel": "sum", "calibrated": True, **DILATED},
    "fully_supervised": {"supervision": "masks"},
}
WORDS = {"miou": "mIoU of some slices", "boundary_f": "boundary F of the same"}
ACDC_NAMES = {"dice_rv": 1, "dice_myo": 2, "dice_lv": 3}
Listed = tuple[str, Callable[[], Scribbled]]  # a key, and how to read the picture
STEM = re.compile(r"(?P<patient>.+)_frame(?P<frame>\d+)_slice_(?P<slice>\d+)$")


@dataclass(frozen=True)
class Size:
    """How much of everything a budget allows."""

    acdc_steps: int
    ccp_steps: int
    ccp_train: int
    ccp_test: int
    watched: int  # slices that are measured on the way


SIZES = {
    "small": Size(300, 0, 300, 60, 40),
    "full": Size(1200, 800, 500, 200, 60),
    "long": Size(800, 0, 300, 60, 40),
}
# The same for all arms. Window and colours were chosen for the static kernel, on training patients alone.
SHARED: dict[str, Any] = {
    **{key: value for key, value in PRESETS["faithful"].items() if key not in ("segmenter", "augment")},
    "segmenter": {
        "architecture": "fpn",
        "encoder": PACKAGED_ENCODER,
        "weights": "auto",
        "options": {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 64},
    },
    "batch": 4,
    "lr": 1e-3,
    "warmup_steps": 10,
    "radius": 3,  # on a grid of 48 cells: the share of the picture that 5 to 8 are of the usual 128
    "xy_sigma_cells": 3.0,
    "colour_sigma_normalised": 0.15,
    "reg_weight": 0.3,
    "pair_radius": 3,
    "head_dim": 32,
    "long_pairs": 64,
}
SIDE = 192  # of a crop, so that borders can show on the loss grid


@dataclass(frozen=True)
class World:
    """One data set: what is trained on, what is tested, in which classes, with which settings for all arms."""

    name: str
    space: LabelSpace
    train: tuple[Scribbled, ...]
    test: tuple[Scribbled, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def acdc_world(options: Options, size: Size) -> World | None:
    """ACDC slices, split by patient; with --test-data all patients of --data are learnt from."""
    train, test = _split(options, "acdc", acdc_slices)
    settings = {
        "steps": size.acdc_steps,
        "augment": {
            **{"size": SIDE, "fit": "short", "scale": (0.9, 1.3), "rotate": 15.0},
            **{"brightness": 0.2, "contrast": 0.2},
        },
    }
    return World("acdc", load_label_space("acdc"), train, test, settings) if train and test else None


def acdc_slices(root: Path) -> Iterator[Listed]:
    """Patient of each slice that has a mask and a scribble, and how to read it."""
    for path in sorted((root / "acdc" / "images").glob("*.png")):
        place = STEM.match(path.stem)
        files = [root / "acdc" / folder / path.name for folder in ("masks", "scribbles")]
        if place is not None and all(file.is_file() for file in files):
            volume = f"{place['patient']} {place['frame']}"
            yield place["patient"], functools.partial(_slice, place["patient"], volume, path, *files)


def _slice(patient: str, volume: str, path: Path, mask_file: Path, scribble_file: Path) -> Scribbled:
    mask, scribble = (decode_mask(file.read_bytes(), str(file)) for file in (mask_file, scribble_file))
    scribble[np.isin(scribble, load_label_space("acdc").ignore_ids)] = IGNORE
    return Scribbled(patient, decode_image(path.read_bytes(), str(path)), mask, scribble, volume)


def ccp_world(options: Options, size: Size) -> World | None:
    """Clothing photos in coarse classes, split by photo, with simulated scribbles."""
    if not size.ccp_steps:
        return None
    train, test = _split(options, "ccp", _ccp, size.ccp_train, size.ccp_test)
    if not train or not test:
        return None
    index = json.loads((Path(str(options.data)) / "ccp" / "classes.json").read_text())
    settings = {
        "steps": size.ccp_steps,
        "augment": {
            **{"size": SIDE, "fit": "short", "scale": (1.0, 1.5)},
            **{"brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
        },
    }
    space = LabelSpace.from_names(index["coarse_classes"][1:], name="ccp coarse")
    return World("ccp", space, train, test, settings)


def _ccp(root: Path) -> Iterator[Listed]:
    index = root / "ccp" / "classes.json"
    if not index.is_file():
        return
    table = np.full(256, IGNORE, np.uint8)
    coarse = json.loads(index.read_text())["fine_to_coarse"]
    table[: len(coarse)] = coarse
    for path in sorted((root / "ccp" / "images").glob("*.jpg")):
        file = root / "ccp" / "masks" / f"{path.stem}.png"
        if file.is_file():
            yield path.stem, functools.partial(_photo, path, file, table)


def _photo(path: Path, file: Path, table: Uint8Array) -> Scribbled:
    mask = table[decode_mask(file.read_bytes(), str(file))]
    image = decode_image(path.read_bytes(), str(path))
    return Scribbled(path.stem, image, mask, simulate_scribble(mask, path.stem))


def _split(
    options: Options,
    name: str,
    read: Callable[[Path], Iterator[Listed]],
    most_train: int | None = None,
    most_test: int | None = None,
) -> tuple[tuple[Scribbled, ...], tuple[Scribbled, ...]]:
    """What is trained on and what is tested; pixels are read for what is used alone."""
    if options.data is None:
        raise FileNotFoundError(f"dfr: expected --data DIR with {name}/")
    everything = list(read(options.data))
    if options.test_data is not None:
        train, test = everything, list(read(options.test_data))
    else:
        train, test = (
            [e for e in everything if role_of(e[0], dev=options.dev) == role] for role in ("learn", "tested")
        )
    if not train or not test:
        print(f"{name}: nothing to train on or to test; left out", flush=True)
        return (), ()
    return tuple(load() for _, load in train[:most_train]), tuple(load() for _, load in test[:most_test])


def dice_by_volume(volumes: dict[str, list[tuple[Uint8Array, Uint8Array]]]) -> list[float]:
    """Mean Dice over a volume's classes, volume by volume in order of their names."""
    alone = [{name: volumes[name]} for name in sorted(volumes)]
    return [float(np.nanmean([volume_dice(one, class_id) for class_id in ACDC_NAMES.values()])) for one in alone]


def volume_dice(volumes: dict[str, list[tuple[Uint8Array, Uint8Array]]], class_id: int) -> float:
    """Mean over volumes of 2 |A ∩ B| / (|A| + |B|), over all slices of a volume; volumes without the class in their
    truth do not count.
    """
    found = []
    for slices in volumes.values():
        truth = sum(int((t == class_id).sum()) for _, t in slices)
        hit = sum(int(((p == class_id) & (t == class_id)).sum()) for p, t in slices)
        said = sum(int(((p == class_id) & (t != IGNORE)).sum()) for p, t in slices)
        if truth:
            found.append(2 * hit / (truth + said))
    return float(np.mean(found)) if found else float("nan")


def predict(artifact: str, pictures: Sequence[Scribbled]) -> Iterator[tuple[Scribbled, Uint8Array]]:
    """Label maps of whole pictures at their own size, a few at a time."""
    predictor = load_artifact(artifact)
    for start in range(0, len(pictures), 8):
        chosen = pictures[start : start + 8]
        yield from zip(chosen, predictor.labels([p.image for p in chosen]), strict=True)


def score(world: World, artifact: str) -> tuple[dict[str, float], list[float]]:
    """The metrics of a world, and of ACDC the Dice of each volume."""
    if world.name == "ccp":
        metrics = SegmentationMetrics(world.space)
        for picture, labels in predict(artifact, world.test):
            metrics.update(labels, picture.mask)
        return {"miou@ccp": float(metrics.compute()["miou"])}, []
    volumes: dict[str, list[tuple[Uint8Array, Uint8Array]]] = defaultdict(list)
    for picture, labels in predict(artifact, world.test):
        volumes[picture.volume].append((labels, picture.mask))
    each = {name: volume_dice(volumes, class_id) for name, class_id in ACDC_NAMES.items()}
    ids = list(ACDC_NAMES.values())
    borders = [boundary_f(labels, mask, ids) for slices in volumes.values() for labels, mask in slices]
    found = {"dice": float(np.nanmean(list(each.values()))), **each, "boundary_f": float(np.nanmean(borders))}
    return found, dice_by_volume(volumes)


def affinities(folder: Path) -> dict[str, float]:
    """What an arm's training measured of its kernels: AUC at true borders after the last step, ratios near its end."""
    last = read_json(f"{folder}/artifact/metrics.json")
    found: dict[str, float] = {name: float(last[name]) for name in ("affinity_auc", "colour_auc") if name in last}
    for record in read_log(f"{folder}/run/metrics.jsonl"):
        found |= {name: float(record[name]) for name in ("ratio_kernel", "ratio_colour") if name in record}
    return found


def train_arm(world: World, arm: dict[str, Any], seed: int, folder: Path, watched: int) -> str:
    """Train one arm, measuring some tested pictures on the way; a run that was cut off goes on from its checkpoint."""
    drawn, dense = write_sets(world.train, world.space, folder.parent / "data")
    _, seen = write_sets(world.test[:: max(1, len(world.test) // watched)], world.space, folder.parent / "watched")
    settings = {
        **SHARED,
        **world.settings,
        "eval_every": max(1, world.settings["steps"] // 6),
        **arm,
        "seed": seed,
        "runtime": {"save_every": 50, "progress": False},
    }
    data = dense if arm.get("supervision") == "masks" else drawn
    config = TrainConfig(trainer="dfr", label_space=world.space, data=data, val=seen, settings=settings)
    return train(config, str(folder / "run"), str(folder / "artifact"))


def run(options: Options) -> None:
    """All arms of all seeds, each added as soon as it is measured."""
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    worlds = [w for w in (acdc_world(options, size), ccp_world(options, size)) if w is not None]
    units, curves = Units(work / "units"), Curves(work / "curves")
    for seed in options.seeds:
        for arm, settings in ((arm, ARMS[arm]) for arm in options.arms or ARMS):
            if record.has(arm, seed):
                continue
            found: dict[str, float] = {}
            for world in worlds:
                folder = work / world.name / f"{arm} {seed}"
                artifact = train_arm(world, settings, seed, folder, size.watched)
                metrics, each = score(world, artifact)
                found |= metrics
                if each:
                    found |= affinities(folder)
                    units.add(arm, seed, {"dice": each})
                    curves.add(arm, seed, artifact)
            record.add(arm, seed, found)
            print(f"seed {seed}: {arm} {found}", flush=True)
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    arms = list(options.arms or ARMS)
    print(units.table(arms, "static", ["dice"], options.seeds))
    print(curves.table(arms, "miou", options.seeds))
    curves.draw(arms, WORDS, options.seeds, options.json_path.with_suffix(".png"))
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    run(parse_options("dfr", __doc__, has_dev=True, has_long=True, arms=tuple(ARMS)))
