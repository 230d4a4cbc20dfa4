"""Does the default selection keep clean photos, class by class, and still find faults?

Arms are SET@SHARE: six sets, 0, 10 and 30 % of whose photos carry a planted fault (all@SHARE: mean over the sets).
Metrics: `clean_kept` (share of clean samples that are kept), `clean_kept_worst_class` (the same in the class that fares
worst, among classes with at least 8 clean samples), `faults_caught` (share of faulty samples that are turned away),
`caught_image`, `caught_mask`, `caught_label` (the same by kind), and `clean_duplicates` (clean samples that go as
near-duplicates; they count as not kept).

A run's default is what is measured: the score, dedup and select stages with no option set. Faults are dealt class by
class and are a third each: image scrambled, noise or blurred; mask shifted or of another photo; label: classes of the
mask renamed (photos without masks: another name of the set). DAVIS, horses, people, CCP and Caltech say what a photo
shows beside the mask (clip, folder, tags), CamVid does not. Photos are drawn once, seeds draw the faults.

Parts by hash: train and development, on which the shares of the default were chosen (--dev measures the latter), and
test. Scores are kept beside the JSON file and used again.
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import Options, Record, parse_options
from benchmarks.keep_sets import Photo, PhotoSet, load_sets
from maskmill.curation.base import Scorer
from maskmill.curation.faults import Fault, blur_heavily, noise_like, scramble_tiles, shift_mask, swap_labels
from maskmill.curation.registry import get_scorer
from maskmill.data_contracts import (
    DECISION,
    IGNORE,
    SAMPLE,
    SCORE,
    LabelSpace,
    Reason,
    Uint8Array,
    config_hash,
    content_id,
    encode_image,
    encode_mask,
    foreground_ids,
    read_shard,
    shard_name,
    write_shard,
)
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.stages.dedup import dedup_stage, dedup_units
from maskmill.pipelines.stages.select import select_stage, select_units

SHARES = (0, 10, 30)  # per cent
LEAST_CLASS = 8  # clean samples without which a class has no worst case
KINDS = {
    "image": (Fault.SCRAMBLED_IMAGE, Fault.NOISE_IMAGE, Fault.BLURRED_IMAGE),
    "mask": (Fault.SHIFTED_MASK, Fault.FOREIGN_MASK),
    "label": (Fault.SWAPPED_LABEL,),
}
RUN = RunConfig.model_validate({"name": "sds_keep", "run_dir": "runs", "source": {"kind": "folder", "root": "."}})


@dataclass(frozen=True)
class Case:
    """A photo as it is ingested: clean, or with a fault of `kind`."""

    photo: Photo
    image: Uint8Array
    mask: Uint8Array | None
    tags: tuple[int, ...] | None
    kind: str | None = None


def deal(classes: Sequence[int], masked: Sequence[bool], share: int, seed: int) -> dict[int, Fault]:
    """Which photos (by place) carry which fault. Dealt class by class, kinds in turns; what carries a fault at a small
    share carries the same at a larger one.
    """
    rng = np.random.default_rng([seed, 11])
    by_class: dict[int, list[int]] = {}
    for index in rng.permutation(len(classes)):
        by_class.setdefault(classes[index], []).append(int(index))
    dealt = {}
    for class_id in sorted(by_class):
        rows, start, turn = by_class[class_id], float(rng.random()), int(rng.integers(6))
        for place, index in enumerate(rows):
            kinds = [kind for kind in KINDS if kind != "mask" or masked[index]]
            faults = KINDS[kinds[(place + turn) % len(kinds)]]
            fault = faults[int(rng.integers(len(faults)))]
            if place + start < share / 100 * len(rows):
                dealt[index] = fault
    return dealt


def plant(fault: Fault, photo: Photo, photos: PhotoSet, seed: int) -> Case:
    """The photo with one fault."""
    image, mask, tags = photo.image(), photo.mask(), photo.tags
    kind = next(k for k, faults in KINDS.items() if fault in faults)
    match fault:
        case Fault.SCRAMBLED_IMAGE:
            image = scramble_tiles(image, seed)
        case Fault.NOISE_IMAGE:
            image = noise_like(image, seed)
        case Fault.BLURRED_IMAGE:
            image = blur_heavily(image)
        case Fault.SHIFTED_MASK if mask is not None:
            mask = shift_mask(mask, seed, fill=_outside(photos.space))
        case Fault.FOREIGN_MASK:
            mask = _foreign(photo, photos, seed)
        case Fault.SWAPPED_LABEL if mask is not None:
            mask = _renamed(mask, photos.space, seed)
        case _:
            names = sorted({p.tags for p in photos.photos if p.tags is not None} - {tags})
            tags = names[int(np.random.default_rng(seed).integers(len(names)))]
    return Case(photo, image, mask, tags, kind)


def _outside(space: LabelSpace) -> int:
    return IGNORE if space.background_id is None else space.background_id


def _foreign(photo: Photo, photos: PhotoSet, seed: int) -> Uint8Array:
    """The mask of another photo (of another clip), resized; under this photo's class where masks hold one."""
    others = [p for p in photos.photos if p.key != photo.key and p.mask_path is not None]
    other = others[int(np.random.default_rng(seed).integers(len(others)))].mask()
    own = photo.mask()
    assert own is not None
    assert other is not None
    resized = cv2.resize(other, own.shape[::-1], interpolation=cv2.INTER_NEAREST)
    classes = foreground_ids(own, photos.space)
    if len(photo.tags or ()) == 1 == len(classes):
        resized = np.where(resized > 0, classes[0], 0)
    return np.asarray(resized, dtype=np.uint8)


