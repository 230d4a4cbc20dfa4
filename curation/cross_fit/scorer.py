"""Cross-fit agreement as a scorer: does a segmenter that was fitted to the other folds draw the same mask?"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from maskmill.curation.base import Scorer
from maskmill.curation.cross_fit.config import CrossFitConfig
from maskmill.curation.cross_fit.features import Features
from maskmill.curation.cross_fit.judge import COLUMNS, CrossFit, Learnt, Opinion, fold_of
from maskmill.curation.rows import Row, open_pair
from maskmill.data_contracts import FOR_HASH, IGNORE, SCORE, ContractError, LabelSpace, Reason, foreground_ids
from maskmill.vision.segmenters import weights_stamp

VERSION = 1
BRIGHTEST = 16  # the share of cells, one in so many, in which a class must be seen for the image to show it


class CrossFitScorer(Scorer):
    """`asf` and `per_class` are agreements, `image_score` says whether the segmenter sees the image's classes at all,
    `embedding` is the mean of the coarsest features around that of the whole set. There is no `pcs`.
    """

    def __init__(self, config: CrossFitConfig, judge: CrossFit, learnt: Learnt | None = None) -> None:
        self._config = config
        self._judge = judge
        self._learnt = learnt

    @property
    def device(self) -> str:
        return self._judge.frozen.device

    def study(self, samples: pa.Table, seed: int) -> pa.Table:
        return self._judge.study(samples, seed)

    def conclude(self, studies: Iterable[pa.Table]) -> pa.Table:
        return self._judge.conclude(studies)

    def taught(self, learnt: pa.Table) -> "CrossFitScorer":
        """A scorer that shares the loaded encoder."""
        return CrossFitScorer(self._config, self._judge, self._judge.learnt(learnt))

    def score(self, samples: pa.Table, seed: int) -> pa.Table:
        """Score table of a Sample table.

        Raises:
            ValueError: nobody taught the scorer.
        """
        if self._learnt is None:
            raise ValueError("cross_fit: expected a scorer that was taught: see Scorer.study, conclude and taught")
        rows = samples.select([*COLUMNS, "class_ids", "prompt_class_ids"]).to_pylist()
        return SCORE.table([self._row(row, seed, self._learnt) for row in rows])

    def _row(self, row: Row, seed: int, learnt: Learnt) -> dict[str, object]:
        try:
            image, mask = open_pair(row)
        except ContractError as error:
            return _unscored(row, Reason.SCORE_FAILED, str(error.problem))
        space = self._judge.space
        in_mask = tuple(foreground_ids(mask, space)) if mask is not None else ()
        stated = row["prompt_class_ids"] or in_mask or row["class_ids"] or ()
        labels = tuple(sorted({int(i) for i in stated if int(i) in space.by_id}))
        if not labels:
            n_classes = 0 if mask is not None and bool((mask != IGNORE).any()) else None
            detail = "neither prompt nor mask names a class of the label space"
            return {**_unscored(row, Reason.NO_CLASSES, detail), "n_classes": n_classes}
        opinion = self._judge.opinion(image, fold_of(row["sample_id"], row["group"], self._config, seed), learnt)
        found: dict[str, object] = {
            "sample_id": row["sample_id"],
            "label_ids": list(labels),
            "image_score": self._shown(opinion, labels),
            "n_classes": len(in_mask or labels),
            "embedding": self._embedding(opinion.features, learnt).tolist(),
        }
        if mask is None or not in_mask:
            return found
        agreed = self._judge.agreement(mask, opinion, in_mask)
        per_class = [{"class_id": i, "iou": value} for i, value in agreed.per_class.items()]
        return {**found, "asf": agreed.pooled, "per_class": per_class, "ignore_fraction": 0.0}

    def _shown(self, opinion: Opinion, labels: tuple[int, ...]) -> float:
        """Mean over the image's classes of the expected share in the cells where it is highest, 0 to 1; a class that
        the segmenter hardly knows is granted, as in `agreement`.
        """
        most = max(1, len(opinion.shares) // BRIGHTEST)
        found = []
        for class_id in labels:
            n = opinion.samples.get(class_id, 0.0)
            say = n / (n + self._config.doubt) if n + self._config.doubt else 0.0
            own = np.sort(opinion.shares[:, self._judge.ids.index(class_id)])[-most:]
            found.append(say * float(np.clip(own.mean(), 0, 1)) + 1 - say)
        return float(np.mean(found))

    def _embedding(self, features: Features, learnt: Learnt) -> Features:
        """float32, of length 1."""
        frozen = self._judge.frozen
        found = frozen.embedding(features) - frozen.embedding(learnt.mean[None])
        unit: Features = (found / max(float(np.linalg.norm(found)), 1e-12)).astype(np.float16).astype(np.float32)
        return unit


def _unscored(row: Row, reason: Reason, detail: str) -> dict[str, object]:
    return {"sample_id": row["sample_id"], "label_ids": [], "reason": str(reason), "detail": detail}


def identity(config: CrossFitConfig) -> dict[str, Any]:
    """The options, and the weights of the encoder."""
    stamp = weights_stamp(config.encoder, config.weights)
    return {"cross_fit": config.model_dump(mode="json", context=FOR_HASH), "weights": stamp}


def load(config: CrossFitConfig, space: LabelSpace) -> CrossFitScorer:
    """The engine, not yet taught."""
    return CrossFitScorer(config, CrossFit(config, space))
