"""A throw-away exporter: the ids of the kept samples, split by split."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from maskmill.data_contracts import LabelSpace
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.facts import Facts
from maskmill.pipelines.export.sample import ExportSample, Record, ShardFiles, by_split


class NamesExport(Exporter):
    """SPLIT.txt, one id a line."""

    format: Literal["names"] = "names"
    version: ClassVar[int] = 1
    loading: ClassVar[str] = 'ids = open("train.txt").read().split()'

    def shard(self, samples: Iterable[ExportSample], space: LabelSpace, shard: str) -> ShardFiles:
        return ShardFiles({}, [{"sample_id": sample.sample_id, "split": sample.split} for sample in samples])

    def finish(self, records: list[Record], space: LabelSpace, facts: Facts) -> dict[str, bytes]:
        lists = by_split(records, self.splits)
        return {
            f"{name}.txt": "".join(f"{row['sample_id']}\n" for row in rows).encode() for name, rows in lists.items()
        }
