"""What the benchmarks on scribbles share: pictures with a scribble and a true mask, and their shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskmill.data_contracts import (
    SAMPLE,
    WEAK_LABEL,
    LabelSpace,
    Uint8Array,
    encode_image,
    encode_mask,
    foreground_ids,
    pair_id,
    shard_name,
    write_shard,
)
from maskmill.trainers.engine import DataConfig

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Scribbled:
    """A picture. `key` keeps what belongs together (a patient's slices, a clip's frames) on one side of a split;
    `volume` names the stack that a slice is part of.
    """

    key: str
    image: Uint8Array
    mask: Uint8Array  # 255 = not judged
    scribble: Uint8Array  # 255 = not drawn
    volume: str = ""


def write_sets(pictures: Sequence[Scribbled], space: LabelSpace, folder: Path) -> tuple[DataConfig, DataConfig]:
    """The pictures as shards: data with scribbles alone, and data with true masks alone. Written once a folder."""
    places = {name: str(folder / name) for name in ("samples", "weak")}
    if not all((Path(place) / shard_name(0)).is_file() for place in places.values()):
        _write(pictures, space, places)
    drawn = DataConfig(samples=(places["samples"],), weak=(places["weak"],))
    return drawn, DataConfig(samples=(places["samples"],))


def _write(pictures: Sequence[Scribbled], space: LabelSpace, places: dict[str, str]) -> None:
    samples: dict[str, Row] = {}
    weak: dict[str, Row] = {}
    for picture in pictures:
        image, mask = encode_image(picture.image), encode_mask(picture.mask, space.palette)
        sample_id = pair_id(image, mask)
        samples[sample_id] = {
            "sample_id": sample_id,
            "image": {"bytes": image, "path": None},
            "mask": {"bytes": mask, "path": None},
            "height": picture.mask.shape[0],
            "width": picture.mask.shape[1],
            "class_ids": foreground_ids(picture.mask, space),
            "provenance": {"source": "benchmark"},
        }
        weak[sample_id] = {
            "sample_id": sample_id,
            "class_ids": foreground_ids(picture.scribble, space),
            "scribble": {"bytes": encode_mask(picture.scribble), "path": None},
        }
    for name, rows, contract in (("samples", samples, SAMPLE), ("weak", weak, WEAK_LABEL)):
        path = str(Path(places[name]) / shard_name(0))
        write_shard(path, contract.table(list(rows.values())), contract, stage="benchmark", fingerprint=name)
