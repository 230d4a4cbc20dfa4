"""Saliency from scribbles: what coherence, consistency and aggregation add, and how near true masks that comes.

Arms of the paper's method on a small encoder (`preset: faithful` but for encoder, width and size): `partial_ce`, `lsc`
(+ local saliency coherence), `lsc+ssc` (+ structure consistency), all three with the plain mean of a level's features;
`cat` (`lsc+ssc` with GCPANet's concatenation, the paper's own control) and `scwssod` (with AGGM: the paper's method).
`ours` is the starter: coherence, the plain mean, and cells that a stroke touches count as drawn. `fully_supervised`
has true masks. All share first weights, order of samples, crops, schedule and steps.
At this size the deepest level of the small pass is one cell: batch norms keep its statistics out of those that are
stored (`ssc_norm: own`). Both regularisers grow over the first 0.3 of the steps, in all arms (the release's learning
rate rises for half of them): at full weight from the first step, consistency wins before there is anything to be
consistent about, and one start in two ends with a grey background that no stroke can move any more. Below the table
stands MAE over the steps; S and MAE are drawn beside the JSON file.
Metrics by pysodmetrics, on photos of horses, people and DAVIS frames that training never saw, scribbles simulated:
`max_f`, `mean_e`, `s`, `mae`; and `…@grabcut` on the photos with real user strokes, which nothing was trained on: the
strokes are laid over the raw map, as the labeler does. A set that is not in the folder is said and left out.
"""

import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import Options, Record, parse_options, role_of
from benchmarks.curves import Curves
from benchmarks.paired import Units
from benchmarks.scribble_sets import Scribbled, smaller, write_sets
from maskmill.data_contracts import IGNORE, Uint8Array, decode_image, decode_mask, load_label_space
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.registry import load_artifact
from maskmill.vision.scribbles import simulate_scribble
from maskmill.vision.segmenters import PACKAGED_ENCODER

