"""A look at the first masks of a source before anything is ingested: which ids they hold, and what those would mean."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from maskmill.data_contracts import IGNORE, ContractError, LabelSpace, Uint8Array
from maskmill.data_contracts.label_files import decode_labels
from maskmill.pipelines.ingest.base import Source, class_value
from maskmill.pipelines.ingest.soft_masks import SOFT_VALUES, SOFT_WHITE

LOOKED_AT = 32  # masks; enough to see what a set is made of, and read in a moment
PASSED_OVER = 4 * LOOKED_AT  # entries that may be without a mask that can be read
STAND_IN = "object"


@dataclass(frozen=True)
class MaskScan:
    """What the first masks hold, in the files' own values: share of all pixels, and in how many masks, by value.

    `named`: the source itself says which class the foreground of a mask is.
    """

    masks: int
    shares: dict[int, float]
    holders: dict[int, int]
    named: bool = False

    @property
    def foreground(self) -> list[int]:
        """Values that are neither 0 nor 255."""
        return [value for value in sorted(self.shares) if value not in (0, IGNORE)]


def scan_masks(source: Source, space: LabelSpace | None) -> MaskScan | None:
    """Look at the first masks that can be read; None where the source has none that hold ids (colours, grey values to
    cut, polygons).
    """
    if source.colours or source.threshold is not None:
        return None
    stand_in = space or LabelSpace.from_names([STAND_IN])
    pixels: Counter[int] = Counter()
    holders: Counter[int] = Counter()
    masks, named = 0, False
    for data, says in islice(_masks(source, stand_in), LOOKED_AT):
        values, counts = np.unique(data, return_counts=True)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        holders.update(values.tolist())
        masks, named = masks + 1, named or says
    total = sum(pixels.values())
    shares = {value: pixels[value] / total for value in sorted(pixels)}
    return MaskScan(masks, shares, dict(holders), named) if masks else None


def _masks(source: Source, space: LabelSpace) -> Iterator[tuple[Uint8Array, bool]]:
    for entry in islice(source.entries(), PASSED_OVER):
        if entry.problem is not None:
            continue
        try:
            raw = source.load(entry, space)
            if raw.mask is not None and (values := _values(raw.mask, entry.key, source)) is not None:
                yield values, raw.foreground is not None
        except (ContractError, KeyError):
            continue  # ingest says what is wrong with it


def _values(data: bytes, where: str, source: Source) -> Uint8Array | None:
    """A mask's own values; None for one that holds no ids of 0..255, of which ingest says more."""
    found = decode_labels(data, where, source.max_pixels, source.page)
    if found.lossy is not None or found.stored is None or not found.stored.size:
        return None
    return found.stored.astype(np.uint8) if found.stored.min() >= 0 and found.stored.max() <= IGNORE else None


@dataclass(frozen=True)
class Remark:
    """One thing that a scan shows: what it means, and the words to put on the command line. `fatal`: no mask that was
    looked at would pass.
    """

    message: str
    line: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.message}\n  {self.line}"


def meanings(scan: MaskScan, source: Source, space: LabelSpace) -> dict[int, str]:
    """Value in the files to what it stands for: a class name, background, ignore, or `not in the label space`."""
    found = {}
    for value in scan.shares:
        if scan.named and value not in (0, IGNORE):
            found[value] = "the class that the source names"
            continue
        target = source.remap.get(value, IGNORE if value in space.ignore_ids else value)
        try:
            becomes = class_value(target, space)
        except (KeyError, ValueError):
            found[value] = "not in the label space"
            continue
        if becomes == IGNORE:
            found[value] = "ignore"
        elif becomes == space.background_id:
            found[value] = "background"
        else:
            found[value] = space.by_id[becomes].name
    return found


def table(scan: MaskScan, source: Source, space: LabelSpace | None) -> str:
    """Id → share → name, a line an id."""
    names = {} if space is None else meanings(scan, source, space)
    lines = [f"  id {v:>3} → {share:6.1%} of the pixels → {names.get(v, '?')}" for v, share in scan.shares.items()]
    return "\n".join([f"the first {scan.masks} masks hold:", *lines])


