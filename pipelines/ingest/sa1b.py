"""SA-1B: sa_1.jpg and sa_1.json beside it, with every object's mask as run lengths and no classes."""

import json
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, bad_annotation
from maskmill.pipelines.ingest.files import File, FileIndex, Root
from maskmill.pipelines.ingest.labelme import JSONS, read_json
from maskmill.pipelines.ingest.shapes import Note, draw_shapes, empty_photo, sized


class Sa1bSource(Source):
    """Photos under `folder`, each with a JSON file of its stem: {"image": …, "annotations": [{"segmentation": …}]}.
    SA-1B names no classes: `shared` is the class of every object, by default the label space's only one. The smaller
    object is on top; all are kept as instances, with `predicted_iou` as their score.
    """

    kind: Literal["sa1b"] = Field(default="sa1b", description="kind of the source")
    folder: str = Field(default="", description="folder under the root that is searched; empty = all of it")
    shared: str | None = Field(
        default=None, description="class of every object; null = the only class of the label space"
    )

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        images, notes = root.index(self.folder), root.index(self.folder, JSONS)
        for stem, image in images:
            yield self._entry(stem, image, notes)
        for stem, note in notes:
            if not images.find(stem):
                fix = "unpack the photos beside the JSON files"
                problem = Problem(Reason.MISSING_IMAGE, f"a photo {stem}.jpg", images.instead(stem), fix)
                yield Entry(note.path, note.stamp, problem=note.problem or problem)

    def _entry(self, stem: str, image: File, notes: FileIndex) -> Entry:
        found = notes.find(stem)
        problem = image.problem or (found[0].problem if found else empty_photo(self))
        fields = {"note": found[0].path if found else None}
        return Entry(image.path, json.dumps([image.stamp, [f.stamp for f in found]]), fields, problem)

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root, path = self.reader(), entry.fields["note"]
        name = self.shared or (space.classes[0].name if len(space.classes) == 1 else None)
        if name is None:
            fix = "name the class of all objects in source.shared"
            raise bad_annotation(entry.key, "a label space of one class", f"{len(space.classes)} classes", fix)
        image = root.read(entry.key)
        size = sized(image, entry.key, self.max_pixels).upright
        return draw_shapes(image, [] if path is None else _notes(root, path, name), size, entry.key, space)


def _notes(root: Root, path: str, name: str) -> list[Note]:
    try:
        notes = read_json(root, path).get("annotations")
    except ContractError:
        raise
    except ValueError as error:
        raise bad_annotation(path, "a JSON object with annotations", str(error), "write the file again") from error
    if not isinstance(notes, list) or not all(isinstance(note, dict) for note in notes):
        raise bad_annotation(path, "a list of annotations", f"{notes!r:.60}", "write the file again")
    return [
        {"id": n.get("id"), "name": name, "segmentation": n.get("segmentation"), "score": n.get("predicted_iou")}
        for n in notes
    ]
