"""YOLO segmentation: one polygon a connected part, holes bridged to the outline, IoU held above a stated bound."""

from collections.abc import Iterable
from typing import ClassVar, Literal

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from maskmill.data_contracts import IGNORE, LabelSpace, foreground_ids
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.facts import Facts
from maskmill.pipelines.export.objects import seen
from maskmill.pipelines.export.sample import ExportSample, Record, ShardFiles

IntArray = NDArray[np.int32]


class YoloExport(Exporter):
    """YOLO-seg layout: `images/<split>/`, `labels/<split>/*.txt` and `data.yaml`. One line an object where objects
    are told apart, else one a connected part of a class.

    The format has no holes and no ignored pixels. A hole is cut open by a bridge to the outline, there and back on the
    same line; pixels marked ignore (255) become background. Every part's polygon, filled as YOLO trainers fill it,
    overlaps the part by at least `min_iou`. Parts of fewer than `min_pixels` pixels are left out, and counted on the
    dataset card.
    """

    format: Literal["yolo"] = "yolo"
    tolerance: float = Field(
        default=0.0, ge=0, description="pixels that a polygon may stray to save vertices; 0 = exact"
    )
    min_iou: float = Field(
        default=0.95, gt=0, le=1, description="bound on a part's overlap; tolerance is halved until it holds"
    )
    min_pixels: int = Field(default=4, ge=1, description="parts smaller than this are left out")
    version: ClassVar[int] = 2
    loading: ClassVar[str] = (
        "from ultralytics import YOLO  # or any other YOLO-seg trainer\n\n"
        'YOLO("yolo11n-seg.yaml").train(data="<this folder>/data.yaml")'
    )

    def shard(self, samples: Iterable[ExportSample], space: LabelSpace, shard: str) -> ShardFiles:
        files: dict[str, bytes] = {}
        records: list[Record] = []
        for sample in samples:
            lines, small = self._lines(sample, space)
            ignored = int(np.count_nonzero(sample.mask == IGNORE))
            files[f"images/{sample.split}/{sample.image_name}"] = sample.image
            files[f"labels/{sample.split}/{sample.sample_id}.txt"] = "".join(f"{line}\n" for line in lines).encode()
            left_out = {"ignored_pixels": ignored, "small_pixels": small}
            records.append({"sample_id": sample.sample_id, "split": sample.split, **left_out})
        return ShardFiles(files, records)

    def _lines(self, sample: ExportSample, space: LabelSpace) -> tuple[list[str], int]:
        """One line a part of what is seen of an object (of a class, where objects are not told apart)."""
        lines: list[str] = []
        small = 0
        for class_id, region in _regions(sample, space):
            labelled, count = ndimage.label(region, np.ones((3, 3), dtype=np.int8))
            for number, box in enumerate(ndimage.find_objects(labelled, count), start=1):
                part = labelled[box] == number
                if (size := int(np.count_nonzero(part))) < self.min_pixels:
                    small += size
                    continue
                points = polygon(part, self.tolerance, self.min_iou) + np.array([box[1].start, box[0].start])
                lines.append(f"{space.ids.index(class_id)} {_coordinates(points, region.shape)}")
        return lines, small

    def finish(self, records: list[Record], space: LabelSpace, facts: Facts) -> dict[str, bytes]:
        names = {number: space.by_id[class_id].name for number, class_id in enumerate(space.ids)}
        data: dict[str, object] = {split: f"images/{split}" for split in self.splits}
        document = {"path": ".", **data, "names": names}
        return {"data.yaml": yaml.safe_dump(document, sort_keys=False).encode()}

    def notes(self, records: list[Record]) -> list[str]:
        ignored, small = (sum(int(r[key]) for r in records) for key in ("ignored_pixels", "small_pixels"))
        return [
            f"Each polygon, filled, has an IoU of at least {self.min_iou} with its part"
            + (" (it is exact: no vertex was thinned)." if self.tolerance == 0 else "."),
            f"YOLO has no ignored pixels: {ignored:,} of them are background here.",
            f"Parts of fewer than {self.min_pixels} pixels were left out: {small:,} pixels in all.",
        ]


def _regions(sample: ExportSample, space: LabelSpace) -> list[tuple[int, NDArray[np.bool_]]]:
    if sample.instances is not None:
        return [(one.class_id, area) for one, area in seen(sample.instances, sample.mask)]
    return [(class_id, sample.mask == class_id) for class_id in foreground_ids(sample.mask, space)]


