"""What people said of samples in review: a journal that loses none, and the contract shard that selection honours.

RUN/verdicts.jsonl is appended to and fsynced before a verdict is acknowledged, one line each, with its own hash; what a
kill cuts off in the middle of a line was never acknowledged. RUN/verdicts.parquet (contract VERDICT, sealed) holds the
last word on each sample, as selection found it; it is written beside the decisions. The last word of a sample is that
of the shard unless the journal says more.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from maskmill.data_contracts import (
    VERDICT,
    DamagedError,
    Relabel,
    bytes_hash,
    content_id,
    read_bytes,
    read_footer,
    read_shard,
)
from maskmill.data_contracts.texts import parse_json

JOURNAL, SHARD = "verdicts.jsonl", "verdicts.parquet"
CHECK = "check"
END = re.compile(rb'"check": "\w+"\}')  # of a line: what was cut off in writing lacks it
Word = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)]


class Verdict(BaseModel):
    """A person's last word on one sample. `none` with a note is a note alone; without one, what was said before is
    taken back. `relabel` says that the sample is right but for its label, so it also keeps it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_id: str = Field(min_length=1, max_length=200)
    verdict: Literal["keep", "reject", "relabel", "none"]
    from_class_id: int | None = Field(default=None, ge=0, le=254)
    to_class_id: int | None = Field(default=None, ge=0, le=254)
    to_class: str | None = None
    why: Word = ""
    note: Word = ""
    who: Word = Field(min_length=1)
    at: datetime
    decided: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Verdict":
        if (self.verdict == "relabel") != (self.to_class_id is not None):
            raise ValueError(f"verdict {self.verdict}: to_class_id says what a relabelled sample is, and only that")
        if self.from_class_id is not None and self.verdict != "relabel":
            raise ValueError(f"verdict {self.verdict}: from_class_id belongs to relabel")
        return self

    @property
    def says(self) -> bool:
        """Whether it says anything at all, or takes back what was said."""
        return self.verdict != "none" or bool(self.note)

    @property
    def relabel(self) -> Relabel | None:
        return None if self.to_class_id is None else Relabel(self.from_class_id, self.to_class_id)

    @property
    def words(self) -> str:
        """Who, when and why, in a line."""
        said = "; ".join(part for part in (self.why, self.note) if part)
        return f"by {self.who} on {self.at:%Y-%m-%d %H:%M} UTC" + (f": {said}" if said else "")


Verdicts = dict[str, Verdict]


@dataclass(frozen=True)
class Reviewed:
    """The verdicts of a run that selection is to honour; `fingerprint` is what its result depends on."""

    verdicts: Verdicts

    @property
    def fingerprint(self) -> str:
        rows = (verdict.model_dump_json() for _, verdict in sorted(self.verdicts.items()))
        return f"verdicts-{content_id(*rows)}"

    def table(self) -> pa.Table:
        """Rows of the VERDICT contract, sorted by sample."""
        return VERDICT.table([verdict.model_dump() for _, verdict in sorted(self.verdicts.items())])


def now() -> datetime:
    """The time of a verdict."""
    return datetime.now(UTC)


def read_reviewed(run_dir: str) -> Reviewed | None:
    """The last word on each sample of a run; None where nobody has reviewed it.

    Raises:
        DamagedError: a line of the journal, or the shard, is not as it was written.
    """
    lines = read_journal(run_dir)
    if not lines and read_footer(f"{run_dir}/{SHARD}") is None:
        return None
    last = honoured(run_dir) | {verdict.sample_id: verdict for verdict in lines}
    return Reviewed({name: verdict for name, verdict in sorted(last.items()) if verdict.says})


def honoured(run_dir: str) -> Verdicts:
    """The verdicts that the decisions of a run honour; empty where there are none."""
    if read_footer(f"{run_dir}/{SHARD}") is None:
        return {}
    rows = read_shard(f"{run_dir}/{SHARD}", VERDICT).to_pylist()
    return {row["sample_id"]: Verdict.model_validate(row) for row in rows}


def news(run_dir: str) -> int:
    """Samples on which something was said, or taken back, since selection ran."""
    reviewed = read_reviewed(run_dir)
    if reviewed is None:
        return 0
    before, after = honoured(run_dir), reviewed.verdicts
    return sum(before.get(name) != after.get(name) for name in before.keys() | after.keys())


def read_journal(run_dir: str) -> list[Verdict]:
    """All that was said, in the order in which it was; [] where there is no journal.

    Raises:
        DamagedError: names the line that is not as it was written.
    """
    path = f"{run_dir}/{JOURNAL}"
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        return []
    if fault := journal_fault(data):
        raise DamagedError(path, fault, "bring the file back from a copy, or delete that line: its verdict is lost")
    return [_verdict(line) for line in _lines(data)]


def journal_fault(data: bytes) -> str | None:
    """What is wrong with a journal, every byte of it looked at; None where nothing is. The end of a line that was cut
    off is nothing: nobody was told that it was kept.
    """
    for number, line in enumerate(_lines(data), start=1):
        if not _is_whole(line):
            return f"another line {number} than was written"
    return None


def append_verdict(run_dir: str, verdict: Verdict) -> None:
    """Put a verdict at the end of the journal. When this returns it is on the disk; when it raises, the journal is as
    it was.

    Raises:
        OSError: the disk is full, the folder may not be written, or lies in an object store, where nothing can be
            appended to.
    """
    fs, folder = fsspec.core.url_to_fs(run_dir)
    if not isinstance(fs, LocalFileSystem):
        raise OSError(f"{run_dir}: a journal of verdicts needs a local disk")
    path = os.path.join(folder, JOURNAL)
    new = not os.path.exists(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # of two servers one waits; the system lets go when a process dies
        end = _mended(descriptor)
        try:
            _write(descriptor, _line(verdict))
            os.fsync(descriptor)
        except BaseException:
            os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)
    if new:
        _sync_folder(folder)


def _line(verdict: Verdict) -> bytes:
    said = verdict.model_dump(mode="json")
    return json.dumps({**said, CHECK: _hash(said)}, ensure_ascii=False).encode() + b"\n"


def _hash(said: Mapping[str, Any]) -> str:
    return bytes_hash(json.dumps(said, sort_keys=True).encode())


def _lines(data: bytes) -> Iterator[bytes]:
    """The lines of a journal, without the last one where its end was cut off."""
    *lines, tail = data.split(b"\n")
    yield from lines
    if END.search(tail):
        yield tail


def _is_whole(line: bytes) -> bool:
    try:
        said: dict[str, Any] = parse_json(line)
        check = said.pop(CHECK)
        return bool(check == _hash(said)) and _line(Verdict.model_validate(said)).rstrip(b"\n") == line
    except (ValueError, KeyError, AttributeError, TypeError, ValidationError):
        return False


def _verdict(line: bytes) -> Verdict:
    said = parse_json(line)
    del said[CHECK]
    return Verdict.model_validate(said)


def _mended(descriptor: int) -> int:
    """Cut off the end of a line that a killed writer left; the length then."""
    length = os.fstat(descriptor).st_size
    data = os.pread(descriptor, length, 0)
    if not data or data.endswith(b"\n"):
        return length
    start = data.rfind(b"\n") + 1
    if _is_whole(data[start:]):
        _write(descriptor, b"\n")
        return length + 1
    os.ftruncate(descriptor, start)
    return start


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def judged(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Those that decide, notes alone left out."""
    return [verdict for verdict in verdicts if verdict.verdict != "none"]
