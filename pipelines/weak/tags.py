"""Tags of one's own photos to contract shards: what each photo shows, by name. Trainer `weclip` takes them."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from maskmill.data_contracts import (
    SAMPLE,
    WEAK_LABEL,
    LabelSpace,
    content_id,
    list_shards,
    read_bytes,
    read_shard,
    write_shard,
)
from maskmill.data_contracts.texts import TextError, parse_json
from maskmill.pipelines.core.stage import UnitReport, map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.base import bad_annotation, find_classes
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.folder_names import check_photos
from maskmill.pipelines.weak.photos import photo_key, rows_by_photo, stem_of

SHARD_SIZE = 32
Tags = dict[str, tuple[str, ...]]  # photo without suffix: names
FORMATS = 'JSON {"photo.jpg": ["horse", "person"], …} or a CSV file with the columns file and classes (several by ;)'


def read_tags(path: str) -> Tags:
    """Tags by photo from a JSON or CSV file.

    Raises:
        FileNotFoundError: nothing there. ContractError: `bad_annotation` for a file that is neither, or has no tag.
    """
    data = read_bytes(path)
    found = _from_csv(data, path) if path.lower().endswith(".csv") else _from_json(data, path)
    if not any(found.values()):
        raise bad_annotation(path, "at least one tag", "none", f"give {FORMATS}")
    return found


def _from_csv(data: bytes, where: str) -> Tags:
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig", errors="replace")))
    found: Tags = {}
    try:
        if not {"file", "classes"} <= set(rows.fieldnames or ()):
            raise bad_annotation(where, "columns file, classes", f"{rows.fieldnames!r:.200}", "add a header")
        for number, row in enumerate(rows, start=2):
            names = tuple(name.strip() for name in (row["classes"] or "").split(";") if name.strip())
            photo = photo_key(row["file"], f"{where}, line {number}")
            found[photo] = (*found.get(photo, ()), *names)
    except csv.Error as error:
        raise bad_annotation(where, "a CSV file", str(error), f"give {FORMATS}") from error
    return found


def _from_json(data: bytes, where: str) -> Tags:
    try:
        top = parse_json(data)
    except TextError as error:
        raise bad_annotation(where, "JSON", str(error), f"give {FORMATS}") from error
    if not isinstance(top, dict) or not all(_are_names(names) for names in top.values()):
        raise bad_annotation(where, "names by photo", repr(top)[:80], f"give {FORMATS}")
    return {photo_key(file, where): tuple(names) for file, names in top.items()}


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def names_in(tags: Tags) -> list[str]:
    """All names that occur, sorted: the label space of these tags."""
    return sorted({name for names in tags.values() for name in names})


def tag_photos(
    images: str, tags: Tags, out: str, space: LabelSpace, progress: Callable[[UnitReport], None] | None = None
) -> dict[str, int]:
    """Photos under `images` to OUT/samples, their tags to OUT/weak; returns photos with and without a tag.

    A photo is found by its path without suffix, or by its file name alone.

    Raises:
        FileNotFoundError: no such folder. ContractError: `unknown_class_name` for a tag that is no class; names it.
        ValueError: no photo has a tag.
    """
    check_photos(images)
    ids = {photo: find_classes(names, space, photo) for photo, names in tags.items()}
    source = FolderSource(root=images, images="", masks=None)
    map_units(ingest_stage(source, space), ingest_units(source, out, SHARD_SIZE), progress=progress)
    counts = {"kept": 0, "no_classes": 0}
    for path in list_shards(f"{out}/samples"):
        rows = list(_rows(path, ids))
        counts["kept"] += len(rows)
        counts["no_classes"] += read_shard(path, SAMPLE, ["sample_id"]).num_rows - len(rows)
        stamp = content_id(space.fingerprint, *(f"{row['sample_id']} {row['class_ids']}" for row in rows))
        target = f"{out}/weak/{path.rsplit('/', 1)[-1]}"
        write_shard(target, WEAK_LABEL.table(rows), WEAK_LABEL, stage="tags", fingerprint=stamp)
    if not counts["kept"]:
        raise ValueError(f"{images}: expected photos that the tags name ({', '.join(sorted(tags)[:3])} …), found none")
    return counts


def write_tag_labels(samples: str, tags: Mapping[str, Sequence[int]], space: LabelSpace, out_dir: str) -> int:
    """WeakLabel shards in `out_dir`, a row for every Sample row with its photo's ids; returns photos with a tag."""

    def hints(own: list[int]) -> dict[str, object]:
        return {"class_ids": sorted(own)}

    return rows_by_photo(samples, tags, hints, out_dir, stage="tags", stamp=space.fingerprint)


def _rows(path: str, ids: dict[str, list[int]]) -> Iterable[dict[str, object]]:
    for row in read_shard(path, SAMPLE, ["sample_id", "provenance"]).to_pylist():
        stem = stem_of(str(row["provenance"]["source_path"]))
        if found := ids.get(stem) or ids.get(PurePosixPath(stem).name):
            yield {"sample_id": row["sample_id"], "class_ids": found}
