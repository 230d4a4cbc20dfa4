"""Hugging Face `save_to_disk`: folders of Arrow files, read as they are; `datasets` is not needed."""

import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from maskmill.data_contracts import LabelSpace, Problem, Reason
from maskmill.data_contracts.texts import MOST_BYTES, parse_json
from maskmill.pipelines.ingest.base import Entry, RawSample, bad_annotation
from maskmill.pipelines.ingest.files import File, Root
from maskmill.pipelines.ingest.hf_parquet import HfParquetSource, cells

STATE = "state.json"
BESIDE = frozenset((STATE, "dataset_info.json", "dataset_dict.json"))  # what save_to_disk writes beside the data
_reading = threading.Lock()


class SaveToDiskSource(HfParquetSource):
    """`root` is what `save_to_disk` was given: a folder with .arrow files and state.json, or one such folder a split.
    Columns are those of `hf_parquet`. Files that state.json does not name (caches of `map`) are left out.
    """

    kind: Literal["save_to_disk"] = Field(default="save_to_disk", description="kind of the source")  # type: ignore[assignment]
    version: ClassVar[int] = 1

    def _files(self, root: Root) -> Iterator[File]:
        root.passed.walks.append((self.folder, BESIDE))
        for file in root.walk(self.folder, frozenset((".arrow",))):
            named = _data_files(root, file.path.rpartition("/")[0])
            if named is None or file.path.rpartition("/")[2] in named:
                yield file
            else:
                fix = "leave it; if it holds data, save the dataset again"
                problem = Problem(Reason.NOT_READ, "files that state.json names", "one that it does not", fix)
                yield File(file.path, file.stamp, problem)

    def _layout(self, root: Root, path: str) -> tuple[pa.Schema, list[int]]:
        with _opened(root, path) as reader:
            return reader.schema, [batch.num_rows for batch in reader]

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        fields = entry.fields
        with _reading:  # threads of one shard want the same batch: read it once
            batch = _batch(self.reader(), fields["file"], fields["stamp"], fields["group"])
        row = cells(batch, fields["row"], entry.key)
        return self.sample(row, batch.schema, entry.key, fields["columns"])


def _data_files(root: Root, folder: str) -> set[str] | None:
    """Names of the Arrow files that hold the data of a folder; None where nothing says so."""
    path = f"{folder}/{STATE}".lstrip("/")
    if not root.has_file(path):
        return None
    with root.text(path) as handle:
        try:
            return {str(file["filename"]) for file in parse_json(handle.read(MOST_BYTES + 1))["_data_files"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{root.url}/{path}: expected _data_files, found {error!r}. Fix: save it again") from error


def _opened(root: Root, path: str) -> pa.RecordBatchReader:
    """The batches of a file, which `datasets` writes as an Arrow stream."""
    full = root.locate(path)
    return pa.ipc.open_stream(pa.memory_map(full) if root.local else root.fs.open(full, "rb"))


@lru_cache(maxsize=4)
def _batch(root: Root, path: str, stamp: str, number: int) -> pa.Table:
    """One batch; `stamp` tells a changed file from the old one."""
    try:
        with _opened(root, path) as reader:
            for at, batch in enumerate(reader):
                if at == number:
                    return pa.Table.from_batches([batch])
    except pa.ArrowException as error:
        raise bad_annotation(path, "a whole Arrow file", str(error)[:200], "save the dataset again") from error
    raise bad_annotation(path, f"batch {number}", "an earlier end", "save the dataset again")
