"""Volumes whose slices lie as PNG files in two folders: `patient010_frame01_slice_3.png` and the like."""

import io
import json
from collections.abc import Iterator
from typing import ClassVar, Literal

from PIL import Image
from pydantic import Field

from maskmill.data_contracts import ContractError, LabelSpace, Reason
from maskmill.data_contracts.image_files import faults, open_image, read_header
from maskmill.pipelines.ingest.base import Entry, RawSample
from maskmill.pipelines.ingest.files import File, FileIndex
from maskmill.pipelines.ingest.pairing import pairing_problem
from maskmill.pipelines.ingest.volumes import VolumeSource


class SliceSource(VolumeSource):
    """`images` and `masks` are folders under the root; a mask has its image's stem and `mask_suffix`. `window` and
    `deep` do not apply: images stay as they are.
    """

    kind: Literal["slices"] = Field(default="slices", description="kind of the source")
    version: ClassVar[int] = 2
    images: str = Field(default="images", description="folder of the images under the root")
    masks: str | None = Field(
        default="masks", description="folder of the masks under the root; null = images without masks"
    )
    mask_suffix: str = Field(default="", description="what a mask's stem has after its image's, such as _mask")
    upright: bool = Field(
        default=False,
        description="turn slices that are wider than high a quarter to the left, where files lost their orientation",
    )

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        masks = None if self.masks is None else root.index(self.masks)
        for stem, image in root.index(self.images):
            if not (self.masks == self.images and self.mask_suffix and stem.endswith(self.mask_suffix)):
                yield from self._entries(stem, image, masks)

    def _entries(self, stem: str, image: File, masks: FileIndex | None) -> Iterator[Entry]:
        found = [] if masks is None else masks.find(stem + self.mask_suffix)
        problem = image.problem or pairing_problem(stem + self.mask_suffix, found, masks)
        if problem is not None and problem.reason is Reason.MISSING_MASK and self.masks_optional:
            problem = None
        stamp = json.dumps([image.stamp, [mask.stamp for mask in found]])
        if problem is not None:
            yield Entry(image.path, stamp, problem=problem)
            return
        fields = {"mask": found[0].path if found else None}
        yield from self.slices_of(image.path, stem, stamp, None, fields)

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root, path = self.reader(), entry.fields["mask"]
        image = root.read(entry.key)
        mask = None if path is None else root.read(path, Reason.MISSING_MASK)
        spacing = self.spacing
        if self.upright and is_wide(image):
            limit = self.max_pixels
            image, mask = turn(image, limit), None if mask is None else turn(mask, limit)
            spacing = None if spacing is None else (spacing[0], spacing[2], spacing[1])
        return RawSample(
            image=image,
            mask=mask,
            group=entry.fields["group"],
            index=entry.fields["index"],
            spacing=spacing,
            provenance={"extra": json.dumps({"volume": entry.fields["volume"]})},
        )


def is_wide(data: bytes) -> bool:
    """Whether an encoded image is wider than high; false where it cannot be read, which ingest finds by itself."""
    try:
        height, width = read_header(data).stored
    except ContractError:
        return False
    return width > height


def turn(data: bytes, max_pixels: int) -> bytes:
    """PNG of an encoded image, turned a quarter to the left; as it was where it cannot be decoded or is too large."""
    turned = io.BytesIO()
    try:
        with faults(data, "slice", Reason.UNDECODABLE_IMAGE):
            picture, _ = open_image(data, "slice", max_pixels, Reason.UNDECODABLE_IMAGE)
            picture.transpose(Image.Transpose.ROTATE_90).save(turned, format="PNG")
    except ContractError:
        return data
    return turned.getvalue()
