"""Hugging Face Parquet: files with an image and a mask column (embedded bytes or paths); our own shards among them."""

import io
import re
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from maskmill.data_contracts import SAMPLE, ContractError, LabelSpace, Problem, Reason
from maskmill.data_contracts.image_files import IMAGE_SUFFIXES
from maskmill.data_contracts.schemas import PROVENANCE
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.ingest.base import MAX_INDEX, PILLOW_LIMIT, Entry, MaskPart, RawSample, Source, bad_annotation
from maskmill.pipelines.ingest.class_files import space_of
from maskmill.pipelines.ingest.files import File, Root
from maskmill.pipelines.ingest.folder import check_words
from maskmill.pipelines.ingest.mask_files import array_to_png

LONGEST_PATH = 1024
_NO_COLUMN = "a file with the columns"
OPTIONAL = ("group", "index", "spacing", "prompt", "provenance", "instances")
_reading = threading.Lock()


class HfParquetSource(Source):
    """`root` is a folder with .parquet files, or one of them. Image and mask cells hold bytes, {bytes, path} or a path.

    Columns `classes` (ids or names; ClassLabel numbers count as the names they stand for), group, index, prompt and
    provenance are used where a file has them. Where `mask` cells are lists, `mask_classes` is the column with the class
    of each.
    """

    version: ClassVar[int] = 2  # since then ClassLabel numbers are read by name
    later: ClassVar[frozenset[str]] = Source.later | {"mask_classes"}

    kind: Literal["hf_parquet"] = Field(default="hf_parquet", description="kind of the source")
    folder: str = Field(
        default="",
        description="folder under the root with the .parquet files; empty = the root, or the file that it is",
    )
    image: str = Field(default="image", description="column of the images: bytes, {bytes, path} or a path")
    mask: str | None = Field(default="mask", description="column of the masks; null = images without masks")
    classes: str = Field(
        default="prompt_class_ids",
        description="column of the classes that an image was asked to show, ids or names; used where a file has it",
    )
    mask_classes: str | None = Field(
        default=None, description="where mask cells are lists: column with the class of each mask"
    )

    @property
    def _wanted(self) -> tuple[str, ...]:
        return tuple(name for name in (self.image, self.mask, self.mask_classes) if name is not None)

    def entries(self) -> Iterator[Entry]:
        """All rows of all files; a file without the columns is one reject.

        Raises:
            ValueError: no file has the columns.
        """
        sound, faulty = False, None
        for entry in self._listed():
            sound = sound or entry.problem is None
            faulty = faulty or (entry if entry.problem is not None and _NO_COLUMN in entry.problem.expected else None)
            yield entry
        if faulty is not None and faulty.problem is not None and not sound:
            found, fix = faulty.problem.found, faulty.problem.fix
            raise ValueError(f"{self.root}/{faulty.key}: no column {list(self._wanted)}; found {found}. Fix: {fix}")

    def _listed(self) -> Iterator[Entry]:
        root = self.open_root()
        root.passed.walks.append((self.folder, IMAGE_SUFFIXES))  # rows may name them; whether they do, loading tells
        for file in self._files(root):
            yield from self._file_entries(root, file)

    def _files(self, root: Root) -> Iterator[File]:
        return root.walk(self.folder, frozenset((".parquet",)))

    def _file_entries(self, root: Root, file: File) -> Iterator[Entry]:
        if file.problem is not None:
            yield Entry(file.path, file.stamp, problem=file.problem)
            return
        try:
            schema, sizes = self._layout(root, file.path)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk or the network, not the file
            yield Entry(file.path, file.stamp, problem=_broken(file.path, error).problem)
            return
        yield from self._row_entries(file, schema.names, sizes)

    def _layout(self, root: Root, path: str) -> tuple[pa.Schema, list[int]]:
        """Schema of a file, and rows of each of its row groups."""
        with root.fs.open(root.locate(path), "rb") as handle:
            parquet = pq.ParquetFile(handle)
            meta = parquet.metadata
            return parquet.schema_arrow, [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]

    def _row_entries(self, file: File, names: list[str], sizes: list[int]) -> Iterator[Entry]:
        """Rows of a file with these columns, by row groups of these sizes; one reject where a column is missing."""
        if absent := [name for name in self._wanted if name not in names]:
            expected = f"{_NO_COLUMN} {', '.join(absent)}"
            fix = "name the columns with source.image and source.mask (mask: null for none), or take the file away"
            problem = bad_annotation(file.path, expected, f"only {', '.join(names)}", fix).problem
            yield Entry(file.path, file.stamp, problem=problem)
            return
        for number, group, row in _rows(sizes):
            fields = {"file": file.path, "stamp": file.stamp, "group": group, "row": row, "columns": names}
            yield Entry(f"{file.path}#{number:09d}", file.stamp, fields)

    def own_space(self) -> LabelSpace:
        """The names of the ClassLabel column, in the first file that has it."""
        root = self.open_root()
        for path in sorted(file.path for file in self._files(root) if not file.problem):
            schema, _ = self._layout(root, path)
            for column in (self.classes, self.mask_classes):
                if column is not None and (names := class_names(schema, column)) is not None:
                    named = [(number, name, None) for number, name in enumerate(names)]
                    return space_of(self.space_name, named, f"{self.root}/{path}, column {column}", keep_ids=False)
        return super().own_space()

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        fields = entry.fields
        columns = (*self._wanted, self.classes, *OPTIONAL)
        with _reading:  # threads of one shard want the same row group: read it once
            table = _row_group(self.reader(), fields["file"], fields["stamp"], fields["group"], columns)
        row = cells(table, fields["row"], entry.key)
        return self.sample(row, table.schema, entry.key, fields["columns"])

    def sample(self, row: dict[str, Any], schema: pa.Schema, where: str, columns: list[str]) -> RawSample:
        """The sample of one row of a table with these columns.

        Raises:
            ContractError: a cell that holds no image, or words that are no classes.
        """
        group, index = _place(row, where)
        mask = None if self.mask is None else _flat(row[self.mask], where)
        several = isinstance(mask, list)
        words = class_words(row.get(self.classes), class_names(schema, self.classes), where)
        return RawSample(
            image=self._bytes(row[self.image], Reason.MISSING_IMAGE, where),
            mask=None if self.mask is None or several else self._bytes(mask, Reason.MISSING_MASK, where),
            parts=self._parts(row, schema, where, columns) if several else (),
            words=words,
            group=group,
            index=index,
            spacing=_spacing(row, where),
            provenance=_provenance(row, schema),
            objects=_objects(row, schema),
        )

    def _parts(self, row: dict[str, Any], schema: pa.Schema, where: str, columns: list[str]) -> tuple[MaskPart, ...]:
        """Masks of a cell that holds a list of them."""
        assert self.mask is not None
        cells = row[self.mask]
        if self.mask_classes is None:
            found = f"a list of {len(cells)} masks, beside columns {', '.join(columns[:12])}"
            fix = "set source.mask_classes to the column that holds the class of each"
            raise bad_annotation(where, "one mask", found, fix)
        words = class_words(row[self.mask_classes], class_names(schema, self.mask_classes), where) or ()
        if len(words) != len(cells):
            raise bad_annotation(where, f"{len(cells)} classes for as many masks", f"{len(words)}", "mend the row")
        pairs = enumerate(zip(cells, words, strict=True))
        return tuple(MaskPart(self._bytes(c, Reason.MISSING_MASK, where), f"mask {n}", w) for n, (c, w) in pairs)

    def _bytes(self, cell: object, missing: Reason, where: str) -> bytes:
        path = cell
        if isinstance(cell, dict):
            path = cell.get("path")
            cell = cell.get("bytes", cell if path is None else None)
        if isinstance(cell, bytes):
            return cell
        if isinstance(path, str) and len(path) <= LONGEST_PATH:
            return self.reader().read(path, missing)
        found, fix = _no_cell(path if isinstance(path, str) else cell)
        raise ContractError(where, Problem(missing, "bytes, {bytes, path} or a path", found, fix))


