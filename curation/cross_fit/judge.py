"""The segmenter of the other folds: what a set teaches, the heads that come of it, and what they say of an image."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maskmill.curation.cross_fit import heads
from maskmill.curation.cross_fit.agree import Agreement, agreement
from maskmill.curation.cross_fit.config import CrossFitOptions
from maskmill.curation.cross_fit.features import Features, FrozenFeatures, cell_shares
from maskmill.curation.rows import Row, open_pair
from maskmill.data_contracts import LEARNT, ContractError, LabelSpace, Uint8Array, foreground_ids, sample_seed

Float64 = NDArray[np.float64]
COLUMNS = ["sample_id", "image", "mask", "group"]
ALL = "all"  # what belongs to no fold: features of the whole set


@dataclass(frozen=True)
class Learnt:
    """`heads` (K, D, C) by fold; `samples` (K, C), how many samples of the other folds show each class; `mean` (D,) of
    the features of the whole set.
    """

    heads: Float64
    samples: Float64
    mean: Features


@dataclass(frozen=True)
class Opinion:
    """What the other folds say of an image. `label` uint8 (H, W) at its size; `shares` (P, C) of its cells."""

    label: Uint8Array
    shares: Float64
    features: Features
    samples: dict[int, float]


def fold_of(sample_id: str, group: str | None, options: CrossFitOptions, seed: int) -> int:
    """The fold of a sample: a hash of the seed and its id (or of its group), so that no other sample moves it."""
    key = group if options.fold_by == "group" and group is not None else sample_id
    return sample_seed(seed, key, "cross_fit fold") % options.folds


class CrossFit:
    """Study, conclude, judge. The encoder is loaded when the first image comes."""

    def __init__(self, options: CrossFitOptions, space: LabelSpace, frozen: FrozenFeatures | None = None) -> None:
        self._frozen = frozen
        self.options = options
        self.space = space
        background = () if space.background_id is None else (space.background_id,)
        self.ids = (*background, *space.ids)

    @cached_property
    def frozen(self) -> FrozenFeatures:
        return self._frozen or FrozenFeatures(self.options)

    def study(self, samples: pa.Table, seed: int) -> pa.Table:
        """Sums of a Sample table by fold. Rows without a mask, or that cannot be read, teach nothing."""
        found: dict[int, heads.Sums] = {}
        empty = heads.nothing(self.frozen.width, len(self.ids))
        for row in samples.select(COLUMNS).to_pylist():
            if (own := self._sums(row)) is not None:
                fold = fold_of(row["sample_id"], row["group"], self.options, seed)
                found[fold] = found.get(fold, empty) + own
        return LEARNT.table([line for fold in sorted(found) for line in _lines(fold, found[fold])])

    def _sums(self, row: Row) -> heads.Sums | None:
        try:
            image, mask = open_pair(row)
        except ContractError:
            return None
        if mask is None:
            return None
        features = self.frozen.of(image)
        shares = cell_shares(mask, self.ids, self.frozen.grid)
        shown = np.isin(self.ids, foreground_ids(mask, self.space))
        return heads.sums_of(features, shares, shown.astype(np.float64), self.options.balance)

    def conclude(self, studies: Iterable[pa.Table]) -> pa.Table:
        """Heads of all folds: each fitted to the sums of the other folds."""
        width, folds = self.frozen.width, self.options.folds
        own = [heads.nothing(width, len(self.ids)) for _ in range(folds)]
        for study in studies:
            for fold, sums in _read(study, width).items():
                own[fold] = own[fold] + sums
        everything = heads.total(own, width, len(self.ids))
        lines = []
        for fold in range(folds):
            others = everything - own[fold]
            lines += [
                _line(fold, "head", heads.solve(others, self.options.ridge)),
                _line(fold, "samples", others.samples),
            ]
        count = max(float(everything.gram[-1, -1]), 1.0)
        return LEARNT.table([*lines, _line(ALL, "mean", everything.gram[:, -1] / count)])

    def learnt(self, table: pa.Table) -> Learnt:
        """What `conclude` gave, as arrays."""
        found = {(row["part"], row["name"]): _array(row) for row in table.to_pylist()}
        parts = [_part(fold) for fold in range(self.options.folds)]
        weights, samples = (np.stack([found[part, name] for part in parts]) for name in ("head", "samples"))
        return Learnt(weights, samples, found[ALL, "mean"].astype(np.float32))

    def opinion(self, image: Uint8Array, fold: int, learnt: Learnt) -> Opinion:
        """What the head of a fold sees in an image: the class of the largest expected share, upsampled bilinearly."""
        features = self.frozen.of(image)
        shares = features.astype(np.float64) @ learnt.heads[fold]
        grid, size = self.frozen.grid, image.shape[1::-1]
        best = np.full(image.shape[:2], -np.inf, np.float32)
        label = np.full(image.shape[:2], self.ids[0], np.uint8)
        for place, class_id in enumerate(self.ids):
            if class_id != self.space.background_id and not learnt.samples[fold, place]:
                continue
            share = shares[:, place].reshape(grid, grid).astype(np.float32)
            own = cv2.resize(share, size, interpolation=cv2.INTER_LINEAR)
            label[own > best] = class_id
            best = np.maximum(best, own)
        foreground = [p for p, i in enumerate(self.ids) if i != self.space.background_id]
        samples = {self.ids[p]: float(learnt.samples[fold, p]) for p in foreground}
        return Opinion(label, shares, features, samples)

    def agreement(self, mask: Uint8Array, opinion: Opinion, class_ids: tuple[int, ...]) -> Agreement:
        """How well a mask agrees with an opinion."""
        return agreement(mask, opinion.label, class_ids, opinion.samples, self.options.doubt)


def _part(fold: int | str) -> str:
    return fold if isinstance(fold, str) else f"fold {fold}"


def _line(fold: int | str, name: str, values: NDArray[Any]) -> dict[str, object]:
    return {"part": _part(fold), "name": name, "shape": list(values.shape), "values": values.ravel().tolist()}


def _lines(fold: int, sums: heads.Sums) -> list[dict[str, object]]:
    named = {"gram": heads.triangle(sums.gram), "cross": sums.cross, "samples": sums.samples}
    return [_line(fold, name, values) for name, values in named.items()]


def _array(row: Row) -> Float64:
    return np.asarray(row["values"], dtype=np.float64).reshape(row["shape"])


def _read(study: pa.Table, width: int) -> dict[int, heads.Sums]:
    """Sums by fold of a table that `study` made."""
    by_fold: dict[int, dict[str, Float64]] = {}
    for row in study.to_pylist():
        by_fold.setdefault(int(row["part"].removeprefix("fold ")), {})[row["name"]] = _array(row)
    return {
        fold: heads.Sums(heads.square(found["gram"], width), found["cross"], found["samples"])
        for fold, found in by_fold.items()
    }