def unnamed(scan: MaskScan | None) -> Remark:
    """What to say where no label space is given."""
    fix = (
        "name what the masks show (CLIP reads the names: put a word of yours in place of `object`), a label space (voc,"
        " coco, a YAML file), or from_source where the data name their classes:"
    )
    foreground = [1] if scan is None else scan.foreground
    names = ", ".join([STAND_IN] if len(foreground) < 2 else [f"name_of_{value}" for value in foreground])
    line = f"--set 'label_space=[{names}]'"
    if scan is not None and (remap := _numbered(foreground or ([IGNORE] if IGNORE in scan.shares else []))):
        line += f" --set 'source.remap={remap}'"
    return Remark(f"label_space: not given, and ids alone say nothing; {fix}", line, fatal=True)


def _numbered(values: Sequence[int]) -> str:
    """The remap that numbers values 1, 2, …; empty where they are numbered so."""
    wanted = {value: number for number, value in enumerate(values, start=1)}
    same = all(value == number for value, number in wanted.items())
    return "" if same else "{" + ", ".join(f"{value}: {number}" for value, number in wanted.items()) + "}"


def remarks(scan: MaskScan, source: Source, space: LabelSpace) -> list[Remark]:
    """What the first masks show that a person should know before anything is ingested."""
    means = meanings(scan, source, space)
    strangers = [value for value, name in means.items() if name == "not in the label space"]
    classes = [value for value, name in means.items() if name not in ("background", "ignore", "not in the label space")]
    if strangers:
        return [_strangers(strangers, scan, space)]
    if not classes:
        return [] if source.allow_empty else [_no_foreground(scan, space)]
    if len(classes) == 1 and len(space.classes) > 1 and not scan.named:
        return [_one_class(classes[0], means[classes[0]], scan)]
    return []


def _strangers(values: list[int], scan: MaskScan, space: LabelSpace) -> Remark:
    holders = max(scan.holders[value] for value in values)
    ids = ", ".join(map(str, values[:8])) + (", …" if len(values) > 8 else "")
    message = (
        f"label space {space.name} has no id {ids} (in {holders} of {scan.masks} masks; such masks are rejected). Say"
        " what they stand for: a class, background or ignore:"
    )
    if len(scan.foreground) == 1:
        return Remark(message, _as_the_object(values[0], space), fatal=holders == scan.masks)
    if len(values) >= SOFT_VALUES and 0 in scan.shares and max(scan.shares) >= SOFT_WHITE and space.classes:
        soft = f"; where they are the soft borders of {space.classes[0].name} in white, cut them in the middle:"
        return Remark(message.rstrip(":") + soft, "--set source.threshold=128", fatal=holders == scan.masks)
    pairs = ", ".join(f"{value}: ignore" for value in values)
    return Remark(message, f"--set 'source.remap={{{pairs}}}'", fatal=holders == scan.masks)


def _no_foreground(scan: MaskScan, space: LabelSpace) -> Remark:
    held = ", ".join(map(str, scan.shares))
    value = IGNORE if IGNORE in scan.shares else 0
    message = f"the masks hold {held} and no class: every sample would be rejected. If {value} is the object, say so:"
    return Remark(message, _as_the_object(value, space), fatal=True)


def _as_the_object(value: int, space: LabelSpace) -> str:
    """Options by which a value is the one class of a label space; of one with several, a new space with one."""
    if len(space.classes) == 1:
        return f"--set 'source.remap={{{value}: {space.classes[0].id}}}'"
    remap = "" if value == 1 else f" --set 'source.remap={{{value}: 1}}'"
    return f"--set 'label_space=[{STAND_IN}]'{remap}"


def _one_class(value: int, name: str, scan: MaskScan) -> Remark:
    message = f"every mask says id {value} = {name}, and nothing else. If the photos show something else, name it:"
    remap = _numbered([value])
    return Remark(message, f"--set 'label_space=[{STAND_IN}]'" + (f" --set 'source.remap={remap}'" if remap else ""))
