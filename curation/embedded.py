"""Another model's embeddings in place of a scorer's own."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maskmill.curation.base import Scorer, Show
from maskmill.curation.rows import open_pair
from maskmill.data_contracts import SCORE, ContractError, Uint8Array
from maskmill.vision.embedders import Embedder


class Embedded(Scorer):
    """The scores of `inner`, the embeddings of `embedder`. Rows without an embedding have none here either."""

    def __init__(self, inner: Scorer, embedder: Embedder) -> None:
        self._inner, self._embedder = inner, embedder

    def score(self, samples: pa.Table, seed: int) -> pa.Table:
        return self.score_and_show(samples, seed, lambda number, picture: None)

    def score_and_show(self, samples: pa.Table, seed: int, show: Show) -> pa.Table:
        self._inner.workers = self.workers
        waiting: dict[int, Uint8Array] = {}
        found: dict[int, NDArray[np.float32]] = {}

        def embed() -> None:
            if waiting:
                found.update(zip(waiting, self._embedder.embed(list(waiting.values())), strict=True))
                waiting.clear()

        def seen(number: int, picture: Uint8Array) -> None:
            show(number, picture)
            waiting[number] = picture
            if len(waiting) >= self._embedder.batches.size:
                embed()

        scores = self._inner.score_and_show(samples, seed, seen)
        embed()
        field = SCORE.schema.field("embedding")
        vectors = pa.array([found.get(number) for number in range(scores.num_rows)], field.type)
        return scores.set_column(scores.column_names.index(field.name), field, vectors)

    def bare_rate(self, samples: pa.Table) -> float | None:
        """Images a second of both models alone, one after the other."""
        rate = self._inner.bare_rate(samples)
        if rate is None:
            return None
        for row in samples.select(["sample_id", "image", "mask"]).to_pylist():
            try:
                image, _ = open_pair(row)
            except ContractError:
                continue
            return 1 / (1 / rate + 1 / self._embedder.bare_rate(image))
        return None

    @property
    def device(self) -> str:
        return self._inner.device or self._embedder.device.type

    def study(self, samples: pa.Table, seed: int) -> pa.Table:
        return self._inner.study(samples, seed)

    def conclude(self, studies: Iterable[pa.Table]) -> pa.Table:
        return self._inner.conclude(studies)

    def taught(self, learnt: pa.Table) -> "Embedded":
        return Embedded(self._inner.taught(learnt), self._embedder)
