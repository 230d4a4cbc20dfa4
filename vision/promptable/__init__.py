"""Families of promptable models: one file each, found by the `model_type` in a folder's config.json."""

from pathlib import Path

from maskmill.vision.pretrained import Precision, check_family, class_in
from maskmill.vision.promptable.base import Call, Family

FAMILIES = {
    "sam": "sam:Sam",
    "sam_hq": "sam_hq:SamHq",
    "sam2": "sam2:Sam2",
    "sam2_video": "sam2:Sam2",  # the folders of SAM 2 name the video model, whose image part this is
    "edgetam": "edgetam:EdgeTam",
    "edgetam_video": "edgetam:EdgeTam",
    "sam3_tracker": "sam3_tracker:Sam3Tracker",
    "sam3_tracker_video": "sam3_tracker:Sam3Tracker",
    "sam3_video": "sam3_tracker:Sam3Tracker",  # what the folder of SAM 3 names
}


def family_class(folder: Path) -> type[Family]:
    """The family of a folder.

    Raises:
        ModelError: a model that takes no boxes and points; lists those that do.
    """
    found: type[Family] = class_in(__name__, FAMILIES[check_family(folder, FAMILIES, "masks from boxes and points")])
    return found


def load_family(folder: Path, device: object, precision: Precision) -> Family:
    """The model of a folder, ready to be prompted."""
    return family_class(folder).load(folder, device, precision)


__all__ = ["FAMILIES", "Call", "Family", "family_class", "load_family"]
