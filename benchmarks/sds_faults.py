"""How well SDS tells planted faults from clean samples, on real photos: AUROC per fault, and what a cut keeps.

Arms: `release` (permuted channels, the release's CRF and thresholds), `mended` (shuffled tiles, threshold read off the
scores), `ours` (the starter presets). Metrics: `auroc_FAULT`, of the arm's image score for faults of the image and of
its annotation score for faults of the annotation (0.5 is chance); `auroc_image` and `auroc_annotation`, their means;
of clean photos with masks `kept@SET` by the arm's own selection, and `kept_worst_class`, the lowest of all classes
with four photos or more.

Sets: DAVIS frames and horses (photos with masks), Caltech photos (names only, faults of the image only). Figures are
means over the sets. Sequences and stems are halved by hash: the starter preset was tuned on one half, the other is
reported (a first look at which scores are worth tuning, with another CLIP, drew on both halves); with --test-data all
of that folder is. Labels come from prompts in all arms: from masks, no arm sees a swapped class.
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.common import Options, Record, is_train_key, parse_options
from maskmill.curation.faults import Fault, blur_heavily, noise_like, scramble_tiles, shift_mask, swap_labels
from maskmill.curation.sds import SdsConfig, score_table
from maskmill.curation.select import SCORE_COLUMNS, SelectConfig, select
from maskmill.data_contracts import (
    NEIGHBOUR,
    SAMPLE,
    LabelSpace,
    Uint8Array,
    content_id,
    decode_image,
    decode_mask,
    encode_image,
    encode_mask,
    load_label_space,
)
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.run.config import load_run_config

HALF = 5  # tenths
PER_SET = {"small": 12, "full": 100}
FEW = 4  # fewer photos of a class say nothing of it
IMAGE_FAULTS = (Fault.SCRAMBLED_IMAGE, Fault.NOISE_IMAGE, Fault.BLURRED_IMAGE)
FAULTS = (*IMAGE_FAULTS, Fault.FOREIGN_MASK, Fault.SHIFTED_MASK, Fault.SWAPPED_LABEL)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """How samples are scored and selected, and which column judges the image."""

    score: SdsConfig
    select: SelectConfig
    image: str


ARMS = {
    # The release's CRF by whichever backend is installed: which one it was stands in the log.
    "release": Arm(
        SdsConfig.model_validate({"preset": "faithful", "labels": "prompt", "crf": {"backend": "auto"}}),
        SelectConfig(preset="faithful"),
        "pcs",
    ),
    "mended": Arm(SdsConfig(preset="mended", labels="prompt"), SelectConfig(preset="mended"), "pcs"),
    "ours": Arm(SdsConfig(preset="starter", labels="prompt"), SelectConfig(near_duplicates="keep"), "image_score"),
}


@dataclass(frozen=True)
class Photo:
    """A clean sample: its mask holds `class_id` or nothing else; `group` keeps frames of one sequence apart from
    others.
    """

    path: Path
    group: str
    class_id: int
    mask_path: Path | None = None

    def image(self) -> Uint8Array:
        return decode_image(self.path.read_bytes(), str(self.path))

    def mask(self) -> Uint8Array | None:
        if self.mask_path is None:
            return None
        binary = decode_mask(self.mask_path.read_bytes(), str(self.mask_path)) > 0
        return (binary * self.class_id).astype(np.uint8)


@dataclass(frozen=True)
class PhotoSet:
    """The photos of one source and the label space in which they are scored."""

    name: str
    space: LabelSpace
    photos: tuple[Photo, ...]


def load_sets(options: Options) -> list[PhotoSet]:
    """The sets that the tested folder holds.

    Raises:
        FileNotFoundError: none of them is there.
    """
    root = options.tested
    if root is None:
        raise FileNotFoundError("sds_faults: expected --data DIR with davis/, weizmann_horses/ or caltech101_small/")
    everything = options.test_data is not None
    sets = [s for load in (_davis, _horses, _caltech) if (s := load(root, everything)) is not None and s.photos]
    if not sets:
        raise FileNotFoundError(f"{root}: expected davis/, weizmann_horses/ or caltech101_small/, found none of them")
    return sets


def _tested(photos: Iterable[Photo], everything: bool) -> tuple[Photo, ...]:
    return tuple(p for p in photos if everything or not is_train_key(p.group, HALF))


def _davis(root: Path, everything: bool) -> PhotoSet | None:
    """Sequences whose name says what moves; names and label space are those of configs/davis.yaml."""
    config = load_run_config("davis")
    if not isinstance(config.source, FolderSource):
        raise TypeError("configs/davis.yaml: expected a folder source, which names the sequences")
    names = config.source.names_by_group
    photos = []
    for folder in sorted(root.glob("davis/JPEGImages/*")):
        for path in sorted(folder.glob("*.jpg")) if folder.name in names else ():
            mask = root / "davis" / "Annotations" / folder.name / f"{path.stem}.png"
            photos.append(Photo(path, folder.name, config.space.find(names[folder.name]).id, mask))
    return PhotoSet("davis", config.space, _tested(photos, everything))


def _horses(root: Path, everything: bool) -> PhotoSet | None:
    space = load_label_space("voc")
    horse = space.find("horse").id
    folder = root / "weizmann_horses"
    paths = sorted(folder.glob("images/*.jpg"))
    photos = [Photo(p, p.stem, horse, folder / "masks" / f"{p.stem}.png") for p in paths]
    return PhotoSet("horses", space, _tested(photos, everything))


def _caltech(root: Path, everything: bool) -> PhotoSet | None:
    table = root / "caltech101_small" / "labels.csv"
    if not table.is_file():
        return None
    with table.open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    space = LabelSpace.from_names(sorted({row["name"] for row in rows}), "caltech")
    photos = [Photo(table.parent / row["file"], row["file"], space.find(row["name"]).id) for row in rows]
    return PhotoSet("caltech", space, _tested(photos, everything))


def draw(photos: PhotoSet, count: int, seed: int) -> list[Photo]:
    """At most `count` photos, spread over groups and classes: a seeded order in which groups take turns."""
    rng = np.random.default_rng([seed, 7])
    by_class: dict[int, list[Photo]] = {}
    for index in rng.permutation(len(photos.photos)):
        by_class.setdefault(photos.photos[index].class_id, []).append(photos.photos[index])
    turns = [rows[i] for i in range(max(map(len, by_class.values()))) for rows in by_class.values() if i < len(rows)]
    return turns[:count]


@dataclass(frozen=True)
class Case:
    """An image, its annotation, and what the image was asked to show."""

    image: Uint8Array
    mask: Uint8Array | None
    class_id: int


def _case(photo: Photo) -> Case:
    return Case(photo.image(), photo.mask(), photo.class_id)


def plant(fault: Fault, photos: PhotoSet, drawn: list[Photo], seed: int) -> list[Case]:
    """The drawn photos with one fault each; a fault of the annotation leaves out photos without mask."""
    with_mask = [p for p in drawn if p.mask_path is not None]
    match fault:
        case Fault.SCRAMBLED_IMAGE:
            return _spoilt(drawn, lambda image, s: scramble_tiles(image, s), seed)
        case Fault.NOISE_IMAGE:
            return _spoilt(drawn, noise_like, seed)
        case Fault.BLURRED_IMAGE:
            return _spoilt(drawn, lambda image, _: blur_heavily(image), seed)
        case Fault.FOREIGN_MASK:
            return [_foreign(p, photos, seed + i) for i, p in enumerate(with_mask)]
        case Fault.SHIFTED_MASK:
            return _remasked(with_mask, lambda mask, s: shift_mask(mask, s), seed)
        case Fault.SWAPPED_LABEL:
            ids = list(photos.space.ids)
            return _remasked(with_mask, lambda mask, s: swap_labels(mask, _classes(mask), ids, s), seed)
        case Fault.NEAR_DUPLICATE:
            raise ValueError("near duplicates are deduplication's matter, not a score's")


def _spoilt(photos: list[Photo], spoil: Callable[[Uint8Array, int], Uint8Array], seed: int) -> list[Case]:
    cases = [_case(p) for p in photos]
    return [Case(spoil(c.image, seed + i), c.mask, c.class_id) for i, c in enumerate(cases)]


def _remasked(photos: list[Photo], change: Callable[[Uint8Array, int], Uint8Array], seed: int) -> list[Case]:
    cases = [_case(p) for p in photos]
    return [Case(c.image, change(c.mask, seed + i), c.class_id) for i, c in enumerate(cases) if c.mask is not None]


def _foreign(photo: Photo, photos: PhotoSet, seed: int) -> Case:
    """Another photo's mask, from another sequence, resized, under this photo's class: only its place and shape are
    wrong.
    """
    others = [p for p in photos.photos if p.group != photo.group and p.mask_path is not None]
    other = others[int(np.random.default_rng(seed).integers(len(others)))]
    image, mask = photo.image(), other.mask()
    if mask is None:
        raise ValueError(f"{other.path}: expected a mask")
    resized = cv2.resize((mask > 0).astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return Case(image, (resized * photo.class_id).astype(np.uint8), photo.class_id)


def _classes(mask: Uint8Array) -> list[int]:
    return [int(i) for i in np.unique(mask) if i]


def to_table(cases: list[Case]) -> pa.Table:
    """A Sample table with prompt labels."""
    rows = []
    for index, case in enumerate(cases):
        image = encode_image(case.image)
        mask = None if case.mask is None else encode_mask(case.mask)
        rows.append(
            {
                "sample_id": content_id(image, mask, None, str(index)),
                "image": {"bytes": image, "path": None},
                "mask": None if mask is None else {"bytes": mask, "path": None},
                "height": case.image.shape[0],
                "width": case.image.shape[1],
                "class_ids": [case.class_id] if case.mask is None else _classes(case.mask),
                "prompt_class_ids": [case.class_id],
                "provenance": {},
            }
        )
    return SAMPLE.table(rows)


def auroc(clean: Floats, faulty: Floats) -> float:
    """Chance that a clean sample scores above a faulty one, ties counted half."""
    ranks = rankdata(np.concatenate([clean, faulty]))[: len(clean)]
    return float((ranks.sum() - len(clean) * (len(clean) + 1) / 2) / (len(clean) * len(faulty)))


def scored(cases: list[Case], space: LabelSpace, arm: Arm, seed: int, masks: bool) -> pa.Table:
    """The arm's Score table; `masks` false leaves the annotation unscored, which is what takes the time."""
    config = arm.score if masks else arm.score.model_copy(update={"asf_gate": np.inf})
    return score_table(to_table(cases), config, space, seed)


