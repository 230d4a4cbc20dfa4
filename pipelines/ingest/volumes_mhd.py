"""MetaImage volumes (.mhd, .mha), as PROMISE12 has them: one sample a slice. Needs `pip install SimpleITK`."""

import importlib
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason
from maskmill.pipelines.ingest.base import Entry, RawSample, bad_annotation
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

HEADERS = (".mhd", ".mha")
SUFFIXES = frozenset((*HEADERS, ".raw", ".zraw"))
HEADER_BYTES = 1 << 14
LOCAL = "LOCAL"  # pixels in the same file
STEP, TURNS = 0.125, 5  # of the curvature flow
_reading = threading.Lock()


class MhdSource(VolumeSource):
    """`Case00.mhd` beside `Case00_segmentation.mhd`; slices are (row, column) = (y, x) as stored. `resize`, `stretch`
    and `smooth` prepare images as the release of ABD prepares PROMISE12, in that order.
    """

    kind: Literal["mhd"] = Field(default="mhd", description="kind of the source")
    folder: str = Field(default="", description="folder under the root that is searched; empty = all of it")
    mask_suffix: str = Field(
        default="_segmentation", min_length=1, description="what a mask's stem has after its image's"
    )
    include: str = Field(
        default="", description="regular expression that the stems of the wanted images match; empty = all"
    )
    resize: int | None = Field(
        default=None, ge=8, description="side in pixels that slices and masks are brought to by nearest neighbour"
    )
    stretch: Literal["volume", "slice"] = Field(
        default="volume", description="what `window: null` stretches to black and white: the volume, or each slice"
    )
    smooth: bool = Field(
        default=False, description="curvature flow over every slice (5 steps of 0.125), which evens out noise"
    )

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        found = list(root.walk(self.folder, SUFFIXES))
        stamps = {file.path: file.stamp for file in found}
        files = {without_suffix(file.path): file for file in found if file.path.lower().endswith(HEADERS)}
        for stem, file in files.items():
            if not stem.endswith(self.mask_suffix) and re.search(self.include, stem):
                yield from self._entries(root, file, stem, files.get(stem + self.mask_suffix), stamps)

    def _entries(
        self, root: Root, file: File, stem: str, mask: File | None, stamps: Mapping[str, str]
    ) -> Iterator[Entry]:
        stamp = " ".join(_stamp(one, stamps) for one in (file, mask) if one is not None)
        problem, depth = file.problem or (mask.problem if mask else None), 0
        if problem is None and mask is None and not self.masks_optional:
            fix = "add the mask, drop the image, or set masks_optional: true for unlabelled volumes"
            problem = Problem(Reason.MISSING_MASK, f"a mask {stem}{self.mask_suffix}.mhd", "none", fix)
        try:
            if problem is None:
                shape = _shape(root, file.path)
                check_size(shape, self.max_voxels, self.max_pixels, file.path)
                if mask is not None:
                    same_shape(shape, _shape(root, mask.path), mask.path)
                depth = shape[0]
        except ContractError as error:
            problem = error.problem
        if problem is not None:
            yield Entry(file.path, stamp, problem=problem)
            return
        fields = {"file": file.path, "mask": mask.path if mask else None, "stamp": stamp}
        yield from self.slices_of(file.path, stem, stamp, depth, fields)

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        fields = entry.fields
        with _reading:  # threads of one shard want the same volume: read it once
            how = (self.window, self.resize, self.stretch, self.smooth, self.deep)
            volume = _volume(self.reader(), fields["file"], fields["mask"], fields["stamp"], *how)
        return self.sample(decoded(volume), entry)


def _stamp(file: File, stamps: Mapping[str, str]) -> str:
    """Of a header and of the pixels beside it."""
    beside = (f"{without_suffix(file.path)}{suffix}" for suffix in (".raw", ".zraw"))
    return " ".join([file.stamp, *(stamps[path] for path in beside if path in stamps)])


