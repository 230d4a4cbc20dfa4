"""COCO: instance JSON (polygons, RLE, crowds) or panoptic JSON with its PNGs, drawn as one label map per image."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from pydantic import Field

from maskmill.data_contracts import (
    IGNORE,
    ContractError,
    LabelSpace,
    Problem,
    Reason,
    Uint8Array,
    content_id,
    decode_image,
)
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, bad_annotation, class_value, unknown_class
from maskmill.pipelines.ingest.coco_masks import draw_segmentation
from maskmill.pipelines.ingest.files import File, FileIndex, Root, path_problem
from maskmill.pipelines.ingest.spill import Spill, json_items

ARRAYS = frozenset(("images", "annotations", "categories"))


class CocoSource(Source):
    """`annotations` is the JSON file, `images` the folder that its file names are in, `panoptic` that of the PNGs.

    Where instances overlap, the smaller one is on top (then the one with the higher annotation id); crowds, and
    instances marked `ignore`, become 255 below all others. Categories are found by name in the label space, or through
    `categories` (category name -> class name, id, "background" or "ignore"); `other_categories` says what becomes of
    the rest.
    """

    kind: Literal["coco"] = "coco"
    annotations: str
    images: str = "images"
    panoptic: str | None = None
    categories: dict[str, str | int] = Field(default={})
    other_categories: Literal["reject", "ignore", "background"] = "reject"

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        images, notes, names = self._read(root)
        files = root.index(self.images)
        masks = root.index(self.panoptic) if self.panoptic is not None else None
        for image_id, image in images:
            yield self._entry(image_id, image, notes, names, files, masks)
        last = None
        for image_id, _ in notes:
            if image_id != last and not images.get(image_id):
                problem = Problem(
                    Reason.MISSING_IMAGE, f"an image with id {image_id}", "none", "remove its annotations"
                )
                yield Entry(f"{self.annotations}#image={image_id}", "", problem=problem)
            last = image_id

    def _read(self, root: Root) -> tuple[Spill, Spill, dict[Any, str]]:
        """Images and annotations by image id, on disk, and the names of the categories by id."""
        images, notes, names = Spill(), Spill(), {}
        with root.text(self.annotations) as handle:
            for key, item in json_items(handle, ARRAYS):
                if key not in ARRAYS:
                    continue
                if not isinstance(item, dict):
                    raise ValueError(f"{root.url}/{self.annotations}: expected objects in {key}, found {item!r:.80}")
                if key == "images":
                    images.add([(str(item.get("id")), item)])
                elif key == "annotations":
                    notes.add([(str(item.get("image_id")), item)])
                else:
                    names[item.get("id")] = str(item.get("name"))
        return images, notes, names

    def _entry(
        self,
        image_id: str,
        image: dict[str, Any],
        notes: Spill,
        names: dict[Any, str],
        files: FileIndex,
        masks: FileIndex | None,
    ) -> Entry:
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            error = bad_annotation(image_id, "an image with a file_name", json.dumps(image)[:80], "mend the JSON")
            return Entry(f"{self.annotations}#image={image_id}", json.dumps(image), problem=error.problem)
        file = files.find_path(name)
        mine = notes.get(image_id)
        absent = path_problem(name) or _absent(f"{files.folder}/{name}", Reason.MISSING_IMAGE, files.instead(name))
        problem = file.problem if file else absent
        fields: dict[str, Any] = {"size": [image.get("height"), image.get("width")], "notes": mine}
        stamps = [file.stamp if file else ""]
        if masks is not None:
            mask, fault = _panoptic_file(mine, masks)
            problem = problem or fault
            fields["mask"] = mask.path if mask else None
            stamps.append(mask.stamp if mask else "")
        if names:
            fields["names"] = {str(c): names[c] for c in sorted(_category_ids(mine), key=str) if c in names}
        stamp = content_id(*stamps, json.dumps(fields, sort_keys=True))
        return Entry(file.path if file else f"{self.images}/{name}", stamp, fields, problem)

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root, fields = self.reader(), entry.fields
        image = root.read(entry.key)
        if self.panoptic is None:
            return RawSample(image=image, drawn=self._draw(entry, space))
        data = root.read(fields["mask"], Reason.MISSING_MASK)
        return RawSample(
            image=image, drawn=self._paint(decode_image(data, fields["mask"], self.max_pixels), entry, space)
        )

    def _draw(self, entry: Entry, space: LabelSpace) -> Uint8Array:
        """Label map of an image's instances."""
        height, width = _size(entry, self.max_pixels)
        drawn = []
        for note in entry.fields["notes"]:
            value = self._value(note, entry, space)
            where = f"{entry.key}, annotation {note.get('id')}"
            area = draw_segmentation(note.get("segmentation"), height, width, where)
            below = value == IGNORE and _is_crowd(note)
            drawn.append((not below, -int(area.sum()), _number(note.get("id")), value, area))
        mask = np.full((height, width), space.background_id if space.background_id is not None else IGNORE, np.uint8)
        for *_, value, area in sorted(drawn, key=lambda d: d[:3]):
            mask[area] = value
        return mask

    def _paint(self, png: Uint8Array, entry: Entry, space: LabelSpace) -> Uint8Array:
        """Label map of a panoptic PNG, whose colours are segment ids (red + 256 green + 65536 blue; 0 = unlabelled)."""
        segments = png.astype(np.int64) @ np.array([1, 1 << 8, 1 << 16])
        found, inverse, counts = np.unique(segments, return_inverse=True, return_counts=True)
        infos = entry.fields["notes"][0].get("segments_info")
        known = {s.get("id"): s for s in infos if isinstance(s, dict)} if isinstance(infos, list) else {}
        values = np.full(len(found), IGNORE, np.uint8)
        for i, segment in enumerate(found):
            if int(segment) in known:
                values[i] = self._value(known[int(segment)], entry, space)
            elif segment != 0:
                odd = f"segment {segment} on {counts[i]} pixels"
                raise bad_annotation(entry.key, "segments that segments_info lists", odd, "mend the JSON or the PNG")
        return values[inverse.reshape(segments.shape)]

    def _value(self, note: dict[str, Any], entry: Entry, space: LabelSpace) -> int:
        """Mask value of an annotation or segment."""
        if _is_crowd(note):
            return IGNORE
        category = note.get("category_id")
        names = entry.fields.get("names")
        name = None if names is None else names.get(str(category))
        try:
            if name is not None:
                return class_value(self.categories.get(name, name), space)
            if names is None and isinstance(category, int):  # a JSON without names: COCO's own numbers
                return class_value(space.find_id(category), space)
        except (KeyError, ValueError):
            if self.other_categories != "reject":
                return class_value(self.other_categories, space)
        raise unknown_class(name if name is not None else f"category {category}", space, entry.key)


