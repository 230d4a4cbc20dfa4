"""HDF5 volumes and slices, as the semi-supervised versions of ACDC have them: datasets `image` and `label`."""

import io
import math
import re
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason
from maskmill.pipelines.ingest.base import Entry, RawSample
from maskmill.pipelines.ingest.files import File, Root, without_suffix
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

SUFFIXES = frozenset((".h5", ".hdf5"))
_reading = threading.Lock()


class H5Source(VolumeSource):
    """Files of one slice (H, W), of a volume (D, H, W), or of a colour image (H, W, 3) beside a label (H, W).

    `slice_axis` is the axis of a volume that counts slices. Without it slices come first; an axis that is at most half
    as long as both others counts them wherever it stands, and volumes in between are asked about. Spacing is read from
    an attribute `spacing` of the image (mm, in the order of its axes) where there is one.
    """

    kind: Literal["h5"] = Field(default="h5", description="kind of the source")
    version: ClassVar[int] = 2
    later: ClassVar[frozenset[str]] = VolumeSource.later | {"include"}
    folder: str = Field(default="", description="folder under the root that is searched; empty = all of it")
    include: str = Field(
        default="",
        description="regular expression that the paths (without suffix) of the wanted files match; empty = all",
    )
    image: str = Field(default="image", min_length=1, description="name of the dataset with the image")
    label: str | None = Field(
        default="label", min_length=1, description="name of the dataset with the label; null = images without masks"
    )
    slice_axis: Literal[0, 1, 2] | None = Field(
        default=None,
        description="axis of a volume that counts slices; null = the first, or one at most half as long as both others",
    )

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        for file in root.walk(self.folder, SUFFIXES):
            stem = without_suffix(file.path)
            if not re.search(self.include, stem):
                continue
            try:
                depth, axis = (None, 0) if file.problem else self._depth(root, file)
            except ContractError as error:
                yield Entry(file.path, file.stamp, problem=error.problem)
                continue
            if file.problem:
                yield Entry(file.path, file.stamp, problem=file.problem)
            else:
                fields = {"file": file.path, "stamp": file.stamp}
                yield from self.slices_of(file.path, stem, file.stamp, depth, fields | ({"axis": axis} if axis else {}))

    def _depth(self, root: Root, file: File) -> tuple[int | None, int]:
        """Slices of a file by its header alone, and their axis; None for a file of one slice or picture."""
        with root.fs.open(root.locate(file.path), "rb") as handle:
            shape, label = _shapes(handle, self.image, self.label, self.masks_optional, self.max_voxels, file.path)
        if len(shape) == 2 or _channels(shape, label) is not None:
            if len(shape) == 2 and label is not None:
                same_shape(shape, label, file.path)
            return None, 0
        if label is not None:
            same_shape(shape, label, file.path)
        axis = _slice_axis(shape, label, self.slice_axis, file.path)
        return shape[axis], axis

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        fields = entry.fields
        with _reading:  # threads of one shard want the same volume: read it once
            limits = (self.max_voxels, self.max_pixels)
            options = (self.image, self.label, self.slice_axis, self.window, *limits, self.deep)
            volume = _volume(self.reader(), fields["file"], fields["stamp"], *options)
        return self.sample(decoded(volume), entry)


Shape = tuple[int, ...]


def _shapes(
    handle: Any, image: str, label: str | None, optional: bool, most: int, where: str
) -> tuple[Shape, Shape | None]:
    """Shapes of image and label, None for a label that is not there.

    Raises:
        ContractError: no such image, one of over `most` voxels, or no such label where it is not `optional`.
    """
    import h5py

    try:
        with h5py.File(handle, "r") as file:
            shape = _dataset(file, image, where).shape
            check_size(shape if len(shape) == 3 else (1, *shape), most, most, where)
            if label is not None and label not in file and not optional:
                names = ", ".join(list(file)[:8])
                fix = "name the dataset in source.label, or set source.masks_optional: true for unlabelled volumes"
                raise ContractError(where, Problem(Reason.MISSING_MASK, f"a dataset {label!r}", names, fix))
            return shape, None if label is None or label not in file else _dataset(file, label, where).shape
    except ContractError:
        raise
    except Exception as error:  # h5py raises anything on corrupt files
        raise undecodable(where, "an HDF5 file", error) from error


def _channels(shape: Shape, label: Shape | None) -> int | None:
    """The axis of the colours, where an image of three axes stands beside a label of the two others."""
    if label is None or len(shape) != 3 or len(label) != 2:
        return None
    sides = {2: (shape[:2], shape[2]), 0: (shape[1:], shape[0])}
    return next((axis for axis, (plane, depth) in sides.items() if plane == label and depth in (3, 4)), None)


