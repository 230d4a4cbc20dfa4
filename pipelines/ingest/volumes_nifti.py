"""NIfTI volumes (.nii, .nii.gz): one sample a slice along the third axis, spacing from the header."""

import gzip
import io
import json
import re
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.ingest.base import Entry, RawSample, bad_annotation
from maskmill.pipelines.ingest.files import File, Root
from maskmill.pipelines.ingest.volumes import (
    Spacing,
    Volume,
    VolumeSource,
    check_size,
    decoded,
    remembering,
    same_shape,
    to_grey,
    to_labels,
    undecodable,
)
from maskmill.pipelines.ingest.volumes_geometry import Grid, orientations, turn_onto

SUFFIXES = frozenset((".nii", ".gz"))
CHANNEL = re.compile(r"_\d{4}$")
MAX_EXTENSIONS = 1 << 24  # bytes between header and voxels
HEADER_BYTES = 540  # NIfTI-2; NIfTI-1 has 348
MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
_reading = threading.Lock()


class NiftiSource(VolumeSource):
    """`images` and `masks` are folders; a mask has its image's stem and `mask_suffix`. Slices are (row, column) =
    (y, x) as stored, which is what SimpleITK gives too. `include` is a regular expression that the stems of the
    wanted images match: `_frame\\d+$` leaves out ACDC's cine files. A channel number as nnU-Net has it (`_0000`) may
    end an image's stem where its mask has none. `geometry: affine` turns labels whose axes are flipped or permuted, and
    refuses those that lie elsewhere; `stored` takes the voxels in their order.
    """

    kind: Literal["nifti"] = Field(default="nifti", description="kind of the source")
    version: ClassVar[int] = 2
    images: str = Field(default="", description="folder of the images under the root")
    masks: str | None = Field(default="", description="folder of the masks under the root; null = images without masks")
    mask_suffix: str = Field(default="_gt", description="what a mask's stem has after its image's, such as _mask")
    include: str = Field(
        default="", description="regular expression that the stems of the wanted images match; empty = all"
    )
    geometry: Literal["affine", "stored"] = Field(
        default="affine",
        description="affine: labels whose axes are flipped or permuted are turned onto their image; stored: voxels "
        "are taken in their order",
    )

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        masks = {} if self.masks is None else {_stem(f.path, self.masks): f for f in self._files(root, self.masks)}
        images = {}
        for file in self._files(root, self.images):
            stem = _stem(file.path, self.images)
            is_mask = self.masks == self.images and bool(self.mask_suffix) and stem.endswith(self.mask_suffix)
            if not is_mask and re.search(self.include, stem):
                images[file.path] = (file, stem)
        stems = Counter(self._mask_stem(stem, masks) for _, stem in images.values())
        for file, stem in images.values():
            wanted = self._mask_stem(stem, masks)
            channel = wanted in masks and wanted != stem + self.mask_suffix
            shared = _shared(wanted, stems[wanted]) if channel and stems[wanted] > 1 else None
            yield from self._entries(root, file, stem, masks.get(wanted), shared)

    def _mask_stem(self, stem: str, masks: dict[str, File]) -> str:
        """The stem of an image's mask: its own, or without the number of its channel."""
        plain = stem + self.mask_suffix
        case = CHANNEL.sub("", stem) + self.mask_suffix
        return case if plain not in masks and case in masks else plain

    def _files(self, root: Root, folder: str) -> Iterator[File]:
        return (f for f in root.walk(folder, SUFFIXES) if f.problem or f.path.lower().endswith((".nii", ".nii.gz")))

    def _entries(self, root: Root, file: File, stem: str, mask: File | None, shared: Problem | None) -> Iterator[Entry]:
        problem = file.problem or shared or (mask.problem if mask else None)
        if problem is None and mask is None and self.masks is not None and not self.masks_optional:
            problem = _no_mask(stem + self.mask_suffix)
        depth, turn = 0, None
        try:
            if problem is None:
                grid = _grid(root, file.path)
                check_size(grid.shape[::-1], self.max_voxels, self.max_pixels, file.path)
                depth, turn = grid.shape[2], self._turn(root, grid, mask)
        except ContractError as error:
            problem = error.problem
        stamp = f"{file.stamp} {mask.stamp if mask else None}"
        if problem is not None:
            yield Entry(file.path, stamp, problem=problem)
            return
        fields = {"file": file.path, "mask": mask.path if mask else None, "stamp": stamp, "turn": turn}
        yield from self.slices_of(file.path, stem, stamp, depth, fields)

    def _turn(self, root: Root, grid: Grid, mask: File | None) -> list[list[int]] | None:
        if mask is None:
            return None
        theirs = _grid(root, mask.path)
        if self.geometry == "affine":
            return turn_onto(grid, theirs, mask.path)
        same_shape(grid.shape, theirs.shape, mask.path)
        return None

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        fields = entry.fields
        with _reading:  # threads of one shard want the same volume: read it once
            options = (self.window, self.max_voxels, self.max_pixels, self.deep)
            turn = json.dumps(fields["turn"])
            volume = _volume(self.reader(), fields["file"], fields["mask"], fields["stamp"], turn, *options)
        return self.sample(decoded(volume), entry)


