"""Run folders of random coloured shapes, made without ingest, models or selection, for tests of what reads a run."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from maskmill.data_contracts import (
    DECISION,
    IGNORE,
    NEIGHBOUR,
    SAMPLE,
    SCORE,
    LabelSpace,
    Reason,
    Uint8Array,
    content_id,
    encode_image,
    encode_mask,
    foreground_ids,
    load_label_space,
    shard_name,
    write_shard,
)

Row = dict[str, object]
FAULTS = ("scrambled_image", "shifted_mask", "near_duplicate")


@dataclass
class FakeRun:
    """A run folder and what was put into it."""

    path: str
    space: LabelSpace
    samples: list[list[Row]]  # by shard
    decisions: list[Row]
    rejects: list[list[Row]] = field(default_factory=list)

    @property
    def kept(self) -> set[str]:
        return {str(d["sample_id"]) for d in self.decisions if d["kept"]}

    @property
    def rows(self) -> dict[str, Row]:
        return {str(row["sample_id"]): row for shard in self.samples for row in shard}

    def keep(self, ids: set[str]) -> None:
        """Decide anew: keep exactly `ids`."""
        for decision in self.decisions:
            kept = decision["sample_id"] in ids
            decision.update(kept=kept, reason=Reason.KEPT.value if kept else Reason.LOW_ASF.value)
        write_decisions(self.path, self.decisions)


def draw_mask(rng: np.random.Generator, height: int, width: int, ids: tuple[int, ...]) -> Uint8Array:
    """Ellipses and rings of random classes (so: holes, several parts, overlaps) with some ignored pixels."""
    mask = np.zeros((height, width), np.uint8)
    y, x = np.mgrid[:height, :width]
    for _ in range(int(rng.integers(1, 5))):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        ry, rx = rng.uniform(0.12, 0.4) * height, rng.uniform(0.12, 0.4) * width
        radius = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2
        inner = 0.3 if rng.random() < 0.4 else -1.0
        mask[(radius <= 1) & (radius > inner)] = rng.choice(ids)
        if rng.random() < 0.4:
            mask[(radius > 1) & (radius < 1.15)] = IGNORE
    if not set(np.unique(mask)) - {0, IGNORE}:
        mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = ids[0]
    return mask


def draw_image(rng: np.random.Generator, mask: Uint8Array) -> Uint8Array:
    """A picture of a mask: every class in a colour of its own, over a gradient, with a little noise."""
    height, width = mask.shape
    image = np.empty((height, width, 3), np.float64)
    image[...] = rng.uniform(60, 200, 3) + np.linspace(-40, 40, height)[:, None, None]
    for value in np.unique(mask[mask > 0]):
        image[mask == value] = rng.uniform(0, 255, 3)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def jpeg(image: Uint8Array, exif: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=90, exif=exif)
    return buffer.getvalue()


def make_sample(
    rng: np.random.Generator,
    space: LabelSpace,
    *,
    size: tuple[int, int] | None = None,
    ids: tuple[int, ...] | None = None,
    group: str | None = None,
    index: int | None = None,
    fault: str | None = None,
    png: bool = False,
) -> Row:
    """One SAMPLE row."""
    height, width = size or (int(rng.integers(40, 90)), int(rng.integers(40, 90)))
    mask = draw_mask(rng, height, width, ids or space.ids)
    picture = draw_image(rng, mask)
    image_bytes, mask_bytes = (encode_image(picture) if png else jpeg(picture)), encode_mask(mask)
    name = f"{rng.integers(1 << 32):08x}.{'png' if png else 'jpg'}"
    provenance = dict.fromkeys((f.name for f in SAMPLE.schema.field("provenance").type), None)
    provenance |= {"source": "folder", "source_path": name, "licence": "CC0-1.0"}
    provenance |= {"model_id": "painter", "model_revision": "v1", "prompt": "a drawing of shapes", "seed": 7}
    if fault is not None:
        provenance["extra"] = json.dumps({"fault": fault})
    return {
        "sample_id": content_id(image_bytes, mask_bytes, group, str(index)),
        "image": {"bytes": image_bytes, "path": name},
        "mask": {"bytes": mask_bytes, "path": name},
        "height": height,
        "width": width,
        "class_ids": foreground_ids(mask, space),
        "prompt_class_ids": None,
        "group": group,
        "index": index,
        "spacing": None,
        "provenance": provenance,
    }


def make_score(rng: np.random.Generator, row: Row) -> Row:
    """A SCORE row with plausible numbers; faulty samples tend to score low."""
    faulty = "fault" in str(row["provenance"])
    asf = float(np.clip(rng.normal(0.35 if faulty else 0.7, 0.15), 0, 1))
    ids = row["class_ids"]
    assert isinstance(ids, list)
    return {
        "sample_id": row["sample_id"],
        "label_ids": ids,
        "h_orig": float(rng.gamma(2, 0.4)),
        "h_mix": float(rng.gamma(3, 0.5)),
        "pcs": (pcs := float(rng.gamma(1.2 if faulty else 4, 0.08))),
        "image_score": pcs,
        "asf": asf,
        "per_class": [{"class_id": i, "iou": asf} for i in ids],
        "n_classes": len(ids),
        "ignore_fraction": float(rng.uniform(0, 0.3)),
        "swap_class_id": None,
        "embedding": [1.0, 0.0],
        "reason": None,
        "detail": None,
    }


def decide(row: Row, score: Row, shard: str) -> Row:
    """A DECISION row by fixed thresholds, as selection would write it."""
    verdict: tuple[Reason, float | None, float | None] = (Reason.KEPT, None, None)
    if float(str(score["pcs"])) <= 0.1:
        verdict = (Reason.LOW_PCS, float(str(score["pcs"])), 0.1)
    elif float(str(score["asf"])) < 0.5:
        verdict = (Reason.LOW_ASF, float(str(score["asf"])), 0.5)
    reason, value, threshold = verdict
    return {
        "sample_id": row["sample_id"],
        "stage": "select",
        "kept": reason is Reason.KEPT,
        "reason": reason.value,
        "detail": None,
        "score": value,
        "threshold": threshold,
        "duplicate_of": None,
        "source_path": None,
        "shard": shard,
    }


def make_reject(rng: np.random.Generator, shard: str, reason: Reason = Reason.UNDECODABLE_IMAGE) -> Row:
    """A sample that ingest turned away."""
    name = f"broken-{rng.integers(1 << 32):08x}.jpg"
    return {
        "sample_id": content_id(name),
        "stage": "ingest",
        "kept": False,
        "reason": reason.value,
        "detail": "expected a complete image file, found 12 bytes. Fix: replace or remove the file",
        "score": None,
        "threshold": None,
        "duplicate_of": None,
        "source_path": name,
        "shard": shard,
    }


def write_decisions(run: str, rows: list[Row]) -> None:
    table = DECISION.table(sorted(rows, key=lambda row: str(row["sample_id"])))
    write_shard(f"{run}/decisions.parquet", table, DECISION, stage="select", fingerprint="decisions", config_hash="c4")


def make_run(
    path: Path | str,
    *,
    shards: int = 2,
    rows: int = 6,
    rejects: int = 1,
    seed: int = 0,
    space: LabelSpace | None = None,
    ids: tuple[int, ...] | None = None,
    faults: bool = False,
    duplicates: bool = True,
    size: tuple[int, int] | None = None,
) -> FakeRun:
    """Write all shards of a small run; every third image is a PNG, the others JPEG."""
    space = space or load_label_space("voc")
    rng = np.random.default_rng(seed)
    run = FakeRun(str(path), space, [], [])
    scores: list[Row] = []
    neighbours: list[Row] = []
    for number in range(shards):
        name = shard_name(number)
        samples = [
            make_sample(
                rng,
                space,
                size=size,
                ids=ids,
                png=i % 3 == 2,
                fault=FAULTS[i % 3] if faults and rng.random() < 0.33 else None,
            )
            for i in range(rows)
        ]
        shard_scores = [make_score(rng, row) for row in samples]
        decisions = [decide(row, score, name) for row, score in zip(samples, shard_scores, strict=True)]
        if duplicates and rows > 1:
            neighbours.append(_mark_duplicate(decisions))
        turned_away = [make_reject(rng, name) for _ in range(rejects)]
        counts = {"kept": rows} | ({Reason.UNDECODABLE_IMAGE.value: rejects} if rejects else {})
        write_shard(
            f"{path}/samples/{name}",
            SAMPLE.table(samples),
            SAMPLE,
            stage="ingest",
            fingerprint=f"samples-{number}",
            config_hash="c1",
            counts=counts,
        )
        write_shard(
            f"{path}/rejects/{name}",
            DECISION.table(turned_away),
            DECISION,
            stage="ingest",
            fingerprint=f"rejects-{number}",
            config_hash="c1",
            counts=counts,
        )
        write_shard(
            f"{path}/scores/{name}",
            SCORE.table(shard_scores),
            SCORE,
            stage="score",
            fingerprint=f"scores-{number}",
            config_hash="c2",
        )
        run.samples.append(samples)
        run.rejects.append(turned_away)
        run.decisions += decisions
        scores += shard_scores
    neighbour_table = NEIGHBOUR.table(neighbours)
    write_shard(
        f"{path}/neighbours.parquet", neighbour_table, NEIGHBOUR, stage="dedup", fingerprint="pairs", config_hash="c3"
    )
    write_decisions(str(path), run.decisions)
    return run


def _mark_duplicate(decisions: list[Row]) -> Row:
    """Call the second sample of a shard a near-duplicate of the first; returns the pair."""
    first, second = decisions[0], decisions[1]
    first.update(kept=True, reason=Reason.KEPT.value, score=None, threshold=None)
    second.update(
        kept=False, reason=Reason.NEAR_DUPLICATE.value, score=0.981, threshold=0.95, duplicate_of=first["sample_id"]
    )
    return {
        "sample_id": first["sample_id"],
        "other_id": second["sample_id"],
        "similarity": 0.981,
        "other_set": "self",
    }
