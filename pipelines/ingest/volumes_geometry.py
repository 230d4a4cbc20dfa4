"""Where a NIfTI file's voxels lie in the patient, and how a label's axes must be turned to lie on its image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import ContractError, Problem, Reason

APART = 0.25  # voxels by which corners may differ: headers hold float32, tools round
SETTING = "or, if only the header is wrong and the voxels lie in the same order, set source.geometry: stored"


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape (x, y, z) of a file, its affine (voxel to mm) where the header states one, and its voxels' sizes in mm."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64] | None
    zooms: tuple[float, ...]

    @classmethod
    def of(cls, header: Any, shape: tuple[int, int, int], unit: float) -> "Grid":
        """The grid of a nibabel header, whose affine is in `unit` mm; codes of 0 mean that nobody set it."""
        stated = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
        affine = np.diag([unit, unit, unit, 1]) @ header.get_best_affine() if stated else None
        if affine is not None and (not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12):
            affine = None
        return cls(shape, affine, tuple(unit * float(zoom) for zoom in header.get_zooms()[:3]))

    def words(self) -> str:
        """What people want to know of it."""
        size = "x".join(map(str, self.shape))
        if self.affine is None:
            return f"{size} voxels of {' x '.join(f'{zoom:g}' for zoom in self.zooms)} mm and no affine"
        axes = "".join(str(code) for code in orientations().aff2axcodes(self.affine))
        origin = ", ".join(f"{v:.1f}" for v in self.affine[:3, 3])
        return f"{size} voxels with axes {axes} and origin ({origin}) mm"


def turn_onto(image: Grid, label: Grid, where: str) -> list[list[int]] | None:
    """How a label's axes are flipped and permuted to lie on its image (nibabel's orientation transform); None where
    they do already.

    Raises:
        ContractError: the two do not lie on one grid, or one header says nothing of where it lies.
    """
    silent = image.affine is None and label.affine is None
    if silent and image.shape == label.shape and np.allclose(image.zooms, label.zooms, rtol=1e-2):
        return None
    if image.affine is None or label.affine is None:
        fix = f"write the label with its image's affine, {SETTING}"
        raise _apart(image, label, where, fix)
    tools = orientations()
    turn = tools.ornt_transform(tools.io_orientation(label.affine), tools.io_orientation(image.affine))
    turned = label.affine @ tools.inv_ornt_aff(turn, label.shape)
    axes = [int(axis) for axis, _ in turn]
    shape = tuple(label.shape[axes.index(n)] for n in range(3))
    if shape != image.shape or _distance(image, turned) > APART:
        fix = f"resample it, e.g. nibabel.processing.resample_from_to(label, image, order=0), {SETTING}"
        raise _apart(image, label, where, fix)
    whole = [[int(axis), int(flip)] for axis, flip in turn]
    return None if whole == [[0, 1], [1, 1], [2, 1]] else whole


def orientations() -> Any:
    """nibabel's module for axes and their order, which has no types; loaded when first needed."""
    import nibabel.orientations

    return nibabel.orientations


def _distance(image: Grid, other: NDArray[np.float64]) -> float:
    """Largest distance between corners of the image's grid under its own affine and another one, in its voxels."""
    assert image.affine is not None
    ends = [(0, n - 1) for n in image.shape]
    corners = np.array([(x, y, z, 1) for x in ends[0] for y in ends[1] for z in ends[2]], np.float64)
    there = corners @ (np.linalg.inv(image.affine) @ other).T
    return float(np.abs(there - corners).max())


def _apart(image: Grid, label: Grid, where: str, fix: str) -> ContractError:
    expected = f"a label on its image's grid ({image.words()})"
    return ContractError(where, Problem(Reason.SIZE_MISMATCH, expected, label.words(), fix))
