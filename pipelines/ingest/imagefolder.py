"""Hugging Face `imagefolder`: photos with a metadata.jsonl, .csv or .parquet beside them, or a folder a class."""

import csv
import json
from collections.abc import Iterator
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from maskmill.data_contracts import LabelSpace, Problem, Reason
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, bad_annotation
from maskmill.pipelines.ingest.files import File, FileIndex, Root
from maskmill.pipelines.ingest.folder import check_words
from maskmill.pipelines.ingest.mask_files import MASK_SUFFIXES, read_mask
from maskmill.pipelines.ingest.spill import Spill, json_rows

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
Row = dict[str, Any]


class ImagefolderSource(Source):
    """Rows of every metadata file under `folder`: `image` is the column with the photo's path from there, `mask` that
    of its mask (null: photos without masks), `classes` a column with names or ids, where there is one. Without any
    metadata, photos are unlabelled and their folder is the class that they were asked to show.
    """

    kind: Literal["imagefolder"] = Field(default="imagefolder", description="kind of the source")
    folder: str = Field(default="", description="folder under the root that is searched; empty = all of it")
    image: str = Field(default="file_name", description="column with the photo's path")
    mask: str | None = Field(
        default="mask_file_name", description="column with the mask's path; null = photos without masks"
    )
    classes: str = Field(
        default="label", description="column of the classes that a photo was asked to show; used where there is one"
    )

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        images, masks = root.index(self.folder), root.index(self.folder, MASK_SUFFIXES)
        found = list(root.walk(self.folder, frozenset(METADATA)))
        if not found:
            yield from (self._by_folder(image, images) for _, image in images)
            return
        used = Spill()
        for file in found:
            for number, row in self._rows(root, file):
                entry = row if isinstance(row, Entry) else self._entry(row, file, number, images, masks)
                used.add([(path, 1) for path in (entry.key, entry.fields.get("mask") or entry.key)])
                yield entry
        for _, image in images:
            if not used.get(image.path):
                fix = "add a row for it, or leave it"
                problem = Problem(Reason.NOT_READ, "photos that the metadata name", "one that they do not", fix)
                yield Entry(image.path, image.stamp, problem=image.problem or problem)

    def _by_folder(self, image: File, images: FileIndex) -> Entry:
        folder = images.inside(image.path).rpartition("/")[0].rpartition("/")[2]
        fields = {"mask": None, "words": [folder] if folder else None}
        return Entry(image.path, image.stamp, fields, image.problem)

    def _rows(self, root: Root, file: File) -> Iterator[tuple[int, Row | Entry]]:
        """Rows of one file; an entry with a problem where the file cannot be read."""
        if file.problem is not None:
            yield 0, Entry(file.path, file.stamp, problem=file.problem)
            return
        try:
            if file.path.endswith(".parquet"):
                with root.fs.open(root.locate(file.path), "rb") as handle:
                    rows = pq.read_table(handle).to_pylist()
                yield from enumerate(rows, 1)
            else:
                with root.text(file.path) as text:
                    yield from enumerate(_text_rows(text, file.path), 1)
        except (pa.ArrowException, csv.Error, ValueError) as error:
            fix = "write the file again, one JSON object a line"
            problem = bad_annotation(file.path, "rows of a table", str(error)[:200], fix).problem
            yield 0, Entry(file.path, file.stamp, problem=problem)

    def _entry(self, row: Any, file: File, number: int, images: FileIndex, masks: FileIndex) -> Entry:
        where = f"{file.path}, line {number}"
        name = row.get(self.image) if isinstance(row, dict) else None
        if not isinstance(name, str) or not name:
            columns = ", ".join(map(str, row)) if isinstance(row, dict) else repr(row)[:40]
            fix = f"mend the row, or set source.image to the column with the path (there is: {columns})"
            fault = bad_annotation(where, f"a path in column {self.image}", "none", fix)
            return Entry(f"{file.path}#{number}", file.stamp, problem=fault.problem)
        folder = images.inside(file.path).rpartition("/")[0]
        image, problem = _partner(images, folder, name, where, Reason.MISSING_IMAGE)
        mask = None
        if self.mask is not None and problem is None:
            other = row.get(self.mask)
            if not isinstance(other, str) or not other:
                fix = "mend the row, or set source.mask to the column with the mask's path (null for none)"
                problem = Problem(Reason.MISSING_MASK, f"a path in column {self.mask}", f"{other!r:.40}", fix, where)
            else:
                mask, problem = _partner(masks, folder, other, where, Reason.MISSING_MASK)
        words = row.get(self.classes)
        listed = None if words in (None, "") else words if isinstance(words, list) else [words]
        fields = {"mask": None if mask is None else mask.path, "words": listed, "prompt": row.get("text")}
        stamp = json.dumps(
            [None if f is None else f.stamp for f in (image, mask)] + [listed, row.get("text")], default=str
        )
        return Entry(f"{file.path}#{number}" if image is None else image.path, stamp, fields, problem)

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root, mask, words = self.reader(), entry.fields["mask"], entry.fields["words"]
        prompt = entry.fields.get("prompt")
        return RawSample(
            image=root.read(entry.key),
            mask=None if mask is None else read_mask(root, mask, self.max_pixels),
            words=None if words is None else check_words(words, entry.key),
            provenance={"prompt": prompt} if isinstance(prompt, str) else {},
        )


def _text_rows(text: IO[str], path: str) -> Iterator[Any]:
    return iter(csv.DictReader(text)) if path.endswith(".csv") else json_rows(text)


def _partner(
    files: FileIndex, folder: str, name: str, where: str, missing: Reason
) -> tuple[File | None, Problem | None]:
    """The file that a row names, from its own folder on, and what is wrong with it."""
    file = files.find_path(f"{folder}/{name}".lstrip("/")) or files.find_path(name)
    if file is None:
        fix = "add the file, or mend the row"
        return None, Problem(missing, f"a file {name}", files.instead(f"{folder}/{name}".lstrip("/")), fix, where)
    return file, file.problem