def _column(table: pa.Table, name: str) -> Floats:
    return np.asarray(table[name].to_numpy(zero_copy_only=False), dtype=np.float64)


def kept(table: pa.Table, arm: Arm) -> NDArray[np.bool_]:
    """Which rows of a Score table the arm's selection keeps."""
    shard = pl.Series("shard", ["shard-00000.parquet"] * table.num_rows, dtype=pl.String)
    rows = pl.DataFrame(table.select(list(SCORE_COLUMNS))).with_columns(shard)
    stays = select(rows, pl.DataFrame(NEIGHBOUR.table([])), arm.select).filter("kept")["sample_id"]
    return np.isin(table["sample_id"].to_pylist(), stays.to_list())


def measure(photos: PhotoSet, arm: Arm, budget: str, seed: int) -> tuple[dict[str, float], dict[str, list[bool]]]:
    """AUROC by fault for one set and one seed, and of its clean photos by class which stay (none without masks)."""
    drawn = draw(photos, PER_SET[budget], seed)
    masked = all(p.mask_path is not None for p in drawn)
    clean = scored([_case(p) for p in drawn], photos.space, arm, seed, masks=masked)
    found: dict[str, float] = {}
    for fault in FAULTS:
        if not (cases := plant(fault, photos, drawn, 1000 * seed)):
            continue
        column = arm.image if fault in IMAGE_FAULTS else "asf"
        faulty = scored(cases, photos.space, arm, seed, masks=fault not in IMAGE_FAULTS)
        judged = np.nan_to_num(_column(faulty, column))
        found[f"auroc_{fault}"] = auroc(np.nan_to_num(_column(clean, column)), judged)
    stays: dict[str, list[bool]] = {}
    for photo, stay in zip(drawn, kept(clean, arm) if masked else [], strict=masked):
        stays.setdefault(photos.space.by_id[photo.class_id].name, []).append(bool(stay))
    return found, stays


