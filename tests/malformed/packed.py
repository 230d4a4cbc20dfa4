"""Tables and archives that lie about what is in them."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from maskmill.data_contracts import load_label_space
from tests.malformed.cases import Case, Said, ingest, lay_out, of_source, text
from tests.malformed.files import mask, picture

BAD = "bad_annotation"


def parquet(**columns: Any) -> bytes:
    """A table of one row, or of more where a column is a list of rows."""
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({name: value if isinstance(value, pa.Array) else [value] for name, value in columns.items()}), buffer
    )
    return buffer.getvalue()


def hf(name: str, make: Callable[[], bytes], expected: str, **options: Any) -> Case:
    """A Parquet file."""
    return of_source(name, "hf_parquet", lambda: {"a.parquet": make()}, expected, **options)


def cell(name: str, expected: str, options: "dict[str, Any] | None" = None, **columns: Any) -> Case:
    """A row of a sound photo and mask, with other columns."""
    return hf(name, lambda: parquet(**{"image": picture(), "mask": mask(), **columns}), expected, **(options or {}))


def tar(*members: "tuple[str, bytes] | tarfile.TarInfo", mode: str = "w") -> bytes:
    """An archive of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    """A link or a device."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def shard(name: str, make: Callable[[], bytes], expected: str, file: str = "a.tar") -> Case:
    """A WebDataset archive."""
    return of_source(name, "webdataset", lambda: {file: make()}, expected)


def sample(key: str = "k", **more: bytes) -> list[tuple[str, bytes]]:
    """The members of one sound sample."""
    return [(f"{key}.png", picture()), (f"{key}.mask.png", mask()), *((f"{key}.{e}", data) for e, data in more.items())]


def huge_member() -> bytes:
    """A tar whose header says that a member has a terabyte."""
    data = bytearray(tar(("k.png", b"x"), ("k.mask.png", b"x")))
    data[124:136] = b"%011o\0" % (1 << 40)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def zipped(members: dict[str, bytes], **more: Any) -> bytes:
    """A zip of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **more) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def locked(data: bytes) -> bytes:
    """A zip, its members said to be encrypted."""
    changed = bytearray(data)
    for mark, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = changed.find(mark)
        while at >= 0:
            changed[at + flag] |= 1
            at = changed.find(mark, at + 4)
    return bytes(changed)


def archive(name: str, make: Callable[[], bytes], expected: str, file: str = "set.zip") -> Case:
    """An archive as the root of a folder source."""

    def read(folder: Path) -> Said:
        root = lay_out(folder / "set", {file: make()}) / file
        return ingest("folder", {"masks": None}, root, load_label_space("voc"))

    return Case(f"archive root: {name}", read, expected)


def zeros_packed(gigabytes: int) -> bytes:
    """A gzip of zeros: a packed block again and again, which gzip allows."""
    block = gzip.compress(bytes(1 << 26), 1)
    return block * (16 * gigabytes)


TABLES = [
    hf("no Parquet", lambda: b"hello", f"{BAD}|no column"),
    hf("empty", lambda: b"", f"{BAD}|no column"),
    hf("cut off", lambda: parquet(image=picture(), mask=mask())[:-20], f"{BAD}"),
    hf("noise in the middle", lambda: _noisy(parquet(image=picture(), mask=mask())), f"{BAD}|undecodable"),
    hf("no mask column", lambda: parquet(image=picture()), r"no column \['image', 'mask'\]"),
    hf(
        "no rows", lambda: parquet(image=pa.array([], pa.binary()), mask=pa.array([], pa.binary())), "nothing to ingest"
    ),
    cell("an image of null", "missing_image", image=None),
    cell("an image that is a number", "missing_image", image=7),
    cell("an image in base64", "missing_image.*base64", image="aGVsbG8=" * 400),
    cell("an image elsewhere", "unsafe_path", image="../../etc/passwd"),
    cell("an absolute image", "unsafe_path", image="/etc/passwd"),
    cell("an image of other keys", "missing_image.*keys", image={"a": 1}),
    cell("an image of text bytes", "undecodable_image", image=b"hello"),
    cell("a mask of null", "missing_mask", mask=None),
    cell("masks without classes", f"{BAD}.*mask_classes", mask=[mask(), mask()]),
    cell("masks and fewer classes", f"{BAD}.*classes", {"mask_classes": "c"}, mask=[mask(), mask()], c=["dog"]),
    cell("rows of a mask of other lengths", BAD, mask=[[1, 2], [3]]),
    cell("a mask of fractions", "wrong_mask_format", mask=[[0.5, 0.5]]),
    cell("an index below 0", BAD, index=-1),
    cell("an index of 2^40", BAD, index=2**40),
    cell("an index of text", BAD, index="one"),
    cell("a spacing of two numbers", BAD, spacing=[1.0, 2.0]),
    cell("classes of objects", BAD, prompt_class_ids=[{"a": 1}]),
    cell("a class of nobody", "unknown_class_name", prompt_class_ids=["unicorn"]),
    cell("text that is no UTF-8", BAD, prompt=pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())),
    of_source(
        "state.json that is none", "save_to_disk", lambda: {"a.arrow": b"x", "state.json": "hello"}, r"state\.json"
    ),
    of_source(
        "state.json nested deep", "save_to_disk", lambda: {"a.arrow": b"x", "state.json": "[" * 99_999}, r"state\.json"
    ),
    of_source("no Arrow file", "save_to_disk", lambda: {"a.arrow": b"hello"}, f"{BAD}|no column"),
]


