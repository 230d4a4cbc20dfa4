"""COCO's average precision of scored objects, by pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import Instance, LabelSpace

Kind = Literal["segm", "bbox"]
KINDS: tuple[Kind, Kind] = ("segm", "bbox")
COCO_LEVELS = tuple(round(0.5 + 0.05 * n, 2) for n in range(10))
LEVELS = (0.25, *COCO_LEVELS)  # VOC's tables have 0.25 as well
NAMED = (0.25, 0.5, 0.7, 0.75)
MOST = 100  # objects of a photo that are judged, as COCO has it


def average_precision(
    truths: Sequence[Sequence[Instance]],
    found: Sequence[Sequence[Instance]],
    sizes: Sequence[tuple[int, int]],
    space: LabelSpace,
) -> dict[str, Any]:
    """AP of masks and boxes in [0, 1]: `ap` is the mean over IoU 0.5 to 0.95 as COCO has it, `ap25` to `ap75` that at
    one IoU, `ap_box` and `ap50_box` by boxes, `ap_class` by class name. Classes without a true object are left out;
    None where no class has one. Crowds count as COCO counts them. An object without a score has 1.

    `sizes` are the photos' (H, W). Objects without pixels are judged as boxes alone.

    Raises:
        ValueError: as many photos as truths were expected.
    """
    if not len(truths) == len(found) == len(sizes):
        counts = f"{len(truths)} of truth, {len(found)} of what was found, {len(sizes)} sizes"
        raise ValueError(f"expected one list a photo, found {counts}")
    masks, boxes = (_precision(truths, found, sizes, space, kind) for kind in KINDS)
    by_class = {c.name: _mean(masks[1:, :, n]) for n, c in enumerate(space.classes)}
    return {
        "ap": _mean(masks[1:]),
        **{f"ap{round(100 * level)}": _mean(masks[LEVELS.index(level)]) for level in NAMED},
        "ap_box": _mean(boxes[1:]),
        "ap50_box": _mean(boxes[LEVELS.index(0.5)]),
        "ap_class": {name: value for name, value in by_class.items() if value is not None},
    }


def _mean(precision: NDArray[np.float64]) -> float | None:
    """Mean of what is there: pycocotools writes -1 where a class has no true object."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _precision(
    truths: Sequence[Sequence[Instance]],
    found: Sequence[Sequence[Instance]],
    sizes: Sequence[tuple[int, int]],
    space: LabelSpace,
    kind: Kind,
) -> NDArray[np.float64]:
    """pycocotools' precision (levels, recalls, classes)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        judge = COCOeval(_coco(COCO, truths, sizes, space, kind), _coco(COCO, found, sizes, space, kind), kind)
        judge.params.iouThrs, judge.params.maxDets = np.array(LEVELS), [MOST]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    precision: NDArray[np.float64] = judge.eval["precision"][..., 0, 0]
    return precision


def _coco(
    maker: Any, lists: Sequence[Sequence[Instance]], sizes: Sequence[tuple[int, int]], space: LabelSpace, kind: Kind
) -> Any:
    """Objects as pycocotools holds them; ids count from 1, as it takes 0 for "none"."""
    notes: list[dict[str, Any]] = []
    for image, (objects, (height, width)) in enumerate(zip(lists, sizes, strict=True), start=1):
        for one in objects:
            if one.class_id not in space.by_id or (kind == "segm" and one.runs is None):
                continue
            x0, y0, x1, y1 = one.box
            note: dict[str, Any] = {"id": len(notes) + 1, "image_id": image, "category_id": one.class_id}
            note |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": int(one.crowd), "area": (x1 - x0) * (y1 - y0)}
            note["score"] = 1.0 if one.score is None else one.score
            if one.runs is not None:
                note |= {"segmentation": {"size": [height, width], "counts": one.runs.text}, "area": one.runs.area}
            notes.append(note)
    held = maker()
    held.dataset = {
        "images": [{"id": n, "height": h, "width": w} for n, (h, w) in enumerate(sizes, start=1)],
        "categories": [{"id": c.id, "name": c.name} for c in space.classes],
        "annotations": notes,
    }
    held.createIndex()
    return held