def metrics_of(sets: Sequence[PhotoSet], arm: Arm, budget: str, seed: int) -> dict[str, float]:
    """All metrics of an arm for one seed: means over the sets."""
    rows: list[dict[str, float]] = []
    classes: dict[str, list[bool]] = {}
    metrics: dict[str, float] = {}
    for photos in sets:
        found, stays = measure(photos, arm, budget, seed)
        rows.append(found)
        if stays:
            metrics[f"kept@{photos.name}"] = float(np.mean([s for each in stays.values() for s in each]))
        for name, each in stays.items():
            classes.setdefault(name, []).extend(each)
    faults = [fault for fault in FAULTS if any(f"auroc_{fault}" in row for row in rows)]
    by_fault = {f: float(np.mean([row[f"auroc_{f}"] for row in rows if f"auroc_{f}" in row])) for f in faults}
    metrics |= {f"auroc_{fault}": value for fault, value in by_fault.items()}
    for name, those in (("image", set(IMAGE_FAULTS)), ("annotation", set(FAULTS) - set(IMAGE_FAULTS))):
        if values := [value for fault, value in by_fault.items() if fault in those]:
            metrics[f"auroc_{name}"] = float(np.mean(values))
    if rates := [float(np.mean(each)) for each in classes.values() if len(each) >= FEW]:
        metrics["kept_worst_class"] = min(rates)
    return metrics


def main() -> None:
    """Measure every arm on every set for every seed."""
    options = parse_options("sds_faults", __doc__)
    record = Record.open(options)
    sets = load_sets(options)
    for seed in options.seeds:
        for name, arm in ARMS.items():
            if not record.has(name, seed):
                record.add(name, seed, metrics_of(sets, arm, options.budget, seed))
    record.finish()


if __name__ == "__main__":
    main()
