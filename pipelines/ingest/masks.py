"""From the values and colours of a source's masks to the ids of a label space."""

from dataclasses import dataclass

import numpy as np

from maskmill.data_contracts import (
    IGNORE,
    ContractError,
    LabelSpace,
    Problem,
    Reason,
    Uint8Array,
    decode_image,
    decode_mask,
)
from maskmill.pipelines.ingest.base import Source, class_value, rgb


@dataclass(frozen=True)
class MaskRule:
    """How one source's masks are read. `table` maps values, uint8 (256,); `colours` maps 24-bit colours to ids."""

    table: Uint8Array
    colours: dict[int, int]
    max_pixels: int

    @classmethod
    def of(cls, source: Source, space: LabelSpace) -> "MaskRule":
        """Resolve the names in a source's `remap` and `colours`. `remap` goes before the space's own ignore ids.

        Raises:
            KeyError, ValueError: a target that the label space does not have.
        """
        table = np.arange(256, dtype=np.uint8)
        table[list(space.ignore_ids)] = IGNORE
        for value, target in source.remap.items():
            if not 0 <= value <= 255:
                raise ValueError(f"remap: mask values are 0..255, found {value}")
            table[value] = class_value(target, space)
        colours = {_pack(rgb(colour)): class_value(target, space) for colour, target in source.colours.items()}
        return cls(table, colours, source.max_pixels)

    def read(self, data: bytes, where: str, foreground: int | None = None) -> Uint8Array:
        """Decode a mask file to contract ids, uint8 (H, W); with `foreground`, all values but 0 and 255 become that id.

        Raises:
            ContractError: undecodable, too large, no label map, or colours that the config does not name.
        """
        if self.colours:
            mask = self._from_colours(decode_image(data, where, self.max_pixels), where)
        else:
            mask = self.table[decode_mask(data, where, self.max_pixels)]
        if foreground is not None:
            mask = np.where((mask == 0) | (mask == IGNORE), mask, np.uint8(foreground))
        return mask

    def _from_colours(self, image: Uint8Array, where: str) -> Uint8Array:
        packed = image.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
        found, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
        strangers = [i for i, colour in enumerate(found) if int(colour) not in self.colours]
        if strangers:
            named = ", ".join(f"colour {_name(int(found[i]))} on {counts[i]} pixels" for i in strangers[:5])
            fix = f"add it to ingest's `colours`, e.g. '{_name(int(found[strangers[0]]))}': ignore"
            raise ContractError(where, Problem(Reason.UNKNOWN_MASK_ID, "the colours that the config names", named, fix))
        ids = np.array([self.colours[int(colour)] for colour in found], dtype=np.uint8)
        return ids[inverse.reshape(packed.shape)]


def _pack(colour: tuple[int, int, int]) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _name(packed: int) -> str:
    return f"{packed >> 16},{packed >> 8 & 255},{packed & 255}"
