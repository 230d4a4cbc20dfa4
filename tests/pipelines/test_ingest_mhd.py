"""MetaImage volumes: header, masks beside images, what the release of ABD does to PROMISE12, and files that lie."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_sets import ingest, mask_of, reasons

from maskmill.data_contracts import decode_image, load_label_space
from maskmill.pipelines.ingest.volumes_mhd import MhdSource, smoothed, stretched

PROMISE12 = load_label_space("promise12")
Array = np.ndarray[Any, Any]
itk: Any = pytest.importorskip("SimpleITK")


def put(path: Path, values: Array, spacing: tuple[float, float, float] = (0.6, 0.5, 3.5)) -> None:
    """`values` (D, H, W) as a MetaImage; spacing in x, y, z."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = itk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    itk.WriteImage(image, str(path))


def case(depth: int = 3, height: int = 12, width: int = 20) -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 1500, (depth, height, width)).astype(np.int16)
    label = np.zeros(image.shape, np.int8)
    label[1:, 3:9, 4:15] = 1
    return image, label


def write(root: Path, name: str = "Case00", suffix: str = ".mhd", **sizes: int) -> tuple[Array, Array]:
    image, label = case(**sizes)
    put(root / f"{name}{suffix}", image)
    put(root / f"{name}_segmentation{suffix}", label)
    return image, label


@pytest.mark.parametrize("suffix", [".mhd", ".mha"])
def test_slices_of_a_case(tmp_path: Path, suffix: str) -> None:
    image, label = write(tmp_path / "in", suffix=suffix)
    rows = ingest(MhdSource(root=str(tmp_path / "in")), tmp_path, PROMISE12)[0]
    rows = sorted(rows, key=lambda row: row["index"])
    assert [(row["group"], row["index"]) for row in rows] == [("Case00", 0), ("Case00", 1), ("Case00", 2)]
    assert all(row["spacing"] == pytest.approx([3.5, 0.5, 0.6]) for row in rows)
    low, high = image.min(), image.max()
    for number, row in enumerate(rows):
        assert np.array_equal(mask_of(row), label[number])
        grey = np.rint(255 * (image[number].astype(float) - low) / (high - low))
        assert np.array_equal(decode_image(row["image"]["bytes"], "a")[..., 0], grey)
    assert [row["class_ids"] for row in rows] == [[], [1], [1]]


def test_as_the_release_prepares_them(tmp_path: Path) -> None:
    """Nearest neighbour to a square, each slice to 0..1, then five steps of curvature flow; spacing follows."""
    image, label = write(tmp_path / "in")
    options: dict[str, Any] = {"resize": 16, "stretch": "slice", "smooth": True}
    rows = ingest(MhdSource(root=str(tmp_path / "in"), **options), tmp_path, PROMISE12)[0]
    rows = sorted(rows, key=lambda row: row["index"])
    down, across = (np.floor(np.arange(16) * n / 16).astype(int) for n in (12, 20))
    for number, row in enumerate(rows):
        small = image[number][down][:, across].astype(float)
        share = (small - small.min()) / (small.max() - small.min())
        flow = itk.GetArrayFromImage(itk.CurvatureFlow(itk.GetImageFromArray(share), 0.125, 5))
        found = decode_image(row["image"]["bytes"], "a")[..., 0].astype(int)
        assert np.abs(found - np.rint(255 * flow.clip(0, 1))).max() <= 1
        assert np.abs(found - 255 * share).max() > 5, "smoothed"
        assert np.array_equal(mask_of(row), label[number][down][:, across])
        assert row["spacing"] == pytest.approx([3.5, 0.5 * 12 / 16, 0.6 * 20 / 16])


def test_a_slice_of_one_value_is_black() -> None:
    assert not stretched(np.full((2, 3, 3), 7)).any()
    assert np.array_equal(stretched(np.array([[[1.0, 3.0]], [[0.0, 8.0]]])), [[[0, 1]], [[0, 1]]])
    flat = smoothed(np.zeros((1, 8, 8)))
    assert np.isfinite(flat).all()


def test_wanted_cases_and_masks_that_are_missing(tmp_path: Path) -> None:
    for number in (3, 35, 41):
        write(tmp_path / "in", f"Case{number:02d}")
    put(tmp_path / "in" / "Case07.mhd", case()[0])
    learnt = MhdSource(root=str(tmp_path / "in"), include=r"Case([0-2]\d|3[0-4])$")
    rows, rejects = ingest(learnt, tmp_path / "a", PROMISE12)
    assert {row["group"] for row in rows} == {"Case03"}
    assert reasons(rejects) == {"Case07.mhd": "missing_mask"}
    free = MhdSource(root=str(tmp_path / "in"), include="Case07", masks_optional=True)
    assert [row["mask"] for row in ingest(free, tmp_path / "b", PROMISE12)[0]] == [None] * 3


def test_files_that_lie(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write(root, "Case00")
    write(root, "Case01")
    write(root, "Case02")
    write(root, "Case03")
    (root / "Case00.mhd").write_bytes(b"\x89PNG no header at all")
    (root / "Case01.raw").write_bytes(b"short")
    text = (root / "Case02.mhd").read_text()
    (root / "Case02.mhd").write_text(text.replace("Case02.raw", "../Case03.raw"))
    put(root / "Case03_segmentation.mhd", case(depth=2)[1])
    rows, rejects = ingest(MhdSource(root=str(root)), tmp_path, PROMISE12)
    assert rows == []
    found = {name.partition("#")[0]: reason for name, reason in reasons(rejects).items()}
    assert found == {
        "Case00.mhd": "undecodable_image",
        "Case01.mhd": "undecodable_image",
        "Case02.mhd": "bad_annotation",
        "Case03.mhd": "size_mismatch",
    }


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"pip install 'maskmill\[itk\]'"):
        smoothed(np.zeros((1, 4, 4)))
