"""COCO: instance JSON (polygons, RLE, crowds) or panoptic JSON with its PNGs, drawn as one label map per image."""

import json
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason, content_id
from maskmill.data_contracts.image_files import Header, read_header
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, bad_annotation, class_value, unknown_class
from maskmill.pipelines.ingest.class_files import Named, space_of
from maskmill.pipelines.ingest.coco_draw import Drawing, Rules, draw_notes
from maskmill.pipelines.ingest.coco_panoptic import paint_segments
from maskmill.pipelines.ingest.coco_read import Catalogue, Row, plain_path, read_catalogue
from maskmill.pipelines.ingest.coco_values import flag, identity, length, named
from maskmill.pipelines.ingest.files import File, FileIndex, path_problem
from maskmill.pipelines.ingest.spill import json_items

NUMBER = "number the images (and their annotations) anew: files were joined with the same ids"


class CocoSource(Source):
    """`annotations` is the JSON file, `images` the folder that its file names are in, `panoptic` that of the PNGs.

    Where instances overlap, the smaller one is on top (then the one with the higher annotation id). Categories are
    found by name in the label space, or through `categories` (category name -> class name, id, "background" or
    "ignore"); `other_categories` says what becomes of the rest. `crowds` says what objects with `iscrowd: 1` are:
    `auto` looks at the whole file, and rejects what can be read both ways; `ignore` draws them as 255 below all others.
    `boxes` says what becomes of objects that have a box and no outline: `label` keeps the box for a box labeler.
    """

    kind: Literal["coco"] = Field(default="coco", description="kind of the source")
    version: ClassVar[int] = 2
    annotations: str = Field(description="the JSON file, under the root")
    images: str = Field(default="images", description="folder of the images under the root")
    panoptic: str | None = Field(
        default=None, description="folder of the panoptic PNGs under the root; null = an instances file"
    )
    categories: dict[str, str | int] = Field(
        default={},
        description="category name -> class name, class id, background or ignore, where the label space has other "
        "names",
    )
    other_categories: Literal["reject", "ignore", "background"] = Field(
        default="reject",
        description="what becomes of objects whose category the label space lacks; reject turns the sample away",
    )
    crowds: Literal["auto", "objects", "ignore", "reject"] = Field(
        default="auto",
        description="what `iscrowd: 1` means: auto looks at the whole file; objects, ignore (255 below all "
        "others), or reject the sample",
    )
    boxes: Literal["reject", "ignore", "fill", "label"] = Field(
        default="reject",
        description="objects that have a box and no outline: reject the sample, ignore (255 in the box), fill (the "
        "box is the object), or label (255, and the box is kept for a box labeler)",
    )

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        found = read_catalogue(root, self.annotations)
        files = root.index(self.images)
        masks = root.index(self.panoptic) if self.panoptic is not None else None
        for image_id, images in _grouped(found.images):
            for image in images if _clash(images) else images[:1]:
                entry = self._entry(image_id, image, found, files, masks)
                yield entry if len(images) == 1 or not _clash(images) else _faulty(entry, _clash(images))
        last = None
        for image_id, note in found.notes:
            if image_id != last and not found.images.get(image_id):
                expected, there = f"an image with id {image_id}", f"none; {named(note)} is of it"
                problem = Problem(Reason.MISSING_IMAGE, expected, there, "remove its annotations, or add the image")
                yield Entry(f"{self.annotations}#image={image_id}", "", problem=problem)
            last = image_id
        for place, problem in found.problems():
            yield Entry(f"{self.annotations}{place}", str(problem), problem=problem)

    def own_space(self) -> LabelSpace:
        """The categories of the JSON file, numbered 1, 2, … in the order of their ids."""
        pairs: list[Named] = []
        with self.open_root().text(self.annotations) as handle:
            for key, item in json_items(handle, frozenset(("images", "annotations", "categories"))):
                if key == "categories" and isinstance(item, dict) and isinstance(item.get("id"), int):
                    pairs.append((item["id"], str(item.get("name")), None))
        return space_of(self.space_name, pairs, f"{self.root}/{self.annotations}", keep_ids=False)

    def _entry(self, image_id: str, image: Row, found: Catalogue, files: FileIndex, masks: FileIndex | None) -> Entry:
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            error = bad_annotation(image_id, "an image with a file_name", json.dumps(image)[:80], "mend the JSON")
            return Entry(f"{self.annotations}#image={image_id}", json.dumps(image), problem=error.problem)
        file = files.find_path(name)
        mine = _once(found.notes.get(image_id))
        absent = path_problem(name) or _absent(f"{files.folder}/{name}", Reason.MISSING_IMAGE, files.instead(name))
        problem = _photo_clash(plain_path(name), mine, found) or (file.problem if file else absent)
        fields: Row = {"size": [image.get("height"), image.get("width")], "notes": mine}
        stamps = [file.stamp if file else ""]
        if masks is not None:
            mask, fault = _panoptic_file(mine, masks)
            problem = problem or fault
            fields["mask"] = mask.path if mask else None
            stamps.append(mask.stamp if mask else "")
        if found.names:
            ids = sorted(_category_ids(mine))
            fields["names"] = {c: found.names[c] for c in ids if c in found.names}
        if any(flag(one.get("iscrowd")) is not False for one in _parts(mine)):
            fields["crowds"] = found.crowds
        stamp = content_id(*stamps, json.dumps(fields, sort_keys=True))
        return Entry(file.path if file else f"{self.images}/{name}", stamp, fields, problem)

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root, fields = self.reader(), entry.fields
        image = root.read(entry.key)
        rules = Rules(
            where=entry.key,
            space=space,
            value=lambda note: self._value(note, entry, space),
            crowds=fields.get("crowds", "ignore") if self.crowds == "auto" else self.crowds,
            boxes=self.boxes,
        )
        if self.panoptic is None:
            height, width = self._size(entry, read_header(image, entry.key))
            drawn = draw_notes(fields["notes"], height, width, rules)
        else:
            data = root.read(fields["mask"], Reason.MISSING_MASK)
            drawn = paint_segments(data, fields["notes"][0], fields["mask"], self.max_pixels, rules)
        return _sample(image, drawn)

    def _value(self, note: Row, entry: Entry, space: LabelSpace) -> int:
        """Mask value of an annotation or segment by its category."""
        category, names = identity(note.get("category_id")), entry.fields.get("names")
        found = [] if names is None or category is None else names.get(category, [])
        if len(found) > 1:
            fix = "give every category an id of its own (files were joined with the same ids)"
            there = f"{named(note)} of category {category}, which is {' and '.join(map(repr, found))}"
            raise bad_annotation(entry.key, "category ids that name one category", there, fix)
        name = found[0] if found else None
        try:
            if name is not None:
                return class_value(self.categories.get(name, name), space)
            if names is None and category is not None:  # a JSON without names: COCO's own numbers
                return class_value(space.find_id(int(category)), space)
        except (KeyError, ValueError):
            if self.other_categories != "reject":
                return class_value(self.other_categories, space)
        if name is None and (names is not None or category is None):
            there = f"{named(note)} with category_id {note.get('category_id')!r:.40}"
            fix = "add the category, or mend the annotation"
            raise ContractError(
                entry.key, Problem(Reason.UNKNOWN_CLASS_NAME, "a category of the file's own list", there, fix)
            )
        raise unknown_class(name if name is not None else f"category {category}", space, entry.key)

    def _size(self, entry: Entry, header: Header) -> tuple[int, int]:
        """Height and width to draw in: what the JSON says, else what the file says."""
        stated = [length(n) for n in entry.fields["size"]]
        if False in stated:
            there = f"{entry.fields['size'][0]!r:.40}, {entry.fields['size'][1]!r:.40}"
            raise bad_annotation(entry.key, "an image with height and width", there, "mend the JSON")
        if None in stated and header.turned and self.masks_drawn_on is None:
            there = f"none, and a photo that EXIF turns (orientation {header.orientation})"
            fix = "add width and height to the JSON, or set source.masks_drawn_on: upright (or stored)"
            raise bad_annotation(entry.key, "an image with height and width", there, fix)
        if stated == [*header.stored][::-1] and stated[0] != stated[1] and not header.turned:
            there = f"width {stated[1]} and height {stated[0]} for a photo of {header.stored[1]}x{header.stored[0]}"
            raise bad_annotation(entry.key, "an image with its own width and height", there, "swap them in the JSON")
        own = header.stored if self.masks_drawn_on == "stored" else header.upright
        height, width = (given or there for given, there in zip(stated, own, strict=True))
        if height * width > self.max_pixels:
            fix = "shrink it, or raise max_pixels in the ingest config"
            problem = Problem(Reason.IMAGE_TOO_LARGE, f"at most {self.max_pixels} pixels", f"{width}x{height}", fix)
            raise ContractError(entry.key, problem)
        return height, width


