"""What an exporter is: options, samples in, files out. Exporters are pure; `runner` reads and writes."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator

from data_contracts import (
    ContractError,
    LabelSpace,
    Problem,
    Reason,
    Uint8Array,
    decode_image,
    decode_mask,
    encode_image,
    sample_seed,
)

if TYPE_CHECKING:
    from pipelines.export.card import Facts

Record = dict[str, Any]  # what the index files need to know of one sample; plain JSON with `sample_id` and `split`
ORIENTATION = 0x0112  # EXIF tag


class Exporter(BaseModel, ABC):
    """A format: a config that knows how to write itself. These are the options that every format has.

    A sample's split depends on the hash of its group (of its id where it has none) alone: clips, volumes and patients
    never straddle two splits, and a sample stays where it is when others come or go. Shares are therefore expectations,
    not exact counts.

    The methods are pure: same input, same bytes. Raise `version` when a change of code changes bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str
    splits: dict[str, float] = Field(
        default={"train": 0.9, "val": 0.1}, description="share of each split; the shares add up to 1"
    )
    seed: int = Field(default=0, description="another seed deals the splits anew")
    title: str | None = Field(default=None, description="name on the dataset card; default: the name of the run")
    description: str | None = Field(default=None, description="first paragraph of the dataset card")

    version: ClassVar[int] = 1
    loading: ClassVar[str]  # Python that loads the export, for the dataset card
    card_only: ClassVar[frozenset[str]] = frozenset({"title", "description"})  # options that change no shard

    @field_validator("splits")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        bad = [name for name in value if not (name.isascii() and name.isidentifier())]
        if bad:
            raise ValueError(f"split names must be plain words (letters, digits, underscore), found {bad}")
        if not value or any(share < 0 for share in value.values()) or abs(sum(value.values()) - 1) > 1e-6:
            raise ValueError(f"shares must not be negative and must add up to 1, found {value}")
        return value

    def split_of(self, key: str) -> str:
        """The split of a group (or sample) id."""
        draw = sample_seed(self.seed, key, "split") / 2**63
        edge = 0.0
        shares = sorted((name, share) for name, share in self.splits.items() if share > 0)
        for name, share in shares:
            edge += share
            if draw < edge:
                return name
        return shares[-1][0]  # rounding of the last edge

    @abstractmethod
    def shard(self, samples: "Iterable[ExportSample]", space: LabelSpace, shard: str) -> "ShardFiles":
        """Files and records of one shard; `shard` is its stem, e.g. "shard-00000"."""

    @abstractmethod
    def finish(self, records: list[Record], space: LabelSpace, facts: "Facts") -> dict[str, bytes]:
        """Index files over all records, which come sorted by sample id; `facts` are those of the dataset card."""

    def header(self, records: list[Record]) -> dict[str, Any]:
        """YAML keys that the dataset card needs for this format."""
        return {}

    def notes(self, records: list[Record]) -> list[str]:
        """What a reader of the dataset card must know about this format."""
        return []


@dataclass(frozen=True)
class ExportSample:
    """One kept sample on its way out. `image` are the bytes to write, `suffix` (".jpg", ".png") says what they are."""

    sample_id: str
    split: str
    row: dict[str, Any]

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
    with Image.open(io.BytesIO(data)) as image:
        upright = image.getexif().get(ORIENTATION, 1) == 1
        plain = image.mode in ("RGB", "L") and "transparency" not in image.info
        suffix = {"JPEG": ".jpg", "PNG": ".png"}.get(image.format or "")
    if suffix and upright and plain:
        return data, suffix
    return encode_image(decode_image(data, where)), ".png"


def by_split(records: list[Record], splits: Iterable[str]) -> dict[str, list[Record]]:
    """Records of each split, empty splits included."""
    dealt: dict[str, list[Record]] = {name: [] for name in splits}
    for record in records:
        dealt[str(record["split"])].append(record)
    return dealt
