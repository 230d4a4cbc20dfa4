"""Where to look next: one crop around the last boxes of all targets, in three sizes by rule.

Source: "Fast Template Matching and Update for Video Object Tracking and Segmentation" (FTMU), CVPR 2020. There the
bottom edge was taken from the width and some videos had sizes of their own; here one rule holds for every clip. With
`snap`, corners and sides of a square lie on a coarse grid, so that the same few crops come up again and again and
detections can be cached; without it the region is the grown box itself, as in the release.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field

from maskmill.data_contracts import WithPresets
from maskmill.vision.video.masks import Boxes, box_iou, union_box

LADDER = 2 ** (1 / 3)  # ratio of neighbouring crop sides
STEPS = 8  # corners lie on a grid of side / STEPS


class Region(NamedTuple):
    """A crop in whole pixels, inside its frame."""

    top: int
    left: int
    height: int
    width: int


class RegionConfig(WithPresets):
    """By how much the boxes grow on each side, as a share of their width and height."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    later: ClassVar[Mapping[str, Any]] = {"snap": True, "first": None}

    snap: bool = Field(
        default=True,
        description="squares on a coarse grid, so that detections can be kept; off = the grown box itself, as released",
    )
    first: float | None = Field(
        default=None, ge=0, description="in the first frame, where boxes are given; none = the rule of all frames"
    )
    small: float = Field(default=0.15, ge=0, description="two targets overlap")
    medium: float = Field(default=0.4, ge=0, description="otherwise")
    large: float = Field(default=1.0, ge=0, description="fast motion, or a target that was missed")
    fast: float = Field(default=0.5, gt=0, description="displacement of one frame, in mean target sides")


@dataclass(frozen=True, eq=False)
class Motion:
    """What is known of one target: its last box, the one before, and for how many frames it was not found."""

    last: Boxes
    before: Boxes
    missed: int = 0


def growth(targets: Sequence[Motion], config: RegionConfig) -> float:
    """The ratio that the rule picks: large when anything moved fast or was missed, small when two overlap."""
    for target in targets:
        centres = (target.last[:2] + target.last[2:]) / 2, (target.before[:2] + target.before[2:]) / 2
        side = float(np.sqrt(max(float((target.last[2:] - target.last[:2]).prod()), 1.0)))
        if target.missed or float(np.hypot(*(centres[0] - centres[1]))) > config.fast * side:
            return config.large
    boxes = np.stack([target.last for target in targets])
    crossing = any((box_iou(box, boxes[i + 1 :]) > 0).any() for i, box in enumerate(boxes))
    return config.small if crossing else config.medium


def search_region(
    targets: Sequence[Motion], frame: tuple[int, int], config: RegionConfig, *, first: bool = False
) -> Region:
    """The crop for the next frame of (height, width) `frame`: inside it, and around every last box in it. `first`: it
    is the frame of the given boxes.
    """
    box = union_box([target.last for target in targets])
    ratio = config.first if first and config.first is not None else growth(targets, config)
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    if not config.snap:
        return grown(box, ratio, frame)
    needed = max(width * (1 + 2 * ratio), height * (1 + 2 * ratio), 16.0)
    side = snapped_side(needed * (1 + 1 / STEPS))
    step = max(1, side // STEPS)
    spans = []
    for low, high, limit in ((box[1], box[3], frame[0]), (box[0], box[2], frame[1])):
        length = min(side, limit)
        start = round(((low + high) / 2 - length / 2) / step) * step
        spans.append((int(np.clip(start, 0, limit - length)), length))
    return Region(spans[0][0], spans[1][0], spans[0][1], spans[1][1])


def grown(box: Boxes, ratio: float, frame: tuple[int, int]) -> Region:
    """A box (x0, y0, x1, y1) larger by `ratio` of its width to the left and right and of its height above and below,
    cut to whole pixels towards 0 and to the frame; at least one pixel.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    width, height = x1 - x0, y1 - y0
    left, top = max(int(x0 - ratio * width), 0), max(int(y0 - ratio * height), 0)
    right, bottom = min(int(x1 + ratio * width), frame[1]), min(int(y1 + ratio * height), frame[0])
    left, top = min(left, frame[1] - 1), min(top, frame[0] - 1)
    return Region(top, left, max(bottom - top, 1), max(right - left, 1))


def snapped_side(needed: float) -> int:
    """The first side of the ladder 32, 40, 51, 64, … that is not below `needed`."""
    rung = max(0, int(np.ceil(np.log(needed / 32) / np.log(LADDER) - 1e-9)))
    return int(np.ceil(32 * LADDER**rung))


def whole_frame(frame: tuple[int, int]) -> Region:
    """The region that is the frame itself."""
    return Region(0, 0, frame[0], frame[1])
