"""Parquet shards: written whole or not at all, with a footer that says what they were made from.

A shard's `fingerprint` is known before it is written (contract, stage, code version, config, contents of the
inputs), so a stage can tell that a shard is done without opening its rows. Its `content` hash is that of the rows
themselves: what comes next depends on it, so inputs that were made again with the same result trigger no further work.
"""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import IO

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from maskmill.data_contracts.errors import ContractError, DamagedError, Problem, Reason, raise_transient
from maskmill.data_contracts.footers import (
    FOOTER_KEY,
    FOOTERS,
    Footer,
    fingerprint,
    footer_fault,
    footer_of,
    read_footer,
    stated_contract,
)
from maskmill.data_contracts.ids import ContentHash
from maskmill.data_contracts.instances import upgrade_entries
from maskmill.data_contracts.schemas import CONTRACTS, Contract
from maskmill.data_contracts.seal import SEAL_KEY, data_fault, read_tail, seal
from maskmill.data_contracts.storage import TEMPORARY, read_bytes, sweep_temporaries, write_bytes
from maskmill.data_contracts.versions import deciding_versions

__all__ = [  # the files of a shard's folder are part of what it is to write one
    "FOOTERS",
    "FOOTER_KEY",
    "TEMPORARY",
    "Footer",
    "check_unique",
    "content_hash",
    "fingerprint",
    "footer_fault",
    "is_sealed",
    "iter_rows",
    "list_shards",
    "read_bytes",
    "read_footer",
    "read_groups",
    "read_shard",
    "shard_fault",
    "shard_name",
    "sweep_temporaries",
    "write_bytes",
    "write_shard",
]

ROWS = 65_536  # in a row group of a shard that holds no files: ten million decisions would make 40,000 of 256
DIFFERENT = {"sample_id", "other_id", "duplicate_of", "detail", "source_path"}  # in each row: no use for a dictionary


def content_hash(table: pa.Table) -> str:
    """Hash of the rows, whatever the chunking of the table."""
    batches = table.replace_schema_metadata(None).combine_chunks()
    size = pa.MockOutputStream()
    _stream(batches, size)
    digest = ContentHash(size.size())
    with pa.PythonFile(digest, "w") as sink:  # never all at once in memory: a table of decisions may be large
        _stream(batches, sink)
    return digest.hexdigest()


def _stream(table: pa.Table, sink: pa.NativeFile) -> None:
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def write_shard(
    path: str,
    table: pa.Table,
    contract: Contract,
    *,
    stage: str,
    fingerprint: str,
    config_hash: str = "",
    inputs: tuple[str, ...] = (),
    counts: dict[str, int] | None = None,
) -> Footer:
    """Check `table` against its contract and write it atomically, with its footer.

    Raises:
        ContractError: wrong columns or types, nulls where none may be, or a `sample_id` that occurs twice.
    """
    table = table.select(contract.schema.names)
    contract.check(table, path)
    check_unique(table, path)
    footer = Footer(
        contract=contract.name,
        version=contract.version,
        stage=stage,
        config_hash=config_hash,
        inputs=inputs,
        fingerprint=fingerprint,
        rows=table.num_rows,
        content=content_hash(table),
        counts=dict(sorted((counts or {}).items())),
        made_with=deciding_versions(),
    )
    about = json.dumps(asdict(footer), sort_keys=True).encode()
    metadata = {**(contract.schema.metadata or {}), FOOTER_KEY: about, SEAL_KEY: b"1"}
    sink = pa.BufferOutputStream()
    # Images are compressed already; everything else is small, and zstd halves it.
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        compression="none" if contract.files else "zstd",
        row_group_size=256 if contract.files else ROWS,
        use_dictionary=bool(contract.files) or [name for name in contract.schema.names if name not in DIFFERENT],
        write_page_checksum=True,
    )
    write_bytes(path, seal(memoryview(sink.getvalue())))
    return footer


def check_unique(table: pa.Table, where: str) -> None:
    """Raise ContractError if a `sample_id` occurs twice; in a table with column `shard`, twice in one shard.

    Neighbour tables, whose key is a pair, are let through, and so are tables that are not of samples.
    """
    if "other_id" in table.column_names or "sample_id" not in table.column_names:
        return
    ids = table.column("sample_id")
    if ids.null_count == 0 and pc.all(pc.less(ids.slice(0, len(ids) - 1), ids.slice(1))).as_py() is not False:
        return  # in order, each larger than the one before: no need to collect ten million of them
    keys = [name for name in ("sample_id", "shard") if name in table.column_names]
    counts = table.select(keys).group_by(keys).aggregate([([], "count_all")])
    if counts.num_rows < table.num_rows:
        repeated = counts.filter(pc.greater(counts.column("count_all"), 1))
        twice = min(repeated.column("sample_id").to_pylist())
        problem = Problem(
            Reason.DUPLICATE_ID, "every sample_id once", f"{twice} again", "drop the repeated sample before writing"
        )
        raise ContractError(where, problem)