def _renamed(mask: Uint8Array, space: LabelSpace, seed: int) -> Uint8Array:
    """The largest classes renamed, as many as there are classes that the mask does not hold."""
    present = sorted(foreground_ids(mask, space), key=lambda c: (-int((mask == c).sum()), c))
    absent = [i for i in space.ids if i not in present]
    chosen = present[: len(absent)]
    return swap_labels(mask, chosen, [*chosen, *absent], seed)


def to_row(case: Case, space: LabelSpace) -> dict[str, object]:
    """A Sample row, as ingest would make it."""
    image = encode_image(case.image)
    mask = None if case.mask is None else encode_mask(case.mask)
    photo = case.photo
    return {
        "sample_id": content_id(image, mask, str(case.tags), photo.path.name),
        "image": {"bytes": image, "path": None},
        "mask": None if mask is None else {"bytes": mask, "path": None},
        "height": case.image.shape[0],
        "width": case.image.shape[1],
        "class_ids": list(case.tags or ()) if case.mask is None else foreground_ids(case.mask, space),
        "prompt_class_ids": list(case.tags) if case.tags else None,
        "group": photo.clip,
        "index": photo.index,
        "provenance": {"source": "folder", "source_path": photo.path.name},
    }


class Scores:
    """Score rows by sample id, of one set: those not met before are scored, and kept in a file."""

    def __init__(self, folder: Path, photos: PhotoSet) -> None:
        scorer = get_scorer(RUN.score.kind)
        identity = {
            **scorer.identity(RUN.score),
            "version": scorer.VERSION,
            "space": photos.space.fingerprint,
            "seed": RUN.seed,
        }
        self._file = folder / f"{photos.name}-{config_hash(identity)[:12]}.parquet"
        self._space = photos.space
        self._scorer: Scorer | None = None
        self._table = pq.read_table(self._file) if self._file.is_file() else SCORE.table([])

    def of(self, samples: pa.Table) -> pa.Table:
        """The score rows of `samples`."""
        ids = samples.column("sample_id").to_pylist()
        known = set(self._table.column("sample_id").to_pylist())
        new = [i for i, name in enumerate(ids) if name not in known]
        if new:
            self._scorer = self._scorer or get_scorer(RUN.score.kind).load(RUN.score, self._space)
            self._table = pa.concat_tables([self._table, self._scorer.score(samples.take(new), RUN.seed)])
            self._file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(self._table, self._file)
        place = {name: i for i, name in enumerate(self._table.column("sample_id").to_pylist())}
        return self._table.take([place[name] for name in ids])


def decide_as_a_run(samples: pa.Table, scores: pa.Table) -> dict[str, str]:
    """Reason by sample id: what the stages dedup and select of a run write."""
    with tempfile.TemporaryDirectory() as folder:
        for name, table, contract in (("samples", samples, SAMPLE), ("scores", scores, SCORE)):
            write_shard(f"{folder}/{name}/{shard_name(0)}", table, contract, stage=name, fingerprint="0")
        map_units(dedup_stage(RUN.dedup), dedup_units(folder))
        map_units(select_stage(RUN.select), select_units(folder))
        decisions = read_shard(f"{folder}/decisions.parquet", DECISION)
    return dict(zip(decisions["sample_id"].to_pylist(), decisions["reason"].to_pylist(), strict=True))


