"""Volumes, slice by slice: what the sources of HDF5, NIfTI and PNG slices share. One sample a slice, one group a
patient.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, ParamSpec

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from maskmill.data_contracts import (
    ContractError,
    Problem,
    Reason,
    Uint8Array,
    encode_image,
    encode_mask,
    raise_transient,
)
from maskmill.data_contracts.blocks import blocks
from maskmill.data_contracts.images import encode_floats
from maskmill.data_contracts.label_files import ROUNDING
from maskmill.pipelines.ingest.base import MAX_INDEX, Entry, RawSample, Source, bad_annotation
from maskmill.pipelines.ingest.files import MissingFileError

Given = ParamSpec("Given")
Spacing = tuple[float, float, float]  # mm from slice to slice, row to row, column to column
PATTERN = r"(?P<volume>(?P<group>[^/_]+)[^/]*?)(?:_slice_?(?P<index>\d+))?$"
MAX_VOXELS = 1 << 28
BYTES_A_VOXEL = 2  # that may be read for each of the voxels that are allowed: a volume of floats has half as many


@dataclass(frozen=True, eq=False)
class Volume:
    """A decoded file: `image` uint8 (D, H, W) or in colour (D, H, W, 3), with `deep` float32 (D, H, W) of 0..1; `label`
    uint8 (D, H, W) of the source's values.
    """

    image: NDArray[Any]
    label: Uint8Array | None
    spacing: Spacing | None


class VolumeSource(Source):
    """Options of volumes. `pattern` is searched in a file's path without suffix: its named groups are `group`
    (patient), `volume` (one scan of it, kept in provenance) and, for files of one slice, `index`.
    """

    pattern: str = Field(
        default=PATTERN,
        description="regular expression over the path without suffix, with the groups `group` (patient), `volume` "
        "(scan) and, for files of one slice, `index`",
    )
    masks_optional: bool = Field(
        default=False, description="let slices without a mask pass as unlabelled ones instead of rejecting them"
    )
    spacing: Spacing | None = Field(
        default=None, description="mm per pixel as [slice, row, column], where the files hold none"
    )
    window: tuple[float, float] | None = Field(
        default=None,
        description="[low, high] intensities that become black and white; null = floats in 0..1 as they are, else "
        "the volume's extremes",
    )
    deep: bool = Field(
        default=False,
        description="grey values stay floats (TIFF) where files hold more than 8 bits, for trainers that read them "
        "(`float_images` of abd)",
    )
    max_voxels: int = Field(default=MAX_VOXELS, gt=0, description="larger volumes are rejected before they are decoded")
    allow_empty: bool = Field(
        default=True, description="let masks without any foreground pass: the ends of a volume show no organ"
    )

    later: ClassVar[frozenset[str]] = Source.later | {"deep"}

    @field_validator("pattern")
    @classmethod
    def _has_group(cls, pattern: str) -> str:
        if "group" not in re.compile(pattern).groupindex:
            raise ValueError(r"pattern: expected a named group, e.g. (?P<group>patient\d+)")
        return pattern

    @field_validator("spacing")
    @classmethod
    def _positive(cls, spacing: Spacing | None) -> Spacing | None:
        if spacing is not None and not all(math.isfinite(s) and s > 0 for s in spacing):
            raise ValueError(f"spacing: expected three positive numbers of mm (slice, row, column), found {spacing}")
        return spacing

    @field_validator("window")
    @classmethod
    def _ordered(cls, window: tuple[float, float] | None) -> tuple[float, float] | None:
        if window is not None and not window[0] < window[1]:
            raise ValueError(f"window: expected (low, high) with low < high, found {window}")
        return window

    def slices_of(self, path: str, stem: str, stamp: str, depth: int | None, fields: dict[str, Any]) -> Iterator[Entry]:
        """One entry a slice of a file; a file of one slice (`depth` None) is one entry."""
        match = re.search(self.pattern, stem)
        if match is None:
            fix = "rename the file, or mend `pattern`"
            problem = bad_annotation(path, f"a name that matches {self.pattern}", stem, fix).problem
            yield Entry(path, stamp, problem=problem)
            return
        named = match.groupdict()
        place = {"group": named["group"], "volume": named.get("volume") or stem}
        if depth is None:
            index = named.get("index")
            if index is not None and int(index) > MAX_INDEX:
                problem = bad_annotation(path, f"an index of 0..{MAX_INDEX}", index, "mend `pattern`").problem
                yield Entry(path, stamp, problem=problem)
                return
            yield Entry(path, stamp, {**fields, **place, "index": None if index is None else int(index)})
            return
        for index in range(depth):
            yield Entry(f"{path}#{index:04d}", stamp, {**fields, **place, "index": index, "slice": index})

    def sample(self, volume: Volume, entry: Entry) -> RawSample:
        """The slice that `entry` stands for.

        Raises:
            ContractError: no mask where one is needed; values that are no labels.
        """
        number = int(entry.fields.get("slice", 0))
        if volume.label is None and not self.masks_optional:
            fix = "add the mask, drop the file, or set masks_optional: true for unlabelled volumes"
            raise ContractError(entry.key, Problem(Reason.MISSING_MASK, "a mask with the image", "none", fix))
        spacing = volume.spacing or self.spacing
        pixels = volume.image[number]
        return RawSample(
            image=_encoded(pixels),
            mask=None if volume.label is None else encode_mask(volume.label[number]),
            group=entry.fields["group"],
            index=entry.fields["index"],
            spacing=spacing,
            provenance={"extra": json.dumps({"volume": entry.fields["volume"]})},
            notes={f"slices along axis {axis}": 1} if (axis := entry.fields.get("axis")) else {},
        )


def _encoded(pixels: NDArray[Any]) -> bytes:
    if pixels.dtype == np.float32:
        return encode_floats(pixels)
    return encode_mask(pixels) if pixels.ndim == 2 else encode_image(pixels)


def remembering(read: Callable[Given, Volume]) -> Callable[Given, Volume | ContractError]:
    """A reader of volumes that gives a fault of the file instead of raising it, so that a cache keeps it: the next of
    two thousand slices need not read the file again. A file that is gone may come back.
    """

    @functools.wraps(read)
    def outcome(*args: Given.args, **kwargs: Given.kwargs) -> Volume | ContractError:
        try:
            return read(*args, **kwargs)
        except MissingFileError:
            raise
        except ContractError as error:
            return error

    return outcome


def decoded(outcome: Volume | ContractError) -> Volume:
    """The volume that a reader gave.

    Raises:
        ContractError: it gave a fault.
    """
    if isinstance(outcome, ContractError):
        raise ContractError(outcome.where, outcome.problem)
    return outcome


def to_grey(image: NDArray[Any], window: tuple[float, float] | None, where: str, *, deep: bool = False) -> NDArray[Any]:
    """Intensities (D, H, W) as uint8, with `deep` as float32 of 0..1, one scale for the whole volume, so that its
    slices stay comparable.

    `window` if given; else 0..255 for uint8 and 0..1 for floats within it (scaled already); else the volume's own
    smallest and largest value. A volume of one value becomes black.

    Raises:
        ContractError: values that are not finite.
    """
    if image.dtype == np.uint8 and window is None:
        return np.ascontiguousarray(image, dtype=np.uint8)
    low, high = float(image.min()), float(image.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        found = f"values from {low} to {high}"
        fix = "write the volume without NaN and infinity"
        raise ContractError(where, Problem(Reason.UNDECODABLE_IMAGE, "finite intensities", found, fix))
    scaled = np.issubdtype(image.dtype, np.floating) and low >= 0 and high <= 1
    low, high = window or ((0.0, 1.0) if scaled else (low, high))
    grey = np.empty(image.shape, np.float32 if deep else np.uint8)
    for some in blocks(image):
        share = np.clip((image[some].astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
        grey[some] = share if deep else np.rint(255 * share).astype(np.uint8)
    return grey


def to_labels(values: NDArray[Any], where: str) -> Uint8Array:
    """Label values (D, H, W) as uint8; floats may miss whole numbers by a thousandth, as resamplers leave them.

    Raises:
        ContractError: fractions, or numbers outside 0..255.
    """
    whole = np.asarray(values)
    labels = np.empty(whole.shape, np.uint8)
    for some in blocks(whole):
        part = whole[some]
        near = np.rint(part) if part.dtype.kind == "f" and np.isfinite(part).all() else part
        apart = part.dtype.kind == "f" and (not np.isfinite(part).all() or bool((abs(part - near) > ROUNDING).any()))
        if part.size and (apart or near.min() < 0 or near.max() > 255):
            found = f"values from {whole.min()} to {whole.max()}" + (", not all whole" if apart else "")
            fix = "store class ids, and no probabilities; larger ids have to be numbered anew, 0 to 254"
            raise ContractError(where, Problem(Reason.WRONG_MASK_FORMAT, "whole numbers 0..255", found, fix))
        labels[some] = near.astype(np.uint8)
    return labels


def check_size(shape: tuple[int, ...], most: int, max_pixels: int, where: str, each: int = 1) -> None:
    """Raise ContractError where a volume (D, H, W) of `each` bytes a voxel, or one of its slices, is larger than the
    config allows: `most` voxels, and `BYTES_A_VOXEL` for each of those.
    """
    voxels, pixels = math.prod(shape), math.prod(shape[1:])
    if voxels <= most and voxels * each > BYTES_A_VOXEL * most:
        fix = "store it in fewer bytes a voxel, crop it, or raise max_voxels in the ingest config"
        expected, found = f"at most {BYTES_A_VOXEL * most:,} bytes", f"{voxels * each:,}"
        raise ContractError(where, Problem(Reason.IMAGE_TOO_LARGE, expected, found, fix))
    if voxels > most or pixels > max_pixels:
        fix = "crop it, or raise max_voxels or max_pixels in the ingest config"
        expected = f"at most {most} voxels, {max_pixels} a slice"
        raise ContractError(where, Problem(Reason.IMAGE_TOO_LARGE, expected, "x".join(map(str, shape)), fix))


def same_shape(image: tuple[int, ...], label: tuple[int, ...], where: str) -> None:
    """Raise ContractError where image and label differ in shape."""
    if image != label:
        fix = "pair the mask with its own image, or resample it"
        if sorted(image) == sorted(label):
            fix = "store mask and image with their axes in one order"
        raise ContractError(where, Problem(Reason.SIZE_MISMATCH, f"a mask of {image}", str(label), fix))


def undecodable(where: str, what: str, error: Exception) -> ContractError:
    """The error for a file that its decoder does not understand; a fault of the machine is raised as it is."""
    raise_transient(error)
    found = f"{type(error).__name__}: {error}"[:200]
    return ContractError(where, Problem(Reason.UNDECODABLE_IMAGE, what, found, "replace or remove the file"))
