"""Hugging Face Parquet: files with an image and a mask column (embedded bytes or paths); our own shards among them."""

import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason
from maskmill.data_contracts.images import IMAGE_SUFFIXES
from maskmill.data_contracts.schemas import PROVENANCE
from maskmill.pipelines.ingest.base import MAX_INDEX, Entry, RawSample, Source, bad_annotation
from maskmill.pipelines.ingest.files import File, Root
from maskmill.pipelines.ingest.folder import check_words

OPTIONAL = ("group", "index", "spacing", "prompt", "provenance")
_reading = threading.Lock()


class HfParquetSource(Source):
    """`root` is a folder with .parquet files, or one of them. Image and mask cells hold bytes, {bytes, path} or a path.

    Columns `classes` (ids or names), group, index, prompt and provenance are used where a file has them.
    """

    kind: Literal["hf_parquet"] = "hf_parquet"
    folder: str = ""
    image: str = "image"
    mask: str | None = "mask"
    classes: str = "prompt_class_ids"

    @property
    def _wanted(self) -> tuple[str, ...]:
        return (self.image, *([self.mask] if self.mask is not None else []))

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        root.passed.walks.append((self.folder, IMAGE_SUFFIXES))  # rows may name them; whether they do, loading tells
        for file in root.walk(self.folder, frozenset((".parquet",))):
            yield from self._file_entries(root, file)

    def _file_entries(self, root: Root, file: File) -> Iterator[Entry]:
        if file.problem is not None:
            yield Entry(file.path, file.stamp, problem=file.problem)
            return
        try:
            with root.fs.open(root.locate(file.path), "rb") as handle:
                parquet = pq.ParquetFile(handle)
                names, meta = parquet.schema_arrow.names, parquet.metadata
                sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk or the network, not the file
            yield Entry(file.path, file.stamp, problem=_broken(file.path, error).problem)
            return
        if absent := [name for name in self._wanted if name not in names]:
            raise ValueError(f"{root.url}/{file.path}: no column {absent}; it has {names}. Set `image` and `mask`")
        for number, group, row in _rows(sizes):
            fields = {"file": file.path, "stamp": file.stamp, "group": group, "row": row}
            yield Entry(f"{file.path}#{number:09d}", file.stamp, fields)

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        fields = entry.fields
        columns = (*self._wanted, self.classes, *OPTIONAL)
        with _reading:  # threads of one shard want the same row group: read it once
            table = _row_group(self.reader(), fields["file"], fields["stamp"], fields["group"], columns)
        row = table.slice(fields["row"], 1).to_pylist()[0]
        image = self._bytes(row[self.image], Reason.MISSING_IMAGE, entry.key)
        mask = None if self.mask is None else self._bytes(row[self.mask], Reason.MISSING_MASK, entry.key)
        words, (group, index) = row.get(self.classes), _place(row, entry.key)
        return RawSample(
            image=image,
            mask=mask,
            words=None if words is None else check_words(words, entry.key),
            group=group,
            index=index,
            spacing=_spacing(row, entry.key),
            provenance=_provenance(row, table.schema),
        )

    def _bytes(self, cell: object, missing: Reason, where: str) -> bytes:
        path = cell
        if isinstance(cell, dict):
            path = cell.get("path")
            cell = cell.get("bytes")
        if isinstance(cell, bytes):
            return cell
        if isinstance(path, str):
            return self.reader().read(path, missing)
        fix = "embed the bytes, or store paths relative to the root"
        raise ContractError(where, Problem(missing, "bytes or a path", repr(cell)[:80], fix))


def _rows(sizes: list[int]) -> Iterator[tuple[int, int, int]]:
    """(row of the file, row group, row of the group) for row groups of these sizes."""
    number = 0
    for group, size in enumerate(sizes):
        for row in range(size):
            yield number, group, row
            number += 1


@lru_cache(maxsize=4)
def _row_group(root: Root, path: str, stamp: str, group: int, columns: tuple[str, ...]) -> pa.Table:
    """One row group, those of `columns` that are there; `stamp` tells a changed file from the old one."""
    try:
        with root.fs.open(root.locate(path), "rb") as handle:
            parquet = pq.ParquetFile(handle)
            return parquet.read_row_group(group, [c for c in columns if c in parquet.schema_arrow.names])
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _broken(path, error) from error


def _broken(path: str, error: Exception) -> ContractError:
    return bad_annotation(path, "a whole Parquet file", str(error)[:200], "write the file again")


def _place(row: dict[str, Any], where: str) -> tuple[str | None, int | None]:
    group, index = row.get("group"), row.get("index")
    if index is not None and not (isinstance(index, int) and 0 <= index <= MAX_INDEX):
        raise bad_annotation(where, f"an index of 0..{MAX_INDEX}", repr(index), "store a frame or slice number")
    return None if group is None else str(group), index


def _spacing(row: dict[str, Any], where: str) -> tuple[float, float, float] | None:
    match row.get("spacing"):
        case None:
            return None
        case [int() | float() as deep, int() | float() as down, int() | float() as across]:
            return float(deep), float(down), float(across)
        case other:
            raise bad_annotation(where, "three numbers of mm", repr(other)[:80], "store slice, row, column spacing")


def _provenance(row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """What the row says of its own origin, where its column is laid out like ours; a prompt column else."""
    if "provenance" in schema.names and schema.field("provenance").type == PROVENANCE and row["provenance"]:
        return dict(row["provenance"])
    return {"prompt": row["prompt"]} if isinstance(row.get("prompt"), str) else {}
