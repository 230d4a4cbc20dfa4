"""Dataset Diffusion's generated sets: JSON rows {filename, caption, class_prompt}, folders of images and masks."""

import json
import re
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from maskmill.data_contracts import LabelSpace, Reason
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, bad_annotation, unknown_class
from maskmill.pipelines.ingest.files import FileIndex, Root, without_suffix
from maskmill.pipelines.ingest.lists import missing_image
from maskmill.pipelines.ingest.pairing import pairing_problem
from maskmill.pipelines.ingest.spill import json_rows

LONGEST = 10_000  # characters of a class prompt: hundreds of names


class DatasetDiffusionSource(Source):
    """`rows` is a JSON array or JSON lines; `filename` is an image's path inside `images`, with or without suffix.

    The classes of `class_prompt` become prompt labels: the classes that each image was asked to show.
    """

    kind: Literal["dataset_diffusion"] = Field(default="dataset_diffusion", description="kind of the source")
    version: ClassVar[int] = 2
    rows: str = Field(
        default="prompts.json",
        description="JSON array or JSON lines with filename, caption and class_prompt, under the root",
    )
    images: str = Field(default="images", description="folder of the images under the root")
    masks: str | None = Field(
        default="masks", description="folder of the masks under the root; null = images without masks"
    )
    model_id: str | None = Field(default=None, description="generator of the images, for the provenance")

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        images = root.index(self.images)
        masks = root.index(self.masks) if self.masks is not None else None
        for number, row in enumerate(self._rows(root)):
            yield self._entry(number, row, images, masks)

    def _rows(self, root: Root) -> Iterator[Any]:
        with root.text(self.rows) as handle:
            yield from json_rows(handle)

    def _entry(self, number: int, row: Any, images: FileIndex, masks: FileIndex | None) -> Entry:
        name = row.get("filename") if isinstance(row, dict) else None
        if not isinstance(name, str) or not name:
            where = f"{self.rows}#{number}"
            error = bad_annotation(where, "a row with a filename", json.dumps(row)[:80], "mend or remove the row")
            return Entry(where, json.dumps(row), problem=error.problem)
        exact = images.find_path(name)
        stem = name if exact is None else without_suffix(name)
        image = exact or next(iter(images.find(stem)), missing_image(f"{images.folder}/{name}", name))
        mask = masks.find(stem) if masks is not None else []
        fields = {"row": row, "mask": mask[0].path if mask else None}
        stamp = json.dumps([image.stamp, [m.stamp for m in mask], row])
        return Entry(image.path, stamp, fields, image.problem or pairing_problem(stem, mask, masks))

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root, row, mask = self.reader(), entry.fields["row"], entry.fields["mask"]
        class_prompt = row.get("class_prompt")
        words = None if class_prompt is None else split_class_prompt(class_prompt, space, entry.key)
        caption = row.get("caption")
        if not isinstance(caption, str | None):
            raise bad_annotation(entry.key, "a caption of words", repr(caption)[:80], "mend the row")
        return RawSample(
            image=root.read(entry.key),
            mask=None if mask is None else root.read(mask, Reason.MISSING_MASK),
            words=words,
            provenance={"prompt": caption, "class_prompt": class_prompt, "model_id": self.model_id},
        )


def split_class_prompt(text: object, space: LabelSpace, where: str = "row") -> tuple[str, ...]:
    """Class names in a class prompt: split at commas or semicolons, else the longest run of words that names a class.

    "person dining table" is person and dining table; "hot dog" is no dog where hot dog is a class.

    Raises:
        ContractError: words that name no class, or a text of over `LONGEST` characters.
    """
    if not isinstance(text, str):
        raise bad_annotation(where, "a class_prompt of words", repr(text)[:80], "mend the row")
    if len(text) > LONGEST:
        found = f"{len(text):,}: {text[:40]!r}…"
        raise bad_annotation(where, f"a class_prompt of at most {LONGEST:,} characters", found, "mend the row")
    most = space.most_words
    names: list[str] = []
    for part in re.split(r"[,;]", text):
        words, start = part.split(), 0
        while start < len(words):
            runs = (" ".join(words[start : start + n]) for n in range(min(most, len(words) - start), 0, -1))
            if (name := next((run for run in runs if space.has(run)), None)) is None:
                raise unknown_class(" ".join(words[start : start + most]), space, where)
            names.append(name)
            start += len(name.split())
    return tuple(names)
