"""Images and masks in two folders, paired by stem; also clips and volumes (a folder each, or a pattern in the name)."""

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason
from maskmill.pipelines.ingest.base import MAX_INDEX, Entry, RawSample, Source, bad_annotation, unknown_class
from maskmill.pipelines.ingest.files import File, FileIndex, Root, path_problem
from maskmill.pipelines.ingest.spill import Spill, json_items


class FolderSource(Source):
    """`images` and `masks` are folders under the root, with any folders in them; stem = path in there without suffix.

    `group_by: parent` makes each sub-folder a clip, its frames numbered by the last digits of the name. `pattern` is a
    regular expression with named groups `group` and `index`, searched in the stem. `names_by_group` gives the class of
    a clip's foreground. `tags` is a JSON file {stem: [class ids or names]}, `stems` a text file of the stems to take.
    """

    kind: Literal["folder"] = "folder"
    version: ClassVar[int] = 2
    images: str = "images"
    masks: str | None = "masks"  # null: images without masks
    mask_suffix: str = ""  # what a mask's stem has after the image's, e.g. "_mask"
    group_by: Literal["parent"] | None = None
    pattern: str | None = None
    names_by_group: dict[str, str] = Field(default={})
    tags: str | None = None
    stems: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "FolderSource":
        if self.masks == self.images and not self.mask_suffix:
            raise ValueError("folder: images and masks in one folder need a mask_suffix to tell them apart")
        if self.group_by and self.pattern:
            raise ValueError("folder: give group_by or pattern, not both")
        if self.names_by_group and not (self.group_by or self.pattern):
            raise ValueError("folder: names_by_group needs group_by or pattern")
        if self.pattern and not {"group", "index"} & set(re.compile(self.pattern).groupindex):
            raise ValueError("folder: pattern needs a named group, e.g. (?P<group>patient\\d+)_slice_(?P<index>\\d+)")
        return self

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        images = root.index(self.images)
        masks = root.index(self.masks) if self.masks is not None else None
        tags = read_tags(root, self.tags)
        for stem, image in self._images(root, images):
            yield self._entry(stem, image, masks, tags)
        if masks is not None and self.stems is None:
            yield from self._orphans(images, masks)

    def _images(self, root: Root, images: FileIndex) -> Iterator[tuple[str, File]]:
        if self.stems is not None:
            for stem in read_stems(root, self.stems):
                found = images.find(stem) or [missing_image(f"{images.folder}/{stem}".lstrip("/"), stem)]
                yield from ((stem, image) for image in found)
            return
        for stem, image in images:
            if not (self.masks == self.images and stem.endswith(self.mask_suffix)):
                yield stem, image

    def _entry(self, stem: str, image: File, masks: FileIndex | None, tags: Spill) -> Entry:
        found = masks.find(stem + self.mask_suffix) if masks is not None else []
        words = tags.get(stem)
        problem = image.problem or pairing_problem(stem + self.mask_suffix, found, masks)
        fields: dict[str, Any] = {"stem": stem, "mask": found[0].path if found else None}
        if words:
            fields["words"] = words[-1]
        stamp = json.dumps([image.stamp, [m.stamp for m in found], words])
        return Entry(image.path, stamp, fields, problem)

    def _orphans(self, images: FileIndex, masks: FileIndex) -> Iterator[Entry]:
        for stem, mask in masks:
            own = stem.removesuffix(self.mask_suffix)
            is_mask = stem.endswith(self.mask_suffix)
            if is_mask and not images.find(own):
                yield Entry(mask.path, mask.stamp, problem=mask.problem or missing_image(own, own).problem)

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root = self.reader()
        group, index = self.place(entry.fields["stem"], entry.key)
        name = self._name(group, space, entry.key)
        words = entry.fields.get("words")
        mask = entry.fields["mask"]
        return RawSample(
            image=root.read(entry.key),
            mask=None if mask is None else root.read(mask, Reason.MISSING_MASK),
            words=check_words(words, entry.key) if words is not None else (name,) if name else None,
            foreground=name,
            group=group,
            index=index,
        )

    def group_of(self, entry: Entry) -> str | None:
        """The folder, or what the pattern finds."""
        try:
            return self.place(entry.fields["stem"], entry.key)[0] if "stem" in entry.fields else None
        except ContractError:
            return None

    def place(self, stem: str, where: str) -> tuple[str | None, int | None]:
        """Group and index of a stem."""
        if self.group_by == "parent":
            digits = re.search(r"\d+$", stem)
            return str(PurePosixPath(stem).parent), _index(digits and digits.group(), where)
        if self.pattern is None:
            return None, None
        match = re.search(self.pattern, stem)
        if match is None:
            raise bad_annotation(where, f"a stem that matches {self.pattern}", stem, "rename it, or mend `pattern`")
        named = match.groupdict()
        return named.get("group"), _index(named.get("index"), where)

    def _name(self, group: str | None, space: LabelSpace, where: str) -> str | None:
        if not self.names_by_group:
            return None
        name = self.names_by_group.get(group or "")
        if name is None:
            found = f"group {group!r}, which is not there"
            fix = "add the group with the name of its class, or leave it out of `images`"
            raise ContractError(where, Problem(Reason.UNKNOWN_CLASS_NAME, "a group of names_by_group", found, fix))
        try:
            return space.find(name).name
        except KeyError:
            raise unknown_class(name, space, where) from None


def _index(digits: str | None, where: str) -> int | None:
    if digits is None:
        return None
    if not digits.isascii() or not digits.isdigit() or int(digits) > MAX_INDEX:
        fix = "pick the index out of the stem with `pattern`"
        raise bad_annotation(where, f"an index of 0..{MAX_INDEX}", digits, fix)
    return int(digits)


def pairing_problem(stem: str, found: list[File], masks: FileIndex | None) -> Problem | None:
    """What is wrong with the masks found for a stem: none, several, or one that may not be opened."""
    if masks is None:
        return None
    if not found:
        fix = "add the mask, or drop the image"
        return Problem(Reason.MISSING_MASK, f"a mask {masks.folder}/{stem}.*", "none", fix)
    if len(found) > 1:
        names = ", ".join(f.path for f in found)
        return Problem(Reason.BAD_ANNOTATION, "one mask for an image", names, "remove all but one")
    return found[0].problem


def missing_image(path: str, stem: str) -> File:
    """Stands for an image that a list or a mask speaks of and that is not there."""
    unsafe = path_problem(stem)
    fix = "add the image, or take it out of the list (or its mask out of the folder)"
    return File(path, "", unsafe or Problem(Reason.MISSING_IMAGE, f"an image {stem}.*", "none", fix))


def read_stems(root: Root, path: str) -> Iterator[str]:
    """First word of each line that is not blank."""
    with root.text(path) as lines:
        for line in lines:
            if words := line.split():
                yield words[0]


def read_tags(root: Root, path: str | None) -> Spill:
    """{stem: [ids or names]} of a JSON file, on disk."""
    tags = Spill()
    if path is not None:
        with root.text(path) as handle:
            tags.add(json_items(handle))
    return tags


def check_words(words: object, where: str) -> tuple[str | int, ...]:
    """Class names or ids as a JSON file gives them.

    Raises:
        ContractError: not a list of names and ids.
    """
    if isinstance(words, list) and all(isinstance(w, str | int) and not isinstance(w, bool) for w in words):
        return tuple(words)
    raise bad_annotation(where, "a list of class names or ids", repr(words)[:80], "mend the tags file")
