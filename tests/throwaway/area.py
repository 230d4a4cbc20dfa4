"""A throw-away scorer: a mask is as good as it is large."""

from typing import Any, Literal

import pyarrow as pa

from maskmill.curation.base import Scorer, ScorerConfig
from maskmill.data_contracts import SCORE, LabelSpace, decode_mask

VERSION = 1


class Config(ScorerConfig):
    """Its options."""

    kind: Literal["area"] = "area"
    scale: float = 1.0


class AreaScorer(Scorer):
    """The engine."""

    def __init__(self, config: Config) -> None:
        self._scale = config.scale

    def score(self, samples: pa.Table, seed: int) -> pa.Table:
        return SCORE.table([self._row(row) for row in samples.to_pylist()])

    def _row(self, row: dict[str, Any]) -> dict[str, object]:
        share = float((decode_mask(row["mask"]["bytes"]) > 0).mean())
        numbers = dict.fromkeys(("pcs", "image_score", "asf"), self._scale * share)
        known = {"sample_id": row["sample_id"], "label_ids": row["class_ids"], "n_classes": len(row["class_ids"])}
        return {**known, **numbers, "embedding": [1.0, share]}


def identity(config: Config) -> dict[str, Any]:
    return {"area": config.model_dump(mode="json")}


def load(config: Config, space: LabelSpace) -> AreaScorer:
    return AreaScorer(config)
