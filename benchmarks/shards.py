"""Pictures of benchmarks as Sample shards."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maskmill.data_contracts import (
    SAMPLE,
    Contract,
    LabelSpace,
    Uint8Array,
    encode_mask,
    foreground_ids,
    pair_id,
    shard_name,
    write_shard,
)

Row = dict[str, Any]


def sample_row(
    image: bytes, mask: Uint8Array, space: LabelSpace, group: str | None = None, index: int | None = None
) -> Row:
    """A SAMPLE row of an encoded image and a label map uint8 (H, W)."""
    encoded = encode_mask(mask, space.palette)
    return {
        "sample_id": pair_id(image, encoded, group, index),
        "image": {"bytes": image, "path": None},
        "mask": {"bytes": encoded, "path": None},
        "height": mask.shape[0],
        "width": mask.shape[1],
        "class_ids": foreground_ids(mask, space),
        "group": group,
        "index": index,
        "provenance": {"source": "benchmark"},
    }


def write_rows(rows: Iterable[Row], folder: Path, contract: Contract = SAMPLE) -> str:
    """Rows as one shard, of equal ids the last; returns the folder."""
    unique = {row["sample_id"]: row for row in rows}
    table = contract.table(list(unique.values()))
    write_shard(str(folder / shard_name(0)), table, contract, stage="benchmark", fingerprint=folder.name)
    return str(folder)
