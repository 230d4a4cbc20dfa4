"""Volumes, videos and bands that lie about what is in them."""

import gzip
import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.malformed.cases import Case, Files, of_source, text
from tests.malformed.files import frames, mask, picture
from tests.malformed.packed import BAD, zeros_packed


def nifti(shape: tuple[int, ...] = (8, 8, 4), values: "np.ndarray[Any, Any] | None" = None) -> bytes:
    """A sound volume."""
    import nibabel

    data = np.zeros(shape, np.int16) if values is None else values
    return bytes(nibabel.Nifti1Image(data, np.eye(4)).to_bytes())


def declared(*sides: int, body: bytes | None = None) -> bytes:
    """A volume whose header lies about its shape."""
    data = bytearray(nifti())
    data[40:56] = struct.pack("<8h", len(sides), *sides, *[1] * (7 - len(sides)))
    return bytes(data) if body is None else bytes(data[:352]) + body


def volume(
    name: str,
    make: Callable[[], bytes],
    expected: str,
    label: "Callable[[], bytes]" = nifti,
    suffix: str = ".nii",
    **options: Any,
) -> Case:
    """A NIfTI volume beside a label."""

    def files() -> Files:
        return {f"p1{suffix}": make(), f"p1_gt{suffix}": label()}

    return of_source(name, "nifti", files, expected, "acdc", **options)


def hdf5(**datasets: Any) -> bytes:
    """An HDF5 file; a dict makes a dataset of these options, a link stays one."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in datasets.items():
            if isinstance(value, dict):
                file.create_dataset(name, **value)
            else:
                file[name] = value
    return buffer.getvalue()


def h5(name: str, make: Callable[[], bytes], expected: str, **options: Any) -> Case:
    """An HDF5 file."""
    return of_source(name, "h5", lambda: {"p1.h5": make()}, expected, "acdc", **options)


def external() -> bytes:
    import h5py

    return hdf5(image=h5py.ExternalLink("/etc/passwd", "x"), label=np.zeros((4, 4), np.uint8))


def soft() -> bytes:
    import h5py

    return hdf5(image=h5py.SoftLink("/label"), label=np.zeros((4, 4), np.uint8))


PLANE = np.zeros((8, 8), np.uint8)
UNLABELLED: dict[str, Any] = {"label": None, "masks_optional": True}


def film(kind: str = "mp4", count: int = 4) -> bytes:
    """A sound video."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for n in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * n, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def video(name: str, make: Callable[[], bytes], expected: str, file: str = "a.mp4", **options: Any) -> Case:
    """A video."""
    return of_source(name, "video", lambda: {file: make()}, expected, **options)


def geotiff(name: str, make: Callable[[], bytes], expected: str, **options: Any) -> Case:
    """A GeoTIFF without a mask."""
    return of_source(name, "geotiff", lambda: {"images/a.tif": make()}, expected, masks=None, **options)


def bands(values: "np.ndarray[Any, Any]") -> bytes:
    """A GeoTIFF of these bands."""
    import rasterio

    count, height, width = values.shape
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", count=count, height=height, width=width, dtype=values.dtype) as file:
            file.write(values)
        return bytes(memory.read())


