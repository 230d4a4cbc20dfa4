"""Another model's embeddings in place of a scorer's own."""

from collections.abc import Iterable

import pyarrow as pa

from maskmill.curation.base import Scorer
from maskmill.curation.rows import open_pair
from maskmill.data_contracts import SCORE
from maskmill.vision.embedders import Embedder


class Embedded(Scorer):
    """The scores of `inner`, the embeddings of `embedder`. Rows without an embedding have none here either."""

    def __init__(self, inner: Scorer, embedder: Embedder) -> None:
        self._inner, self._embedder = inner, embedder

    def score(self, samples: pa.Table, seed: int) -> pa.Table:
        self._inner.workers = self.workers
        rows = self._inner.score(samples, seed).to_pylist()
        pictures = samples.select(["sample_id", "image", "mask"])
        for number, row in enumerate(rows):
            if row["embedding"] is not None:
                image, _ = open_pair(pictures.slice(number, 1).to_pylist()[0])
                row["embedding"] = self._embedder.embed(image).tolist()
        return SCORE.table(rows)

    def bare_rate(self, samples: pa.Table) -> float | None:
        return self._inner.bare_rate(samples)

    @property
    def device(self) -> str:
        return self._inner.device or self._embedder.device.type

    def study(self, samples: pa.Table, seed: int) -> pa.Table:
        return self._inner.study(samples, seed)

    def conclude(self, studies: Iterable[pa.Table]) -> pa.Table:
        return self._inner.conclude(studies)

    def taught(self, learnt: pa.Table) -> "Embedded":
        return Embedded(self._inner.taught(learnt), self._embedder)
