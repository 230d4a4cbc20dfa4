"""Templates, and the two ways to find a target among candidates: by overlap and by appearance.

Source: "Fast Template Matching and Update for Video Object Tracking and Segmentation", CVPR 2020.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import Uint8Array
from maskmill.vision.instances import Detections
from maskmill.vision.video import Boxes, MaskCrop, box_iou, mask_iou

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Template:
    """What a target looked like when it was last updated. Before the first prediction only its box is known."""

    frame: int
    image: Uint8Array  # that whole frame
    box: Boxes
    mask: MaskCrop | None = None
    descriptor: Float32 | None = None
    score: float = 0.0


@dataclass(frozen=True, eq=False)
class Match:
    """The candidate that a target is matched with, and how well."""

    box: Boxes
    mask: MaskCrop
    descriptor: Float32
    score: float  # of the segmenter
    overlap: float  # S_iou with the template
    margin: float  # by how much S_iou is above the next best candidate's
    rivals: int  # candidates above half of it
    similarity: float | None = None  # of the Siamese network, where appearance decided

    def template(self, frame: int, image: Uint8Array) -> Template:
        """This prediction as the new template."""
        return Template(frame, image, self.box, self.mask, self.descriptor, self.score)


def overlap_scores(template: Template, found: Detections, box_share: float, shift: tuple[int, int] = (0, 0)) -> Float32:
    """S_iou = a IoU(boxes) + (1 - a) IoU(masks) of every candidate, float32 (n,); a = 1 while there is no mask.

    `shift` (dx, dy) moves the template first.
    """
    if not 0 <= box_share <= 1:
        raise ValueError(f"box_share: expected 0 to 1, as the two weights add up to 1; found {box_share}")
    moved = template.box + np.array([*shift, *shift], np.float32)
    boxes = box_iou(moved, found.boxes)
    if template.mask is None:
        return boxes
    mask = template.mask.moved(*shift)
    masks = np.array([mask_iou(mask, other) for other in found.masks], np.float32)
    scores: Float32 = (box_share * boxes + (1 - box_share) * masks).astype(np.float32)
    return scores


def likeness_scores(template: Template, found: Detections, overlaps: Float32) -> Float32:
    """Score x cosine of descriptors (0 at least) x (1 + S_iou) of every candidate, float32 (n,).

    Looks and quality decide; place breaks ties and does not rule out what has moved. Without descriptors they count 1.
    """
    scores = found.scores * (1 + overlaps)
    if template.descriptor is not None and found.descriptors.shape[1]:
        scores = scores * np.clip(found.descriptors @ template.descriptor, 0, None)
    return scores.astype(np.float32)


def alignment(template: Template, last: Boxes) -> tuple[int, int]:
    """Whole pixels (dx, dy) that bring the template's centre to that of the last box."""
    away = (last[:2] + last[2:]) / 2 - (template.box[:2] + template.box[2:]) / 2
    return round(float(away[0])), round(float(away[1]))


def assign(scores: Float32, gate: float, hungarian: bool) -> list[int | None]:
    """One candidate a target from scores (targets, candidates); None where the best is not above `gate`.

    Independent targets may take the same candidate; `hungarian` gives each candidate to one target at most, with the
    largest sum of scores.
    """
    targets, candidates = scores.shape
    if not candidates:
        return [None] * targets
    if hungarian and targets > 1:
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(-scores)
        picked = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    else:
        picked = dict(enumerate(scores.argmax(1).tolist()))
    return [p if (p := picked.get(t)) is not None and scores[t, p] > gate else None for t in range(targets)]


def make_match(found: Detections, scores: Float32, position: int, similarity: float | None = None) -> Match:
    """The candidate at `position` with what the agent may want to know of the choice."""
    others = np.delete(scores, position)
    best = float(scores[position])
    return Match(
        box=found.boxes[position],
        mask=found.masks[position],
        descriptor=found.descriptors[position],
        score=float(found.scores[position]),
        overlap=best,
        margin=best - float(others.max(initial=0.0)),
        rivals=int((others > best / 2).sum()),
        similarity=similarity,
    )