def _stem(path: str, folder: str) -> str:
    inside = path[len(folder) + 1 :] if folder else path
    pure = PurePosixPath(inside)
    name = pure.name.removesuffix(".gz").removesuffix(".GZ")
    return str(pure.with_name(PurePosixPath(name).stem))


def _no_mask(stem: str) -> Problem:
    fix = "add the mask, drop the image, or set masks_optional: true for unlabelled volumes"
    return Problem(Reason.MISSING_MASK, f"a mask {stem}.nii or .nii.gz", "none", fix)


def _shared(stem: str, count: int) -> Problem:
    fix = "choose one channel, e.g. source.include: _0000$"
    return Problem(Reason.BAD_ANNOTATION, f"one image for the mask {stem}", f"{count} images", fix)


def _grid(root: Root, path: str) -> Grid:
    """Shape and affine of a file, from its first bytes."""
    start = root.read_range(path, 0, 1 << 16)
    try:
        if path.lower().endswith(".gz"):
            start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, HEADER_BYTES)
        kind = _class(start)
        header = kind.header_class(start[: kind.header_class.sizeof_hdr], check=False)
        shape = _three(tuple(int(n) for n in header.get_data_shape()), path)
        return Grid.of(header, shape, MM.get(header.get_xyzt_units()[0], 1.0))
    except ContractError:
        raise
    except Exception as error:  # nibabel raises anything on corrupt headers
        raise undecodable(path, "a NIfTI file", error) from error


def _class(data: bytes) -> Any:
    """nibabel's class for the first bytes of a single file: NIfTI-1 or -2."""
    import nibabel

    size = {int.from_bytes(data[:4], order) for order in ("little", "big")}
    for number, kind in ((348, nibabel.Nifti1Image), (540, nibabel.Nifti2Image)):
        if number in size and len(data) >= number:
            return kind
    raise ValueError(f"no NIfTI header in the first bytes {data[:4]!r}")


def _three(shape: tuple[int, ...], where: str) -> tuple[int, int, int]:
    """(x, y, z); a single slice may have two axes, further ones of length 1 are dropped."""
    shape = (*shape, 1) if len(shape) == 2 else shape
    if len(shape) < 3 or any(n != 1 for n in shape[3:]) or min(shape) < 1:
        fix = "split a cine into frames, or leave it out with `include`"
        raise bad_annotation(where, "a volume with three axes", "x".join(map(str, shape)), fix)
    return shape[0], shape[1], shape[2]


@lru_cache(maxsize=4)
@remembering
def _volume(
    root: Root,
    path: str,
    mask: str | None,
    stamp: str,
    turn: str,
    window: tuple[float, float] | None,
    max_voxels: int,
    max_pixels: int,
    deep: bool,
) -> Volume:
    """Image and mask, its axes turned as `turn` (JSON) says; `stamp` tells changed files from the old ones."""
    values, spacing = _array(root, path, max_voxels, max_pixels, Reason.MISSING_IMAGE)
    image = to_grey(values, window, path, deep=deep)
    if mask is None:
        return Volume(image, None, spacing)
    values, _ = _array(root, mask, max_voxels, max_pixels, Reason.MISSING_MASK)
    if (axes := parse_json(turn)) is not None:
        values = orientations().apply_orientation(values.T, axes).T
    same_shape(image.shape, values.shape, mask)
    return Volume(image, to_labels(values, mask), spacing)


def _array(
    root: Root, path: str, max_voxels: int, max_pixels: int, missing: Reason
) -> tuple["np.ndarray[Any, Any]", Spacing | None]:
    """Values (z, y, x) with the header's scale applied, and the spacing in mm."""
    data = root.read(path, missing)
    try:
        if path.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                head = packed.read(HEADER_BYTES)
                data = head + packed.read(_declared(head, max_voxels, max_pixels, path))  # what lies behind is not read
        else:
            _declared(data, max_voxels, max_pixels, path)
        image = _class(data).from_bytes(data)
        x, y, z = _three(tuple(int(n) for n in image.shape), path)
        values = np.asarray(image.dataobj).reshape(x, y, z).T
        if values.dtype.kind not in "uifb":
            raise bad_annotation(path, "numbers", str(values.dtype), "store one number a voxel")
        return values, _spacing(image.header)
    except ContractError:
        raise
    except Exception as error:
        raise undecodable(path, "a NIfTI file", error) from error


def _declared(head: bytes, max_voxels: int, max_pixels: int, where: str) -> int:
    """Bytes of a file by its header; no more of it is unpacked.

    Raises:
        ContractError: more than the config allows.
    """
    kind = _class(head)
    header = kind.header_class(head[: kind.header_class.sizeof_hdr], check=False)
    x, y, z = _three(tuple(int(n) for n in header.get_data_shape()), where)
    each = int(header.get_data_dtype().itemsize)
    check_size((z, y, x), max_voxels, max_pixels, where, each)
    return min(max(int(header.get_data_offset()), 0), MAX_EXTENSIONS) + x * y * z * each


def _spacing(header: Any) -> Spacing | None:
    """(slice, row, column) in mm; None where the header says nothing that can be meant."""
    factor = MM.get(header.get_xyzt_units()[0], 1.0)
    zooms = [float(zoom) * factor for zoom in header.get_zooms()[:3]]
    if len(zooms) < 3:
        return None
    x, y, z = zooms
    return (z, y, x) if all(np.isfinite(s) and s > 0 for s in (x, y, z)) else None
