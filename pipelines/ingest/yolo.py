"""YOLO segmentation: data.yaml with the names of the classes, and a text file of outlines beside every photo."""

import json
import math
from collections.abc import Iterator
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import Field

from maskmill.data_contracts import LabelSpace, Problem, Reason
from maskmill.data_contracts.rle import pack_mask
from maskmill.data_contracts.texts import MOST_YAML, parse_yaml
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, bad_annotation
from maskmill.pipelines.ingest.class_files import Named, space_of
from maskmill.pipelines.ingest.files import File, FileIndex, Root
from maskmill.pipelines.ingest.shapes import Boxes, Note, draw_shapes, empty_photo, sized
from maskmill.pipelines.ingest.spill import Spill

SLACK = 0.01  # of a side: outlines that end a little outside the photo are cut off there


class YoloSource(Source):
    """`root` is the folder of `data`, the YAML file with `names`. Photos lie in folders called images, and the outlines
    of a/images/b/c.jpg in a/labels/b/c.txt: a class number and x, y of each corner as fractions of the photo.

    `split` takes what `data` names as train, val or test; null takes all photos. Lines of five numbers are boxes;
    `boxes` says what becomes of them. `corners` says whether outlines run along the edges of pixels, or through pixels
    that belong to the object, as trainers draw them and our own export means them. A photo without a file is one
    without objects (see `allow_empty`).
    """

    kind: Literal["yolo"] = Field(default="yolo", description="kind of the source")
    data: str = Field(default="data.yaml", description="YAML file with the class names, under the root")
    split: str | None = Field(default=None, description="train, val or test as `data` names them; null = all photos")
    boxes: Boxes = Field(
        default="reject",
        description="objects that have a box and no outline: reject the sample, ignore (255 in the box), fill (the "
        "box is the object), or label (255, and the box is kept for a box labeler)",
    )
    corners: Literal["edges", "pixels"] = Field(
        default="edges",
        description="outlines run along the edges of pixels (drawn by hand), or through pixels that belong to the "
        "object (as trainers and our exports mean them)",
    )

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        names, places = self._config(root)
        images, labels = root.index(""), root.index("", frozenset((".txt",)))
        wanted = None if self.split is None else _places(root, images, places.get(self.split), self.data, self.split)
        used = Spill()
        for stem, image in images:
            if wanted is None or _is_in(image.path, wanted):
                entry = self._entry(stem, image, labels, names)
                used.add([(entry.fields["labels"] or "", 1)])
                yield entry
        if wanted is None:
            yield from (_spare(file) for _, file in labels if not used.get(file.path) and not _was_opened(root, file))

    def _entry(self, stem: str, image: File, labels: FileIndex, names: dict[int, str]) -> Entry:
        folder, mark, rest = f"/{stem}".rpartition("/images/")
        own = f"{folder}/labels/{rest}".lstrip("/") if mark else stem
        found = labels.find(own)
        problem = image.problem or (found[0].problem if found else empty_photo(self))
        if not found and problem is not None and image.problem is None:
            problem = Problem(problem.reason, f"a file {own}.txt", labels.instead(own), problem.fix)
        fields = {"labels": found[0].path if found else None, "names": {str(i): n for i, n in names.items()}}
        return Entry(image.path, json.dumps([image.stamp, [f.stamp for f in found], fields["names"]]), fields, problem)

    def _config(self, root: Root) -> tuple[dict[int, str], dict[str, Any]]:
        """Names of the classes by number, and the whole file.

        Raises:
            FileNotFoundError, ValueError: no such file, or one without names.
        """
        with root.text(self.data) as handle:
            try:
                config = parse_yaml(handle.read(MOST_YAML + 1))
                names = config["names"]
                pairs = names.items() if isinstance(names, dict) else enumerate(list(names))
                return {int(number): str(name) for number, name in pairs}, config
            except UnicodeDecodeError:
                raise
            except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
                found = f"{type(error).__name__}: {error}"[:200]
                expected = "expected `names`, a list or {number: name}"
                raise ValueError(f"{root.url}/{self.data}: {expected}, found {found}. Fix: add them") from error

    def own_space(self) -> LabelSpace:
        """The names in `data`, numbered 1, 2, …"""
        names, _ = self._config(self.open_root())
        named: list[Named] = [(number, name, None) for number, name in names.items()]
        return space_of(self.space_name, named, f"{self.root}/{self.data}", keep_ids=False)

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root, path = self.reader(), entry.fields["labels"]
        image = root.read(entry.key)
        height, width = sized(image, entry.key, self.max_pixels).upright
        text = "" if path is None else _text(root.read(path, Reason.MISSING_MASK), path)
        notes = [
            _note(line.split(), f"{path}, line {number}", entry.fields["names"], height, width)
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
        if self.corners == "pixels":
            notes = [_through_pixels(note, height, width) for note in notes]
        return draw_shapes(image, notes, (height, width), entry.key, space, self.boxes)


def _was_opened(root: Root, file: File) -> bool:
    return file.path in root.passed.opened


def _spare(file: File) -> Entry:
    """A text file that no photo has."""
    if "/labels/" in f"/{file.path}":
        fix = "add the photo, or take the file away"
        problem = Problem(Reason.MISSING_IMAGE, "a photo of its name in the folder images", "none", fix)
    else:
        fix = "leave it, unless it holds outlines: those lie in a folder labels"
        problem = Problem(Reason.NOT_READ, "text files in a folder labels", "one elsewhere", fix)
    return Entry(file.path, file.stamp, problem=file.problem or problem)


def _text(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise bad_annotation(path, "lines of numbers", f"bytes that are no text ({error.reason})", "mend it") from error


def _note(words: list[str], where: str, names: dict[str, str], height: int, width: int) -> Note:
    """One line as an annotation in pixels.

    Raises:
        ContractError: names the line.
    """
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise bad_annotation(where, "numbers", repr(" ".join(words))[:60], "mend the line") from None
    label, corners = numbers[0], numbers[1:]
    if (name := names.get(str(int(label))) if math.isfinite(label) and label == int(label) else None) is None:
        raise bad_annotation(
            where, f"a class of 0..{len(names) - 1}", words[0], "mend the line, or add the name to data"
        )
    if not all(-SLACK <= value <= 1 + SLACK for value in corners):
        fix = "divide x by the width of the photo, and y by its height"
        raise bad_annotation(where, "fractions of 0..1", f"{min(corners)} to {max(corners)}", fix)
    note: Note = {"id": f"of {where}", "name": name, "segmentation": []}
    if len(corners) == 4:
        x, y, w, h = corners
        return {**note, "bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]}
    if len(corners) < 6 or len(corners) % 2:
        expected = "a class, and x and y of three or more corners"
        fix = "write outlines alone: no confidences and no key points"
        raise bad_annotation(where, expected, f"{len(corners)} numbers behind the class", fix)
    scaled = [value * (height if i % 2 else width) for i, value in enumerate(corners)]
    return {**note, "segmentation": [scaled]}


def _through_pixels(note: Note, height: int, width: int) -> Note:
    """The note with its outline filled as trainers fill it: corners cut to whole pixels, the outline included."""
    if not note["segmentation"]:
        return note
    area = np.zeros((height, width), np.uint8)
    points = np.array(note["segmentation"][0]).reshape(-1, 2).astype(np.int32)
    cv2.fillPoly(area, [points], (1,))
    return {**note, "segmentation": {"size": [height, width], "counts": pack_mask(area > 0)}}


def _is_in(path: str, places: list[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") or place == "" for place in places)


def _places(root: Root, images: FileIndex, value: object, data: str, split: str) -> list[str]:
    """Folders and photos of a split. What it names is searched below the root: `path` and leading "../" are those of
    another machine.

    Raises:
        ValueError: none of it is there.
    """
    found: list[str] = []
    for name in value if isinstance(value, list) else [value]:
        text = str(name or "").replace("\\", "/").removeprefix("./").rstrip("/")
        parts = [part for part in text.split("/") if part not in ("..", ".", "")]
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        if folder := next((tail for tail in tails if root.has_folder(tail)), None):
            found.append(folder)
        elif listed := next((tail for tail in tails if tail.endswith(".txt") and root.has_file(tail)), None):
            with root.text(listed) as lines:
                photos = (images.find_path(line.strip().removeprefix("./")) for line in lines if line.strip())
                found += [photo.path for photo in photos if photo is not None]
    if not found:
        raise ValueError(
            f"{root.url}/{data}: {split}: expected a folder or a list of photos below the root, found {value!r}. "
            f"Fix: name it in {data}, or leave source.split away to take all photos"
        )
    return found
