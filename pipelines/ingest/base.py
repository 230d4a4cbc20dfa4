"""What every source of image–mask pairs is: a config that lists entries without opening pixels, and loads them."""

import re
from abc import abstractmethod
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from maskmill.data_contracts import ContractError, Instance, LabelSpace, Problem, Reason, Uint8Array
from maskmill.data_contracts.image_files import MAX_PIXELS
from maskmill.data_contracts.tone import Tone
from maskmill.pipelines.ingest.archive_root import ArchiveRoot, is_archive
from maskmill.pipelines.ingest.class_files import READERS, find_class_names, space_of
from maskmill.pipelines.ingest.files import Root

# Pillow refuses more than this whatever we ask for.
PILLOW_LIMIT = 178_956_970
MAX_INDEX = 2**31 - 1


@dataclass(frozen=True)
class Entry:
    """One sample as listed. `key` names it inside its source; `stamp` changes when its files do.

    `fields` is what the source needs to load it (JSON values); `problem` is set where listing already found a fault.
    """

    key: str
    stamp: str
    fields: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None


@dataclass(frozen=True)
class MaskPart:
    """One of several masks of a photo. `word` is the class (name or id) of all that is not 0 in it; without one, the
    file holds class ids of its own. `where` is its path or place.
    """

    data: bytes
    where: str
    word: str | int | None = None


@dataclass(frozen=True)
class RawSample:
    """One sample as its source has it.

    `mask` is an encoded file in the source's own values, `parts` are several of them for one photo; `drawn` is a label
    map uint8 (H, W) of contract ids.
    `words` are names or ids of the classes that the image was asked to show; `foreground` is the class that every
    foreground value of the mask stands for. `instances` are the objects of the mask, where the source tells them apart;
    `notes` count what was read by a rule that people may want to check (crowds as ignore, …).
    """

    image: bytes
    mask: bytes | None = None
    parts: tuple[MaskPart, ...] = ()
    drawn: Uint8Array | None = None
    words: tuple[str | int, ...] | None = None
    foreground: str | None = None
    group: str | None = None
    index: int | None = None
    spacing: tuple[float, float, float] | None = None  # mm per pixel (slice, row, column)
    provenance: dict[str, Any] = field(default_factory=dict)
    instances: tuple[Instance, ...] | None = None
    objects: list[Any] | None = None  # the same as a Sample row has them, in the values of `mask`
    notes: dict[str, int] = field(default_factory=dict)


_opened: ContextVar[list[Root] | None] = ContextVar("roots opened while a source is listed", default=None)


