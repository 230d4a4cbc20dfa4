"""A scorer that costs nothing, for what is measured beside scoring: numbers from a sample's id."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa

from maskmill.curation.base import Scorer, ScorerConfig
from maskmill.data_contracts import SCORE, LabelSpace

VERSION = 1
WIDTH = 16  # of its embeddings


class Config(ScorerConfig):
    """It has no options."""

    kind: Literal["flat"] = "flat"


class FlatScorer(Scorer):
    """The engine."""

    def score(self, samples: pa.Table, seed: int) -> pa.Table:
        ids = samples.column("sample_id").to_pylist()
        classes = samples.column("class_ids").to_pylist()
        return SCORE.table([_row(one, shown) for one, shown in zip(ids, classes, strict=True)])


def _row(sample_id: str, classes: list[int]) -> dict[str, object]:
    rng = np.random.default_rng(list(sample_id.encode()))
    image_score, asf = rng.uniform(0.2, 1.0, 2).tolist()
    embedding = rng.normal(size=WIDTH)
    return {
        "sample_id": sample_id,
        "label_ids": classes,
        "pcs": image_score,
        "image_score": image_score,
        "asf": asf,
        "per_class": [{"class_id": one, "iou": asf} for one in classes],
        "n_classes": len(classes),
        "embedding": (embedding / np.linalg.norm(embedding)).tolist(),
    }


def identity(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def load(config: Config, space: LabelSpace) -> FlatScorer:
    return FlatScorer()