def cells(table: pa.Table, number: int, where: str) -> dict[str, Any]:
    """One row of a table.

    Raises:
        ContractError: a cell that Python has no value for (text that is no UTF-8, odd times); names its column.
    """
    row = table.slice(number, 1)
    found: dict[str, Any] = {}
    for name in row.column_names:
        try:
            found[name] = row.column(name).to_pylist()[0]
        except (ValueError, OverflowError, pa.ArrowException) as error:
            raise bad_annotation(
                where, f"a value in column {name} that can be read", str(error)[:100], "mend the row"
            ) from error
    return found


def _flat(cell: object, where: str) -> object:
    """A mask that is an array of numbers, as the bytes of an image; anything else as it is.

    Raises:
        ContractError: rows of different length, or numbers that are no label map.
    """
    if not (isinstance(cell, list) and cell and isinstance(cell[0], list)):
        return cell
    buffer = io.BytesIO()
    try:
        np.save(buffer, np.asarray(cell), allow_pickle=False)
    except ValueError as error:
        raise bad_annotation(where, "an array (height, width)", str(error)[:100], "mend the row") from error
    return array_to_png(buffer.getvalue(), where, PILLOW_LIMIT)


def _no_cell(cell: object) -> tuple[str, str]:
    """What a cell without an image is, and what to do about it."""
    embed = "store the file's bytes, or its path relative to the root"
    if isinstance(cell, str):
        kind = "which looks like base64" if re.fullmatch(r"[A-Za-z0-9+/=\s]+", cell) else "which is no path"
        return f"text of {len(cell)} characters, {kind}", f"{embed}: base64.b64decode(cell)"
    if isinstance(cell, dict):
        return f"the keys {', '.join(map(str, cell))}", f"{embed}, under the keys bytes and path"
    if isinstance(cell, list):
        return f"a list of {len(cell)}", embed
    return ("nothing" if cell is None else f"{type(cell).__name__} {cell!r:.40}"), embed


