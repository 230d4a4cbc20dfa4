"""Seals: hashes inside a Parquet file that cover each of its bytes, so that one flipped bit is seen.

A seal lies between the last row group and Parquet's own footer, where readers look at nothing that no offset points
to: 8 bytes of magic, the hash of all bytes before the seal, the hash of all after it. The footer's metadata says that
there is one. Pages carry checksums besides, so that reading a column verifies what it reads and nothing else.
"""

from dataclasses import dataclass, field

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

MAGIC = b"MASKSEAL"
SEAL_KEY = b"maskmill.seal"
SEAL_BYTES = len(MAGIC) + 32
TAIL = 1 << 16  # bytes read from the end of a file to find its footer
END = b"PAR1"
CHUNK = 1 << 24


@dataclass(frozen=True)
class Tail:
    """The end of a Parquet file: its key-value metadata, where its row groups end, the seal, and what is wrong."""

    metadata: dict[bytes, bytes]
    body: int  # bytes before the seal (or the footer, where there is no seal)
    data_hash: bytes | None  # what the seal says of them; None: no seal
    fault: str | None = None
    whole: bytes | None = field(default=None, repr=False)  # the file, where its end is all of it


def seal(parquet: bytes | memoryview) -> bytes:
    """A Parquet file with the seal put in."""
    whole = memoryview(parquet)  # slices of a view copy nothing
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    body, footer = whole[:start], whole[start:]
    return b"".join((body, MAGIC, _hash(body), _hash(footer), footer))


def read_tail(path: str) -> Tail:
    """The end of the file at `path`.

    Raises:
        FileNotFoundError: no such file.
    """
    fs, target = fsspec.core.url_to_fs(path)
    size = int(fs.info(target)["size"])
    data: bytes = fs.cat_file(target, start=max(0, size - TAIL), end=size)
    footer_bytes = 8 + int.from_bytes(data[-8:-4], "little")
    if data[-4:] != END or footer_bytes > size:
        return Tail({}, size, None, f"no Parquet footer in its {size} bytes")
    if (wanted := footer_bytes + SEAL_BYTES) > len(data):
        data = fs.cat_file(target, start=max(0, size - wanted), end=size)
    footer, whole = data[-footer_bytes:], data if len(data) == size else None
    try:
        metadata = dict(pq.read_schema(pa.BufferReader(END + footer)).metadata or {})
    except (pa.ArrowException, OSError, ValueError) as error:
        return Tail({}, size, None, f"a footer that cannot be read ({error})")
    mark = data[-footer_bytes - SEAL_BYTES : -footer_bytes]
    if not mark.startswith(MAGIC):
        fault = "no seal, though the footer speaks of one" if SEAL_KEY in metadata else None
        return Tail(metadata, size - footer_bytes, None, fault, whole)
    fault = None if mark[-16:] == _hash(footer) else "a footer that is not the one that was sealed"
    return Tail(metadata, size - footer_bytes - SEAL_BYTES, mark[-32:-16], fault, whole)


def data_fault(path: str, tail: Tail) -> str | None:
    """What is wrong with the bytes before the seal, each of them read; None where they are as sealed."""
    fs, target = fsspec.core.url_to_fs(path)
    seen, left = xxhash.xxh3_128(), tail.body
    with fs.open(target, "rb") as handle:
        while left > 0 and (piece := handle.read(min(CHUNK, left))):
            seen.update(piece)
            left -= len(piece)
    if left:
        return f"{left} bytes fewer than were sealed"
    return None if seen.digest() == tail.data_hash else "rows or pages that are not those that were sealed"


def bytes_hash(data: bytes) -> str:
    """Hash (hex) by which a manifest or marker knows a file."""
    return str(xxhash.xxh3_128_hexdigest(data))


def file_hash(path: str) -> str:
    """`bytes_hash` of the file at a path or URL, read piece by piece."""
    fs, target = fsspec.core.url_to_fs(path)
    seen = xxhash.xxh3_128()
    with fs.open(target, "rb") as handle:
        while piece := handle.read(CHUNK):
            seen.update(piece)
    return str(seen.hexdigest())


def _hash(data: bytes | memoryview) -> bytes:
    return bytes(xxhash.xxh3_128_digest(data))
