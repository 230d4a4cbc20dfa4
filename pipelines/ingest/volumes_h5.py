"""HDF5 volumes and slices, as the semi-supervised versions of ACDC have them: datasets `image` and `label`."""

import io
import math
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
    same_shape,
    to_grey,
    to_labels,
    undecodable,
)

SUFFIXES = frozenset((".h5", ".hdf5"))
_reading = threading.Lock()


class H5Source(VolumeSource):
    """Files of one slice (H, W) or of a volume (D, H, W), slice first. Spacing is read from an attribute `spacing` of
    the image (slice, row, column in mm) where there is one.
    """

    kind: Literal["h5"] = "h5"
    version: ClassVar[int] = 2
    folder: str = ""
    image: str = Field(default="image", min_length=1)
    label: str | None = Field(default="label", min_length=1)  # null: images without masks

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        for file in root.walk(self.folder, SUFFIXES):
            stem = without_suffix(file.path)
            try:
                depth = None if file.problem else self._depth(root, file)
            except ContractError as error:
                yield Entry(file.path, file.stamp, problem=error.problem)
                continue
            if file.problem:
                yield Entry(file.path, file.stamp, problem=file.problem)
            else:
                yield from self.slices_of(file.path, stem, file.stamp, depth, {"file": file.path, "stamp": file.stamp})

    def _depth(self, root: Root, file: File) -> int | None:
        """Slices of a file by its header alone; None for a file of one slice."""
        with root.fs.open(root.locate(file.path), "rb") as handle:
            shape = _shape(handle, self.image, file.path)
        return None if len(shape) == 2 else shape[0]

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        fields = entry.fields
        with _reading:  # threads of one shard want the same volume: read it once
            options = (self.image, self.label, self.window, self.max_voxels, self.max_pixels)
            volume = _volume(self.reader(), fields["file"], fields["stamp"], *options)
        return self.sample(volume, entry)


def _shape(handle: Any, name: str, where: str) -> tuple[int, ...]:
    import h5py

    try:
        with h5py.File(handle, "r") as file:
            shape: tuple[int, ...] = _dataset(file, name, where).shape
            return shape
    except ContractError:
        raise
    except Exception as error:  # h5py raises anything on corrupt files
        raise undecodable(where, "an HDF5 file", error) from error


@lru_cache(maxsize=4)
def _volume(
    root: Root,
    path: str,
    stamp: str,
    image: str,
    label: str | None,
    window: tuple[float, float] | None,
    max_voxels: int,
    max_pixels: int,
) -> Volume:
    """The whole file; `stamp` tells a changed file from the old one."""
    import h5py

    try:
        with h5py.File(io.BytesIO(root.read(path)), "r") as file:
            found = _dataset(file, image, path)
            limits = (max_voxels, max_pixels)
            pixels = _read(found, *limits, path)
            labels = None
            if label is not None and label in file:
                labels = to_labels(_read(_dataset(file, label, path), *limits, path), path)
                same_shape(pixels.shape, labels.shape, path)
            return Volume(to_grey(pixels, window, path), labels, _spacing(found.attrs.get("spacing")))
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


def _read(dataset: Any, max_voxels: int, max_pixels: int, where: str) -> Any:
    """The array as (D, H, W), after its size was checked."""
    shape = dataset.shape if dataset.ndim == 3 else (1, *dataset.shape)
    check_size(shape, max_voxels, max_pixels, where)
    if dataset.chunks is not None:
        check_size((1, math.prod(dataset.chunks)), max_voxels, max_voxels, where)
    return np.asarray(dataset[()]).reshape(shape)


def _spacing(value: Any) -> Spacing | None:
    if value is None:
        return None
    numbers = np.asarray(value, np.float64).ravel()
    if numbers.shape != (3,) or not np.isfinite(numbers).all() or (numbers <= 0).any():
        return None
    return float(numbers[0]), float(numbers[1]), float(numbers[2])
