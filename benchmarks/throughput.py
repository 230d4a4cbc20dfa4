"""What share of the bare work's rate a stage reaches, and SDS with a large model against its bound.

    python -m benchmarks.throughput --seeds 0 --json F

Every figure is a ratio of CPU seconds on one thread; both sides are measured in turns, so that a busy machine slows
both. Drawn scenes, no --data. Arms:

`ingest`: JPEG photos of 640 x 480 and PNG masks in a folder, against plain decoding, hashing, encoding of the mask and
writing of the same rows. `score`: the starter scorer, image in and row out, against forwards of its model alone, as
many as it takes (the image and its shuffles). `label`: class maps by the starter CLIP against one forward an image.
All: `share_of_bare` (1: nothing but the bare work) and `per_s` (samples a CPU second).

`sds_vit_b16`: embeddings, entropies and class maps of ViT-B/16 (random weights: speed does not depend on them) at 512
pixels against two plain forwards: `ratio_to_bound@TYPE,K=CLASSES` for fp32 and bf16, one class and two.

`bf16`: starter scores in bf16 against fp32: `flips`, decisions of the starter's selection that differ; `shift`, the
largest change of an image score, as a share of the scores' median.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from PIL import Image

from benchmarks.common import Options, Record, parse_options
from benchmarks.shards import sample_row
from maskmill.curation.sds import SdsConfig, make_engine
from maskmill.curation.sds.images import Prepared, resize
from maskmill.curation.sds.model import Engine, batch_of, read_samples
from maskmill.curation.sds.score import score_rows
from maskmill.curation.select import SCORE_COLUMNS, SelectConfig, select
from maskmill.data_contracts import (
    NEIGHBOUR,
    SAMPLE,
    decode_image,
    decode_mask,
    encode_mask,
    load_label_space,
    pair_id,
    write_shard,
)
from maskmill.starter.drawn import SceneConfig, render_scene

SIZES = {"small": 16, "full": 64}  # samples of a stage
IMAGES = {"small": 2, "full": 6}  # of ViT-B/16
TURNS = 3
SPACE = load_label_space("voc")
Figures = dict[str, float]


def clocked(work: Callable[[], object]) -> float:
    """CPU seconds of the process."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def in_turns(bare: Callable[[], object], stage: Callable[[], object], turns: int = TURNS) -> tuple[float, float]:
    """Least CPU seconds of both, after a first go of each that counts for nothing."""
    bare(), stage()
    found = [(clocked(bare), clocked(stage)) for _ in range(turns)]
    return min(a for a, _ in found), min(b for _, b in found)


def share(count: int, bare: Callable[[], object], stage: Callable[[], object]) -> Figures:
    plain, whole = in_turns(bare, stage)
    return {"share_of_bare": plain / whole, "per_s": count / whole}


def scenes(count: int, seed: int, side: int = 320) -> list[tuple[bytes, np.ndarray]]:
    """JPEG bytes and label maps of drawn scenes, whose ids are VOC's."""
    found = []
    for number in range(count):
        scene = render_scene(SceneConfig(size=side), seed * 10_000 + number)
        found.append((jpeg(scene.image), scene.mask))
    return found


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def samples(count: int, seed: int) -> pa.Table:
    return SAMPLE.table([sample_row(image, mask, SPACE) for image, mask in scenes(count, seed)])


def ingest(count: int, seed: int) -> Figures:
    """The stage over a folder, against the bare work on the same files: eight times as many, for it is fast."""
    count *= 8
    from maskmill.pipelines.run.config import RunConfig
    from maskmill.pipelines.run.steps import open_step

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name in ("images", "masks", "out"):
            (root / "source" / name).mkdir(parents=True, exist_ok=True)
        for number, (image, mask) in enumerate(scenes(count, seed)):
            photo = Image.open(io.BytesIO(image)).resize((640, 480))
            (root / f"source/images/{number:05d}.jpg").write_bytes(jpeg(np.asarray(photo)))
            large = Image.fromarray(mask).resize((640, 480), Image.Resampling.NEAREST)
            large.save(root / f"source/masks/{number:05d}.png")
        source = {"kind": "folder", "root": str(root / "source")}
        told = {"name": "throughput", "source": source, "label_space": "voc", "shard_size": count}
        turn = iter(range(1000))

        def stage() -> None:
            open_step(RunConfig.model_validate({**told, "run_dir": f"{scratch}/{next(turn)}"}), "ingest").run(0)

        def bare() -> None:
            rows = []
            for path in sorted((root / "source/images").iterdir()):
                image = path.read_bytes()
                pixels = decode_image(image, path.name)
                mask = decode_mask((root / f"source/masks/{path.stem}.png").read_bytes(), path.name)
                encoded = encode_mask(mask, SPACE.palette)
                file = {"bytes": image, "path": path.name}, {"bytes": encoded, "path": None}
                size = {"height": pixels.shape[0], "width": pixels.shape[1], "class_ids": np.unique(mask).tolist()}
                sample_id = pair_id(image, encoded)
                rows.append({"sample_id": sample_id, "image": file[0], "mask": file[1], **size, "provenance": {}})
            path_ = f"{scratch}/bare-{next(turn)}.parquet"
            write_shard(path_, SAMPLE.table(rows), SAMPLE, stage="bare", fingerprint="bare")

        return share(count, bare, stage)