def _noisy(data: bytes) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, 400, dtype=np.uint8).tobytes()
    return data[:40] + noise + data[440:]


ARCHIVES = [
    shard("no tar", lambda: b"hello" * 400, BAD),
    shard("empty", lambda: b"", f"{BAD}|nothing"),
    shard("cut off", lambda: tar(*sample())[:1500], BAD),
    shard("a key twice", lambda: tar(*sample(), *sample()), "duplicate_id"),
    shard("a name that climbs", lambda: tar(*sample("../../k")), "unsafe_path"),
    shard("an absolute name", lambda: tar(*sample("/etc/k")), "unsafe_path"),
    shard("a symbolic link", lambda: tar(special("k.png", tarfile.SYMTYPE)), "unsafe_path"),
    shard("a hard link", lambda: tar(special("k.png", tarfile.LNKTYPE)), "unsafe_path"),
    shard("a device", lambda: tar(special("k.png", tarfile.CHRTYPE)), "unsafe_path"),
    shard("a member of a terabyte", huge_member, f"{BAD}|image_too_large"),
    shard("no image", lambda: tar(("k.mask.png", mask())), "missing_image"),
    shard("no mask", lambda: tar(("k.png", picture())), "missing_mask"),
    shard("an empty image", lambda: tar(("k.png", b""), ("k.mask.png", mask())), "undecodable_image.*empty"),
    shard("a json that is none", lambda: tar(*sample(json=b"hello")), f"{BAD}.*json member"),
    shard("a json of a list", lambda: tar(*sample(json=b"[]")), f"{BAD}.*json member"),
    shard("a json nested 100,000 deep", lambda: tar(*sample(json=b"[" * 100_000)), f"{BAD}.*json member"),
    shard("an index below 0", lambda: tar(*sample(json=text({"index": -1}))), BAD),
    shard("a group that is a list", lambda: tar(*sample(json=text({"group": [1]}))), BAD),
    shard("classes that are a number", lambda: tar(*sample(json=text({"prompt_class_ids": 7}))), BAD),
    shard("no gzip", lambda: b"hello", BAD, "a.tar.gz"),
    shard("gzip cut off", lambda: tar(*sample(), mode="w:gz")[:300], BAD, "a.tar.gz"),
    shard("no xz", lambda: b"hello", BAD, "a.tar.xz"),
    shard("no bzip2", lambda: b"hello", BAD, "a.tar.bz2"),
    shard("no zstd", lambda: b"hello", BAD, "a.tar.zst"),
    shard("gzip that unpacks to 1 GB", lambda: zeros_packed(1), "image_too_large|bad_annotation", "a.tar.gz"),
    shard("no zip", lambda: b"hello", BAD, "a.zip"),
    shard("zip cut off", lambda: zipped(dict(sample()))[:-30], BAD, "a.zip"),
    shard("zip with a password", lambda: locked(zipped(dict(sample()))), BAD, "a.zip"),
    shard(
        "zip that unpacks to 200 MB",
        lambda: zipped({"k.png": bytes(200 << 20), "k.mask.png": mask()}, compresslevel=1),
        "image_too_large",
        "a.zip",
    ),
    shard(
        "zip with a wrong checksum",
        lambda: _flipped(zipped({"k.png": picture(), "k.mask.png": mask()})),
        f"{BAD}|undecodable",
        "a.zip",
    ),
    archive("no zip", lambda: b"hello", "no whole archive|write the archive again"),
    archive("zip cut off", lambda: zipped({"images/a.png": picture()})[:-30], "write the archive again"),
    archive(
        "zip that unpacks to 200 MB",
        lambda: zipped({"images/a.png": bytes(200 << 20)}, compresslevel=1),
        "image_too_large",
    ),
    archive("zip with a password", lambda: locked(zipped({"images/a.png": picture()})), "unlocked"),
    archive("no tar", lambda: b"hello" * 400, "write the archive again|nothing to ingest", "set.tar"),
    archive("no gzip", lambda: b"hello", "write the archive again", "set.tar.gz"),
]


def _flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[60] ^= 0xFF
    return bytes(changed)


CASES = [*TABLES, *ARCHIVES]
