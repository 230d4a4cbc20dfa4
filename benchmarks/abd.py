"""Three labelled patients, the rest unlabelled: what semi-supervised training adds, and what displacement adds to it.

Needs acdc/ (cardiac MRI slices as PNG). Patients are split by a fixed hash into learnt and tested ones; each seed draws
its three labelled patients. All arms take the same number of steps with the same batches of labelled slices; they
differ in nothing but the host and its switches.
Arms: `supervised` (the labelled patients alone), `ct` (Cross Teaching, both networks on one view), `ct+strong` (network
2 on a strong view), `ct+strong+R` and `ct+strong+I` (one displacement each), `ct+abd` (both); `bcp`, `bcp+two_students`
(one a view), `bcp+abd` (as released: ABD-R alone); `fully_supervised` (all learnt patients with their masks). Four
candidates as published. Networks of one name begin with the same weights in all arms of a host.
Slices wider than high are turned upright, and of each predicted scan the largest blob counts, in all arms alike.
Metrics, per volume at native size: `dice`, `hd95_mm` (MONAI's 95 % Hausdorff distance), `jaccard`, `asd_mm`, `missed`
(share of organs that were not found, which have no distance), `displacement_share` (of the time of a training step),
`gain_dice` (over the arm without the last part; `ct+abd` over `ct+strong`). Below the table stand the same gains volume
by volume (each volume's mean over seeds), with the smallest that so many volumes can tell from none.
ACDC's PNG files hold no spacing: 1.5 mm in plane and 10 mm between slices, its usual protocol, are taken.
Writes a picture of tested slices beside the JSON file. `--dev` leaves the tested patients alone: it learns from the
training part of the learnt ones, measures their development part, and runs the arms that differ in what ABD-R lends:
in `ct+strong+R_organs` and `ct+abd_organs` candidates are the patches in which the lending network finds an organ.
"""

import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Options, Record, is_train_key, parse_options, part_of
from benchmarks.paired import Units
from maskmill.data_contracts import SAMPLE, LabelSpace, list_shards, load_label_space, read_shard, write_bytes
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.volumes_slices import SliceSource
from maskmill.pipelines.stages.evaluate import overlay
from maskmill.pipelines.stages.evaluate_volumes import VolumesConfig, predict_volume, read_volumes, volume_metrics
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.abd import Config
from maskmill.trainers.abd.displace import displace, inverse, reliable
from maskmill.trainers.abd.hosts import bcp_step, cross_teaching_step
from maskmill.trainers.abd.networks import build_networks
from maskmill.trainers.engine import DataConfig
from maskmill.trainers.registry import load_artifact

LABELLED = 3
SPACING = (10.0, 1.5, 1.5)
PLAIN = {"strong_view": False, "displace_unlabelled": False, "displace_labelled": False}
ARMS: dict[str, dict[str, Any]] = {
    "supervised": {"host": "supervised", **PLAIN},
    "ct": {"host": "cross_teaching", **PLAIN},
    "ct+strong": {"host": "cross_teaching", **PLAIN, "strong_view": True},
    "ct+strong+R": {"host": "cross_teaching", "displace_labelled": False},
    "ct+strong+I": {"host": "cross_teaching", "displace_unlabelled": False},
    "ct+abd": {"host": "cross_teaching"},
    "ct+strong+R_organs": {"host": "cross_teaching", "displace_labelled": False, "lend": "organs"},
    "ct+abd_organs": {"host": "cross_teaching", "lend": "organs"},
    "bcp": {"host": "bcp", **PLAIN},
    "bcp+two_students": {"host": "bcp", **PLAIN, "strong_view": True},
    "bcp+abd": {"host": "bcp", "displace_labelled": False},
    "fully_supervised": {"host": "supervised", **PLAIN},
}
#: What is measured, and what `--dev` measures on patients of the learnt part: which patches ABD-R may choose from.
TABLE = tuple(arm for arm in ARMS if not arm.endswith("_organs"))
CHOICES = ("supervised", "ct+strong", "ct+strong+R", "ct+strong+R_organs", "ct+abd", "ct+abd_organs")
#: What each arm adds to.
WITHOUT = {
    "ct": "supervised",
    "ct+strong": "ct",
    "ct+strong+R": "ct+strong",
    "ct+strong+I": "ct+strong",
    "ct+abd": "ct+strong",
    "ct+strong+R_organs": "ct+strong",
    "ct+abd_organs": "ct+strong",
    "bcp": "supervised",
    "bcp+two_students": "bcp",
    "bcp+abd": "bcp+two_students",
}
ENCODER = {"encoder_depth": 4, "decoder_channels": [48, 32, 16, 8]}
CNN = {"architecture": "unet", "encoder": "tf_efficientnet_lite0", "options": ENCODER}
#: No transformer's weights ship with a package: the partner has the same pre-trained encoder under a decoder that
#: attends over all positions.
ATTENTION = {**CNN, "architecture": "manet", "options": {**ENCODER, "decoder_pab_channels": 32}}
COMMON: dict[str, Any] = {
    "network": CNN,
    "frozen_stages": 4,
    "frozen_depthwise": True,
    "augment": {"size": 80, "fit": "short", "scale": [1.12, 1.68], "rotate": 20.0, "flip": 0.0},
    "batch": 6,
    "unlabelled_batch": 6,
    "optimizer": "adamw",
    "lr": 3e-3,
    "schedule": "poly",
    "warmup_steps": 20,
    "candidates": 4,
    "consistency": 0.5,
    "jitter": 0.5,
    "cutout": 0.5,
}
HOSTS: dict[str, dict[str, Any]] = {
    "supervised": {},
    "cross_teaching": {"partner": ATTENTION},
    "bcp": {"partner": CNN, "consistency": 1.0},
}
STEPS = {"small": 240, "full": 3000}