def _absent(path: str, reason: Reason, instead: str) -> Problem:
    return Problem(
        reason, f"a file {path}", instead, "add the file, mend its name in the JSON, or take it out of there"
    )


def _panoptic_file(notes: list[dict[str, Any]], masks: FileIndex) -> tuple[File | None, Problem | None]:
    """The PNG of an image's one panoptic annotation, and what is wrong with it."""
    names = [note.get("file_name") for note in notes]
    if len(names) != 1 or not isinstance(names[0], str):
        reason = Reason.BAD_ANNOTATION if names else Reason.MISSING_MASK
        return None, Problem(reason, "one panoptic annotation with a file_name", repr(names)[:80], "mend the JSON")
    file = masks.find_path(names[0])
    if file is None:
        absent = _absent(f"{masks.folder}/{names[0]}", Reason.MISSING_MASK, masks.instead(names[0]))
        return None, path_problem(names[0]) or absent
    return file, file.problem


def _category_ids(notes: list[dict[str, Any]]) -> set[Any]:
    found: set[Any] = set()
    for note in notes:
        segments = note.get("segments_info")
        for item in [note, *(segments if isinstance(segments, list) else [])]:
            if isinstance(item, dict) and isinstance(item.get("category_id"), int | str):
                found.add(item["category_id"])
    return found


def _is_crowd(note: dict[str, Any]) -> bool:
    return bool(note.get("iscrowd")) or bool(note.get("ignore"))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _size(entry: Entry, max_pixels: int) -> tuple[int, int]:
    height, width = entry.fields["size"]
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise bad_annotation(entry.key, "an image with height and width", f"{height!r}, {width!r}", "mend the JSON")
    if height * width > max_pixels:
        fix = "shrink it, or raise max_pixels in the ingest config"
        problem = Problem(Reason.IMAGE_TOO_LARGE, f"at most {max_pixels} pixels", f"{width}x{height}", fix)
        raise ContractError(entry.key, problem)
    return height, width
