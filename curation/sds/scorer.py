"""SDS as a scorer: model and texts loaded once a process."""

from typing import Any

import pyarrow as pa

from maskmill.curation.base import Scorer
from maskmill.curation.sds.config import SdsConfig
from maskmill.curation.sds.fit import shown_at_all
from maskmill.curation.sds.model import make_engine
from maskmill.curation.sds.score import score_rows
from maskmill.data_contracts import LabelSpace
from maskmill.vision.clip import clip_fingerprint
from maskmill.vision.refine import crf_backend

VERSION = 2


class SdsScorer(Scorer):
    """`batch_size` and `workers` (processes for the CRF) change speed, never a score."""

    def __init__(self, config: SdsConfig, space: LabelSpace, *, batch_size: int = 16, workers: int = 1) -> None:
        self._engine = make_engine(config, space)
        self._batch_size = batch_size
        self._workers = workers

    def score(self, samples: pa.Table, seed: int) -> pa.Table:
        """Score table of a Sample table."""
        return score_rows(samples, self._engine, seed, self._batch_size, self._workers)

    def fits(self, scores: pa.Table) -> list[bool]:
        """Whether the best of the row's own classes ranks above VOC's 25 background words, by the stored embeddings."""
        return shown_at_all(scores, self._engine)


def identity(config: SdsConfig) -> dict[str, Any]:
    """The options, the model's weights, and the CRF that is installed."""
    model = clip_fingerprint(config.model, config.pretrained, config.precision)
    backend = {"crf": crf_backend("auto"), "mean_field": "mean_field"}.get(config.refine, config.refine)
    return {"sds": config.model_dump(mode="json"), "model": model, "refine": backend}


def load(config: SdsConfig, space: LabelSpace) -> SdsScorer:
    """The engine."""
    return SdsScorer(config, space)
