"""Images and masks in two folders, paired by stem; also clips and volumes (a folder each, or a pattern in the name)."""

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason
from maskmill.pipelines.ingest.base import MAX_INDEX, Entry, MaskPart, RawSample, Source, bad_annotation, unknown_class
from maskmill.pipelines.ingest.files import File, FileIndex, Root
from maskmill.pipelines.ingest.folder_names import check_folders
from maskmill.pipelines.ingest.lists import read_list
from maskmill.pipelines.ingest.mask_files import MASK_SUFFIXES, read_mask
from maskmill.pipelines.ingest.pair_rule import PairRule, compiled
from maskmill.pipelines.ingest.pairing import Pairs, PatternPairs, StemPairs
from maskmill.pipelines.ingest.spill import Spill, json_items


class FolderSource(Source):
    """`images` and `masks` are folders under the root, with any folders in them; stem = path in there without suffix.

    `group_by: parent` makes each sub-folder a clip, its frames numbered by the last digits of the name. `pattern` is a
    regular expression with named groups `group` and `index`, searched in the stem. `names_by_group` gives the class of
    a clip's foreground. `tags` is a JSON file {stem: [class ids or names]}, `stems` a text file of the stems to take.
    `pair` pairs names that differ (see `PairRule`), and unites several masks of a photo.
    """

    later: ClassVar[frozenset[str]] = Source.later | {"pair"}

    kind: Literal["folder"] = Field(default="folder", description="kind of the source")
    version: ClassVar[int] = 2
    images: str = Field(default="images", description="folder of the images under the root")
    masks: str | None = Field(
        default="masks", description="folder of the masks under the root; null = images without masks"
    )
    mask_suffix: str = Field(default="", description="what a mask's stem has after its image's, such as _mask")
    pair: str | None = Field(
        default=None,
        description="regular expression for names that differ: group `key` is what photo and mask have in common, "
        "`image`, `mask` and `class` what one side has",
    )
    group_by: Literal["parent"] | None = Field(
        default=None,
        description="parent: each folder is a clip, its frames numbered by the digits that end their names",
    )
    pattern: str | None = Field(
        default=None, description="regular expression with the groups `group` and `index`, searched in the stem"
    )
    names_by_group: dict[str, str] = Field(
        default={}, description="group -> class of all its foreground pixels; groups that are not named are rejected"
    )
    tags: str | None = Field(
        default=None,
        description="JSON file under the root: stem -> class ids or names that the image was asked to show",
    )
    stems: str | None = Field(
        default=None, description="text file under the root with the stems to take, one a line; null = all"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "FolderSource":
        if self.masks == self.images and not (self.mask_suffix or self.pair):
            raise ValueError("folder: images and masks in one folder need a mask_suffix or a pair to tell them apart")
        if self.pair is not None and self.mask_suffix:
            raise ValueError("folder: give mask_suffix or pair, not both")
        if self.pair is not None:
            PairRule(self.pair)
        if self.group_by and self.pattern:
            raise ValueError("folder: give group_by or pattern, not both")
        if self.names_by_group and not (self.group_by or self.pattern):
            raise ValueError("folder: names_by_group needs group_by or pattern")
        if self.pattern and not {"group", "index"} & set(compiled(self.pattern, "pattern").groupindex):
            raise ValueError("folder: pattern needs a named group, e.g. (?P<group>patient\\d+)_slice_(?P<index>\\d+)")
        return self

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        check_folders(root, self.images, self.masks)
        images = root.index(self.images)
        masks = root.index(self.masks, MASK_SUFFIXES) if self.masks is not None else None
        pairs: Pairs = StemPairs(images, masks, self.mask_suffix)
        if self.pair is not None:
            pairs = PatternPairs(images, masks, PairRule(self.pair))
        tags = read_tags(root, self.tags)
        for image, mask in self._images(root, images, masks, pairs):
            yield self._entry(images.stem(image.path), image, mask, pairs, tags)
        if masks is not None and self.stems is None:
            yield from (Entry(mask.path, mask.stamp, problem=mask.problem) for _, mask in pairs.left_over())

    def _images(
        self, root: Root, images: FileIndex, masks: FileIndex | None, pairs: Pairs
    ) -> Iterator[tuple[File, File | None]]:
        """Photos, each with the mask that a list names for it."""
        if self.stems is not None:
            for line in read_list(root, self.stems, images, masks):
                yield from ((photo, line.mask) for photo in line.photos)
            return
        yield from ((image, None) for stem, image in images if pairs.is_image(stem))

    def _entry(self, stem: str, image: File, mask: File | None, pairs: Pairs, tags: Spill) -> Entry:
        words = tags.get(stem)
        found: list[tuple[File, str | None]] = [(mask, None)] if mask is not None else []
        problem = image.problem or (mask.problem if mask is not None else None)
        if mask is None and problem is None:
            matched = pairs.masks_of(stem, image)
            found, problem = list(matched.files), matched.problem
        if len(words) > 1 and problem is None:
            fix = "keep one of the two"
            problem = bad_annotation(stem, f"{stem!r} once in {self.tags}", f"{len(words)} times", fix).problem
        fields: dict[str, Any] = {"stem": stem, "masks": [[file.path, word] for file, word in found]}
        if words:
            fields["words"] = words[-1]
        stamp = json.dumps([image.stamp, [file.stamp for file, _ in found], words])
        return Entry(image.path, stamp, fields, problem)

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root = self.reader()
        group, index = self.place(entry.fields["stem"], entry.key)
        name = self._name(group, space, entry.key)
        words = entry.fields.get("words")
        masks = [(read_mask(root, path, self.max_pixels), path, word) for path, word in entry.fields["masks"]]
        single = len(masks) == 1 and masks[0][2] is None
        return RawSample(
            image=root.read(entry.key),
            mask=masks[0][0] if single else None,
            parts=() if single else tuple(MaskPart(*mask) for mask in masks),
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
