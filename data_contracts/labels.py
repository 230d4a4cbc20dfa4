"""Label spaces: class ids, names, prompts, synonyms and palette, in one small file that people can edit."""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from maskmill.data_contracts.ids import config_hash
from maskmill.data_contracts.images import IGNORE
from maskmill.data_contracts.texts import parse_yaml
from maskmill.data_contracts.words import did_you_mean

SPACES = Path(__file__).parent / "spaces"


Channel = Annotated[int, Field(ge=0, le=255)]


class LabelClass(BaseModel):
    """One class. `prompt` is what CLIP reads in place of the name; `source_id` is the id that the dataset's own
    files use.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: int = Field(ge=0, le=254, description="value of the class in masks, 0 to 254; 255 always means ignore")
    name: str = Field(pattern=r"\S", description="name of the class")
    prompt: str | None = Field(default=None, description="what CLIP reads in place of the name; null = the name")
    synonyms: tuple[str, ...] = Field(default=(), description="other names by which files may call the class")
    colour: tuple[Channel, Channel, Channel] | None = Field(
        default=None,
        description="red, green, blue from 0 to 255 in palettes and pictures; null = the colour that VOC's palette "
        "has at this id",
    )
    source_id: int | None = Field(default=None, description="id that the dataset's own files use; null = `id`")

    @property
    def text(self) -> str:
        """The words that stand for this class in a prompt."""
        return self.prompt or self.name


class LabelSpace(BaseModel):
    """The classes that masks of one dataset may hold. 255 always means ignore."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="name of the label space")
    classes: tuple[LabelClass, ...] = Field(description="the classes, background left out")
    background_id: int | None = Field(
        default=0, ge=0, le=254, description="value of the background in masks; null = the space has no background"
    )
    background_prompts: tuple[str, ...] = Field(
        default=(),
        description="words for surroundings (grass, wall, …) that compete with the classes when CLIP is asked; "
        "empty = none",
    )
    ignore_ids: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(
        default=(), description='ids that source files use for "ignore"; ingest maps them to 255'
    )
    cam_box_threshold: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="CLIP-ES' box mask threshold, a share of a class map's peak (0.4 VOC, 0.7 COCO)",
    )
    licence: str | None = Field(
        default=None, description="licence of the annotations; goes into provenance where a source names none"
    )

    @model_validator(mode="after")
    def _unique(self) -> "LabelSpace":
        ids = [c.id for c in self.classes]
        names = [c.name for c in self.classes]
        if again := [x for x, n in [*Counter(ids).items(), *Counter(names).items()] if n > 1]:
            raise ValueError(f"label space {self.name}: class ids and names must be unique, found {again[0]!r} again")
        if not ids:
            raise ValueError(f"label space {self.name}: expected at least one class, found none")
        folded = Counter(_fold(n) or n for n in names)
        if twice := [n for n in names if folded[_fold(n) or n] > 1]:
            found = f"{twice}, which are one word in another spelling"
            raise ValueError(f"label space {self.name}: expected names that differ, found {found}")
        sources = Counter(c.source_id for c in self.classes if c.source_id is not None)
        if more := [i for i, n in sources.items() if n > 1]:
            raise ValueError(f"label space {self.name}: expected every source_id once, found {more[0]} again")
        if self.background_id in ids:
            raise ValueError(
                f"label space {self.name}: the background id {self.background_id} is not listed as a class"
            )
        return self

    @cached_property
    def by_id(self) -> dict[int, LabelClass]:
        return {c.id: c for c in self.classes}

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """Foreground ids, ascending."""
        return tuple(sorted(self.by_id))

    @cached_property
    def allowed_ids(self) -> frozenset[int]:
        """Every value a mask may hold: foreground, background, ignore."""
        background = () if self.background_id is None else (self.background_id,)
        return frozenset((*self.ids, *background, IGNORE))

    @cached_property
    def _by_word(self) -> dict[str, LabelClass]:
        words: dict[str, LabelClass] = {}
        for c in self.classes:
            for word in (c.name, *c.synonyms):
                words.setdefault(_fold(word), c)
        return words

    @cached_property
    def fingerprint(self) -> str:
        return config_hash(self)

    @property
    def size(self) -> int:
        """Number of output channels of a segmenter: largest id + 1."""
        return max((*self.ids, self.background_id or 0)) + 1

    def has(self, word: str) -> bool:
        """Whether `find` finds the word."""
        return _fold(word) in self._by_word

    @cached_property
    def most_words(self) -> int:
        """Words that a class can be spelt in at most: blanks do not count, so one a letter or digit."""
        return max(map(len, self._by_word))

    def find(self, word: str) -> LabelClass:
        """The class with this name or synonym, in any spelling of case, blanks, hyphens and underscores.

        Raises:
            KeyError: lists the names that would have been found.
        """
        try:
            return self._by_word[_fold(word)]
        except KeyError:
            names = ", ".join(c.name for c in self.classes)
            hint = did_you_mean(str(word), (known for c in self.classes for known in (c.name, *c.synonyms)))
            raise KeyError(f"{word!r} is no class of label space {self.name}{hint}; known: {names}") from None

    def find_id(self, value: int) -> int:
        """Class id for an id in the dataset's own numbering (COCO's 91 numbers), or the id itself where there is
        none.
        """
        return self._by_source.get(value, value) if self._by_source else value

    @cached_property
    def _by_source(self) -> dict[int, int]:
        return {c.source_id: c.id for c in self.classes if c.source_id is not None}

    @cached_property
    def palette(self) -> list[int]:
        """768 numbers: PASCAL VOC's colours, overlaid with the colours that the space names."""
        colours = [voc_colour(i) for i in range(256)]
        for c in self.classes:
            if c.colour is not None:
                colours[c.id] = c.colour
        return [channel for colour in colours for channel in colour]

    @classmethod
    def from_names(cls, names: list[str], name: str = "custom") -> "LabelSpace":
        """A space of `names` with ids 1, 2, … over background 0 and VOC's background words."""
        classes = tuple(LabelClass(id=i, name=n.strip()) for i, n in enumerate(names, start=1))
        return cls(name=name, classes=classes, background_prompts=load_label_space("voc").background_prompts)


