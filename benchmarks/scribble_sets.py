"""What the benchmarks on scribbles share: pictures with a scribble and a true mask, and their shards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.shards import Row, sample_row, write_rows
from maskmill.data_contracts import (
    WEAK_LABEL,
    LabelSpace,
    Uint8Array,
    encode_image,
    encode_mask,
    foreground_ids,
    shard_name,
)
from maskmill.trainers.engine import DataConfig, resize_image
from maskmill.vision.scribbles import resize_scribble


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


def smaller(picture: Scribbled, side: int) -> Scribbled:
    """The picture with its longer side at most `side` pixels: what is shrunk to a small crop anyway is decoded and
    shrunk once, not in every step of every arm. Strokes keep every cell that they touch.
    """
    height, width = picture.mask.shape
    if max(height, width) <= side:
        return picture
    height, width = (max(1, round(one * side / max(height, width))) for one in (height, width))
    return replace(
        picture,
        image=resize_image(picture.image, height, width),
        mask=resize_scribble(picture.mask, height, width, "nearest"),
        scribble=resize_scribble(picture.scribble, height, width, "any"),
    )


def write_sets(pictures: Sequence[Scribbled], space: LabelSpace, folder: Path) -> tuple[DataConfig, DataConfig]:
    """The pictures as shards: data with scribbles alone, and data with true masks alone. Written once a folder."""
    places = {name: str(folder / name) for name in ("samples", "weak")}
    if not all((Path(place) / shard_name(0)).is_file() for place in places.values()):
        _write(pictures, space, places)
    drawn = DataConfig(samples=(places["samples"],), weak=(places["weak"],))
    return drawn, DataConfig(samples=(places["samples"],))


def _write(pictures: Sequence[Scribbled], space: LabelSpace, places: dict[str, str]) -> None:
    samples: list[Row] = []
    weak: list[Row] = []
    for picture in pictures:
        samples.append(sample_row(encode_image(picture.image), picture.mask, space))
        weak.append(
            {
                "sample_id": samples[-1]["sample_id"],
                "class_ids": foreground_ids(picture.scribble, space),
                "scribble": {"bytes": encode_mask(picture.scribble), "path": None},
            }
        )
    write_rows(samples, Path(places["samples"]))
    write_rows(weak, Path(places["weak"]), WEAK_LABEL)
