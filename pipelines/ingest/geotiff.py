"""GeoTIFF: any three bands of many as a photo, masks as a band of their own. Needs `pip install rasterio`."""

import importlib
import io
import json
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason, encode_image
from maskmill.data_contracts.tone import to_eight_bits, tone_range
from maskmill.pipelines.ingest.base import Entry, RawSample, bad_annotation
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.mask_files import read_mask

TIFFS = (".tif", ".tiff")


class GeotiffSource(FolderSource):
    """Images and masks as `folder` pairs them. Of an image's bands, `bands` (counted from 1) become red, green and
    blue; one band becomes grey. Deep values are scaled band by band by `tone`; what the file calls no data is black,
    and ignore in the mask. Masks are image files, or a GeoTIFF's first band.
    """

    kind: Literal["geotiff"] = Field(default="geotiff", description="kind of the source")  # type: ignore[assignment]
    version: ClassVar[int] = 1
    bands: tuple[int, ...] = Field(
        default=(1, 2, 3),
        min_length=1,
        max_length=3,
        description="bands, counted from 1, that become red, green and blue; one becomes grey",
    )

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root = self.reader()
        values, hollow = self._read(root.read(entry.key), entry.key, self.bands)
        photo, ranges = self._photo(values, hollow, entry.key)
        masks = entry.fields["masks"]
        mask = None if not masks else self._mask(masks[0][0], hollow)
        told = {"bands": list(self.bands), "ranges": ranges}
        return RawSample(image=encode_image(photo), mask=mask, provenance={"extra": json.dumps(told)})

    def _read(self, data: bytes, where: str, bands: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Values (bands, H, W), and where the file says that there are none.

        Raises:
            ContractError: no file that rasterio reads, too large, or without these bands.
        """
        rasterio = _rasterio()
        try:
            with rasterio.MemoryFile(data) as memory, memory.open(driver="GTiff") as file:
                if file.width * file.height > self.max_pixels:
                    fix = "cut it into tiles, or raise max_pixels in the ingest config"
                    found = f"{file.width}x{file.height}"
                    problem = Problem(Reason.IMAGE_TOO_LARGE, f"at most {self.max_pixels} pixels", found, fix)
                    raise ContractError(where, problem)
                if max(bands) > file.count or min(bands) < 1:
                    fix = f"set source.bands, e.g. {list(range(1, min(file.count, 3) + 1))}"
                    raise bad_annotation(where, f"bands {list(bands)}", f"{file.count} bands", fix)
                return file.read(list(bands)), (file.read_masks(list(bands)) == 0).all(axis=0)
        except rasterio.errors.RasterioError as error:
            problem = Problem(Reason.UNDECODABLE_IMAGE, "a GeoTIFF", str(error)[:200], "replace or remove the file")
            raise ContractError(where, problem) from error

    def _photo(
        self, values: NDArray[Any], hollow: NDArray[np.bool_], where: str
    ) -> tuple[NDArray[np.uint8], list[list[float]]]:
        """RGB uint8 (H, W, 3), and the values of each band that became black and white."""
        planes, ranges = [], []
        for band in values:
            seen = band[~hollow] if not hollow.all() else band
            try:
                low, high = tone_range(seen, self.tone) if band.dtype != np.uint8 else (0.0, 255.0)
            except ValueError as error:
                fix = "write no data as such, e.g. gdal_translate -a_nodata nan"
                raise ContractError(
                    where, Problem(Reason.UNDECODABLE_IMAGE, "finite values", str(error), fix)
                ) from error
            plane = to_eight_bits(np.where(hollow, seen.dtype.type(0), band), (low, high))
            planes.append(np.where(hollow, np.uint8(0), plane))
            ranges.append([low, high])
        stacked = np.stack(planes * 3 if len(planes) == 1 else planes, axis=-1)
        if stacked.shape[-1] == 2:
            raise bad_annotation(where, "one band or three in source.bands", "two", "set source.bands: [1, 2, 3]")
        return np.ascontiguousarray(stacked, dtype=np.uint8), ranges

    def _mask(self, path: str, hollow: NDArray[np.bool_]) -> bytes:
        """The mask as an image file, ignore where the photo has no data."""
        root = self.reader()
        if not path.lower().endswith(TIFFS):
            return read_mask(root, path, self.max_pixels)
        (values,), _ = self._read(root.read(path, Reason.MISSING_MASK), path, (1,))
        whole = np.asarray(values)
        if whole.min() < 0 or whole.max() > 65535 or (whole != np.floor(whole)).any():
            found = f"values from {whole.min()} to {whole.max()}"
            fix = "write class ids as whole numbers"
            raise ContractError(path, Problem(Reason.WRONG_MASK_FORMAT, "class ids of 0..65535", found, fix))
        ids = whole.astype(np.uint16)
        if ids.shape == hollow.shape:
            ids = np.where(hollow, np.uint16(255), ids)
        buffer = io.BytesIO()
        Image.fromarray(ids.astype(np.uint8) if ids.max() <= 255 else ids).save(buffer, format="PNG")
        return buffer.getvalue()


def _rasterio() -> Any:
    try:
        importlib.import_module("rasterio.errors")
        importlib.import_module("rasterio.io")
        return importlib.import_module("rasterio")
    except ImportError as error:
        raise ValueError("source geotiff needs rasterio: pip install 'maskmill[geo]'") from error
