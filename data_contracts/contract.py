"""A contract: the named, versioned layout of one hand-over, and what checks a table against it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as extra

import pyarrow as pa

from maskmill.data_contracts.errors import ContractError, Problem, Reason

FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class Contract:
    """A named, versioned table layout. `files` are the columns that hold encoded images, `required` those without
    nulls, `later` those that shards from before lack: read back, they are null. `about` says what each column holds.

    Arrow fields stay nullable: `datasets` does not see an image in a struct column that is not.
    """

    name: str
    version: int
    schema: pa.Schema
    files: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    about: Mapping[str, str] = extra(default_factory=dict, compare=False)
    words: str = extra(default="", compare=False)

    def table(self, rows: list[dict[str, object]]) -> pa.Table:
        """Rows to a table of exactly this schema.

        Raises:
            ContractError: a column that the contract does not know, or a value that does not fit.
        """
        known = set(self.schema.names)
        for row in rows:
            if unknown := set(row) - known:
                raise self._error(str(row.get("sample_id")), f"columns {sorted(known)}", f"also {sorted(unknown)}")
        try:
            table = pa.Table.from_pylist(rows, schema=self.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise self._error(self.name, str(self.schema), str(error)) from error
        self.check(table)
        return table

    def check(self, table: pa.Table, where: str | None = None) -> None:
        """Check column names, types and that required columns hold no null.

        Raises:
            ContractError: names the shard, the column, the type expected and the type found.
        """
        where = where or self.name
        for field in self.schema:
            if field.name not in table.column_names:
                raise self._error(where, f"column {field.name}", f"columns {table.column_names}")
            column = table.column(field.name)
            if column.type != field.type:
                raise self._error(where, f"{field.name}: {field.type}", str(column.type))
            if field.name in self.required and column.null_count:
                raise self._error(where, f"{field.name} without nulls", f"{column.null_count} nulls")

    def _error(self, where: str, expected: str, found: str) -> ContractError:
        fix = f"write rows through data_contracts.{self.name.upper()} (version {self.version})"
        return ContractError(where, Problem(Reason.BAD_ANNOTATION, expected, found, fix))


Column = tuple[pa.Field, str]  # and what it holds


def contract(
    name: str,
    version: int,
    words: str,
    columns: list[Column],
    files: tuple[str, ...] = (),
    later: tuple[str, ...] = (),
) -> Contract:
    """A contract from its columns, with the metadata by which `datasets` decodes its files."""
    fields = [column for column, _ in columns]
    features = {column.name: _feature(column.type, column.name in files) for column in fields}
    metadata = {"huggingface": json.dumps({"info": {"features": features}}, sort_keys=True)}
    schema = pa.schema([column.with_nullable(True) for column in fields], metadata=metadata)
    whole = tuple(column.name for column in fields if not column.nullable)
    return Contract(name, version, schema, files, whole, later, {c.name: about for c, about in columns}, words)


def _feature(kind: pa.DataType, is_file: bool = False) -> dict[str, object]:
    """Hugging Face feature description of an Arrow type, so that `datasets` decodes our image columns as they are."""
    if is_file:
        return {"_type": "Image"}
    if pa.types.is_struct(kind):
        if kind == FILE:
            return {"_type": "Image"}
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    names = {pa.float32(): "float32", pa.bool_(): "bool"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}


def required(name: str, kind: pa.DataType, about: str) -> Column:
    """A column that holds no null."""
    return pa.field(name, kind, nullable=False), about


def nullable(name: str, kind: pa.DataType, about: str) -> Column:
    """A column that may hold nulls."""
    return pa.field(name, kind), about
