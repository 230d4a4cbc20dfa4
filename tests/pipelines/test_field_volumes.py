"""Volumes as people have them: labels in another orientation, slices on another axis, other sizes and other values."""

from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
from ingest_sets import Row, ingest, mask_of
from numpy.typing import NDArray

from maskmill.data_contracts import LabelSpace, decode_image
from maskmill.pipelines.core.ledger import build_ledger
from maskmill.pipelines.ingest.volumes_h5 import H5Source
from maskmill.pipelines.ingest.volumes_nifti import NiftiSource

SPACE = LabelSpace.from_names(["organ", "tumour"])
EYE = np.diag([1.5, 1.5, 8.0, 1.0])
PLAIN = (0, 1, 2)
RNG = np.random.default_rng(1)
IMAGE = RNG.integers(0, 900, (16, 12, 4)).astype(np.int16)  # x, y, z
LABEL = np.zeros((16, 12, 4), np.uint8)
LABEL[2:6, 3:9, 1:3] = 1
Array = NDArray[Any]


def put_nifti(path: Path, values: Array, affine: Array | None = EYE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = nibabel.Nifti1Image(values, EYE)
    if affine is None:
        picture.header.set_sform(None, 0)
        picture.header.set_qform(None, 0)
        picture = nibabel.Nifti1Image(values, None, picture.header)
    else:
        picture = nibabel.Nifti1Image(values, affine)
    nibabel.save(picture, path)


def nifti(root: Path, **options: Any) -> tuple[dict[str, Row], dict[str, str]]:
    run = root / f"run{len(list(root.glob('run*')))}"
    source = NiftiSource.model_validate({"root": str(root / "set"), "mask_suffix": "_seg", **options})
    rows, rejects = ingest(source, run, SPACE, shard_size=50)
    details = {r["source_path"]: r["detail"] for r in rejects if r["reason"] != "not_read"}
    return {r["provenance"]["source_path"]: r for r in rows}, details


def pair(root: Path, label: Array, affine: Array | None = EYE, image_affine: Array | None = EYE) -> None:
    put_nifti(root / "set/p1.nii.gz", IMAGE, image_affine)
    put_nifti(root / "set/p1_seg.nii.gz", label, affine)


def assert_whole(rows: dict[str, Row], name: str = "p1.nii.gz") -> None:
    assert list(rows) == [f"{name}#{z:04d}" for z in range(4)]
    for z in range(4):
        np.testing.assert_array_equal(mask_of(rows[f"{name}#{z:04d}"]), LABEL[..., z].T)


def turned(flips: tuple[int, ...], order: tuple[int, ...]) -> tuple[Array, Array]:
    """The label with axes flipped and permuted, and the affine that says so."""
    label, affine = LABEL, EYE.copy()
    for axis in flips:
        label = np.flip(label, axis)
        affine[:, 3] += affine[:, axis] * (LABEL.shape[axis] - 1)
        affine[:, axis] *= -1
    return np.ascontiguousarray(label.transpose(order)), affine[:, [*order, 3]]


@pytest.mark.parametrize(
    ("flips", "order"),
    [
        ((0,), (0, 1, 2)),
        ((1,), (0, 1, 2)),
        ((0, 1), (0, 1, 2)),
        ((2,), (0, 1, 2)),
        ((), (1, 0, 2)),
        ((0, 2), (2, 0, 1)),
    ],
)
def test_labels_in_another_orientation_are_turned(flips: Any, order: Any, tmp_path: Path) -> None:
    pair(tmp_path, *turned(flips, order))
    rows, details = nifti(tmp_path)
    assert not details
    assert_whole(rows)
    assert rows["p1.nii.gz#0000"]["spacing"] == [8.0, 1.5, 1.5]


def moved(**cells: float) -> Array:
    affine = EYE.copy()
    for cell, value in cells.items():
        affine[int(cell[1]), int(cell[2])] = value
    return affine


@pytest.mark.parametrize(
    ("label", "affine", "word"),
    [
        (LABEL, moved(a03=40.0), "origin (40.0, 0.0, 0.0)"),
        (LABEL, moved(a23=8.0), "origin (0.0, 0.0, 8.0)"),
        (LABEL, np.eye(4), "axes RAS and origin (0.0, 0.0, 0.0)"),
        (LABEL, None, "no affine"),
        (LABEL[:, :, :3], EYE, "16x12x3 voxels"),
        (np.ascontiguousarray(LABEL[::-1]), moved(a00=-1.5), "axes LAS and origin (0.0, 0.0, 0.0)"),
    ],
)
def test_labels_that_lie_elsewhere_are_one_reject(label: Array, affine: Any, word: str, tmp_path: Path) -> None:
    pair(tmp_path, label, affine)
    rows, details = nifti(tmp_path)
    assert not rows
    assert list(details) == ["p1.nii.gz"], "one for the file, not one a slice"
    assert word in details["p1.nii.gz"]
    assert "axes RAS" in details["p1.nii.gz"], "the image's own"
    assert "geometry: stored" in details["p1.nii.gz"]


def test_the_two_remedies_work(tmp_path: Path) -> None:
    from nibabel.processing import resample_from_to

    pair(tmp_path, LABEL, np.eye(4))
    rows, _ = nifti(tmp_path, geometry="stored")
    assert_whole(rows)
    wider = np.pad(LABEL, ((2, 2), (2, 2), (0, 0)))
    pair(tmp_path, wider, moved(a03=-3.0, a13=-3.0))
    assert "20x16x4" in nifti(tmp_path)[1]["p1.nii.gz"]
    label = nibabel.load(tmp_path / "set/p1_seg.nii.gz")
    again = resample_from_to(label, nibabel.load(tmp_path / "set/p1.nii.gz"), order=0)
    nibabel.save(again, tmp_path / "set/p1_seg.nii.gz")
    rows, details = nifti(tmp_path)
    assert not details
    assert_whole(rows)


def test_headers_that_both_say_nothing_and_rounded_ones_are_taken(tmp_path: Path) -> None:
    pair(tmp_path, LABEL, None, None)
    assert_whole(nifti(tmp_path)[0])
    pair(tmp_path, LABEL, EYE + 1e-4)
    assert_whole(nifti(tmp_path)[0])


def test_headers_without_an_affine_still_tell_sizes(tmp_path: Path) -> None:
    pair(tmp_path, LABEL, None, None)
    label = nibabel.load(tmp_path / "set/p1_seg.nii.gz")
    label.header.set_zooms((3.0, 3.0, 8.0))
    nibabel.save(nibabel.Nifti1Image(LABEL, None, label.header), tmp_path / "set/p1_seg.nii.gz")
    assert "3 x 3 x 8 mm and no affine" in nifti(tmp_path)[1]["p1.nii.gz"]


@pytest.mark.parametrize("factor", [0.9999999, 1.0004])
def test_labels_near_whole_numbers_are_rounded(factor: float, tmp_path: Path) -> None:
    pair(tmp_path, LABEL.astype(np.float32) * np.float32(factor))
    assert_whole(nifti(tmp_path)[0])


def test_probabilities_are_no_labels(tmp_path: Path) -> None:
    pair(tmp_path, LABEL.astype(np.float32) * np.float32(0.6))
    rows, details = nifti(tmp_path)
    assert not rows
    assert "not all whole" in details["p1.nii.gz#0001"]


def test_labels_of_0_and_255_are_asked_about(tmp_path: Path) -> None:
    pair(tmp_path, LABEL * np.uint8(255))
    rows, details = nifti(tmp_path)
    assert set(details) == {"p1.nii.gz#0001", "p1.nii.gz#0002"}
    assert "remap: {255: organ}" in details["p1.nii.gz#0001"]
    rows, _ = nifti(tmp_path, remap={255: "organ"})
    assert_whole(rows)


def test_a_single_slice_has_two_axes(tmp_path: Path) -> None:
    put_nifti(tmp_path / "set/p1.nii.gz", IMAGE[..., 1])
    put_nifti(tmp_path / "set/p1_seg.nii.gz", LABEL[..., 1])
    rows, _ = nifti(tmp_path)
    np.testing.assert_array_equal(mask_of(rows["p1.nii.gz#0000"]), LABEL[..., 1].T)


def test_channel_numbers_find_their_case(tmp_path: Path) -> None:
    options = {"mask_suffix": "", "images": "imagesTr", "masks": "labelsTr"}
    put_nifti(tmp_path / "set/imagesTr/c_001_0000.nii.gz", IMAGE)
    put_nifti(tmp_path / "set/labelsTr/c_001.nii.gz", LABEL)
    assert_whole(nifti(tmp_path, **options)[0], "imagesTr/c_001_0000.nii.gz")
    put_nifti(tmp_path / "set/imagesTr/c_001_0001.nii.gz", IMAGE)
    rows, details = nifti(tmp_path, **options)
    assert not rows
    assert "include: _0000$" in details["imagesTr/c_001_0000.nii.gz"]
    assert_whole(nifti(tmp_path, **options, include="_0000$")[0], "imagesTr/c_001_0000.nii.gz")


# --- HDF5

DEEP = RNG.random((4, 12, 16)).astype(np.float32)  # slice, row, column
SLICES = np.zeros((4, 12, 16), np.uint8)
SLICES[1:3, 3:9, 2:6] = 1


def put_h5(path: Path, **parts: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in parts.items():
            file[name] = values


def h5(root: Path, **options: Any) -> tuple[dict[str, Row], dict[str, str]]:
    run = root / f"run{len(list(root.glob('run*')))}"
    rows, rejects = ingest(H5Source.model_validate({"root": str(root / "set"), **options}), run, SPACE, shard_size=50)
    return {r["provenance"]["source_path"]: r for r in rows}, {r["source_path"]: r["detail"] for r in rejects}


def assert_slices(rows: dict[str, Row], masks: Array, images: Array) -> None:
    assert len(rows) == len(masks)
    for z, mask in enumerate(masks):
        row = rows[f"p1.h5#{z:04d}"]
        np.testing.assert_array_equal(mask_of(row), mask)
        grey = decode_image(row["image"]["bytes"])[..., 0]
        np.testing.assert_array_equal(grey, np.rint(255 * images[z].astype(np.float64)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_half_as_long_as_the_others_counts_slices(axis: int, tmp_path: Path) -> None:
    put_h5(tmp_path / "set/p1.h5", image=np.moveaxis(DEEP, 0, axis), label=np.moveaxis(SLICES, 0, axis))
    rows, _ = h5(tmp_path)
    assert_slices(rows, SLICES, DEEP)
    assert build_ledger(str(tmp_path / "run0")).notes == ({f"slices along axis {axis}": 4} if axis else {})


def test_an_axis_a_little_shorter_than_the_others_is_asked_about(tmp_path: Path) -> None:
    deep, slices = np.repeat(DEEP, 2, axis=0), np.repeat(SLICES, 2, axis=0)
    put_h5(tmp_path / "set/p1.h5", image=np.moveaxis(deep, 0, 2), label=np.moveaxis(slices, 0, 2))
    rows, details = h5(tmp_path)
    assert not rows
    assert "12x16x8, whose last axis is the shortest" in details["p1.h5"]
    assert_slices(h5(tmp_path, slice_axis=2)[0], slices, deep)
    assert len(h5(tmp_path, slice_axis=0)[0]) == 12


def test_first_axes_that_are_longest_stay_first(tmp_path: Path) -> None:
    deep, slices = np.tile(DEEP, (8, 1, 1))[:, :, :12], np.tile(SLICES, (8, 1, 1))[:, :, :12]
    put_h5(tmp_path / "set/p1.h5", image=deep, label=slices)
    assert_slices(h5(tmp_path)[0], slices, deep)


@pytest.mark.parametrize("axis", [0, 2])
def test_colour_pictures_are_one_sample(axis: int, tmp_path: Path) -> None:
    colours = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    put_h5(tmp_path / "set/p1.h5", image=np.moveaxis(colours, 2, axis), label=SLICES[1])
    rows, details = h5(tmp_path)
    assert not details
    np.testing.assert_array_equal(mask_of(rows["p1.h5"]), SLICES[1])
    np.testing.assert_array_equal(decode_image(rows["p1.h5"]["image"]["bytes"]), colours)


def test_colour_pictures_without_a_label_are_no_three_slices(tmp_path: Path) -> None:
    put_h5(tmp_path / "set/p1.h5", image=RNG.random((12, 16, 3)).astype(np.float32))
    _, details = h5(tmp_path, label=None)
    assert list(details) == ["p1.h5"]
    assert "slice_axis: 2" in details["p1.h5"]


def test_labels_of_another_shape_are_one_reject(tmp_path: Path) -> None:
    put_h5(tmp_path / "set/p1.h5", image=DEEP, label=SLICES[:3])
    _, details = h5(tmp_path)
    assert list(details) == ["p1.h5"]
    assert "(4, 12, 16)" in details["p1.h5"]
    assert "(3, 12, 16)" in details["p1.h5"]


def test_a_label_under_another_name_is_one_reject_that_names_what_is_there(tmp_path: Path) -> None:
    put_h5(tmp_path / "set/p1.h5", image=DEEP, mask=SLICES)
    _, details = h5(tmp_path)
    assert list(details) == ["p1.h5"]
    assert "a dataset 'label', found image, mask" in details["p1.h5"]
    assert_slices(h5(tmp_path, label="mask")[0], SLICES, DEEP)


def test_axes_in_another_order_are_told(tmp_path: Path) -> None:
    put_h5(tmp_path / "set/p1.h5", image=DEEP, label=np.moveaxis(SLICES, 0, 2))
    assert "axes in one order" in h5(tmp_path)[1]["p1.h5"]


def test_spacing_is_in_the_order_of_the_axes(tmp_path: Path) -> None:
    put_h5(tmp_path / "set/p1.h5", image=np.moveaxis(DEEP, 0, 2), label=np.moveaxis(SLICES, 0, 2))
    with h5py.File(tmp_path / "set/p1.h5", "r+") as file:
        file["image"].attrs["spacing"] = (1.0, 2.0, 8.0)
    assert h5(tmp_path)[0]["p1.h5#0000"]["spacing"] == [8.0, 1.0, 2.0]
