"""YOLO segmentation: one polygon a connected part, holes bridged to the outline, IoU held above a stated bound."""

from collections.abc import Iterable, Iterator
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
from maskmill.pipelines.export.rings import IntArray, bridged, corners
from maskmill.pipelines.export.sample import ExportSample, Record, ShardFiles, by_split, path_table


class YoloExport(Exporter):
    """YOLO-seg layout: `images/<split>/`, `labels/<split>/*.txt` and `data.yaml`. One line an object where objects
    are told apart, else one a connected part of a class.

    The format has no holes and no ignored pixels. A hole is cut open by a bridge to the outline, there and back on the
    same line; pixels marked ignore (255) become background. Every part's polygon, filled as YOLO trainers fill it,
    overlaps the part by at least `min_iou`. Parts of fewer than `min_pixels` pixels are left out, and counted on the
    dataset card. An image without objects has an empty label file.
    """

    format: Literal["yolo"] = Field(default="yolo", description="name of the export format")
    tolerance: float = Field(
        default=0.0, ge=0, description="pixels that a polygon may stray to save vertices; 0 = exact"
    )
    min_iou: float = Field(
        default=0.95, gt=0, le=1, description="bound on a part's overlap; tolerance is halved until it holds"
    )
    min_pixels: int = Field(default=4, ge=1, description="parts smaller than this are left out")
    version: ClassVar[int] = 3
    values: ClassVar[str] = "Label files number classes from 0 on; what no outline covers is background."
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
            name = f"images/{sample.split}/{sample.image_name}"
            files[name] = sample.image
            files[f"labels/{sample.split}/{sample.sample_id}.txt"] = "".join(f"{line}\n" for line in lines).encode()
            facts = {"file": name, "source_path": sample.source_path, "objects": len(lines)}
            left_out = {"ignored_pixels": ignored, "small_pixels": small}
            records.append({"sample_id": sample.sample_id, "split": sample.split, **facts, **left_out})
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
        places = {name: f"images/{split}" for name, split in self._places(records).items()}
        # No `path`: trainers then look beside this file; they take a relative one from wherever they were started.
        document = {**places, "names": names}
        return {"data.yaml": yaml.safe_dump(document, sort_keys=False).encode(), "samples.csv": path_table(records)}

    def _places(self, records: list[Record]) -> dict[str, str]:
        """The split whose images each key of `data.yaml` names. Trainers want `train` and `val`, and both folders to be
        there: where no sample is in one of them, its key names another.
        """
        filled = [split for split, rows in by_split(records, self.splits).items() if rows]
        train = "train" if "train" in filled else next(iter(filled), "train")
        val = "val" if "val" in filled else train
        return {"train": train, "val": val, **{split: split for split in self.splits if split not in ("train", "val")}}

    def number_of(self, class_id: int, space: LabelSpace) -> int | None:
        return space.ids.index(class_id) if class_id in space.by_id else None

    def notes(self, records: list[Record]) -> list[str]:
        ignored, small = (sum(int(r[key]) for r in records) for key in ("ignored_pixels", "small_pixels"))
        borrowed = [
            f"No sample is in `{key}`: `data.yaml` names the images of `{split}` for it, for trainers want both; "
            "what is measured there tells nothing of other images."
            for key, split in self._places(records).items()
            if key != split
        ]
        empty = sum(not r["objects"] for r in records)
        return [
            *borrowed,
            "`samples.csv` says which photo of the source each image is.",
            f"Images without objects, with an empty label file: {empty:,}.",
            f"Each polygon, filled, has an IoU of at least {self.min_iou} with its part"
            + (" (it is exact: no vertex was thinned)." if self.tolerance == 0 else "."),
            f"YOLO has no ignored pixels: {ignored:,} of them are background here.",
            f"Parts of fewer than {self.min_pixels} pixels were left out: {small:,} pixels in all.",
        ]


def _regions(sample: ExportSample, space: LabelSpace) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    if sample.instances is not None:
        return ((one.class_id, area.draw()) for one, area in seen(sample.instances, sample.mask))
    return ((class_id, sample.mask == class_id) for class_id in foreground_ids(sample.mask, space))


def _coordinates(points: IntArray, shape: tuple[int, ...]) -> str:
    # Scaled up again, a quarter names the same pixel to readers that cut (trainers) and to those that round.
    scaled = (points + 0.25) / (shape[1], shape[0])
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
    ring = bridged(part)
    while tolerance > 0.25:
        thin = np.asarray(cv2.approxPolyDP(ring, tolerance, True), dtype=np.int32).reshape(-1, 2)
        if len(thin) >= 3 and iou(fill(thin, part.shape), part) >= min_iou:
            return thin
        tolerance /= 2
    return corners(ring)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two regions; 1 where both are empty."""
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 1.0
