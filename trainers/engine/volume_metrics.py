"""Dice, Jaccard, 95 % Hausdorff distance and average surface distance of whole volumes, class by class.

Two conventions of the distances, never to be mixed in one column:

- `monai` (MONAI 1.6, which a test compares; its import takes longer than a small evaluation): 95HD is the larger of the
  two directed 95th percentiles, ASD the mean over both surfaces; in millimetres.
- `medpy` (MedPy 0.5, published tables): 95HD is the 95th percentile of both directed sets pooled, ASD runs from the
  prediction's surface to the reference's alone; in voxels unless a spacing is given.

A class that one of the two lacks has no distance; it is counted as missed or invented, never scored as perfect. With
`empty: zero`, as in the published tables of SSL4MIS, BCP and ABD, a class that is not predicted scores 0 in all
measures, in its distances, too, where 0 is best.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array

Bool = NDArray[np.bool_]
Convention = Literal["monai", "medpy"]
Empty = Literal["left_out", "zero"]


@dataclass(frozen=True)
class Overlap:
    """Measures of one class of one volume. Distances are None where either mask is empty."""

    dice: float
    jaccard: float
    hd95: float | None
    asd: float | None
    missed: bool  # in the reference, not in the prediction
    invented: bool  # in the prediction, not in the reference


def compare(
    predicted: Bool,
    target: Bool,
    spacing: Sequence[float] | None = None,
    convention: Convention = "monai",
    empty: Empty = "left_out",
) -> Overlap | None:
    """Measures of two masks of the same shape; None where both are empty. `spacing` in mm by axis, None = voxels.
    With `empty: zero` a prediction of nothing scores 0 throughout, whatever the target.

    Raises:
        ValueError: shapes differ.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"expected a prediction of {target.shape}, found {predicted.shape}; resize it to the target")
    sizes = int(predicted.sum()), int(target.sum())
    if sizes[0] == 0 and empty == "zero":
        return Overlap(0.0, 0.0, 0.0, 0.0, missed=sizes[1] > 0, invented=False)
    if not any(sizes):
        return None
    both = int((predicted & target).sum())
    hd95 = asd = None
    if all(sizes):
        hd95, asd = surface_measures(predicted, target, spacing, convention)
    return Overlap(
        dice=2 * both / sum(sizes),
        jaccard=both / (sum(sizes) - both),
        hd95=hd95,
        asd=asd,
        missed=sizes[0] == 0,
        invented=sizes[1] == 0,
    )


def surface_measures(
    predicted: Bool, target: Bool, spacing: Sequence[float] | None, convention: Convention
) -> tuple[float, float]:
    """(95HD, ASD) of two masks that are not empty."""
    there, back = surface_distances(predicted, target, spacing)
    pooled = np.concatenate([there, back])
    if convention == "medpy":
        return float(np.percentile(pooled, 95)), float(there.mean())
    return float(max(np.percentile(there, 95), np.percentile(back, 95))), float(pooled.mean())


def surface_distances(
    predicted: Bool, target: Bool, spacing: Sequence[float] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of each border voxel of the prediction to the target's border, and the other way round.

    A border voxel has a neighbour along an axis that is outside the mask; beyond the volume everything is outside.
    Only the box around both masks is looked at, which changes no distance.
    """
    from scipy.ndimage import distance_transform_edt

    box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(predicted | target))
    borders = border(predicted[box]), border(target[box])
    there, back = (distance_transform_edt(~b, sampling=spacing) for b in reversed(borders))
    return there[borders[0]], back[borders[1]]


def border(mask: Bool) -> Bool:
    """Voxels of the mask with a neighbour along an axis that is not of the mask."""
    from scipy.ndimage import binary_erosion, generate_binary_structure

    inner: Bool = binary_erosion(mask, generate_binary_structure(mask.ndim, 1))
    return mask & ~inner


class VolumeMetrics:
    """Collects volumes; `compute` when done. Means run over volumes, then over classes, as published tables do. `dice`
    holds each volume's own, the mean over its classes (NaN for one that shows none), for comparisons volume by volume.
    """

    def __init__(self, space: LabelSpace, convention: Convention = "monai", empty: Empty = "left_out") -> None:
        self.space, self.convention, self.empty = space, convention, empty
        self.volumes = 0
        self._in_mm = True
        self.dice: list[float] = []
        self._found: dict[int, list[Overlap]] = {class_id: [] for class_id in space.ids}

    def update(self, predicted: Uint8Array, target: Uint8Array, spacing: Sequence[float] | None = None) -> None:
        """Add one volume: both uint8 (D, H, W) of class ids; target voxels of 255 count as background in both.

        Raises:
            ValueError: shapes differ.
        """
        if predicted.shape != target.shape:
            raise ValueError(
                f"expected a prediction of {target.shape}, found {predicted.shape}; resize it to the target"
            )
        judged = target != IGNORE
        self.volumes += 1
        self._in_mm &= spacing is not None
        own: list[float] = []
        for class_id, rows in self._found.items():
            one = compare((predicted == class_id) & judged, target == class_id, spacing, self.convention, self.empty)
            if one is not None:
                rows.append(one)
                own.append(one.dice)
        self.dice.append(sum(own) / len(own) if own else math.nan)

    def compute(self) -> dict[str, Any]:
        """dice, jaccard, 95HD and ASD (`hd95_mm`, `asd_mm`; `_voxels` where a volume had no spacing), `missed` and
        `invented` (shares of volumes), `classes` with the same by class name, `volumes`. None where nothing was found.
        """
        unit = "mm" if self._in_mm else "voxels"
        classes = {
            self.space.by_id[class_id].name: _summary(rows, unit) for class_id, rows in self._found.items() if rows
        }
        names = ("dice", "jaccard", f"hd95_{unit}", f"asd_{unit}", "missed", "invented")
        means = {name: _mean([one[name] for one in classes.values()]) for name in names}
        return {**means, "classes": classes, "volumes": self.volumes}


def _summary(rows: Sequence[Overlap], unit: str) -> dict[str, float | None]:
    return {
        "dice": _mean([row.dice for row in rows]),
        "jaccard": _mean([row.jaccard for row in rows]),
        f"hd95_{unit}": _mean([row.hd95 for row in rows]),
        f"asd_{unit}": _mean([row.asd for row in rows]),
        "missed": _mean([float(row.missed) for row in rows]),
        "invented": _mean([float(row.invented) for row in rows]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else None
