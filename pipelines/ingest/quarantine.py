"""What ingest turned away, kept as it was given: for whoever wants to look at it, or to send it back.

RUN/quarantine/REASON/ID.json says of one sample what was wrong and which files are its own; their bytes lie in
RUN/quarantine/files under names that are hashes, each once however many samples share it. Nothing of it is exported.
"""

import json
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import fsspec

from maskmill.data_contracts import DECISION, content_id, list_shards, read_bytes, read_shard, write_bytes
from maskmill.data_contracts.texts import TextError, parse_json

FOLDER, FILES = "quarantine", "files"
SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")
Record = dict[str, Any]
logger = logging.getLogger("maskmill.ingest")

_reading: ContextVar[dict[str, bytes] | None] = ContextVar("files that are read for one sample", default=None)


def note_read(path: str, data: bytes) -> None:
    """Remember the bytes of a file for the sample that is being read, where somebody wants to know them."""
    if (files := _reading.get()) is not None:
        files.setdefault(path, data)


def note_cells(cells: Mapping[str, bytes | None]) -> None:
    """Remember the bytes of a sample that came from a table, and from no file of its own."""
    if (files := _reading.get()) is not None and not files:
        files.update({name: data for name, data in cells.items() if data is not None})


@contextmanager
def noting() -> Iterator[dict[str, bytes]]:
    """Inside, what is read in this thread is remembered by its path."""
    files: dict[str, bytes] = {}
    token = _reading.set(files)
    try:
        yield files
    finally:
        _reading.reset(token)


@dataclass
class Quarantine:
    """Where a run keeps what it turned away, and how many bytes of it at most."""

    run_dir: str
    most: int
    _held: int | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def keep(self, reject: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Keep the files of one rejected sample. Those beyond the limit are named, and left out."""
        kept = [{"path": path, "bytes": len(data), "file": self._keep(path, data)} for path, data in files.items()]
        record = {key: reject[key] for key in ("sample_id", "reason", "detail", "source_path")} | {"files": kept}
        place = f"{self._folder}/{reject['reason']}/{reject['sample_id']}.json"
        write_bytes(place, (json.dumps(record, indent=2) + "\n").encode())

    def _keep(self, path: str, data: bytes) -> str | None:
        """Store the bytes of a file; its name below RUN/quarantine, None where there is no room."""
        found = SUFFIX.fullmatch(PurePosixPath(path).suffix.lower())
        name = f"{FILES}/{content_id(data)}{found.group() if found else ''}"
        fs, target = fsspec.core.url_to_fs(f"{self._folder}/{name}")
        with self._lock:
            if fs.exists(target):
                return name
            self._held = self._size() if self._held is None else self._held
            if self._held + len(data) > self.most:
                logger.warning("%s: no room in quarantine (limits.quarantine_bytes: %d)", path, self.most)
                return None
            self._held += len(data)
        write_bytes(f"{self._folder}/{name}", data)
        return name

    def _size(self) -> int:
        fs, target = fsspec.core.url_to_fs(f"{self._folder}/{FILES}")
        return sum(int(info["size"]) for info in fs.find(target, detail=True).values()) if fs.exists(target) else 0

    @property
    def _folder(self) -> str:
        return f"{self.run_dir.rstrip('/')}/{FOLDER}"


def quarantined(run_dir: str, reason: str, sample_id: str) -> list[str]:
    """Paths of the files that were kept of a rejected sample."""
    place = f"{run_dir.rstrip('/')}/{FOLDER}"
    record = _record(f"{place}/{reason}/{sample_id}.json")
    return [f"{place}/{file['file']}" for file in record.get("files", []) if file["file"]]


def sweep_quarantine(run_dir: str) -> None:
    """Remove records of samples that are not rejected any more, and files that no record speaks of."""
    fs, top = fsspec.core.url_to_fs(f"{run_dir.rstrip('/')}/{FOLDER}")
    if not fs.exists(top):
        return
    wanted, files = _rejected(run_dir), set()
    there = [str(path) for path in fs.find(top)]
    for path in (path for path in there if path.endswith(".json") and f"/{FILES}/" not in path):
        reason, name = path.rsplit("/", 2)[1:]
        if (name.removesuffix(".json"), reason) in wanted:
            files |= {str(file["file"]) for file in _record(fs.unstrip_protocol(path)).get("files", [])}
        else:
            fs.rm_file(path)
    for path in (path for path in there if f"/{FILES}/" in path):
        if f"{FILES}/{path.rsplit('/', 1)[1]}" not in files:
            fs.rm_file(path)


def _rejected(run_dir: str) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for path in list_shards(f"{run_dir.rstrip('/')}/rejects"):
        rows = read_shard(path, DECISION, ["sample_id", "reason"]).to_pylist()
        found |= {(row["sample_id"], row["reason"]) for row in rows}
    return found


def _record(path: str) -> Record:
    try:
        found = parse_json(read_bytes(path))
    except (FileNotFoundError, TextError):
        return {}
    return found if isinstance(found, dict) else {}
