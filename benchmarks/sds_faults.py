"""How well SDS tells planted faults from clean samples, on real photos: AUROC per fault.

Arms are the faults. Metrics: `auroc_pcs` (the published entropy gap), `auroc_pcs_best` (the image score of the
starter preset), `auroc_asf` (its annotation score) and `auroc_sds` (both stages: their product). 0.5 is chance; a
fault of the annotation leaves the image scores at chance, and it is the other stage's task to see it.

Sets: DAVIS frames and horses (photos with masks), Caltech photos (names only, faults of the image only). Figures are
means over the sets. Sequences and stems are halved by hash: the starter preset was tuned on one half, the other is
reported (a first look at which scores are worth tuning, with another CLIP, drew on both halves); with --test-data all
of that folder is.
"""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.common import Options, Record, is_train_key, parse_options
from maskmill.curation.faults import Fault, blur_heavily, noise_like, scramble_tiles, shift_mask, swap_labels
from maskmill.curation.sds import SdsConfig, score_table
from maskmill.data_contracts import (
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
BEST = SdsConfig(preset="starter", labels="prompt")
FAITHFUL = SdsConfig(preset="faithful", labels="prompt", asf_gate=1e9)  # only its image score is reported
IMAGE_FAULTS = (Fault.SCRAMBLED_IMAGE, Fault.NOISE_IMAGE, Fault.BLURRED_IMAGE)
FAULTS = (*IMAGE_FAULTS, Fault.FOREIGN_MASK, Fault.SHIFTED_MASK, Fault.SWAPPED_LABEL)
Floats = NDArray[np.float64]


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


def scores(cases: list[Case], space: LabelSpace, seed: int) -> dict[str, Floats]:
    """The three single scores of every case; NaN where there is no mask to score."""
    samples = to_table(cases)
    published = score_table(samples, FAITHFUL, space, seed)
    best = score_table(samples, BEST, space, seed)
    return {
        "auroc_pcs": _column(published, "pcs"),
        "auroc_pcs_best": _column(best, "image_score"),
        "auroc_asf": _column(best, "asf"),
    }


def annotation_scores(cases: list[Case], clean: dict[str, Floats], space: LabelSpace, seed: int) -> dict[str, Floats]:
    """The same for a fault of the annotation: its images are the clean ones, so only the annotation is scored anew."""
    best = score_table(to_table(cases), BEST.model_copy(update={"permutations": 1}), space, seed)
    kept = ~np.isnan(clean["auroc_asf"])
    images = {name: clean[name][kept] for name in ("auroc_pcs", "auroc_pcs_best")}
    return {**images, "auroc_asf": np.nan_to_num(_column(best, "asf"))}


def _column(table: pa.Table, name: str) -> Floats:
    return np.asarray(table[name].to_numpy(zero_copy_only=False), dtype=np.float64)


def both_stages(found: dict[str, Floats]) -> Floats:
    """Image score times annotation score: a sample needs both. Where there is no mask, the image score alone."""
    together: Floats = found["auroc_pcs_best"] * np.where(np.isnan(found["auroc_asf"]), 1.0, found["auroc_asf"])
    return together


def measure(photos: PhotoSet, budget: str, seed: int) -> dict[str, dict[str, float]]:
    """AUROC by fault and metric for one set and one seed."""
    drawn = draw(photos, PER_SET[budget], seed)
    clean = scores([_case(p) for p in drawn], photos.space, seed)
    results: dict[str, dict[str, float]] = {}
    for fault in FAULTS:
        if not (cases := plant(fault, photos, drawn, 1000 * seed)):
            continue
        faulty = (
            scores(cases, photos.space, seed)
            if fault in IMAGE_FAULTS
            else annotation_scores(cases, clean, photos.space, seed)
        )
        found = {m: auroc(clean[m], faulty[m]) for m in faulty if not np.isnan(faulty[m]).all()}
        results[fault] = {**found, "auroc_sds": auroc(both_stages(clean), both_stages(faulty))}
    return results


def main() -> None:
    """Measure every set for every seed and write means over the sets."""
    options = parse_options("sds_faults", __doc__)
    record = Record.open(options)
    sets = load_sets(options)
    for seed in options.seeds:
        if all(record.has(fault, seed) for fault in FAULTS):
            continue
        by_set = [measure(photos, options.budget, seed) for photos in sets]
        for fault in dict.fromkeys(f for found in by_set for f in found):
            rows = [found[fault] for found in by_set if fault in found]
            metrics = dict.fromkeys(m for row in rows for m in row)
            record.add(fault, seed, {m: float(np.mean([row[m] for row in rows if m in row])) for m in metrics})
    record.finish()


if __name__ == "__main__":
    main()