SMALL_WINDOW: dict[str, Any] = {
    "lsc_weight": 0.6,  # a window of 24 neighbours sums to less than the paper's 120
    "lsc_radius": 2,  # of a grid of 24 cells: the same reach as 5 to 6 on the paper's 80
    "xy_sigma_cells": 2.0,
}
PLAIN = {"fusion": "mean", "lsc_weight": 0.0, "ssc_weight": 0.0}
ARMS: dict[str, dict[str, Any]] = {
    "partial_ce": PLAIN,
    "lsc": {k: v for k, v in PLAIN.items() if k != "lsc_weight"},
    "lsc+ssc": {"fusion": "mean"},
    "cat": {"fusion": "cat"},
    "scwssod": {},
    "ours": {"preset": "starter"},
    "fully_supervised": {"supervision": "masks"},
}
SETTINGS: dict[str, Any] = {
    "preset": "faithful",
    "encoder": PACKAGED_ENCODER,
    "encoder_weights": "auto",
    "encoder_lr_factor": 1.0,
    "normalisation": "encoder",
    "batch": 8,
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.01,
    "schedule": "poly",
    "lr_floor": 0.0,
    "width": 32,
    **SMALL_WINDOW,
    "augment": {"size": 96, "fit": "squash", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
    "precision": "fp32",
    "ssc_norm": "own",
    "ramp": 0.3,
}
STORED = 160  # longer side of the photos that crops of 96 px are taken from
WORDS = {"s": "S", "mae": "MAE"}


@dataclass(frozen=True)
class Size:
    """How much of everything a budget allows."""

    steps: int
    frames: int  # of a sequence
    tested: int  # photos
    watched: int  # photos that are measured on the way


SIZES = {
    "small": Size(steps=300, frames=4, tested=120, watched=40),
    "full": Size(steps=1500, frames=12, tested=300, watched=60),
}
FOREGROUND = load_label_space("foreground")


def photos(root: Path, size: Size) -> Iterator[Scribbled]:
    """Horses, people and every so many frames of DAVIS, with simulated strokes."""
    for name in ("weizmann_horses", "human_foreground"):
        if not (root / name).is_dir():
            print(f"{name}: not in {root}; left out", flush=True)
        for path in sorted((root / name / "images").glob("*.*")):
            yield from _photo(f"{name} {path.stem}", path, root / name / "masks" / f"{path.stem}.png")
    if not (root / "davis").is_dir():
        print(f"davis: not in {root}; left out", flush=True)
    for folder in sorted((root / "davis" / "JPEGImages").glob("*")):
        frames = sorted(folder.glob("*.jpg"))
        for path in frames[:: max(1, -(-len(frames) // size.frames))]:
            mask = root / "davis" / "Annotations" / folder.name / f"{path.stem}.png"
            yield from _photo(f"davis {folder.name}", path, mask, f"davis {folder.name} {path.stem}")


def _photo(key: str, image: Path, mask: Path, name: str | None = None) -> Iterator[Scribbled]:
    if not mask.is_file():
        return
    truth = (decode_mask(mask.read_bytes(), str(mask)) > 0).astype(np.uint8)
    pixels = decode_image(image.read_bytes(), str(image))
    yield Scribbled(key, pixels, truth, simulate_scribble(truth, name or key))


def real_strokes(root: Path) -> Iterator[Scribbled]:
    """GrabCut photos with the first set of user strokes; the unsure band stays 255."""
    home = root / "grabcut_scribbles"
    if not home.is_dir():
        print(f"grabcut_scribbles: not in {root}; left out", flush=True)
    table = np.full(256, IGNORE, np.uint8)
    table[[1, 2]] = 1, 0
    for path in sorted((home / "images").glob("*.*")):
        files = [home / folder / f"{path.stem}.png" for folder in ("masks", "scribbles_1")]
        if all(file.is_file() for file in files):
            mask, strokes = (decode_mask(file.read_bytes(), str(file)) for file in files)
            yield Scribbled(path.stem, decode_image(path.read_bytes(), str(path)), mask, table[strokes])


def split(options: Options, size: Size) -> tuple[list[Scribbled], list[Scribbled], list[Scribbled]]:
    """What is trained on, what is tested, and the photos with real strokes (tested only)."""
    if options.data is None or options.tested is None:
        raise FileNotFoundError("scwssod: expected --data DIR with weizmann_horses/, human_foreground/ and davis/")
    everything = list(photos(options.data, size))
    if options.test_data is not None:
        train, test = everything, list(photos(options.test_data, size))
    else:
        train, test = (
            [p for p in everything if role_of(p.key, dev=options.dev) == role] for role in ("learn", "tested")
        )
    order = np.random.default_rng(6).permutation(len(test))[: size.tested]  # the same photos for every seed and arm
    return train, [test[i] for i in sorted(order)], list(real_strokes(options.tested))


class Saliency:
    """max F (beta^2 = 0.3), mean E, S and MAE by pysodmetrics, which stretches each map to its full range."""

    def __init__(self) -> None:
        from py_sod_metrics import MAE, Emeasure, Fmeasure, Smeasure

        with warnings.catch_warnings():  # the library announces another interface to the same numbers
            warnings.simplefilter("ignore")
            self.f, self.e, self.s, self.mae = Fmeasure(), Emeasure(), Smeasure(), MAE()

    def add(self, saliency: NDArray[np.float32], truth: Uint8Array) -> None:
        """One map in [0, 1] against 0, 1 and 255; unsure pixels are set to background in both."""
        judged = truth != IGNORE
        pred = np.rint(255 * saliency * judged).astype(np.uint8)
        gt = (255 * ((truth == 1) & judged)).astype(np.uint8)
        for metric in (self.f, self.e, self.s, self.mae):
            metric.step(pred=pred, gt=gt)

    def units(self) -> dict[str, list[float]]:
        """S and MAE of each image."""
        return {"s": [float(v) for v in self.s.sms], "mae": [float(v) for v in self.mae.maes]}

    def results(self, suffix: str = "") -> dict[str, float]:
        found = {
            "max_f": self.f.get_results()["fm"]["curve"].max(),
            "mean_e": self.e.get_results()["em"]["curve"].mean(),
            "s": self.s.get_results()["sm"],
            "mae": self.mae.get_results()["mae"],
        }
        return {f"{name}{suffix}": float(value) for name, value in found.items()}


def score(artifact: str, pictures: Sequence[Scribbled], *, lay_strokes: bool) -> Saliency:
    """Metrics of an artifact's raw saliency; with `lay_strokes` the strokes are certain."""
    predictor, metrics = load_artifact(artifact), Saliency()
    for start in range(0, len(pictures), 8):
        chosen = pictures[start : start + 8]
        for picture, found in zip(chosen, predictor.predict([p.image for p in chosen]), strict=True):
            saliency = found.probabilities[1]
            if lay_strokes:
                drawn = picture.scribble != IGNORE
                saliency[drawn] = picture.scribble[drawn]
            metrics.add(saliency, picture.mask)
    return metrics


def train_arm(
    learnt: Sequence[Scribbled],
    watched: Sequence[Scribbled],
    arm: dict[str, Any],
    steps: int,
    seed: int,
    folder: Path,
) -> str:
    """Train one arm, measuring `watched` on the way; a run that was cut off goes on from its checkpoint."""
    drawn, dense = write_sets([smaller(p, STORED) for p in learnt], FOREGROUND, folder.parent / "data")
    _, seen = write_sets(watched, FOREGROUND, folder.parent / "watched")
    runtime = {"save_every": 50, "progress": False}
    every = {"eval_every": max(1, steps // 6)}
    settings = {**SETTINGS, "steps": steps, **every, **arm, "seed": seed, "runtime": runtime}
    data = dense if arm.get("supervision") == "masks" else drawn
    config = TrainConfig(trainer="scwssod", label_space=FOREGROUND, data=data, val=seen, settings=settings)
    return train(config, str(folder / "run"), str(folder / "artifact"))


def run(options: Options) -> None:
    """All arms of all seeds, each added as soon as it is measured."""
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    learnt, tested, real = split(options, size)
    units, curves = Units(work / "units"), Curves(work / "curves")
    for seed in options.seeds:
        for arm, settings in ARMS.items():
            if record.has(arm, seed):
                continue
            artifact = train_arm(learnt, tested[: size.watched], settings, size.steps, seed, work / f"{arm} {seed}")
            curves.add(arm, seed, artifact)
            measured = score(artifact, tested, lay_strokes=False)
            found = measured.results()
            if real:
                found |= score(artifact, real, lay_strokes=True).results("@grabcut")
            units.add(arm, seed, measured.units())
            record.add(arm, seed, found)
            print(f"seed {seed}: {arm} {found}", flush=True)
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    print(units.table(list(ARMS), "lsc+ssc", ["s", "mae"], options.seeds))
    print(curves.table(list(ARMS), "mae", options.seeds))
    curves.draw(list(ARMS), WORDS, options.seeds, options.json_path.with_suffix(".png"))
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    run(parse_options("scwssod", __doc__, has_dev=True))
