"""One kept sample on its way out, and what a shard of them becomes."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from maskmill.data_contracts import (
    ContractError,
    Instance,
    Problem,
    Reason,
    Uint8Array,
    decode_image,
    decode_mask,
    encode_image,
    read_instances,
)
from maskmill.data_contracts.image_files import ORIENTATION, has_deep_colours, peek

Record = dict[str, Any]  # what the index files need to know of one sample; plain JSON with `sample_id` and `split`


@dataclass(frozen=True)
class ExportSample:
    """One kept sample on its way out. `image` are the bytes to write, `suffix` (".jpg", ".png") says what they are."""

    sample_id: str
    split: str
    row: dict[str, Any]
    scores: dict[str, Any] | None = None  # SCORE row without embedding; for formats that want it
    decision: dict[str, Any] | None = None  # DECISION row; likewise

    @cached_property
    def _portable(self) -> tuple[bytes, str]:
        return portable_image(self.row["image"]["bytes"], f"sample {self.sample_id}")

    @property
    def image(self) -> bytes:
        return self._portable[0]

    @property
    def suffix(self) -> str:
        return self._portable[1]

    @property
    def image_name(self) -> str:
        return self.sample_id + self.suffix

    @property
    def jpeg_name(self) -> str:
        """The name for readers that look for one suffix alone. They go by what a file holds, so a PNG under this name
        opens as one.
        """
        return f"{self.sample_id}.jpg"

    @property
    def source_path(self) -> str:
        """Which photo of the source this is."""
        return str(self.row["provenance"]["source_path"] or self.row["image"]["path"] or "")

    @property
    def size(self) -> tuple[int, int]:
        """Height, width in pixels."""
        return int(self.row["height"]), int(self.row["width"])

    @cached_property
    def mask(self) -> Uint8Array:
        """Class ids, uint8 (H, W), 255 = ignore.

        Raises:
            ContractError: the sample has no mask.
        """
        file = self.row["mask"]
        if file is None or file["bytes"] is None:
            problem = Problem(
                Reason.MISSING_MASK, "a mask", "none", "label the sample first, or export as hf or webdataset"
            )
            raise ContractError(f"sample {self.sample_id}", problem)
        return decode_mask(file["bytes"], f"mask of sample {self.sample_id}")

    @cached_property
    def instances(self) -> list[Instance] | None:
        """The objects of the mask, where somebody told them apart.

        Raises:
            ContractError: run lengths that are of no mask of this size.
        """
        try:
            return read_instances(self.row, *self.size)
        except ValueError as error:
            expected = "run lengths of masks of {1}x{0}".format(*self.size)
            problem = Problem(Reason.BAD_ANNOTATION, expected, str(error), "ingest or label the sample again")
            raise ContractError(f"sample {self.sample_id}", problem) from error


@dataclass(frozen=True)
class ShardFiles:
    """What one sample shard becomes: files by path (relative to the export folder), and one record a sample."""

    files: dict[str, bytes]
    records: list[Record]


def portable_image(data: bytes, where: str = "image") -> tuple[bytes, str]:
    """The bytes to export, and their suffix.

    Bytes go out as they came in when every loader sees the pixels that the pipeline saw: an upright JPEG or PNG, grey
    or RGB. Others (WebP, TIFF, turned by EXIF, transparent, palette, CMYK, 16 bits) are decoded as the pipeline does
    and written as PNG, without loss.
    """
    image = peek(data, where)
    plain = image.mode in ("RGB", "L") and "transparency" not in image.info and not has_deep_colours(image, data)
    upright = image.getexif().get(ORIENTATION, 1) == 1
    suffix = {"JPEG": ".jpg", "PNG": ".png"}.get(image.format or "")
    if suffix and upright and plain:
        return data, suffix
    return encode_image(decode_image(data, where)), ".png"


def path_table(records: list[Record]) -> bytes:
    """CSV with the split, the image file and the path in the source of each sample; records hold them under these
    names.
    """
    text = io.StringIO(newline="")
    columns = ("sample_id", "split", "file", "source_path")
    rows = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    rows.writerows(records)
    return text.getvalue().encode()


def png_note(records: list[Record]) -> list[str]:
    """What a card says where images that are PNG leave under `jpeg_name`."""
    pngs = sum(bool(record["png"]) for record in records)
    if not pngs:
        return []
    return [f"Every image is named `.jpg`; {pngs:,} hold a PNG, without loss: readers go by what a file holds."]


def by_split(records: list[Record], splits: Iterable[str]) -> dict[str, list[Record]]:
    """Records of each split, empty splits included."""
    dealt: dict[str, list[Record]] = {name: [] for name in splits}
    for record in records:
        dealt[str(record["split"])].append(record)
    return dealt
