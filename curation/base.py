"""What every scorer is: a config, and an engine that turns Sample rows into Score rows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field

from maskmill.curation.rows import open_pair
from maskmill.data_contracts import Uint8Array, WithPresets
from maskmill.vision.embed_options import EmbedOptions

Show = Callable[[int, Uint8Array], None]  # a row's number, and its picture uint8 (H, W, 3)


class ScorerConfig(WithPresets):
    """Options that a score depends on. A scorer's own config inherits from this and has `kind: Literal["name"]`.

    Selection reads `image_score` (how well the image shows its classes), `asf` (how well the mask fits) and `embedding`
    (for duplicates) of the rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    later: ClassVar[Mapping[str, Any]] = {"embed": None}

    kind: str = Field(description="name of the scorer")
    embed: EmbedOptions | None = Field(
        default=None,
        description="whose embeddings duplicates, balance and leakage are found by: {model: DINOv2, DINOv3, SigLIP or "
        "open_clip}; none = the scorer's own. The thresholds of dedup are CLIP's: choose them anew",
    )

    @property
    def learns(self) -> bool:
        """Whether the scorer must have seen the whole data set before it can score: see `Scorer.study`."""
        return False


class Scorer(ABC):
    """The engine: models loaded, ready to score. `workers` are processes for what a model waits for (dense CRFs), None
    = as many as suit the machine; they change no score.
    """

    workers: int | None = None

    @abstractmethod
    def score(self, samples: pa.Table, seed: int) -> pa.Table:
        """A Score table with one row for each row of the Sample table, in its order.

        A row's numbers depend on that row, the config and `seed` alone. A row that cannot be scored carries `reason`
        and `detail` instead of scores; it raises nothing.
        """

    def score_and_show(self, samples: pa.Table, seed: int, show: Show) -> pa.Table:
        """`score`, which shows the decoded picture of each row that gets an embedding, in order. A scorer that has them
        at hand shows those; others are decoded once more.
        """
        scores = self.score(samples, seed)
        pictures = samples.select(["sample_id", "image", "mask"])
        for number in np.flatnonzero(scores.column("embedding").is_valid().to_numpy()):
            show(int(number), open_pair(pictures.slice(number, 1).to_pylist()[0])[0])
        return scores

    def bare_rate(self, samples: pa.Table) -> float | None:
        """Images a second of its model alone, by a few plain forwards on the first of these samples: what the rate of
        `score` is held against. None where a scorer has no such model.
        """
        return None

    @property
    def device(self) -> str:
        """Where its model runs ("cpu", "cuda"); empty where it has none."""
        return ""

    def fits(self, scores: pa.Table) -> list[bool]:
        """Of each scored row: does the image rather show what its label names than everyday background (grass, wall,
        sky)? Empty where the scorer cannot tell.
        """
        return []

    def study(self, samples: pa.Table, seed: int) -> pa.Table:
        """What a Sample table teaches, rows of the LEARNT contract. Asked only of scorers whose config `learns`.

        Tables are studied one by one, in any order and any process; `conclude` gets all of them together.
        """
        raise TypeError(f"{type(self).__name__}: this scorer learns nothing from a data set")

    def conclude(self, studies: Iterable[pa.Table]) -> pa.Table:
        """What all studies together have taught, rows of the LEARNT contract: the same however the samples were cut
        into tables.
        """
        raise TypeError(f"{type(self).__name__}: this scorer learns nothing from a data set")

    def taught(self, learnt: pa.Table) -> "Scorer":
        """The scorer that knows what `conclude` gave; its scores also depend on that."""
        raise TypeError(f"{type(self).__name__}: this scorer learns nothing from a data set")


def teach(scorer: Scorer, tables: Iterable[pa.Table], seed: int) -> Scorer:
    """A scorer that learns, taught by Sample tables at hand."""
    return scorer.taught(scorer.conclude([scorer.study(table, seed) for table in tables]))
