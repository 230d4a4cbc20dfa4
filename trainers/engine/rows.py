"""Random access to the rows of Parquet shards by sample_id, without holding them all in memory.

Rows are read row group by row group, once. What is small stays in memory; what is larger goes to one Arrow file that
is memory-mapped, so that reading row 5 costs row 5, and data processes share one copy of it.
"""

import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskmill.data_contracts import TEMPORARY, Contract, content_id, read_footer
from maskmill.data_contracts.shards import read_groups
from maskmill.data_contracts.storage import naming

Row = dict[str, Any]


class RowStore:
    """Rows of `paths` (shards of one contract) whose id is in `ids`; where an id occurs twice, its first row."""

    def __init__(
        self,
        paths: Sequence[str],
        contract: Contract,
        columns: list[str],
        ids: Sequence[str],
        cache: str,
        memory_mb: int,
    ) -> None:
        self._keep = pa.array(sorted(ids), pa.string())
        self._columns = columns
        self._schema = pa.schema([contract.schema.field(name) for name in columns])
        if sum(_encoded_bytes(path) for path in paths) <= memory_mb * 2**20:
            self._batches = list(self._read(paths))
        else:
            self._batches = self._mapped(paths, cache)
        self._where: dict[str, tuple[int, int]] = {}
        for number, batch in enumerate(self._batches):
            for row, sample_id in enumerate(batch.column("sample_id").to_pylist()):
                self._where.setdefault(sample_id, (number, row))

    def __contains__(self, sample_id: str) -> bool:
        return sample_id in self._where

    def row(self, sample_id: str) -> Row:
        """One row as a dict of Python values; file columns as {"bytes", "path"}."""
        number, row = self._where[sample_id]
        found: Row = self._batches[number].slice(row, 1).to_pylist()[0]
        return found

    def _read(self, paths: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for path in paths:
            for table in read_groups(path, self._columns):
                table = table.filter(pc.is_in(table.column("sample_id"), value_set=self._keep))
                yield from table.select(self._columns).cast(self._schema).to_batches()

    def _mapped(self, paths: Sequence[str], cache: str) -> list[pa.RecordBatch]:
        contents = [footer.content for path in paths if (footer := read_footer(path)) is not None]
        target = os.path.join(cache, f"rows-{content_id(*contents, *self._columns, *self._keep.to_pylist())}.arrow")
        if not os.path.exists(target):
            os.makedirs(cache, exist_ok=True)
            temporary = os.path.join(cache, f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:8]}")
            with naming(target):
                with pa.ipc.new_file(temporary, self._schema) as writer:
                    for batch in self._read(paths):
                        writer.write_batch(batch)
                os.replace(temporary, target)
        reader = pa.ipc.open_file(pa.memory_map(target))
        return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def _encoded_bytes(path: str) -> int:
    fs, target = fsspec.core.url_to_fs(path)
    with fs.open(target, "rb") as handle:
        metadata = pq.read_metadata(handle)
    return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
