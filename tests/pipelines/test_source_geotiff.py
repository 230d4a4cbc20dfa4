"""GeoTIFF: bands, deep values, no data."""

from pathlib import Path

import numpy as np
import pytest
from ingest_sets import ingest, label_map, mask_of, put

from maskmill.data_contracts import LabelSpace, decode_image, encode_mask
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.geotiff import GeotiffSource

rasterio = pytest.importorskip("rasterio", reason="GeoTIFF needs rasterio")
LAND = LabelSpace.from_names(["field"], "land")


def save(path: Path, bands: np.ndarray, **more: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": bands.dtype, **more}
    with rasterio.open(path, "w", **profile) as file:
        file.write(bands)


def deep(count: int = 5, most: int = 4095) -> np.ndarray:
    values = np.random.default_rng(0).integers(1, most, (count, 12, 16)).astype(np.uint16)
    values[:, 0, 0] = most
    return values


def test_three_of_five_bands_are_the_photo(tmp_path: Path) -> None:
    bands = deep()
    save(tmp_path / "set/images/a.tif", bands)
    put(tmp_path / "set/masks/a.png", encode_mask(label_map()))
    source = GeotiffSource(root=str(tmp_path / "set"), bands=(4, 3, 2))
    (row,), rejects = ingest(source, tmp_path / "run", LAND)
    assert not rejects
    assert np.array_equal(mask_of(row), label_map())
    wanted = np.stack([bands[i].astype(int) * 255 // 4095 for i in (3, 2, 1)], axis=-1)
    assert np.array_equal(decode_image(row["image"]["bytes"]), wanted)
    assert '"bands": [4, 3, 2]' in row["provenance"]["extra"]


def test_no_data_is_ignored(tmp_path: Path) -> None:
    bands = deep(3)
    bands[:, :2] = 0
    save(tmp_path / "set/images/a.tif", bands, nodata=0)
    save(tmp_path / "set/masks/a.tif", label_map()[None])
    (row,), _ = ingest(GeotiffSource(root=str(tmp_path / "set")), tmp_path / "run", LAND)
    assert (mask_of(row)[:2] == 255).all()
    assert np.array_equal(mask_of(row)[2:], label_map()[2:])
    assert not decode_image(row["image"]["bytes"])[:2].any()


@pytest.mark.parametrize(
    ("bands", "options", "words"),
    [
        (deep(2), {}, "found 2 bands. Fix: set source.bands, e.g. [1, 2]"),
        (deep(3), {"bands": (1, 2)}, "one band or three"),
        (deep(3), {"max_pixels": 100}, "at most 100 pixels"),
        (np.full((3, 12, 16), np.inf, np.float32), {}, "finite values"),
    ],
)
def test_files_that_give_no_photo_are_told(
    tmp_path: Path, bands: np.ndarray, options: dict[str, object], words: str
) -> None:
    save(tmp_path / "set/images/a.tif", bands)
    put(tmp_path / "set/masks/a.png", encode_mask(label_map()))
    _, (lost,) = ingest(
        GeotiffSource.model_validate({"root": str(tmp_path / "set"), **options}), tmp_path / "run", LAND
    )
    assert words in lost["detail"]


def test_anything_but_a_geotiff_is_one_reject(tmp_path: Path) -> None:
    vrt = '<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    for name, data in {"a.tif": vrt, "b.tif": "none"}.items():
        put(tmp_path / f"set/images/{name}", data)
        put(tmp_path / f"set/masks/{name[0]}.png", encode_mask(label_map()))
    _, rejects = ingest(GeotiffSource(root=str(tmp_path / "set")), tmp_path / "run", LAND)
    assert [row["reason"] for row in rejects] == ["undecodable_image"] * 2


def test_the_folder_source_speaks_of_bands(tmp_path: Path) -> None:
    save(tmp_path / "set/images/a.tif", deep())
    put(tmp_path / "set/masks/a.png", encode_mask(label_map()))
    _, (lost,) = ingest(FolderSource(root=str(tmp_path / "set")), tmp_path / "run", LAND)
    assert "5 bands" in lost["detail"]