def run(options: Options) -> None:
    """All arms of all seeds, each added as soon as it is measured."""
    record = Record.open(options)
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    space = load_label_space("acdc")
    learnt = ingest(options.data, space, work / "data")
    tested = learnt if options.tested == options.data else ingest(options.tested, space, work / "test-data")
    patients = patients_of(learnt)
    test_names = tuple(patients_of(tested))
    if options.dev:
        test_names = tuple(name for name in patients if part_of(name) == "dev")
        patients = {name: ids for name, ids in patients.items() if part_of(name) == "train"}
    elif options.test_data is None:
        patients = {name: ids for name, ids in patients.items() if is_train_key(name)}
        test_names = tuple(name for name in test_names if not is_train_key(name))
    if len(patients) <= LABELLED or not test_names:
        raise ValueError(
            f"{options.data}/acdc: expected more than {LABELLED} patients to learn from and one to test, found "
            f"{len(patients)} and {len(test_names)}; give a larger folder, or --test-data"
        )
    arms, units = CHOICES if options.dev else TABLE, Units(work / "units")
    for seed in options.seeds:
        for arm in (arm for arm in arms if not record.has(arm, seed)):
            begun = time.perf_counter()
            artifact = train_arm(arm, seed, options, patients, learnt, space, work)
            found, by_volume = measure(arm, artifact, tested, test_names, options)
            units.add(arm, seed, {"dice": by_volume})
            if (other := record.values.get(WITHOUT.get(arm, ""), {}).get(str(seed))) is not None:
                found["gain_dice"] = found["dice"] - other["dice"]
            record.add(arm, seed, found)
            said = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
            print(f"seed {seed}: {arm}: {said} ({time.perf_counter() - begun:.0f} s)", flush=True)
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    for arm in (arm for arm in arms if arm in WITHOUT):
        print(units.table([arm], WITHOUT[arm], ["dice"], options.seeds))
    if options.dev:
        shutil.rmtree(work, ignore_errors=True)
        return
    picture = options.json_path.with_suffix(".png")
    write_bytes(str(picture), draw(work, options.seeds[0], tested, test_names, space))
    print(f"picture: {picture}")
    shutil.rmtree(work, ignore_errors=True)


def ingest(root: Path | None, space: LabelSpace, out: Path) -> str:
    """The slices as Sample shards; returns their folder.

    Raises:
        FileNotFoundError: no acdc/ in the data folder.
    """
    folder = None if root is None else root / "acdc"
    if folder is None or not folder.is_dir():
        raise FileNotFoundError(f"abd: expected --data DIR with acdc/images and acdc/masks, found no {folder}")
    source = SliceSource(root=str(folder), spacing=SPACING, upright=True)
    for report in map_units(ingest_stage(source, space), ingest_units(source, str(out), shard_size=256)):
        lost = {reason: count for reason, count in report.counts.items() if reason != "kept"}
        if lost:
            print(f"left out: {lost}", flush=True)
    return str(out / "samples")


def patients_of(samples: str) -> dict[str, list[str]]:
    """Sample ids by patient, sorted."""
    found: dict[str, list[str]] = {}
    for path in list_shards(samples):
        for row in read_shard(path, SAMPLE, ["sample_id", "group"]).to_pylist():
            found.setdefault(row["group"], []).append(row["sample_id"])
    return {name: sorted(found[name]) for name in sorted(found)}


def labelled_patients(names: list[str], seed: int) -> tuple[str, ...]:
    """The patients whose masks are given, drawn by the seed."""
    order = np.random.default_rng([seed, 8]).permutation(len(names))
    return tuple(sorted(names[i] for i in order[:LABELLED]))


def settings_of(arm: str, seed: int, steps: int, patients: list[str]) -> dict[str, Any]:
    """Settings of the trainer for one arm."""
    switches = ARMS[arm]
    labelled = tuple(patients) if arm == "fully_supervised" else labelled_patients(patients, seed)
    return {
        **COMMON,
        **HOSTS[switches["host"]],
        **switches,
        "labelled_groups": labelled,
        "seed": seed,
        "steps": steps,
        "runtime": {"save_every": 100, "progress": False},
    }