def class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Names that the numbers of a ClassLabel column stand for, as `datasets` writes them; None for other columns."""
    try:
        feature = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        while isinstance(feature, list) or "feature" in feature:
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        return [str(name) for name in feature["names"]] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def class_words(cell: object, names: list[str] | None, where: str) -> tuple[str | int, ...] | None:
    """Classes of a cell, one or a list; with `names`, numbers become the names that they stand for (-1 is none).

    Raises:
        ContractError: no names and no numbers, or a number that has no name.
    """
    if cell is None:
        return None
    words = check_words(cell if isinstance(cell, list) else [cell], where)
    if names is None:
        return words
    if odd := [w for w in words if isinstance(w, int) and not -1 <= w < len(names)]:
        expected = f"ClassLabel numbers of 0..{len(names) - 1} ({', '.join(names[:5])})"
        raise bad_annotation(where, expected, f"{odd[0]}", "mend the row, or write the file again with its features")
    return tuple(names[w] if isinstance(w, int) else w for w in words if w != -1)


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
    return bad_annotation(path, "a whole file of rows", str(error)[:200], "write the file again")


def _place(row: dict[str, Any], where: str) -> tuple[str | None, int | None]:
    group, index = row.get("group"), row.get("index")
    whole = isinstance(index, int) and not isinstance(index, bool)
    if index is not None and not (whole and 0 <= index <= MAX_INDEX):
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


def _objects(row: dict[str, Any], schema: pa.Schema) -> list[Any] | None:
    """The row's objects, where its column is laid out like ours."""
    ours = SAMPLE.schema.field("instances").type
    return row["instances"] if "instances" in schema.names and schema.field("instances").type == ours else None


def _provenance(row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """What the row says of its own origin, where its column is laid out like ours; a prompt column else."""
    if "provenance" in schema.names and schema.field("provenance").type == PROVENANCE and row["provenance"]:
        return dict(row["provenance"])
    return {"prompt": row["prompt"]} if isinstance(row.get("prompt"), str) else {}
