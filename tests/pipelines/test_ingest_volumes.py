"""Volumes: HDF5, NIfTI and PNG slices; patients and slices, spacing, intensities, and files that lie."""

import gzip
import json
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
from ingest_sets import Row, ingest, mask_of, put, reasons

from maskmill.data_contracts import LabelSpace, Uint8Array, decode_image, encode_mask, load_label_space
from maskmill.pipelines.ingest import Source
from maskmill.pipelines.ingest.hf_parquet import HfParquetSource
from maskmill.pipelines.ingest.volumes import to_grey
from maskmill.pipelines.ingest.volumes_h5 import H5Source
from maskmill.pipelines.ingest.volumes_nifti import NiftiSource
from maskmill.pipelines.ingest.volumes_slices import SliceSource

ACDC = load_label_space("acdc")
Array = np.ndarray[Any, Any]


def volume(depth: int = 3, height: int = 10, width: int = 14) -> tuple[Array, Uint8Array]:
    """Image float32 (D, H, W) in [0, 1] whose slices differ, and labels with a class a slice."""
    rng = np.random.default_rng(depth)
    image = (rng.random((depth, height, width)) * 0.5 + np.arange(depth)[:, None, None] * 0.1).astype(np.float32)
    label = np.zeros(image.shape, np.uint8)
    for number in range(depth):
        label[number, 2:6, 3:9] = 1 + number % 3
    return image, label


