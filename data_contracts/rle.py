"""Masks as COCO's run lengths: column by column, runs of 0 and 1 in turn, 0 first. Packed by pycocotools, unpacked by
hand (it trusts what it is given).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]
Ints = NDArray[np.int64]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Runs:
    """A mask (height, width) as its compressed run lengths: some bytes a row of the object, where bool takes one for
    each pixel of the photo. Of thousands of objects on a photo only what is asked for is drawn.
    """

    text: str
    height: int
    width: int

    @classmethod
    def of(cls, mask: Bool) -> "Runs":
        """The runs of a mask, bool (H, W)."""
        return cls(pack_mask(mask), *mask.shape)

    @classmethod
    def read(cls, text: str, height: int, width: int) -> "Runs":
        """Compressed run lengths that somebody else wrote.

        Raises:
            ValueError: no such string, or one of another size.
        """
        return cls.of_counts(unpack_runs(text), height, width)

    @classmethod
    def of_counts(cls, counts: Any, height: int, width: int) -> "Runs":
        """Run lengths as numbers.

        Raises:
            ValueError: no whole numbers from 0 on, or a sum that is not `height * width`.
        """
        if not isinstance(counts, list) or not all(
            isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts
        ):
            raise ValueError(f"{counts!r:.60}, no list of whole numbers")
        if sum(counts) != height * width:
            raise ValueError(f"a sum of {sum(counts)} pixels")
        ends = np.cumsum(np.array(counts, np.int64))
        return cls.between(ends[:-1:2], ends[1::2], height, width)

    @classmethod
    def between(cls, starts: Ints, ends: Ints, height: int, width: int) -> "Runs":
        """The pixels from each of `starts` up to the end beside it, counted column by column; ascending and apart."""
        from pycocotools import mask as coco

        kept = ends > starts
        starts, ends = starts[kept], ends[kept]
        joined = starts[1:] == ends[:-1]
        starts, ends = starts[np.r_[True, ~joined][: len(starts)]], ends[np.r_[~joined, True][: len(ends)]]
        edges = np.empty(2 * len(starts) + 2, np.int64)
        edges[0], edges[1:-1:2], edges[2:-1:2], edges[-1] = 0, starts, ends, height * width
        counts = np.diff(edges).tolist()
        counts = counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts
        code: Any = {"size": [height, width], "counts": counts}
        return cls.of_code(coco.frPyObjects(code, height, width))

    @classmethod
    def of_code(cls, code: Any) -> "Runs":
        """What pycocotools gives, {size, counts}."""
        counts, (height, width) = code["counts"], code["size"]
        return cls(counts if isinstance(counts, str) else counts.decode(), int(height), int(width))

    @property
    def code(self) -> dict[str, Any]:
        """{size, counts} as pycocotools takes it."""
        return {"size": [self.height, self.width], "counts": self.text.encode()}

    @property
    def spans(self) -> tuple[Ints, Ints]:
        """Where each run of the object begins and ends, counted column by column."""
        ends = np.cumsum(np.array(unpack_runs(self.text), np.int64))
        return ends[:-1:2], ends[1::2]

    @property
    def area(self) -> int:
        """Pixels of the object."""
        starts, ends = self.spans
        return int((ends - starts).sum())

    @property
    def box(self) -> Box:
        """(x0, y0, x1, y1) around the object's pixels; it has at least one."""
        starts, ends = self.spans
        first, last = starts // self.height, (ends - 1) // self.height
        left, right = int(first.min()), int(last.max()) + 1
        if (first != last).any():  # a run that goes on in the next column
            return float(left), 0.0, float(right), float(self.height)
        top, bottom = int((starts % self.height).min()), int(((ends - 1) % self.height).max()) + 1
        return float(left), float(top), float(right), float(bottom)

    def draw(self) -> Bool:
        """The mask, bool (height, width)."""
        canvas = np.zeros(self.height * self.width, dtype=bool)
        self.paint(canvas, True)
        return canvas.reshape((self.width, self.height)).T

    def paint(self, canvas: NDArray[Any], value: int) -> None:
        """Set the object's pixels in a canvas whose columns lie one behind the other, (width * height)."""
        for start, end in zip(*(side.tolist() for side in self.spans), strict=True):
            canvas[start:end] = value


def columns(image: NDArray[Any]) -> NDArray[Any]:
    """A copy of an image (H, W), its columns one behind the other: what `Runs.paint` paints on."""
    return image.T.reshape(-1).copy()


def rows(canvas: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """An image (height, width) of its columns."""
    return np.ascontiguousarray(canvas.reshape((width, height)).T)


def runs_by_value(values: NDArray[Any]) -> dict[int, Runs]:
    """The pixels of each value of an image (H, W), by value, ascending; in one pass, however many values there are."""
    height, width = values.shape
    flat = values.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate((np.zeros(min(1, flat.size), np.int64), edges))
    ends = np.concatenate((edges, np.full(min(1, flat.size), flat.size)))
    kinds = flat[starts]
    order = np.argsort(kinds, kind="stable")
    found, first = np.unique(kinds[order], return_index=True)
    parts = np.split(order, first[1:]) if len(found) else []
    return {
        int(value): Runs.between(starts[part], ends[part], height, width)
        for value, part in zip(found, parts, strict=True)
    }


def pack_mask(mask: Bool) -> str:
    """COCO's compressed run lengths of a mask, bool (H, W)."""
    from pycocotools import mask as coco

    counts = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts if isinstance(counts, str) else counts.decode()


def unpack_mask(text: str, height: int, width: int) -> Bool:
    """The mask, bool (height, width), that `pack_mask` made a string of.

    Raises:
        ValueError: no such string, or one of another size.
    """
    return Runs.read(text, height, width).draw()


def unpack_runs(text: str) -> list[int]:
    """Run lengths of COCO's compressed string.

    Each number is little-endian in groups of 5 bits, one character (48 + group + 32 if more follow) a group, sign in
    the last one; from the fourth on, numbers are differences to the run two before (pycocotools, rleFrString).

    Raises:
        ValueError: a character that the code does not have, or a string that is cut off.
    """
    groups = np.frombuffer(text.encode("latin-1", "replace"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(groups & 32 == 0)
    if not groups.size:
        return []
    starts = np.concatenate(([0], last[:-1] + 1)) if last.size else np.zeros(0, np.int64)
    if not last.size or groups.min() < 0 or groups.max() > 63 or (last - starts).max() > 11:
        raise ValueError(f"{text!r:.60}, no compressed run lengths")
    if last[-1] != len(groups) - 1:
        raise ValueError(f"{text!r:.60}, cut off")
    places = np.arange(len(groups)) - np.repeat(starts, last - starts + 1)
    numbers = np.add.reduceat((groups & 31) << (5 * places), starts)
    numbers -= np.where(groups[last] & 16, np.int64(1) << (5 * (last - starts + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    found: list[int] = numbers.tolist()
    return found