def _fold(word: str) -> str:
    return "".join(ch for ch in word.lower() if ch.isalnum())


def voc_colour(index: int) -> tuple[int, int, int]:
    """Colour `index` of the PASCAL VOC palette (bits of the index spread over the channels, high bits first)."""
    red = green = blue = 0
    for bit in range(8):
        red |= (index >> (3 * bit) & 1) << (7 - bit)
        green |= (index >> (3 * bit + 1) & 1) << (7 - bit)
        blue |= (index >> (3 * bit + 2) & 1) << (7 - bit)
    return red, green, blue


def named_classes(value: object) -> object:
    """A list of names as the label space of these classes, ids 1, 2, …; anything else as it is.

    Raises:
        ValueError: an empty list, or entries that are no names.
    """
    if not isinstance(value, list | tuple):
        return value
    if not value or not all(isinstance(name, str) and name.strip() for name in value):
        raise ValueError(f"expected names of classes, e.g. [horse, person], found {value!r:.80}")
    return LabelSpace.from_names(list(value))


AnySpace = Annotated[LabelSpace | str, BeforeValidator(named_classes)]
"""In a config: a built-in name, a YAML file, a list of names, or the space itself."""


def load_label_space(name_or_path: str) -> LabelSpace:
    """A built-in space (voc, coco, camvid, acdc, promise12, foreground, objects), or a YAML file of the same layout or
    with a list of names.

    Raises:
        FileNotFoundError: neither; lists the built-in names.
        ValueError: the file is no YAML, or has unknown keys, repeated ids or names; says which.
    """
    path = SPACES / f"{name_or_path}.yaml"
    if not path.exists():
        path = Path(name_or_path)
    if not path.is_file():
        known = sorted(p.stem for p in SPACES.glob("*.yaml"))
        hint = did_you_mean(name_or_path, known)
        own = "" if {"/", "."} & set(name_or_path) else f"; a class of your own is a list of names: [{name_or_path}]"
        words = f"label space {name_or_path!r}: no such file{hint}; not one of: {', '.join(known)}{own}"
        raise FileNotFoundError(words)
    try:
        raw = named_classes(parse_yaml(path.read_text(encoding="utf-8")))
    except ValueError as error:  # no YAML, no UTF-8, or no names
        raise ValueError(f"label space {name_or_path}: expected a YAML file of classes, found {error}") from error
    if isinstance(raw, LabelSpace):
        return raw
    if not isinstance(raw, dict):
        raise ValueError(f"label space {name_or_path}: expected name and classes, found {type(raw).__name__}")
    try:
        return LabelSpace.model_validate(raw)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".lstrip(": ") for one in error.errors())
        raise ValueError(f"label space {name_or_path}: {found}") from error
