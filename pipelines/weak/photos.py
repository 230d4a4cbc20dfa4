"""Hints by photo to WeakLabel shards, a row for every Sample row."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from maskmill.data_contracts import SAMPLE, WEAK_LABEL, content_id, list_shards, read_shard, write_shard
from maskmill.pipelines.ingest.base import bad_annotation

Hint = TypeVar("Hint")


def photo_key(file: str | None, where: str) -> str:
    """The key of a photo that a file names: its path without the suffix.

    Raises:
        ContractError: it names none.
    """
    if not file or not PurePosixPath(file.replace("\\", "/")).name:
        raise bad_annotation(where, "the file name of a photo", repr(file), "name the photo")
    return stem_of(file)


def stem_of(file: str) -> str:
    """A path without its suffix, its parts set apart by slashes."""
    return str(PurePosixPath(file.replace("\\", "/")).with_suffix(""))


def rows_by_photo(
    samples: str,
    found: Mapping[str, Sequence[Hint]],
    hints: Callable[[list[Hint]], dict[str, Any]],
    out_dir: str,
    *,
    stage: str,
    stamp: str,
) -> int:
    """WeakLabel shards in `out_dir`: `hints` makes columns of what is known of a photo, by its path without suffix or
    its file name alone. Returns photos of which anything is known.
    """
    hit = 0
    for path in list_shards(samples):
        rows = []
        for sample in read_shard(path, SAMPLE, ["sample_id", "provenance"]).to_pylist():
            stem = stem_of(str(sample["provenance"]["source_path"]))
            own = list(found.get(stem) or found.get(PurePosixPath(stem).name) or [])
            rows.append({"sample_id": sample["sample_id"], **hints(own)})
            hit += bool(own)
        mark = content_id(stamp, json.dumps(rows, sort_keys=True))
        target = f"{out_dir.rstrip('/')}/{Path(path).name}"
        write_shard(target, WEAK_LABEL.table(rows), WEAK_LABEL, stage=stage, fingerprint=mark)
    return hit