class Source(BaseModel):
    """Options that all sources share. A source is its own config: what it is given says all about what it yields.

    Raise a source's `version` whenever a change of its code changes rows: it is part of their shards' fingerprints.
    Options in `later` came after shards were written: left at their default they are no part of any fingerprint.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: ClassVar[int] = 1
    later: ClassVar[frozenset[str]] = frozenset(("tone", "page", "masks_drawn_on", "instance_step", "threshold"))
    archive_roots: ClassVar[bool] = True  # whether a root that is an archive stands for the folder that is packed in it

    kind: str = Field(description="kind of the source")
    root: str = Field(
        description="local folder (or file), archive, or fsspec URL that everything else is relative to; nothing "
        "outside it is opened"
    )
    licence: str | None = Field(
        default=None, description="licence of the data, for every row's provenance; null = the label space's"
    )
    remap: dict[int, int | str] = Field(
        default={}, description="mask value -> class id, class name, background or ignore; all values at once"
    )
    colours: dict[str, int | str] = Field(
        default={}, description='"r,g,b" -> the same, for masks that are painted in colours'
    )
    instance_step: int | None = Field(
        default=None,
        ge=2,
        description="mask values from here on are class * step + number (Cityscapes: 1000); null = values are classes",
    )
    threshold: int | None = Field(
        default=None,
        ge=1,
        le=255,
        description="grey masks with soft borders or of JPEG: values from here on are the label space's first class, "
        "lower ones background; null = values are ids",
    )
    allow_empty: bool = Field(default=False, description="let masks without any foreground pass")
    tone: Tone = Field(
        default="auto", description="how photos of more than 8 bits become 8: auto, stretch, or [low, high]"
    )
    page: int | None = Field(
        default=None, ge=0, description="which page of files with several, from 0; null = such files are rejected"
    )
    masks_drawn_on: Literal["upright", "stored"] | None = Field(
        default=None,
        description="pixels that masks of photos which EXIF turns lie on: upright or as stored; null = upright",
    )
    max_pixels: int = Field(
        default=MAX_PIXELS, gt=0, le=PILLOW_LIMIT, description="larger images are rejected before they are decoded"
    )
    follow_links: bool = Field(default=False, description="let symbolic links lead out of the root")
    whole_groups: bool = Field(
        default=False, description="let a shard outgrow its size rather than cut a group; changes no row"
    )
    threads: int = Field(default=4, ge=1, description="decoding threads of one shard; changes no row")

    @field_validator("colours")
    @classmethod
    def _three_numbers(cls, colours: dict[str, int | str]) -> dict[str, int | str]:
        for colour in colours:
            if not re.fullmatch(r"\s*\d{1,3}\s*(,\s*\d{1,3}\s*){2}", colour) or max(rgb(colour)) > 255:
                raise ValueError(f"colours: expected keys like '128,0,0', found {colour!r}")
        return colours

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """All entries, in any order, one in memory at a time. Opens no image.

        Raises:
            FileNotFoundError: a folder or list that the config names is not there.
            ValueError: a list or annotation file cannot be read.
        """

    @abstractmethod
    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        """Read what `entry` stands for.

        Raises:
            ContractError: the sample is at fault; says how.
        """

    def everything(self) -> Iterator[Entry]:
        """All entries, and then what lies in the folders that were walked and was not read: no source can forget it."""
        roots: list[Root] = []
        token = _opened.set(roots)
        try:
            yield from self.entries()
        finally:
            _opened.reset(token)
        for root in roots:
            yield from (Entry(path, "", problem=problem) for path, problem in root.passed.problems())

    def own_space(self) -> LabelSpace:
        """The label space that the data themselves name: by default that of a label file beside them.

        Raises:
            ValueError: nothing names the classes; says what was looked for.
        """
        found = find_class_names(self.open_root(), self.own_folders())
        if found is None:
            raise ValueError(
                f"{self.root}: label_space: from_source needs names of classes, and `{self.kind}` finds none: expected "
                f"one of {', '.join(READERS)} in the root or beside the photos. Fix: name the classes in the config, "
                f"e.g. label_space: {{name: mine, classes: [{{id: 1, name: cat}}]}}"
            )
        path, named = found
        return space_of(self.space_name, named, f"{self.root}/{path}", keep_ids=True)

    @property
    def space_name(self) -> str:
        """What a label space is called that comes with this source."""
        return self.root.rstrip("/").rsplit("/", 1)[-1] or self.kind

    def own_folders(self) -> tuple[str, ...]:
        """Folders, besides the root, in which label files may lie."""
        return tuple(f for name in ("images", "masks") if isinstance(f := getattr(self, name, None), str))

    def group_of(self, entry: Entry) -> str | None:
        """The group of an entry as far as its listing tells; groups whose entries are neighbours can stay whole."""
        return None

    def open_root(self) -> Root:
        """The root, looked at anew: for listing."""
        root = _open(self.root, self.follow_links, self.archive_roots)
        if (opened := _opened.get()) is not None:
            opened.append(root)
        return root

    def reader(self) -> Root:
        """The root, opened once a process: for loading."""
        return _reader(self.root, self.follow_links, self.archive_roots)


@lru_cache(maxsize=16)
def _reader(root: str, follow_links: bool, archive_roots: bool) -> Root:
    return _open(root, follow_links, archive_roots)


def _open(root: str, follow_links: bool, archive_roots: bool) -> Root:
    plain = Root(root, follow_links)
    return ArchiveRoot(root, follow_links) if archive_roots and plain.is_file and is_archive(root) else plain


def rgb(colour: str) -> tuple[int, int, int]:
    """ "r,g,b" as three numbers."""
    red, green, blue = (int(part) for part in colour.split(","))
    return red, green, blue


def class_value(target: int | str, space: LabelSpace) -> int:
    """Mask value for a class id or name, "background" or "ignore".

    Raises:
        KeyError: no class of that name; lists the names.
        ValueError: the id is in no mask of this label space.
    """
    if isinstance(target, str):
        if target == "ignore":
            return 255
        if target == "background" and space.background_id is not None:
            return space.background_id
        return space.find(target).id
    if target not in space.allowed_ids:
        raise ValueError(f"id {target} is not in label space {space.name}; it has {sorted(space.allowed_ids)}")
    return target


def find_classes(words: tuple[str | int, ...], space: LabelSpace, where: str) -> list[int]:
    """Sorted class ids of names or ids.

    Raises:
        ContractError: `unknown_class_name` for the first one that the label space does not have.
    """
    found = set()
    for word in words:
        try:
            found.add(space.by_id[word].id if isinstance(word, int) else space.find(word).id)
        except KeyError:
            raise unknown_class(word, space, where) from None
    return sorted(found)


def unknown_class(word: str | int, space: LabelSpace, where: str) -> ContractError:
    """The error for a name or id that is no class."""
    names = [c.name for c in space.classes]
    known = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    fix = "correct the name, or add it to the label space (as a class or a synonym)"
    return ContractError(
        where, Problem(Reason.UNKNOWN_CLASS_NAME, f"a class of {space.name} ({known})", repr(word), fix)
    )


def bad_annotation(where: str, expected: str, found: str, fix: str) -> ContractError:
    """The error for an annotation that cannot mean anything."""
    return ContractError(where, Problem(Reason.BAD_ANNOTATION, expected, found, fix))
