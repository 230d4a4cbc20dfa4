"""Masks as conditions: exact colours for a ControlNet, and which positions a class word may speak to (rectified
attention).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array
from maskmill.generators.ade20k import Colour, ade20k_colours
from maskmill.generators.config import PaletteName


@dataclass(frozen=True)
class ControlPalette:
    """Colour of every id that a control map may hold. Colours are the ControlNet's vocabulary: no two ids may share
    one.
    """

    colours: Mapping[int, Colour]

    def __post_init__(self) -> None:
        owners: dict[Colour, int] = {}
        for class_id, colour in self.colours.items():
            if colour in owners:
                raise ValueError(f"control palette: classes {owners[colour]} and {class_id} are both {colour}")
            owners[colour] = class_id

    @classmethod
    def for_space(
        cls,
        space: LabelSpace,
        overrides: Mapping[str, Colour] | None = None,
        background: Colour = (0, 0, 0),
        palette: PaletteName = "space",
    ) -> "ControlPalette":
        """The space's own colours, or those of ADE20K, which public ControlNets learnt, for the classes that it knows;
        replaced by name where others are given.
        """
        flat = space.palette
        colours: dict[int, Colour] = {i: (flat[3 * i], flat[3 * i + 1], flat[3 * i + 2]) for i in space.ids}
        if palette == "ade20k":
            colours = ade20k_colours(space)
        for name, colour in (overrides or {}).items():
            colours[space.find(name).id] = colour
        if space.background_id is not None:
            colours[space.background_id] = background
        return cls(colours)

    def paint(self, mask: Uint8Array, background_id: int = 0) -> Uint8Array:
        """Mask uint8 (H, W) to its control map uint8 (H, W, 3); ignored pixels are painted as background.

        Raises:
            ValueError: the mask holds an id without a colour.
        """
        known = np.where(mask == IGNORE, background_id, mask).astype(np.uint8)
        if missing := sorted(set(np.unique(known).tolist()) - set(self.colours)):
            problem = f"control map: no colour for classes {missing}"
            raise ValueError(f"{problem}; name them in the control config's `colours`")
        table = np.zeros((256, 3), np.uint8)
        for class_id, colour in self.colours.items():
            table[class_id] = colour
        painted: Uint8Array = table[known]
        return painted

    def read(self, control: Uint8Array) -> Uint8Array:
        """A control map back to its mask.

        Raises:
            ValueError: a colour that no id has (what smooth resizing invents).
        """
        codes = control.astype(np.int32) @ np.array([65536, 256, 1])
        mask = np.full(codes.shape, IGNORE, np.uint8)
        found = np.zeros(codes.shape, np.bool_)
        for class_id, (red, green, blue) in self.colours.items():
            here = codes == red * 65536 + green * 256 + blue
            mask[here], found = class_id, found | here
        if not found.all():
            raise ValueError(f"control map: {int((~found).sum())} pixels have a colour outside the palette")
        return mask


def resize_nearest(mask: Uint8Array, size: tuple[int, int]) -> Uint8Array:
    """Nearest-neighbour resize of (h, w) to `size` = (H, W), sampling at pixel centres: no id that was not there
    before.
    """
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(np.intp)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(np.intp)
    resized: Uint8Array = mask[rows[:, None], columns[None, :]]
    return resized


def rectification(
    layout: Uint8Array, grid: tuple[int, int], positions: Sequence[Sequence[int]], class_ids: Sequence[int], length: int
) -> NDArray[np.float32]:
    """What to add to cross-attention logits (FreestyleNet, CVPR 2023): float32 (rows * columns, length), 0 or -inf.

    A token of class c is open to the positions whose nearest layout label is c; all other tokens are open everywhere,
    so every row keeps at least start-of-text.
    """
    cells = resize_nearest(layout, grid).reshape(-1)
    added = np.zeros((cells.size, length), np.float32)
    for class_id, own in zip(class_ids, positions, strict=True):
        for position in own:
            added[cells != class_id, position] = -np.inf
    return added
