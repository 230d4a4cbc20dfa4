"""The reference of shards: every contract with its columns, and every reason."""

import pyarrow as pa

from maskmill.data_contracts import CONTRACTS, Contract, Reason
from maskmill.data_contracts.schemas import FILE, PARTS
from maskmill.pipelines.report.words import explain, key_of

INTRO = """# Contracts

Every hand-over between two parts of maskmill is a Parquet shard with one of these layouts, one row a sample. They
open as they are in `datasets`, polars and duckdb, and join on `sample_id`. The footer of a shard names contract and
version, the stage that wrote it, the fingerprint of what it was made from, its counts by reason and a seal over its
bytes.

A *file* is a struct `{bytes, path}`: the encoded image itself. *May be null* says whether a row can do without."""


def contract_page() -> str:
    """The page's text."""
    return "\n\n".join([INTRO, *(_contract(contract) for contract in CONTRACTS.values()), _reasons()])


def _contract(contract: Contract) -> str:
    head = f"## {contract.name}\n\n{contract.words} Version {contract.version}."
    null = {name: "" if name in contract.required else "yes" for name in contract.schema.names}
    rows = [_row(f.name, f.type, null[f.name], contract.about[f.name]) for f in contract.schema]
    parts = [_part(field.name) for field in contract.schema if field.name in PARTS]
    return "\n\n".join([head, _table("column | type | may be null | what it holds", rows), *parts])


def _part(column: str) -> str:
    rows = [f"| `{name}` | {_cell(about)} |" for name, about in PARTS[column].items()]
    return f"Fields of `{column}`:\n\n" + _table("field | what it holds", rows)


def _reasons() -> str:
    words = "What `reason` may say, in the order of the stages; `kept` alone is no rejection."
    rows = [f"| `{reason}` | {_cell(explain(reason))} | {_cell(key_of(reason))} |" for reason in Reason]
    return f"## Reasons\n\n{words}\n\n" + _table("reason | what it means | what to turn", rows)


def _table(head: str, rows: list[str]) -> str:
    return "\n".join([f"| {head} |", "|" + "---|" * (head.count("|") + 1), *rows])


def _row(name: str, kind: pa.DataType, null: str, words: str) -> str:
    return f"| `{name}` | {type_word(kind)} | {null} | {_cell(words)} |"


def type_word(kind: pa.DataType) -> str:
    """An Arrow type in words."""
    if kind == FILE:
        return "file"
    if pa.types.is_list(kind):
        return f"list of {type_word(kind.value_type)}"
    return "struct" if pa.types.is_struct(kind) else str(kind)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
