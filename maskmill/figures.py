"""Pictures of samples as matplotlib figures that open no window, whatever backend is set."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array
from maskmill.pipelines.report.thumbs import class_colour, css_colour, edges

PANEL = 2.0  # inches
ACROSS = 3  # samples in a row
MOST_NAMES = 18  # in the legend
FILL, EDGE = 110, 255  # opacity of a region and of its outline


@dataclass(frozen=True)
class Shown:
    """One sample on a sheet: image uint8 (H, W, 3), mask uint8 (H, W) or None, and the words above the two pictures."""

    image: Uint8Array
    mask: Uint8Array | None
    left: str
    right: str


class Sheet(Figure):
    """A figure that notebooks show also where pyplot was never set up."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def contact_sheet(samples: Sequence[Shown], space: LabelSpace) -> Sheet:
    """Image and overlay of each sample side by side, with a legend of the classes that occur."""
    across = min(ACROSS, len(samples))
    down = math.ceil(len(samples) / across)
    sheet = Sheet(figsize=(2 * PANEL * across, (PANEL + 0.35) * down + 0.4), dpi=100)
    FigureCanvasAgg(sheet)
    sheet.set_layout_engine("constrained", h_pad=0.08)
    axes = sheet.subplots(down, 2 * across, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for sample, left, right in zip(samples, axes[:, 0::2].flat, axes[:, 1::2].flat, strict=False):
        left.imshow(sample.image)
        right.imshow(sample.image)
        if sample.mask is not None:
            right.imshow(overlay(sample.mask, space), interpolation="nearest")
        left.set_title(sample.left, fontsize=8, loc="left")
        right.set_title(sample.right, fontsize=8, loc="left")
    _legend(sheet, [sample.mask for sample in samples if sample.mask is not None], space)
    return sheet


def overlay(mask: Uint8Array, space: LabelSpace) -> Uint8Array:
    """RGBA uint8 (H, W, 4): translucent regions in class colours with solid outlines; background is clear, ignored
    pixels are white.
    """
    colours = np.zeros((256, 4), np.uint8)
    for value in (*space.ids, IGNORE):
        colours[value] = (*class_colour(space, value), FILL // 2 if value == IGNORE else FILL)
    painted: Uint8Array = colours[mask]
    painted[edges(mask) & (painted[..., 3] > 0), 3] = EDGE
    return painted


def _legend(sheet: Figure, masks: Sequence[Uint8Array], space: LabelSpace) -> None:
    present = sorted({int(value) for mask in masks for value in np.unique(mask)} & set(space.ids))[:MOST_NAMES]
    patches = [Patch(color=css_colour(class_colour(space, i)), label=space.by_id[i].name) for i in present]
    if patches:
        sheet.legend(handles=patches, loc="outside lower left", ncols=min(len(patches), 6), fontsize=8, frameon=False)