class Bench:
    """One set, ready to be measured; what is clean is encoded once."""

    def __init__(self, photos: PhotoSet, folder: Path) -> None:
        self._photos = photos
        self._scores = Scores(folder, photos)
        cases = [Case(p, p.image(), p.mask(), p.tags) for p in photos.photos]
        self._clean = [to_row(case, photos.space) for case in cases]
        self._classes = [list(p.classes(photos.space)) for p in photos.photos]

    def measure(self, share: int, seed: int) -> dict[str, float]:
        """All metrics of one share of faults and seed."""
        photos, space = self._photos, self._photos.space
        cases = {i: plant(f, photos.photos[i], photos, 1000 * seed + i) for i, f in self._deal(share, seed).items()}
        rows = [to_row(cases[i], space) if i in cases else row for i, row in enumerate(self._clean)]
        samples = SAMPLE.table([row for row in rows if row["class_ids"]])  # ingest turns empty masks away
        reasons = decide_as_a_run(samples, self._scores.of(samples))
        found = {
            "kind": [cases[i].kind if i in cases else None for i in range(len(rows))],
            "reason": [reasons.get(str(row["sample_id"]), str(Reason.EMPTY_FOREGROUND)) for row in rows],
            "classes": self._classes,
        }
        table = pl.DataFrame(found, schema={"kind": pl.String, "reason": pl.String, "classes": pl.List(pl.Int64)})
        return metrics(table.with_columns(kept=pl.col("reason") == str(Reason.KEPT)))

    def _deal(self, share: int, seed: int) -> dict[int, Fault]:
        masked = [photo.mask_path is not None for photo in self._photos.photos]
        return deal([classes[0] for classes in self._classes], masked, share, seed)


def metrics(rows: pl.DataFrame) -> dict[str, float]:
    """Metrics of (kind or null, reason, kept, classes), one row a sample."""
    clean, faulty = rows.filter(pl.col("kind").is_null()), rows.filter(pl.col("kind").is_not_null())
    by_class = clean.explode("classes").group_by("classes").agg(pl.col("kept").mean(), pl.len())
    counted = by_class.filter(pl.col("len") >= LEAST_CLASS)
    found = {"clean_kept": _mean(clean["kept"])}
    if counted.height:
        found["clean_kept_worst_class"] = float(counted["kept"].min())  # type: ignore[arg-type]
    if faulty.height:
        found["faults_caught"] = 1 - _mean(faulty["kept"])
    for kind, *_ in faulty.group_by("kind").len().sort("kind").iter_rows():
        found[f"caught_{kind}"] = 1 - _mean(faulty.filter(pl.col("kind") == kind)["kept"])
    return {**found, "clean_duplicates": _mean(clean["reason"] == "near_duplicate")}


def _mean(values: pl.Series) -> float:
    return float(values.cast(pl.Float64).mean() or 0.0)  # type: ignore[arg-type]


def mean_of(found: Iterable[dict[str, float]]) -> dict[str, float]:
    """Mean over sets, of each metric over the sets that have it."""
    rows = list(found)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def run(options: Options) -> dict[str, object]:
    """Measure every set at every share for every seed."""
    record = Record.open(options)
    folder = options.json_path.with_name(options.json_path.name + ".scores")
    wanted = [(share, seed) for seed in options.seeds for share in SHARES]
    for photos in load_sets(options):
        left = [(share, seed) for share, seed in wanted if not record.has(f"{photos.name}@{share}", seed)]
        bench = Bench(photos, folder) if left else None
        for share, seed in left:
            assert bench is not None
            record.add(f"{photos.name}@{share}", seed, bench.measure(share, seed))
            print(photos.name, share, seed, record.values[f"{photos.name}@{share}"][str(seed)], flush=True)
    for share, seed in wanted:
        arms = [arm for arm in record.values if arm.endswith(f"@{share}") and not arm.startswith("all@")]
        record.add(f"all@{share}", seed, mean_of(record.values[arm][str(seed)] for arm in arms))
    return record.finish()


if __name__ == "__main__":
    run(parse_options("sds_keep", __doc__, has_dev=True))
