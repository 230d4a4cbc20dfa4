"""From the values and colours of a source's masks to the ids of a label space."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, ContractError, Instance, LabelSpace, Problem, Reason, Uint8Array
from maskmill.data_contracts.blocks import blocks, histogram, looked_up
from maskmill.data_contracts.label_files import LabelFile, decode_labels
from maskmill.data_contracts.labels import voc_colour
from maskmill.data_contracts.rle import runs_by_value
from maskmill.pipelines.ingest.base import Source, class_value, rgb
from maskmill.pipelines.ingest.soft_masks import cut, soft_border

Values = NDArray[np.int32] | Uint8Array
Colour = tuple[int, int, int]
BLACK = (0, 0, 0)


@dataclass(frozen=True, eq=False)
class Labels:
    """A mask of contract ids, uint8 (H, W), and its objects where its values tell them apart."""

    mask: Uint8Array
    instances: tuple[Instance, ...] | None = None


@dataclass(frozen=True)
class MaskRule:
    """How one source's masks are read: `remap` holds values and `colours` 24-bit colours with the ids they become."""

    space: LabelSpace
    remap: dict[int, int]
    colours: dict[int, int]
    max_pixels: int
    page: int | None
    step: int | None
    threshold: int | None = None

    @classmethod
    def of(cls, source: Source, space: LabelSpace) -> "MaskRule":
        """Resolve the names in a source's `remap` and `colours`. `remap` goes before the space's own ignore ids.

        Raises:
            KeyError, ValueError: a target that the label space does not have.
        """
        remap = dict.fromkeys(space.ignore_ids, IGNORE)
        remap |= {value: class_value(target, space) for value, target in source.remap.items()}
        colours = {_pack(rgb(colour)): class_value(target, space) for colour, target in source.colours.items()}
        rest = (source.max_pixels, source.page, source.instance_step, source.threshold)
        return cls(space, remap, colours, *rest)

    def read(self, data: bytes, where: str, foreground: int | None = None) -> Labels:
        """Decode a mask file to contract ids; with `foreground`, all values but 0 and 255 become that id.

        Raises:
            ContractError: undecodable, too large, lossy, no label map, or values that nobody gave a meaning.
        """
        found = decode_labels(data, where, self.max_pixels, self.page)
        if self.threshold is not None:
            if found.values is None:
                raise ContractError(where, self._coloured(found))
            return Labels(cut(found.values, self.threshold, self.space, where, foreground))
        if found.lossy is not None:
            raise ContractError(where, _lossy(found))
        if self.colours:
            labels = Labels(self._from_colours(_as_colours(found), where))
        elif found.stored is None:
            labels = Labels(self._in_the_space_s_colours(found, where))
        else:
            labels = self._from_values(found, found.stored, where, foreground is not None)
        if foreground is None:
            return labels
        mask = np.where((labels.mask == 0) | (labels.mask == IGNORE), labels.mask, np.uint8(foreground))
        return Labels(mask)

    def _from_values(self, found: LabelFile, values: Values, where: str, any_value: bool) -> Labels:
        small = values.dtype == np.uint8 or values.size == 0 or (values.min() >= 0 and values.max() <= IGNORE)
        present = np.flatnonzero(histogram(values)) if small else np.unique(values)
        used = [int(v) for v in present]
        problem = (
            self._binary(found, used) or soft_border(found, used, self.remap, self.space) or self._palette(found, used)
        )
        if problem is not None:
            raise ContractError(where, problem)
        ids = {v: self.id_of(v, any_value) for v in used}
        if strangers := [v for v, i in ids.items() if i is None]:
            raise ContractError(where, self._high(strangers, values))
        known = {v: i for v, i in ids.items() if i is not None}
        if values.dtype == np.uint8 and all(v == i for v, i in known.items()):
            mask: Uint8Array = np.array(values, np.uint8)
        elif small:
            table = np.zeros(256, np.uint8)
            table[list(known)] = list(known.values())
            mask = looked_up(table, values)
        else:
            table, mask = np.array(list(known.values()), np.uint8), np.empty(values.shape, np.uint8)
            for rows in blocks(values):
                mask[rows] = table[np.searchsorted(present, values[rows])]
        return Labels(mask, self._objects(values, known))

    def id_of(self, value: int, any_value: bool = False) -> int | None:
        """The id that a value becomes; None for one outside 0..255 that nobody named."""
        if value in self.remap:
            return self.remap[value]
        if self.step is not None and value >= self.step:
            return self.id_of(value // self.step, any_value) if value // self.step < self.step else None
        if 0 <= value <= IGNORE:
            return value
        return 1 if any_value and value > 0 else None

    def _objects(self, values: Values, known: dict[int, int]) -> tuple[Instance, ...] | None:
        """One object a value, where values are class * step + number."""
        if self.step is None or not any(value >= self.step for value in known):
            return None
        areas = runs_by_value(values)
        classes = {value: i for value, i in known.items() if i in self.space.by_id}
        return tuple(Instance.of_runs(i, areas[value], source_id=str(value)) for value, i in classes.items())

    def _binary(self, found: LabelFile, used: list[int]) -> Problem | None:
        """Grey masks of 0 and 255 only: 255 is ignore by contract, and the object in most tools."""
        ground = self.remap.get(0, 0) == self.space.background_id
        grey = found.palette is None or bool((found.palette == found.palette[:, :1]).all())
        if IGNORE not in used or IGNORE in self.remap or not ground or not grey or set(used) - {0, IGNORE}:
            return None
        found_words = "255, which means ignore, and nothing else" if 0 not in used else "0 and 255, which means ignore"
        mine = f"source.remap: {{255: {_some(self.space)}}}"
        fix = f"if 255 is your object, set {mine}; if not, set source.remap: {{255: ignore}}"
        return Problem(Reason.EMPTY_FOREGROUND, "class ids of the label space", found_words, fix)

    def _palette(self, found: LabelFile, used: list[int]) -> Problem | None:
        """Palette masks in an order of their own: painted in the classes' colours, but at other ids, or black elsewhere
        than at the background's id. Palettes that only decorate the ids (VOC's is the common one) say nothing.
        """
        if found.palette is None or self.remap.keys() >= set(used):
            return None
        colours = {i: _colour(found.palette[i]) for i in range(len(found.palette))}
        mine = {i: colours[i] for i in used if i in colours and i not in self.remap}
        if all(colour == voc_colour(i) for i, colour in mine.items()):
            return None
        names: dict[Colour, int] = {c.colour: c.id for c in self.space.classes if c.colour is not None}
        ground = {} if self.space.background_id is None else {BLACK: self.space.background_id}
        owners = {**ground, **names} if set(mine.values()) <= {*ground, *names} else ground
        for index, colour in mine.items():
            owner = owners.get(colour, index)
            if owner != index and colours.get(owner) != colour:
                words = f"index {index} in {_name(_pack(colour))}, the colour of id {owner}"
                example = self._example([colours[i] for i in used if i in colours])
                fix = f"read the masks by colour: set source.colours: {example} with your own classes"
                return Problem(Reason.WRONG_MASK_FORMAT, "palette indices that are class ids", words, fix)
        return None

    def _high(self, strangers: list[int], values: Values) -> Problem:
        """Values outside 0..255."""
        words = ", ".join(f"{v} on {int((values == v).sum())} pixels" for v in strangers[:5])
        name, first = _some(self.space), strangers[0]
        fix = f"map every value, e.g. source.remap: {{{first}: {name}}}"
        if (high := [v for v in strangers if v >= 1000]) and all(v // 1000 <= IGNORE for v in high):
            fix += (
                f"; where values are class * 1000 + number, set source.instance_step: 1000 "
                f"and map the class, e.g. source.remap: {{{high[0] // 1000}: {name}}}"
            )
        return Problem(Reason.WRONG_MASK_FORMAT, "class ids of 0..255", f"values {words}", fix)

    def _coloured(self, found: LabelFile) -> Problem:
        packed, counts = np.unique(_packed(_as_colours(found)), return_counts=True)
        common = [int(packed[i]) for i in np.argsort(-counts, kind="stable")[:5]]
        number = f"{len(packed)} colours, mostly {'; '.join(map(_name, common))}"
        fix = f"name what each colour stands for, e.g. source.colours: {self._example([_colour_of(c) for c in common])}"
        if len(packed) > 256:
            fix = "check that this is a mask and no photo; masks need one flat colour a class"
        expected = "a mask of one channel with class ids (palette or grey PNG)"
        return Problem(Reason.WRONG_MASK_FORMAT, expected, f"mode {found.mode} with {number}", fix)

    def _example(self, colours: list[Colour]) -> str:
        """A value for `colours` that names these; classes are guesses, for people to correct."""
        own = {c.colour: c.name for c in self.space.classes if c.colour is not None}
        free = [c.name for c in self.space.classes if c.name not in own.values()] or ["ignore"]
        ground = "ignore" if self.space.background_id is None else "background"
        words, next_free = [], 0
        for colour in colours:
            name = own.get(colour, ground if colour == BLACK else None)
            if name is None:
                name, next_free = free[min(next_free, len(free) - 1)], next_free + 1
            words.append(f'"{_name(_pack(colour))}": {name}')
        return "{" + ", ".join(words) + "}"

    def _in_the_space_s_colours(self, found: LabelFile, where: str) -> Uint8Array:
        """A coloured mask whose every colour is that of one class, or black for background.

        Raises:
            ContractError: a colour that no class has, or that two have.
        """
        named = [(_pack(c.colour), c.id) for c in self.space.classes if c.colour is not None]
        if named and self.space.background_id is not None and _pack(BLACK) not in dict(named):
            named.append((_pack(BLACK), self.space.background_id))
        colours = _as_colours(found)
        known = len(dict(named)) == len(named) and set(np.unique(_packed(colours)).tolist()) <= dict(named).keys()
        if not known:
            raise ContractError(where, self._coloured(found))
        return replace(self, colours=dict(named))._from_colours(colours, where)

    def _from_colours(self, colours: Uint8Array, where: str) -> Uint8Array:
        packed = _packed(colours)
        found, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
        strangers = [i for i, colour in enumerate(found) if int(colour) not in self.colours]
        if strangers:
            named = ", ".join(f"colour {_name(int(found[i]))} on {counts[i]} pixels" for i in strangers[:5])
            fix = f"add it to ingest's `colours`, e.g. '{_name(int(found[strangers[0]]))}': ignore"
            raise ContractError(where, Problem(Reason.UNKNOWN_MASK_ID, "the colours that the config names", named, fix))
        ids = np.array([self.colours[int(colour)] for colour in found], dtype=np.uint8)
        return ids[inverse.reshape(packed.shape)]


def plain_values(found: LabelFile, where: str) -> Values:
    """The values of a mask file that holds some.

    Raises:
        ContractError: stored with loss, or in colours.
    """
    if found.lossy is not None:
        raise ContractError(where, _lossy(found))
    if found.values is None:
        expected, fix = "a mask of one channel", "write the mask in one grey channel"
        raise ContractError(where, Problem(Reason.WRONG_MASK_FORMAT, expected, f"mode {found.mode}", fix))
    return found.values


def as_values(found: LabelFile, where: str) -> Uint8Array:
    """A mask file as uint8 (H, W), larger values as 254: for masks that say only where their object is.

    Raises:
        ContractError: stored with loss, or in colours.
    """
    values = plain_values(found, where)
    return np.where(values > IGNORE, IGNORE - 1, np.maximum(values, 0)).astype(np.uint8)


def _lossy(found: LabelFile) -> Problem:
    number = f"{found.lossy}, which changes values" + (
        "" if found.values is None else f": {len(np.unique(found.values))} different ones"
    )
    fix = (
        "export the masks again as PNG; where only these are left and they are black and white, "
        "cut them at the middle: Image.open(m).convert('L').point(lambda v: 255 * (v > 127)).save(m_as_png)"
    )
    return Problem(Reason.WRONG_MASK_FORMAT, "a mask stored without loss", number, fix)


def _as_colours(found: LabelFile) -> Uint8Array:
    """A mask file's colours, uint8 (H, W, 3); transparency is laid over black."""
    if found.colours is None and found.values is not None:
        values = np.clip(found.values, 0, 255).astype(np.uint8)
        table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
        if found.palette is not None:
            table = np.zeros((256, 3), np.uint8)
            table[: len(found.palette)] = found.palette
        return table[values]
    colours = np.zeros((0, 0, 3), np.uint8) if found.colours is None else found.colours
    if colours.shape[-1] == 3:
        return colours
    return (colours[..., :3].astype(np.uint16) * colours[..., 3:] // 255).astype(np.uint8)


def _some(space: LabelSpace) -> str:
    """A class name for examples."""
    return space.classes[0].name if space.classes else "background"


def _packed(colours: Uint8Array) -> NDArray[np.int32]:
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    packed: NDArray[np.int32] = (red << 16) + (green << 8) + blue
    return packed


def _pack(colour: Colour) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _colour(row: Uint8Array) -> Colour:
    red, green, blue = (int(v) for v in row)
    return red, green, blue


def _colour_of(packed: int) -> Colour:
    return packed >> 16, packed >> 8 & 255, packed & 255


def _name(packed: int) -> str:
    return "{},{},{}".format(*_colour_of(packed))