def put_h5(path: Path, spacing: tuple[float, ...] | None = None, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        if spacing is not None:
            file["image"].attrs["spacing"] = spacing
    return path


def put_nifti(path: Path, values: Array, zooms: tuple[float, ...] = (1.5, 1.25, 10.0), units: str = "mm") -> Path:
    """`values` (D, H, W) as a NIfTI file, whose axes are x, y, z."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(np.ascontiguousarray(values.T), np.diag([*zooms[:3], 1.0]))
    image.header.set_xyzt_units(units)
    nibabel.save(image, path)
    return path


def by_place(samples: list[Row]) -> dict[tuple[str, int], Row]:
    return {(row["group"], row["index"]): row for row in samples}


def grey(row: Row) -> Uint8Array:
    return decode_image(row["image"]["bytes"])[..., 0]


def test_h5_slices_and_volumes_give_the_same_samples(tmp_path: Path) -> None:
    image, label = volume()
    put_h5(tmp_path / "a/patient001_frame01.h5", image=image, label=label)
    for number in range(3):
        put_h5(tmp_path / f"b/patient001_frame01_slice_{number}.h5", image=image[number], label=label[number])
    whole, _ = ingest(H5Source(root=str(tmp_path / "a")), tmp_path / "run-a", ACDC)
    slices, rejects = ingest(H5Source(root=str(tmp_path / "b")), tmp_path / "run-b", ACDC)
    assert not rejects
    assert [(row["group"], row["index"]) for row in whole] == [("patient001", n) for n in range(3)]
    assert {row["sample_id"] for row in whole} == {row["sample_id"] for row in slices}
    for number, row in enumerate(whole):
        assert np.array_equal(mask_of(row), label[number])
        assert np.array_equal(grey(row), np.rint(255 * image[number].astype(np.float64)))
        assert json.loads(row["provenance"]["extra"]) == {"volume": "patient001_frame01"}
        assert row["class_ids"] == [1 + number % 3]
        assert row["spacing"] is None


def test_spacing_comes_from_the_file_else_from_the_config(tmp_path: Path) -> None:
    image, label = volume()
    put_h5(tmp_path / "p1_a.h5", spacing=(8.0, 1.4, 1.3), image=image, label=label)
    put_h5(tmp_path / "p2_a.h5", image=image[::-1], label=label[::-1])
    samples, _ = ingest(H5Source(root=str(tmp_path), spacing=(10.0, 1.5, 1.5)), tmp_path / "run", ACDC)
    found = {row["group"]: np.round(row["spacing"], 3).tolist() for row in samples}
    assert found == {"p1": [8.0, 1.4, 1.3], "p2": [10.0, 1.5, 1.5]}
    again, _ = ingest(HfParquetSource(root=str(tmp_path / "run/samples")), tmp_path / "again", ACDC)
    assert [row["sample_id"] for row in again] == [row["sample_id"] for row in samples]
    assert [row["spacing"] for row in again] == [row["spacing"] for row in samples]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_is_read_as_simpleitk_does(tmp_path: Path, suffix: str) -> None:
    image, label = volume()
    root = tmp_path / "set"
    put_nifti(root / f"patient002/patient002_frame01{suffix}", image * 900)
    put_nifti(root / f"patient002/patient002_frame01_gt{suffix}", label)
    put_nifti(root / f"patient002/patient002_4d{suffix}", np.zeros((2, 3, 10, 14), np.int16))
    source = NiftiSource(root=str(root), include=r"_frame\d+$")
    samples, rejects = ingest(source, tmp_path / "run", ACDC)
    assert not rejects
    scaled = image * 900
    wanted = np.rint(255 * (scaled.astype(np.float64) - scaled.min()) / (scaled.max() - scaled.min()))
    for number in range(3):
        row = by_place(samples)["patient002", number]
        assert np.array_equal(mask_of(row), label[number])
        assert np.abs(grey(row) - wanted[number]).max() <= 1
        assert np.round(row["spacing"], 3).tolist() == [10.0, 1.25, 1.5], "slice, row, column"


def test_nifti_units_and_unlabelled_volumes(tmp_path: Path) -> None:
    image, label = volume()
    root = tmp_path / "set"
    put_nifti(root / "p1.nii", image, (0.0015, 0.0015, 0.01), "meter")
    put_nifti(root / "p1_gt.nii", label, (1.5, 1.5, 10.0))
    put_nifti(root / "p2.nii", image[::-1])
    samples, rejects = ingest(NiftiSource(root=str(root)), tmp_path / "run", ACDC)
    assert reasons(rejects) == {"p2.nii": "missing_mask"}
    assert {tuple(np.round(row["spacing"], 3).tolist()) for row in samples} == {(10.0, 1.5, 1.5)}
    samples, rejects = ingest(NiftiSource(root=str(root), masks_optional=True), tmp_path / "run2", ACDC)
    assert not rejects
    assert {(row["group"], row["mask"] is None) for row in samples} == {("p1", False), ("p2", True)}


def test_png_slices_keep_their_bytes(tmp_path: Path) -> None:
    image, label = volume()
    root = tmp_path / "set"
    for number in range(3):
        stem = f"patient003_frame12_slice_{number}"
        put(root / f"images/{stem}.png", encode_mask(np.rint(255 * image[number]).astype(np.uint8)))
        if number:
            put(root / f"masks/{stem}.png", encode_mask(label[number]))
    put(root / "images/overview.png", encode_mask(label[0]))
    source = SliceSource(root=str(root), spacing=(10.0, 1.5, 1.5), masks_optional=True)
    samples, rejects = ingest(source, tmp_path / "run", ACDC)
    found = by_place(samples)
    assert found["patient003", 0]["mask"] is None
    assert np.array_equal(mask_of(found["patient003", 2]), label[2])
    assert found["patient003", 1]["image"]["bytes"] == (root / "images/patient003_frame12_slice_1.png").read_bytes()
    assert found["patient003", 1]["spacing"] == [10.0, 1.5, 1.5]
    assert found["overview", None]["group"] == "overview"
    _, rejects = ingest(SliceSource(root=str(root)), tmp_path / "strict", ACDC)
    assert sorted(reasons(rejects).values()) == ["missing_mask", "missing_mask"]


def test_wide_slices_stand_up_where_that_is_wanted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for patient, shape in (("p1", (10, 14)), ("p2", (14, 10)), ("p3", (10, 10))):
        image, label = rng.integers(0, 255, shape, dtype=np.uint8), rng.integers(0, 4, shape, dtype=np.uint8)
        put(tmp_path / f"images/{patient}_slice_0.png", encode_mask(image))
        put(tmp_path / f"masks/{patient}_slice_0.png", encode_mask(label))
    put(tmp_path / "images/p4_slice_0.png", b"no image")
    put(tmp_path / "masks/p4_slice_0.png", b"no mask")
    found = {}
    for upright in (False, True):
        source = SliceSource(root=str(tmp_path), spacing=(10.0, 1.5, 1.25), upright=upright)
        samples, rejects = ingest(source, tmp_path / f"run{upright}", ACDC)
        assert list(reasons(rejects)) == ["images/p4_slice_0.png"]
        found[upright] = {row["group"]: row for row in samples}
    for patient, turns in (("p1", 1), ("p2", 0), ("p3", 0)):
        plain, stood = found[False][patient], found[True][patient]
        assert np.array_equal(mask_of(stood), np.rot90(mask_of(plain), turns))
        assert np.array_equal(grey(stood), np.rot90(grey(plain), turns))
        assert stood["spacing"] == ([10.0, 1.25, 1.5] if turns else [10.0, 1.5, 1.25])


def test_scribbles_become_ignore_where_nobody_drew(tmp_path: Path) -> None:
    scribble = np.full((10, 14), 4, np.uint8)
    scribble[5, 3:8] = 2
    put_h5(tmp_path / "p1_slice_0.h5", image=volume()[0][0], scribble=scribble)
    samples, _ = ingest(H5Source(root=str(tmp_path), label="scribble"), tmp_path / "run", ACDC)
    assert np.unique(mask_of(samples[0])).tolist() == [2, 255]


def test_intensities_have_one_scale_a_volume() -> None:
    ramp = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    assert (to_grey(ramp, None, "x")[0].max(), to_grey(ramp, None, "x").max()) == (122, 255)
    assert to_grey(ramp, (0, 10), "x").max() == 255
    assert to_grey(ramp, (0, 10), "x")[0, 0, 1] == 26
    assert not to_grey(np.full((1, 2, 2), 7, np.int16), None, "x").any(), "a constant volume is black, not NaN"
    half = np.full((1, 2, 2), 0.5, np.float32)
    assert np.unique(to_grey(half, None, "x")).tolist() == [128], "floats in 0..1 are scaled already"
    with pytest.raises(ValueError, match="finite intensities"):
        to_grey(np.array([[[np.nan, 1.0]]]), None, "x")


def faulty_h5(root: Path) -> dict[str, str]:
    """Files that cannot be samples, and why."""
    image, label = volume()
    put_h5(root / "ok.h5", image=image, label=label)
    put(root / "noise.h5", b"no HDF5 at all")
    put(root / "cut.h5", (root / "ok.h5").read_bytes()[:300])
    put_h5(root / "nokey.h5", picture=image)
    put_h5(root / "flat.h5", image=image[0, 0], label=label[0, 0])
    put_h5(root / "empty.h5", image=image[:0], label=label[:0])
    put_h5(root / "words.h5", image=np.array([[b"a", b"b"]]), label=label)
    put_h5(root / "sizes_slice_1.h5", image=image[0], label=label[0, :5])
    put_h5(root / "halves_slice_1.h5", image=image[0], label=label[0] + 0.5)
    put_h5(root / "nan_slice_1.h5", image=np.full((4, 4), np.nan), label=np.ones((4, 4)))
    put_h5(root / "strange_slice_1.h5", image=image[0], label=label[0] + 7)
    put_h5(root / "huge.h5", image=np.zeros((2, 200, 200), np.uint8))
    with h5py.File(root / "outside.h5", "w") as file:
        file["image"] = h5py.ExternalLink(str(root / "ok.h5"), "image")
    with h5py.File(root / "soft.h5", "w") as file:
        file["image"] = h5py.SoftLink("/other")
    with h5py.File(root / "external.h5", "w") as file:
        secret = root / "secret.bin"
        secret.write_bytes(bytes(48))
        file.create_dataset("image", (2, 4, 6), "u1", external=[(str(secret), 0, 48)])
    layout = h5py.VirtualLayout(image.shape, "f4")
    layout[:] = h5py.VirtualSource(str(root / "ok.h5"), "image", image.shape)
    with h5py.File(root / "virtual.h5", "w") as file:
        file.create_virtual_dataset("image", layout)
    return {
        "noise.h5": "undecodable_image",
        "cut.h5": "undecodable_image",
        "nokey.h5": "missing_image",
        "flat.h5": "bad_annotation",
        "empty.h5": "bad_annotation",
        "words.h5": "bad_annotation",
        "sizes_slice_1.h5": "size_mismatch",
        "halves_slice_1.h5": "wrong_mask_format",
        "nan_slice_1.h5": "undecodable_image",
        "strange_slice_1.h5": "unknown_mask_id",
        "huge.h5": "image_too_large",
        "outside.h5": "unsafe_path",
        "soft.h5": "unsafe_path",
        "external.h5": "unsafe_path",
        "virtual.h5": "unsafe_path",
        "secret.bin": "not_read",
    }


def test_h5_files_that_lie_are_rejected_and_the_others_kept(tmp_path: Path) -> None:
    wanted = faulty_h5(tmp_path / "set")
    source = H5Source(root=str(tmp_path / "set"), max_voxels=50_000, masks_optional=False)
    samples, rejects = ingest(source, tmp_path / "run", ACDC, shard_size=10)
    assert {row["group"] for row in samples} == {"ok"}
    found = {path.split("#")[0]: reason for path, reason in reasons(rejects).items()}
    assert found == wanted


def test_nifti_files_that_lie_are_rejected(tmp_path: Path) -> None:
    image, label = volume()
    root = tmp_path / "set"
    put(root / "noise.nii", b"nothing of the kind")
    put(root / "noise.nii.gz", b"nothing of the kind")
    put_nifti(root / "cut.nii", image)
    put(root / "cut.nii", (root / "cut.nii").read_bytes()[:500])
    put_nifti(root / "cine.nii", np.zeros((2, 3, 4, 5), np.int16))
    put_nifti(root / "flat.nii", image[0])
    put_nifti(root / "sizes.nii", image)
    put_nifti(root / "sizes_gt.nii", label[:, :5])
    put_nifti(root / "zooms.nii", image)
    put_nifti(root / "zooms_gt.nii", label, (3.0, 3.0, 10.0))
    big = np.zeros((40, 60, 60), np.uint8)
    put_nifti(root / "bomb.nii.gz", big)
    for name in ("noise", "cut", "cine", "flat", "bomb"):
        put_nifti(root / f"{name}_gt.nii", label)
    samples, rejects = ingest(NiftiSource(root=str(root), max_voxels=50_000), tmp_path / "run", ACDC, shard_size=50)
    found = {path.split("#")[0]: reason for path, reason in reasons(rejects).items()}
    assert not samples
    assert found == {
        "noise.nii": "undecodable_image",
        "noise.nii.gz": "undecodable_image",
        "cut.nii": "undecodable_image",
        "cine.nii": "bad_annotation",
        "flat.nii": "size_mismatch",
        "sizes.nii": "size_mismatch",
        "zooms.nii": "size_mismatch",
        "bomb.nii.gz": "image_too_large",
    }
    assert len(gzip.compress(big.tobytes())) < 10_000, "small on disk, large in memory"


@pytest.mark.parametrize("source", [H5Source, NiftiSource, SliceSource])
def test_links_out_of_the_folder_are_not_followed(tmp_path: Path, source: type[Source]) -> None:
    put_h5(tmp_path / "else.h5", image=volume()[0], label=volume()[1])
    put_nifti(tmp_path / "else.nii", volume()[0])
    put(tmp_path / "else.png", encode_mask(volume()[1][0]))
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for suffix in ("h5", "nii", "png"):
        (root / f"images/p1_slice_0.{suffix}").symlink_to(tmp_path / f"else.{suffix}")
    samples, rejects = ingest(source(kind=source.model_fields["kind"].default, root=str(root)), tmp_path / "run", ACDC)
    assert not samples
    assert set(reasons(rejects).values()) == {"unsafe_path"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": r"\d+"}, "expected a named group"),
        ({"spacing": (0, 1, 1)}, "three positive numbers"),
        ({"window": (5, 5)}, "low < high"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        H5Source(root=".", **options)


def test_names_that_do_not_match_are_rejected(tmp_path: Path) -> None:
    put_h5(tmp_path / "scan.h5", image=volume()[0], label=volume()[1])
    _, rejects = ingest(H5Source(root=str(tmp_path), pattern=r"(?P<group>patient\d+)"), tmp_path / "run", ACDC)
    assert reasons(rejects) == {"scan.h5": "bad_annotation"}


def test_a_label_space_of_other_ids_is_reached_by_remap(tmp_path: Path) -> None:
    image, label = volume()
    put_h5(tmp_path / "p1.h5", image=image, label=label)
    space = LabelSpace.from_names(["heart"], name="heart")
    source = H5Source(root=str(tmp_path), remap={1: "heart", 2: "heart", 3: "heart"})
    samples, _ = ingest(source, tmp_path / "run", space)
    assert np.array_equal(mask_of(samples[1]), (label[1] > 0).astype(np.uint8))