VOLUMES = [
    volume("no NIfTI", lambda: b"hello", "undecodable_image"),
    volume("empty", lambda: b"", "undecodable_image"),
    volume("a header cut off", lambda: nifti()[:200], "undecodable_image"),
    volume("voxels cut off", lambda: nifti()[:-100], "undecodable_image"),
    volume("30,000 slices that are not there", lambda: declared(32767, 32767, 30000), "image_too_large"),
    volume(
        "2,000 small slices that are not there",
        lambda: declared(8, 8, 2000),
        "size_mismatch|undecodable_image|bad_annotation",
    ),
    volume(
        "2,000 slices that neither has", lambda: declared(8, 8, 2000), "undecodable_image", lambda: declared(8, 8, 2000)
    ),
    volume("a side below 0", lambda: declared(-8, 8, 4), "bad_annotation|undecodable_image"),
    volume("a side of 0", lambda: declared(0, 8, 4), "bad_annotation|undecodable_image"),
    volume("four axes", lambda: declared(8, 8, 2, 2), f"{BAD}.*three axes"),
    volume("one axis", lambda: declared(8), BAD),
    volume("another size than its label", lambda: nifti((8, 8, 5)), "size_mismatch|bad_annotation"),
    volume("NaN", lambda: nifti(values=np.full((8, 8, 4), np.nan, np.float32)), "finite intensities"),
    volume(
        "a label of fractions", nifti, "wrong_mask_format", lambda: nifti(values=np.full((8, 8, 4), 0.5, np.float32))
    ),
    volume("a label of 4,000", nifti, "wrong_mask_format", lambda: nifti(values=np.full((8, 8, 4), 4000, np.int16))),
    volume("a label of no class", nifti, "unknown_mask_id", lambda: nifti(values=np.full((8, 8, 4), 9, np.int16))),
    volume("no gzip", lambda: b"hello", "undecodable_image", suffix=".nii.gz"),
    volume(
        "gzip cut off",
        lambda: gzip.compress(
            nifti((64, 64, 4), np.random.default_rng(0).integers(0, 9, (64, 64, 4)).astype(np.int16))
        )[:900],
        "undecodable_image",
        lambda: gzip.compress(nifti((64, 64, 4))),
        suffix=".nii.gz",
    ),
    volume(
        "gzip that unpacks to 1 GB behind a small volume",
        lambda: gzip.compress(nifti()) + zeros_packed(1),
        "kept|undecodable_image|image_too_large",
        lambda: gzip.compress(nifti()),
        suffix=".nii.gz",
    ),
    volume(
        "a volume of 200 million voxels that is all zeros",
        lambda: _zeros(640, 640, 488),
        "kept|image_too_large",
        lambda: _zeros(640, 640, 488),
        suffix=".nii.gz",
        max_pixels=9,
    ),
    of_source("no mask", "nifti", lambda: {"p1.nii": nifti()}, "missing_mask", "acdc"),
    h5("no HDF5", lambda: b"hello", "undecodable_image"),
    h5("cut off", lambda: hdf5(image=PLANE, label=PLANE)[:900], "undecodable_image"),
    h5("no dataset", lambda: hdf5(label=PLANE), "missing_image.*label"),
    h5("no label", lambda: hdf5(image=PLANE), "missing_mask.*image"),
    h5("a link to another file", external, "unsafe_path"),
    h5("a link inside the file", soft, "unsafe_path"),
    h5("text", lambda: hdf5(image={"data": ["a", "b"]}, label=PLANE), BAD),
    h5("four axes", lambda: hdf5(image=np.zeros((2, 2, 2, 2)), label=PLANE), BAD),
    h5("nothing in it", lambda: hdf5(image=np.zeros((0, 8)), label=PLANE), BAD),
    h5("another shape than its label", lambda: hdf5(image=PLANE, label=np.zeros((9, 9), np.uint8)), "size_mismatch"),
    h5(
        "a terabyte that nobody wrote",
        lambda: hdf5(image={"shape": (1 << 10, 1 << 15, 1 << 15), "dtype": "u1", "chunks": (1, 64, 64)}, label=PLANE),
        "image_too_large",
    ),
    h5(
        "chunks of a gigabyte",
        lambda: hdf5(
            image={"shape": (1 << 14, 1 << 14), "dtype": "f4", "chunks": (1 << 14, 1 << 14), "compression": "gzip"},
            label={"shape": (1 << 14, 1 << 14), "dtype": "u1", "chunks": (64, 64)},
        ),
        "image_too_large",
    ),
    h5(
        "an axis that nobody names",
        lambda: hdf5(image=np.zeros((9, 9, 7), np.uint8), label=np.zeros((9, 9, 7), np.uint8)),
        f"{BAD}.*slice_axis",
    ),
    h5("NaN", lambda: hdf5(image=np.full((8, 8), np.nan), label=PLANE), "finite intensities"),
    h5("a label of fractions", lambda: hdf5(image=PLANE, label=np.full((8, 8), 0.5)), "wrong_mask_format"),
    of_source(
        "an index of 20 digits",
        "slices",
        lambda: {
            "images/p1_slice_99999999999999999999.png": picture(),
            "masks/p1_slice_99999999999999999999.png": mask(),
        },
        BAD,
        "acdc",
    ),
    of_source(
        "a group file that is none", "groups", lambda: {"index.json": "hello"}, r"index\.json", index="index.json"
    ),
    of_source(
        "a group of numbers",
        "groups",
        lambda: {"index.json": text({"groups": [7]})},
        r"index\.json",
        index="index.json",
    ),
    of_source(
        "dataset.json that is none",
        "nnunet",
        lambda: {"dataset.json": "hello", "imagesTr/a_0000.nii": b"x", "labelsTr/a.nii": b"x"},
        "undecodable_image",
    ),
]


def _zeros(*sides: int) -> bytes:
    """A volume of zeros, packed without ever being held."""
    head = bytearray(nifti((2, 2, 2))[:352])
    head[40:56] = struct.pack("<8h", 3, *sides, 1, 1, 1, 1)
    left, parts = 2 * int(np.prod(sides)), [gzip.compress(bytes(head), 1)]
    block = gzip.compress(bytes(1 << 24), 1)
    parts += [block] * (left >> 24) + [gzip.compress(bytes(left % (1 << 24)), 1)]
    return b"".join(parts)


FILMS = [
    video("no video", lambda: b"hello" * 99, "undecodable_image"),
    video("empty", lambda: b"", "undecodable_image"),
    video("cut off", lambda: film()[:400], "undecodable_image"),
    video("a playlist", lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "undecodable_image"),
    video("a list of files", lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", "undecodable_image"),
    video("a photo", picture, "undecodable_image"),
    video(
        "sound alone",
        lambda: b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0D\xac\0\0\x88X\1\0\2\0\x10\0data" + bytes(64),
        "undecodable_image",
    ),
    video("more frames than allowed", film, "at most 2 frames", max_frames=2),
    video("frames larger than allowed", film, "image_too_large", max_pixels=99),
    video("a GIF cut off", lambda: frames("GIF")[:30], "undecodable_image", "a.gif"),
    geotiff("no TIFF", lambda: b"hello", "undecodable_image"),
    geotiff("cut off", lambda: bands(np.zeros((3, 9, 9), np.uint8))[:100], "undecodable_image"),
    geotiff("one band of three", lambda: bands(np.zeros((1, 9, 9), np.uint8)), f"{BAD}.*1 bands"),
    geotiff("NaN", lambda: bands(np.full((3, 9, 9), np.nan, np.float32)), "undecodable_image.*finite"),
    geotiff("larger than allowed", lambda: bands(np.zeros((3, 9, 9), np.uint8)), "image_too_large", max_pixels=9),
    geotiff(
        "a virtual file",
        lambda: b"<VRTDataset><VRTRasterBand><SimpleSource><SourceFilename>/etc/passwd</SourceFilename></SimpleSource>",
        "undecodable_image",
    ),
]

CASES = [*VOLUMES, *FILMS]
