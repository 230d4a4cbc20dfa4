"""SDS scores of a table of samples: one row in, one row out, whatever else is in the batch.

Images of one model input size go through the model together; decoding runs ahead of it in one thread, refinement and
ASF behind it in another (dense CRFs in worker processes).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count

import cv2
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from maskmill.curation.base import Show
from maskmill.curation.rows import Row
from maskmill.curation.sds.asf import AsfScore, asf_score, pseudo_label
from maskmill.curation.sds.boundary import boundary_score
from maskmill.curation.sds.config import SdsConfig
from maskmill.curation.sds.images import Prepared, Unscored, prepare
from maskmill.curation.sds.model import Engine, Reading, make_engine, read_samples
from maskmill.data_contracts import SCORE, LabelSpace
from maskmill.vision.clip import ClipBackbone
from maskmill.vision.refine import par, refine_many

OVERLAP_SHARE = 0.5  # how much of `both` hangs on the overlap: a border at chance scores 0 whatever the overlap
COLUMNS = ["sample_id", "image", "mask", "class_ids", "prompt_class_ids", "group"]


@dataclass(frozen=True)
class Draft:
    """A sample between the model and its row."""

    sample: Prepared
    reading: Reading


def score_table(
    samples: pa.Table,
    config: SdsConfig,
    space: LabelSpace,
    seed: int,
    *,
    backbone: ClipBackbone | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    micro_batch: int | None = None,
) -> pa.Table:
    """Score every row of a Sample table; returns a Score table in the same order.

    A row that cannot be scored carries `reason` and `detail` instead of scores.

    Args:
        batch_size: samples decoded ahead and refined together; changes no score.
        workers: processes for the dense CRF, None = as many as suit the machine (see `crf_workers`); changes no score.
        micro_batch: images per forward, padded to exactly this many; None = 1 on the CPU, 16 on a GPU. Another value
        may move
            the last bits of a score.
    """
    return score_rows(samples, make_engine(config, space, backbone, micro_batch), seed, batch_size, workers)


def score_rows(
    samples: pa.Table,
    engine: Engine,
    seed: int,
    batch_size: int = 16,
    workers: int | None = None,
    show: Show | None = None,
) -> pa.Table:
    """`score_table` with an engine that is loaded already; `show` is given the picture of every row that has an
    embedding.
    """
    rows: list[Row] = []
    seen = count()
    with ThreadPoolExecutor(1) as decoder, ThreadPoolExecutor(1) as finisher:
        behind: Future[list[Row]] | None = None
        for batch in _read_ahead(samples, engine, decoder, batch_size):
            drafts = _read_batch(batch, engine, seed)
            for draft, number in zip(drafts, seen, strict=False):
                if show is not None and isinstance(draft, Draft):
                    show(number, draft.sample.image)
            if behind is not None:
                rows += behind.result()
            behind = finisher.submit(_finish_batch, drafts, engine, seed, workers)
        if behind is not None:
            rows += behind.result()
    return SCORE.table(rows)


def _read_ahead(
    samples: pa.Table, engine: Engine, decoder: ThreadPoolExecutor, batch_size: int
) -> Iterator[list[Prepared | Unscored]]:
    """Decoded batches; the next one is decoded while the caller works on this one."""

    def decode(start: int) -> list[Prepared | Unscored]:
        rows = samples.select(COLUMNS).slice(start, batch_size).to_pylist()
        return [prepare(row, engine.config, engine.space, engine.multiple) for row in rows]

    ahead = decoder.submit(decode, 0)
    for start in range(0, samples.num_rows, batch_size):
        current = ahead.result()
        ahead = decoder.submit(decode, start + batch_size)
        yield current


def _read_batch(batch: Sequence[Prepared | Unscored], engine: Engine, seed: int) -> list[Draft | Unscored]:
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, sample in enumerate(batch):
        if isinstance(sample, Prepared):
            by_size[tuple(sample.pixels.shape)].append(index)
    readings: dict[int, Reading] = {}

    def read(some: Sequence[Prepared], size: int) -> list[Reading]:
        return read_samples(some, replace(engine, micro_batch=size), seed)

    for indices in by_size.values():
        group = [s for i in indices if isinstance(s := batch[i], Prepared)]
        readings.update(zip(indices, engine.batches.run(group, read), strict=True))
    return [Draft(s, readings[i]) if isinstance(s, Prepared) else s for i, s in enumerate(batch)]


def _finish_batch(drafts: Sequence[Draft | Unscored], engine: Engine, seed: int, workers: int | None) -> list[Row]:
    """Compare the masks of all samples that are to be scored with those of the judge, write rows."""
    scored = [d for d in drafts if isinstance(d, Draft) and d.reading.maps is not None and d.sample.mask_classes]
    overlaps = _overlaps(scored, engine, seed, workers)
    asf = {id(d): _mask_columns(d, found, engine) for d, found in zip(scored, overlaps, strict=True)}
    return [
        _unscored_row(d) if isinstance(d, Unscored) else {**_image_columns(d), **asf.get(id(d), {})} for d in drafts
    ]


def _overlaps(scored: Sequence[Draft], engine: Engine, seed: int, workers: int | None) -> list[AsfScore]:
    """How far each sample's mask and the judge's agree; the judge is CLIP where there is no other."""
    if engine.overlap is not None:
        return engine.overlap([draft.sample for draft in scored], seed)
    refined = _refine([(draft.sample.image, _upsampled(draft, engine)) for draft in scored], engine, workers)
    return [_against_maps(draft.sample, maps, engine) for draft, maps in zip(scored, refined, strict=True)]


def _against_maps(sample: Prepared, probabilities: NDArray[np.float32], engine: Engine) -> AsfScore:
    """ASF of a sample's mask against CLIP's refined maps."""
    assert sample.mask is not None
    pseudo = pseudo_label(probabilities, sample.labels, engine.space.background_id, engine.config.confidence)
    return asf_score(sample.mask, pseudo, sample.mask_classes, engine.config.ignore_policy)


def _upsampled(draft: Draft, engine: Engine) -> NDArray[np.float32]:
    """Class maps at image size, bilinear, under a background channel where the label space has a background."""
    height, width = draft.sample.image.shape[:2]
    assert draft.reading.maps is not None
    maps = np.stack([cv2.resize(m, (width, height), interpolation=cv2.INTER_LINEAR) for m in draft.reading.maps])
    if engine.space.background_id is not None:
        maps = np.concatenate([1 - maps.max(axis=0, keepdims=True), maps])
    return np.asarray(np.clip(maps, 0, 1), dtype=np.float32)


def _refine(
    items: list[tuple[NDArray[np.uint8], NDArray[np.float32]]], engine: Engine, workers: int | None
) -> list[NDArray[np.float32]]:
    kind = engine.config.refine
    if kind == "none":
        return [probabilities for _, probabilities in items]
    if kind == "par":
        return [_par(image, probabilities) for image, probabilities in items]
    return refine_many(items, workers, engine.config.crf_in_use)


def _par(image: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))[None]
    maps = par(pixels, torch.from_numpy(probabilities)[None])[0].numpy()
    return np.asarray(maps / maps.sum(axis=0, keepdims=True).clip(1e-7), dtype=np.float32)


def _mask_columns(draft: Draft, overlap: AsfScore, engine: Engine) -> Row:
    """The annotation's score: `overlap` with the judge's mask (ASF), fit of its borders, or both."""
    sample, config = draft.sample, engine.config
    assert sample.mask is not None
    pooled, per_class = overlap.pooled, overlap.per_class
    if config.mask_score != "asf":
        border = boundary_score(sample.image, sample.mask, sample.mask_classes, sample.labels)
        share = 0.0 if config.mask_score == "boundary" else OVERLAP_SHARE
        pooled = border.pooled * (1 - share + share * pooled)
        per_class = {i: lead * (1 - share + share * per_class[i]) for i, lead in border.per_class.items()}
    return {
        "asf": pooled,
        "per_class": [{"class_id": i, "iou": score} for i, score in per_class.items()],
        "ignore_fraction": overlap.ignore_fraction,
        "swap_class_id": draft.reading.swap_class_id,
    }


def _image_columns(draft: Draft) -> Row:
    sample, reading = draft.sample, draft.reading
    return {
        "sample_id": sample.sample_id,
        "label_ids": list(sample.labels),
        "h_orig": reading.h_orig,
        "h_mix": reading.h_mix,
        "pcs": reading.pcs,
        "image_score": reading.image_score,
        "n_classes": len(sample.mask_classes or sample.labels),
        "embedding": reading.embedding.astype(np.float16).astype(np.float32).tolist(),
    }


def _unscored_row(sample: Unscored) -> Row:
    return {
        "sample_id": sample.sample_id,
        "label_ids": list(sample.labels),
        "n_classes": sample.n_classes,
        "reason": str(sample.reason),
        "detail": sample.detail,
    }