def _header(root: Root, path: str) -> dict[str, str]:
    """Keys and values of the text before the pixels."""
    start = root.read_range(path, 0, HEADER_BYTES).decode("latin-1")
    found: dict[str, str] = {}
    for line in start.splitlines():
        key, mark, value = line.partition("=")
        if not mark:
            break
        found[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":  # the last one
            return found
    fix = "replace or remove the file"
    raise ContractError(path, Problem(Reason.UNDECODABLE_IMAGE, "a MetaImage header", start[:40], fix))


def _shape(root: Root, path: str) -> tuple[int, int, int]:
    """(slices, rows, columns) by the header alone."""
    said = _header(root, path).get("DimSize", "").split()
    if len(said) != 3 or not all(part.isdigit() and int(part) > 0 for part in said):
        raise bad_annotation(path, "a volume with three axes", " ".join(said) or "none", "split or remove the file")
    x, y, z = (int(part) for part in said)
    return z, y, x


@lru_cache(maxsize=4)
@remembering
def _volume(
    root: Root,
    path: str,
    mask: str | None,
    stamp: str,
    window: tuple[float, float] | None,
    resize: int | None,
    stretch: str,
    smooth: bool,
    deep: bool,
) -> Volume:
    """Image and mask, prepared; `stamp` tells changed files from the old ones."""
    values, spacing = _array(root, path)
    labels = None if mask is None else _array(root, mask)[0]
    if labels is not None:
        same_shape(values.shape, labels.shape, str(mask))
    if resize is not None:
        if spacing is not None:
            spacing = (spacing[0], spacing[1] * values.shape[1] / resize, spacing[2] * values.shape[2] / resize)
        values, labels = (None if part is None else _nearest(part, resize) for part in (values, labels))  # type: ignore[assignment]
    if stretch == "slice":
        values = stretched(values)
    if smooth:
        values = np.clip(smoothed(values if stretch == "slice" else stretched(values[None])[0]), 0, 1)
    grey = to_grey(values, window, path, deep=deep)
    return Volume(grey, None if labels is None else to_labels(labels, str(mask)), spacing)


def _nearest(volume: NDArray[Any], side: int) -> NDArray[Any]:
    slices = [cv2.resize(one.astype(np.float64), (side, side), interpolation=cv2.INTER_NEAREST) for one in volume]
    return np.stack(slices)


def stretched(slices: NDArray[Any]) -> NDArray[np.float64]:
    """Each of the first axis to 0..1; one of a single value becomes 0."""
    values = slices.astype(np.float64)
    axes = tuple(range(1, values.ndim))
    low, high = values.min(axis=axes, keepdims=True), values.max(axis=axes, keepdims=True)
    out: NDArray[np.float64] = (values - low) / np.where(high > low, high - low, 1)
    return out


def smoothed(slices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Curvature flow over each slice (H, W): noise is evened out, edges stay."""
    itk = simple_itk()
    flow = [itk.CurvatureFlow(itk.GetImageFromArray(one), timeStep=STEP, numberOfIterations=TURNS) for one in slices]
    return np.stack([itk.GetArrayFromImage(one) for one in flow])


def _array(root: Root, path: str) -> tuple[NDArray[Any], Spacing | None]:
    """Values (z, y, x) and the spacing in mm."""
    pixels = _header(root, path)["ElementDataFile"]
    itk = simple_itk()
    if pixels != LOCAL and (pixels != PurePosixPath(pixels).name or "\\" in pixels or pixels.startswith("LIST")):
        fix = "keep header and pixels in one folder"
        raise bad_annotation(path, "pixels in a file beside the header", pixels, fix)
    with tempfile.TemporaryDirectory() as folder:  # SimpleITK reads local files alone
        header = Path(folder, f"header{PurePosixPath(path).suffix}")
        header.write_bytes(root.read(path, Reason.MISSING_IMAGE))
        if pixels != LOCAL:
            data = root.read(str(PurePosixPath(path).with_name(pixels)), Reason.MISSING_IMAGE)
            Path(folder, pixels).write_bytes(data)
        try:
            image = itk.ReadImage(str(header))
        except RuntimeError as error:
            raise undecodable(path, "a MetaImage file", error) from error
    values = np.asarray(itk.GetArrayFromImage(image))
    if values.ndim != 3 or values.dtype.kind not in "uif":
        raise bad_annotation(path, "one number a voxel", f"{values.dtype} {values.shape}", "convert the file")
    x, y, z = (float(mm) for mm in image.GetSpacing())
    return values, (z, y, x) if all(np.isfinite(mm) and mm > 0 for mm in (x, y, z)) else None


def simple_itk() -> Any:
    """The library.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("SimpleITK")
    except ImportError as error:
        raise ValueError("source mhd needs SimpleITK: pip install 'maskmill[itk]'") from error