def shard_fault(path: str) -> str | None:
    """What is wrong with a shard, every byte of it looked at; None where it is whole. Of shards without a seal (earlier
    versions wrote none) the rows are held against the footer's content hash.

    Raises:
        FileNotFoundError: no such shard.
    """
    tail = read_tail(path)
    if fault := tail.fault or footer_fault(path):
        return fault
    if tail.data_hash is not None:
        return data_fault(path, tail)
    footer = footer_of(tail)
    assert footer is not None
    contract = CONTRACTS.get(footer.contract)
    if contract is None or contract.version != footer.version:
        return None
    try:
        table = _table(path, None)
    except DamagedError as error:
        return str(error)
    fields = [contract.schema.field(name) for name in table.column_names if name in contract.schema.names]
    try:
        same = _holds(table.cast(pa.schema(fields)), footer.content)  # Parquet names the items of lists otherwise
    except (pa.ArrowException, ValueError):  # a column that had another layout then
        return None
    return None if same else "rows that are not those that were written"


def _holds(table: pa.Table, content: str) -> bool:
    """Whether these rows, read from Parquet, are those with this hash. Parquet gives back some columns without a value
    (structs above all) in another layout than rows are written in, so the rows are also looked at as newly made.
    """
    if content_hash(table) == content:
        return True
    return content_hash(pa.Table.from_pylist(table.to_pylist(), schema=table.schema)) == content


def is_sealed(path: str) -> bool:
    """Whether a shard carries a seal, so that each of its bytes can be verified."""
    return read_tail(path).data_hash is not None


def _table(path: str, columns: list[str] | None) -> pa.Table:
    """Rows of a Parquet file; the checksum of each page that is read is verified.

    Raises:
        DamagedError: a page or the footer is not as it was written.
    """
    with _opened(path) as handle:
        file = pq.ParquetFile(handle, page_checksum_verification=True)  # read_table would import pandas
        there = set(file.schema_arrow.names)
        wanted = None if columns is None else [name for name in columns if name in there]
        return file.read() if wanted is None else file.read(columns=wanted).select(wanted)


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    """A Parquet file to read pages from; what cannot be read inside is damage."""
    fs, target = fsspec.core.url_to_fs(path)
    try:
        tail = read_tail(path)
        if tail.fault:
            raise DamagedError(path, tail.fault)
        with fs.open(target, "rb") if tail.whole is None else io.BytesIO(tail.whole) as handle:
            yield handle
    except (pa.ArrowException, OSError) as error:
        raise_transient(error)
        if isinstance(error, FileNotFoundError):
            raise
        raise DamagedError(path, f"a page that cannot be read ({error})") from error


def read_groups(path: str, columns: list[str]) -> Iterator[pa.Table]:
    """Columns of a shard, a row group in memory at a time; the checksum of each page that is read is verified.

    Raises:
        DamagedError: a page or the footer is not as it was written.
    """
    with _opened(path) as handle:
        file = pq.ParquetFile(handle, page_checksum_verification=True)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=columns)


def read_shard(path: str, contract: Contract, columns: list[str] | None = None) -> pa.Table:
    """Read a shard and hold it against its contract; with `columns`, only those. What is read is verified.

    Raises:
        ContractError: no maskmill footer, another contract or version, wrong columns or types.
        DamagedError: its bytes are not those that were written.
    """
    table = _table(path, columns)
    found = stated_contract((table.schema.metadata or {}).get(FOOTER_KEY))
    if found != f"{contract.name} version {contract.version}":
        fix = "name a folder of shards that this version wrote, or ingest the data again"
        raise ContractError(
            path, Problem(Reason.BAD_ANNOTATION, f"{contract.name} version {contract.version}", found, fix)
        )
    table = _as_now(table, contract, contract.schema.names if columns is None else columns)
    if columns is None:
        contract.check(table, path)
    return table


def _as_now(table: pa.Table, contract: Contract, columns: list[str]) -> pa.Table:
    """Columns that came later as nulls, and `instances` in today's layout, for shards from before."""
    for name in contract.later:
        if name in columns and name not in table.column_names:
            field = contract.schema.field(name)
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    if "instances" in table.column_names and table.schema.field("instances").type != (
        kind := contract.schema.field("instances").type
    ):
        entries = [upgrade_entries(row) for row in table.column("instances").to_pylist()]
        place = table.column_names.index("instances")
        table = table.set_column(place, contract.schema.field("instances"), pa.array(entries, kind))
    return table


def iter_rows(path: str, contract: Contract, columns: list[str] | None = None) -> Iterator[dict[str, object]]:
    """Rows of a shard as dicts, one batch in memory at a time."""
    for batch in read_shard(path, contract, columns).to_batches(max_chunksize=64):
        yield from batch.to_pylist()


def list_shards(folder: str) -> list[str]:
    """The `*.parquet` files of a folder (local or fsspec URL), sorted by name; [] where there is no such folder."""
    fs, target = fsspec.core.url_to_fs(folder)
    if isinstance(fs, LocalFileSystem) and os.path.isdir(target):
        return sorted(f"{target.rstrip('/')}/{name}" for name in os.listdir(target) if name.endswith(".parquet"))
    if not fs.exists(target):
        return []
    found = sorted(p for p in fs.ls(target, detail=False) if str(p).endswith(".parquet"))
    return [str(p) if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(p)) for p in found]


def shard_name(index: int) -> str:
    """File name of shard `index`."""
    return f"shard-{index:05d}.parquet"