def _slice_axis(shape: Shape, label: Shape | None, wanted: int | None, where: str) -> int:
    """The axis that counts slices: the first, unless another one is at most half as long as both others.

    Raises:
        ContractError: nobody says which, and another axis is shorter than the first, but not by half, or holds colours.
    """
    if wanted is not None:
        return wanted
    first, second, *_ = sorted(shape)
    shortest = shape.index(first)
    colours = label is None and shortest == 2 and first in (3, 4)
    if shortest == 0 or first == second or (2 * first <= second and not colours):
        return 0 if first == second else shortest
    found = f"{'x'.join(map(str, shape))}, whose {('first', 'middle', 'last')[shortest]} axis is the shortest"
    fix = f"set source.slice_axis: {shortest} if that axis counts slices, or source.slice_axis: 0 if the first one does"
    raise ContractError(where, Problem(Reason.BAD_ANNOTATION, "a volume with slices first", found, fix))


@lru_cache(maxsize=4)
@remembering
def _volume(
    root: Root,
    path: str,
    stamp: str,
    image: str,
    label: str | None,
    slice_axis: int | None,
    window: tuple[float, float] | None,
    max_voxels: int,
    max_pixels: int,
    deep: bool,
) -> Volume:
    """The whole file; `stamp` tells a changed file from the old one."""
    import h5py

    try:
        with h5py.File(io.BytesIO(root.read(path)), "r") as file:
            found = _dataset(file, image, path)
            theirs = None if label is None or label not in file else _dataset(file, label, path)
            limits = (max_voxels, max_pixels)
            shapes = (found.shape, None if theirs is None else theirs.shape)
            colours = _channels(*shapes)
            axis = _slice_axis(*shapes, slice_axis, path) if found.ndim == 3 and colours is None else 0
            labels = None if theirs is None else to_labels(_read(theirs, axis, *limits, path), path)
            if colours is not None:
                return Volume(_in_colour(found, colours, window, *limits, path), labels, None)
            pixels = _read(found, axis, *limits, path)
            if labels is not None:
                same_shape(pixels.shape, labels.shape, path)
            return Volume(to_grey(pixels, window, path, deep=deep), labels, _spacing(found.attrs.get("spacing"), axis))
    except ContractError:
        raise
    except Exception as error:
        raise undecodable(path, "an HDF5 file", error) from error


def _dataset(file: Any, name: str, where: str) -> Any:
    """A dataset of the file itself: links to other files, virtual and external storage could read anything.

    Raises:
        ContractError: no such dataset, one that lies elsewhere, or one that is no array of numbers.
    """
    import h5py

    group = file
    for part in name.strip("/").split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            names = ", ".join(list(file)[:8]) or "nothing"
            fix = "name the dataset in `image` or `label`"
            raise ContractError(where, Problem(Reason.MISSING_IMAGE, f"a dataset {name!r}", names, fix))
        if not isinstance(link, h5py.HardLink):
            fix = "store the array itself in the file"
            raise ContractError(where, Problem(Reason.UNSAFE_PATH, "a dataset of this file", f"a link {part!r}", fix))
        group = group[part]
    if (
        not isinstance(group, h5py.Dataset)
        or group.dtype.kind not in "uifb"
        or group.ndim not in (2, 3)
        or not group.size
    ):
        found = type(group).__name__ if not isinstance(group, h5py.Dataset) else f"{group.dtype} {group.shape}"
        fix = "store (H, W) or (D, H, W) numbers"
        problem = Problem(Reason.BAD_ANNOTATION, f"{name!r} as an array of numbers with 2 or 3 axes", found, fix)
        raise ContractError(where, problem)
    if group.is_virtual or group.external:
        fix = "store the array itself in the file"
        raise ContractError(where, Problem(Reason.UNSAFE_PATH, "data of this file", "data of another file", fix))
    return group


def _read(dataset: Any, axis: int, max_voxels: int, max_pixels: int, where: str) -> Any:
    """The array as (D, H, W), after its size was checked."""
    shape = dataset.shape if dataset.ndim == 3 else (1, *dataset.shape)
    each = int(dataset.dtype.itemsize)
    check_size((shape[axis], *shape[:axis], *shape[axis + 1 :]), max_voxels, max_pixels, where, each)
    if dataset.chunks is not None:
        check_size((1, math.prod(dataset.chunks)), max_voxels, max_voxels, where, each)
    return np.moveaxis(np.asarray(dataset[()]).reshape(shape), axis, 0)


def _in_colour(dataset: Any, axis: int, window: Any, max_voxels: int, max_pixels: int, where: str) -> Any:
    """A colour image as uint8 (1, H, W, 3); a fourth channel is left out."""
    planes = to_grey(_read(dataset, axis, max_voxels, max_pixels, where)[:3], window, where)
    return np.moveaxis(planes, 0, -1)[None]


def _spacing(value: Any, axis: int) -> Spacing | None:
    """(slice, row, column) of an attribute in the order of the axes."""
    if value is None:
        return None
    numbers = np.asarray(value, np.float64).ravel()
    if numbers.shape != (3,) or not np.isfinite(numbers).all() or (numbers <= 0).any():
        return None
    deep, down, across = (float(n) for n in (numbers[axis], *np.delete(numbers, axis)))
    return deep, down, across