def train_arm(
    arm: str, seed: int, options: Options, patients: dict[str, list[str]], samples: str, space: LabelSpace, work: Path
) -> str:
    """Train one arm, or go on where it was cut off; returns the artifact."""
    ids = tuple(sample_id for rows in patients.values() for sample_id in rows)
    config = TrainConfig(
        trainer="abd",
        label_space=space,
        data=DataConfig(samples=(samples,), ids=ids),
        settings=settings_of(arm, seed, STEPS[options.budget], list(patients)),
    )
    return train(config, str(work / f"{seed}" / arm / "run"), artifact_of(work, seed, arm))


def artifact_of(work: Path, seed: int, arm: str) -> str:
    """Where an arm's artifact lies until the benchmark is done."""
    return str(work / f"{seed}" / arm / "artifact")


def measure(
    arm: str, artifact: str, tested: str, names: tuple[str, ...], options: Options
) -> tuple[dict[str, float], list[float]]:
    """Metrics of one arm on the tested patients, and each volume's Dice."""
    volumes = volume_metrics(VolumesConfig(artifact=artifact, samples=tested, groups=names, one_organ=True))
    found = volumes.compute()
    wanted = ("dice", "hd95_mm", "jaccard", "asd_mm", "missed")
    metrics = {name: float(found[name]) for name in wanted if found.get(name) is not None}
    if arm.endswith("+abd"):
        metrics["displacement_share"] = displacement_share(settings_of(arm, 0, STEPS[options.budget], ["a", "b", "c"]))
    return metrics, volumes.dice


def displacement_share(settings: dict[str, Any], classes: int = 4, repeats: int = 3) -> float:
    """Time of scores, choices and copies of both displacements, as a share of a whole step with its backward pass."""
    config = Config.model_validate(settings)
    networks = build_networks(config, classes)
    size, rng = config.augment.size, np.random.default_rng(0)

    def views(count: int) -> dict[str, Any]:
        masks = torch.randint(0, classes, (count, size, size))
        images = torch.randn(count, 3, size, size)
        hole = torch.zeros(masks.shape, dtype=torch.bool)
        return {"weak": images, "strong": images + 0.1, "mask": masks, "mask_strong": masks, "hole": hole}

    batch = {"labelled": views(config.batch), "unlabelled": views(config.unlabelled_batch)}
    host = bcp_step if config.host == "bcp" else cross_teaching_step
    last = config.pretrain_steps

    def step() -> None:
        host(networks, batch, config, last, rng, 0).loss.backward()  # type: ignore[no-untyped-call]

    def moves() -> None:
        for part, wanted in (("unlabelled", config.displace_unlabelled), ("labelled", config.displace_labelled)):
            x, logits = batch[part], torch.randn(len(batch[part]["weak"]), classes, size, size)
            if wanted and part == "unlabelled":
                displace(
                    x["weak"],
                    x["strong"],
                    reliable(logits, logits + 1, config.grid, config.candidates, None),
                    config.grid,
                )
            elif wanted:
                move = inverse(logits, logits + 1, config.grid, torch.ones(len(logits), dtype=torch.bool))
                displace(x["weak"], x["strong"], move, config.grid)
                displace(x["mask"], x["mask_strong"], move, config.grid)

    return _fastest(moves, 10 * repeats) / _fastest(step, repeats)


def _fastest(call: Callable[[], None], repeats: int) -> float:
    """Seconds of the fastest of several calls, after one to warm up."""
    call()
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def draw(work: Path, seed: int, tested: str, names: tuple[str, ...], space: LabelSpace) -> bytes:
    """PNG: a middle slice of three tested scans; image, truth, then the arms from left to right."""
    from matplotlib.figure import Figure

    scans = list(read_volumes(tested, names))
    chosen = scans[:: max(1, len(scans) // 3)][:3]
    arms = [arm for arm in TABLE if Path(artifact_of(work, seed, arm), "config.json").is_file()]
    predictors = [load_artifact(artifact_of(work, seed, arm)) for arm in arms]
    figure = Figure(figsize=(1.25 * (len(arms) + 2), 1.3 * len(chosen) + 0.2), layout="constrained")
    axes = figure.subplots(len(chosen), len(arms) + 2, squeeze=False)
    for row, scan in zip(axes, chosen, strict=True):
        middle = len(scan.rows) // 2
        image, truth = scan.images[middle], scan.masks[middle]
        maps = [truth, *(predict_volume(predictor, scan, one_organ=True)[middle] for predictor in predictors)]
        side = round(0.7 * min(truth.shape))
        at = tuple(slice((n - side) // 2, (n + side) // 2) for n in truth.shape)
        for place, panel in zip(row, [image, *(overlay(image, labels, space) for labels in maps)], strict=True):
            place.imshow(panel[at])
            place.axis("off")
    for place, name in zip(axes[0], ["image", "truth", *arms], strict=True):
        place.set_title(name.replace("+", "\n+ "), fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


if __name__ == "__main__":
    run(parse_options("abd", __doc__, has_dev=True))
