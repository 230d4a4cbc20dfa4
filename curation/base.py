"""What every scorer is: a config, and an engine that turns Sample rows into Score rows."""

from abc import ABC, abstractmethod

import pyarrow as pa
from pydantic import ConfigDict

from maskmill.data_contracts import WithPresets


class ScorerConfig(WithPresets):
    """Options that a score depends on. A scorer's own config inherits from this and has `kind: Literal["name"]`.

    Selection reads `image_score` (how well the image shows its classes), `asf` (how well the mask fits) and `embedding`
    (for duplicates) of the rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str


class Scorer(ABC):
    """The engine: models loaded, ready to score."""

    @abstractmethod
    def score(self, samples: pa.Table, seed: int) -> pa.Table:
        """A Score table with one row for each row of the Sample table, in its order.

        A row's numbers depend on that row, the config and `seed` alone. A row that cannot be scored carries `reason`
        and `detail` instead of scores; it raises nothing.
        """

    def fits(self, scores: pa.Table) -> list[bool]:
        """Of each scored row: does the image rather show what its label names than everyday background (grass, wall,
        sky)? Empty where the scorer cannot tell.
        """
        return []