def _sample(image: bytes, drawn: Drawing) -> RawSample:
    return RawSample(image=image, drawn=drawn.mask, instances=tuple(drawn.instances), notes=dict(drawn.notes))


def _grouped(images: Any) -> Iterator[tuple[str, list[Row]]]:
    """Image records by id, an id at a time."""
    last = None
    for image_id, _ in images:
        if image_id != last:
            yield image_id, images.get(image_id)
        last = image_id


def _clash(images: list[Row]) -> str | None:
    """What is wrong with the records of one image id: they say different things."""
    if all(image == images[0] for image in images):
        return None
    return " and ".join(str(image.get("file_name"))[:40] for image in images[:4])


def _faulty(entry: Entry, clash: str | None) -> Entry:
    problem = Problem(Reason.BAD_ANNOTATION, "image ids that name one photo", f"one id for {clash}", NUMBER)
    return Entry(entry.key, entry.stamp, entry.fields, problem)


def _photo_clash(name: str, mine: list[Row], found: Catalogue) -> Problem | None:
    """A photo that is listed under several ids, with annotations under more than one of them: whose are they?"""
    ids = sorted(set(found.ids_by_name.get(name)))
    if len(ids) < 2 or not mine or sum(bool(found.notes.get(i)) for i in ids) < 2:
        return None
    fix = "list the photo once, with all of its annotations under that id"
    return Problem(Reason.BAD_ANNOTATION, "a photo under one image id", f"ids {', '.join(ids[:5])}", fix)


def _once(notes: list[Row]) -> list[Row]:
    """Annotations without those that repeat another one word for word."""
    return list({json.dumps(note, sort_keys=True): note for note in notes}.values())


def _absent(path: str, reason: Reason, instead: str) -> Problem:
    return Problem(
        reason, f"a file {path}", instead, "add the file, mend its name in the JSON, or take it out of there"
    )


def _panoptic_file(notes: list[Row], masks: FileIndex) -> tuple[File | None, Problem | None]:
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


def _parts(notes: list[Row]) -> Iterator[Row]:
    """Annotations and the segments in them."""
    for note in notes:
        segments = note.get("segments_info")
        yield note
        yield from (one for one in (segments if isinstance(segments, list) else []) if isinstance(one, dict))


def _category_ids(notes: list[Row]) -> set[str]:
    return {number for one in _parts(notes) if (number := identity(one.get("category_id"))) is not None}