def forwards(engine: Engine, pixels: Sequence[torch.Tensor], times: int) -> None:
    """Plain forwards of the model alone."""
    for one in pixels:
        for _ in range(times):
            with torch.no_grad():
                engine.backbone.embed(batch_of([one], engine))


def score(count: int, seed: int) -> Figures:
    """The starter scorer from stored samples to rows."""
    config = SdsConfig()
    engine, table = make_engine(config, SPACE), samples(count, seed)
    images = [decode_image(row["image"]["bytes"], "") for row in table.to_pylist()]
    pixels = [resize(image, config.image_side, engine.multiple) for image in images]
    return share(
        count, lambda: forwards(engine, pixels, 1 + config.permutations), lambda: score_rows(table, engine, seed)
    )


def label(count: int, seed: int) -> Figures:
    """Class maps of the starter CLIP, unrefined, of two tags an image."""
    from maskmill.labelers import LabelItem
    from maskmill.labelers.clip_cam import Config, load

    labeler = load(Config.model_validate({"refine": "none", "min_decided": 0.0}), SPACE)
    images = [decode_image(image, "") for image, _ in scenes(count, seed)]
    items = [LabelItem(str(number), image, class_ids=(8, 12)) for number, image in enumerate(images)]
    inputs = [labeler.backbone.normalise(labeler.resize(item.image)[None]) for item in items]

    def bare() -> None:
        with torch.no_grad():
            for one in inputs:
                labeler.backbone.embed(one)

    return share(count, bare, lambda: labeler.label(items))


def sds_vit_b16(count: int, seed: int) -> Figures:
    """Scoring by a large model against two plain forwards of it, image by image in turns."""
    found: Figures = {}
    rng = np.random.default_rng(seed)
    images = [torch.from_numpy(rng.integers(0, 256, (3, 512, 512), np.uint8)) for _ in range(count)]
    for precision in ("fp32", "bf16"):
        told = {"preset": "mended", "model": "ViT-B-16-quickgelu", "refine": "none", "precision": precision}
        engine = make_engine(SdsConfig.model_validate(told), SPACE)
        _against_forwards(engine, images[0][:, :128, :128], 1, seed)  # starts threads and loads kernels
        for classes in (1, 2):
            spent = [_against_forwards(engine, image, classes, seed) for image in images]
            found[f"ratio_to_bound@{precision},K={classes}"] = sum(b for _, b in spent) / sum(a for a, _ in spent)
    return found


def _against_forwards(engine: Engine, pixels: torch.Tensor, classes: int, seed: int) -> tuple[float, float]:
    """CPU seconds of two forwards, one before and one after, and of the reading of a sample with so many classes."""
    labels, side = tuple(range(8, 8 + classes)), pixels.shape[1]
    image, mask = np.zeros((side, side, 3), np.uint8), np.full((side, side), 8, np.uint8)
    sample = Prepared("sample", labels, labels, image, mask, pixels)
    first = clocked(lambda: forwards(engine, [pixels], 1))
    whole = clocked(lambda: read_samples([sample], engine, seed))
    return first + clocked(lambda: forwards(engine, [pixels], 1)), whole


def bf16(count: int, seed: int) -> Figures:
    """Decisions by scores in bf16 that are not those by fp32."""
    table, tables = samples(count, seed), {}
    for precision in ("fp32", "bf16"):
        engine = make_engine(SdsConfig.model_validate({"precision": precision}), SPACE)
        scores = pl.DataFrame(score_rows(table, engine, seed).select(list(SCORE_COLUMNS)))
        tables[precision] = scores.with_columns(shard=pl.lit("shard-00000.parquet"))
    pairs = pl.DataFrame(NEIGHBOUR.table([]))
    kept = [select(one, pairs, SelectConfig(near_duplicates="keep"))["kept"].to_numpy() for one in tables.values()]
    first, second = (one["image_score"].to_numpy() for one in tables.values())
    shift: Any = np.abs(first - second).max() / np.median(first)
    return {"rows": count, "flips": float((kept[0] != kept[1]).sum()), "shift": float(shift)}


STAGES = {"ingest": ingest, "score": score, "label": label, "bf16": bf16}


def run(options: Options) -> dict[str, object]:
    """All arms for all seeds."""
    torch.set_num_threads(1)
    record = Record.open(options)
    for seed in options.seeds:
        for arm, measure in STAGES.items():
            if not record.has(arm, seed):
                record.add(arm, seed, measure(SIZES[options.budget], seed))
        if not record.has("sds_vit_b16", seed):
            record.add("sds_vit_b16", seed, sds_vit_b16(IMAGES[options.budget], seed))
    return record.finish()


if __name__ == "__main__":
    run(parse_options("throughput", __doc__, needs_data=False))