def _coordinates(points: IntArray, shape: tuple[int, ...]) -> str:
    # Pixel centres: scaled up again and cut to whole numbers, as trainers do, they name the same pixel.
    scaled = (points + 0.5) / (shape[1], shape[0])
    return " ".join(f"{value:.7f}".rstrip("0") for value in scaled.ravel())


def fill(points: IntArray, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels of a polygon (N, 2) of x, y as YOLO trainers rasterise it: even-odd, outline included."""
    canvas = np.zeros(shape[:2], dtype=np.uint8)
    cv2.fillPoly(canvas, [points.reshape(-1, 1, 2)], (1,))
    return canvas.astype(bool)


def polygon(part: NDArray[np.bool_], tolerance: float = 0.0, min_iou: float = 0.95) -> IntArray:
    """One ring of pixel coordinates x, y, int32 (N >= 3, 2), for one 8-connected part (H, W), holes bridged.

    With `tolerance` > 0 vertices are thinned (Douglas-Peucker) as far as the filled ring keeps an IoU of `min_iou` with
    the part.
    """
    ring = _bridged(part)
    while tolerance > 0.25:
        thin = np.asarray(cv2.approxPolyDP(ring, tolerance, True), dtype=np.int32).reshape(-1, 2)
        if len(thin) >= 3 and iou(fill(thin, part.shape), part) >= min_iou:
            return thin
        tolerance /= 2
    return _corners(ring)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two regions; 1 where both are empty."""
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 1.0


def _bridged(part: NDArray[np.bool_]) -> IntArray:
    """Outline and hole rings as one ring of neighbouring pixels.

    From its leftmost pixel every hole walks left, over foreground only, until it meets a ring that is joined already.
    Holes go in order of their leftmost pixel, so that ring is there: the outline, or a hole further left.
    """
    rings = _rings(part)
    owner = np.full((2, *part.shape), -1, dtype=np.int32)  # ring and position in it, of every pixel of a joined ring
    children: dict[tuple[int, int], list[int]] = {}
    for number, ring in enumerate(rings):
        if number:
            x, y = (int(v) for v in ring[0])
            while owner[0, y, x] < 0:
                x -= 1
            children.setdefault((int(owner[0, y, x]), int(owner[1, y, x])), []).append(number)
        free = owner[0, ring[:, 1], ring[:, 0]] < 0
        owner[0, ring[free, 1], ring[free, 0]] = number
        owner[1, ring[free, 1], ring[free, 0]] = np.flatnonzero(free)
    return _walk(rings, children)


def _rings(part: NDArray[np.bool_]) -> list[IntArray]:
    """Outline first, then the pixels around each hole; each ring starts at its leftmost (then topmost) pixel."""
    contours, hierarchy = cv2.findContours(part.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    keyed: list[tuple[bool, int, int, int, IntArray]] = []
    for contour, (_, _, _, parent) in zip(contours, hierarchy[0], strict=True):
        ring = np.asarray(contour, dtype=np.int32).reshape(-1, 2)
        start = int(np.lexsort((ring[:, 1], ring[:, 0]))[0])
        ring = np.roll(ring, -start, axis=0)
        keyed.append((parent >= 0, int(ring[0, 0]), int(ring[0, 1]), len(keyed), ring))
    return [item[-1] for item in sorted(keyed, key=lambda item: item[:-1])]


def _walk(rings: list[IntArray], children: dict[tuple[int, int], list[int]]) -> IntArray:
    """Go around the outline; where a hole hangs, go over, around it, and back."""
    path: list[tuple[int, int]] = []
    stack = [(0, 0)]
    while stack:
        number, at = stack.pop()
        ring = rings[number]
        path.append((int(ring[at % len(ring), 0]), int(ring[at % len(ring), 1])))
        if at == len(ring):  # back at the hole's first pixel
            continue
        if hanging := children.get((number, at)):
            stack.append((number, at))
            stack.append((hanging.pop(), 0))
        elif at + 1 < len(ring) or number:
            stack.append((number, at + 1))
    return np.asarray(path, dtype=np.int32)


def _corners(ring: IntArray) -> IntArray:
    """The ring without repeated pixels and without those in the middle of a straight line; at least three points."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)] if len(ring) > 1 else ring
    step_in, step_out = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turn = step_in[:, 0] * step_out[:, 1] - step_in[:, 1] * step_out[:, 0]
    kept: IntArray = ring[(turn != 0) | ((step_in * step_out).sum(axis=1) <= 0)]
    while len(kept) < 3:  # a part one pixel wide; readers take fewer than three points for a box
        kept = np.concatenate([kept, kept[-1:]])
    return kept
