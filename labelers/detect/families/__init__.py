"""Families of detectors that read class names: one file each, found by the `model_type` in a folder's config.json."""

from pathlib import Path

from maskmill.labelers.detect.families.base import Family, Text
from maskmill.vision.pretrained import Precision, check_family, class_in

FAMILIES = {
    "grounding-dino": "grounding_dino:GroundingDino",
    "mm-grounding-dino": "mm_grounding_dino:MmGroundingDino",
    "owlv2": "owlv2:Owlv2",
    "sam3": "sam3:Sam3",
    "sam3_video": "sam3:Sam3",  # what the folder of SAM 3 names
}


def family_class(folder: Path) -> type[Family]:
    """The family of a folder.

    Raises:
        ModelError: a model that finds no boxes by name; lists those that do.
    """
    found: type[Family] = class_in(__name__, FAMILIES[check_family(folder, FAMILIES, "boxes from class names")])
    return found


def load_family(folder: Path, device: object, precision: Precision) -> Family:
    """The model of a folder, ready to be asked."""
    return family_class(folder).load(folder, device, precision)


__all__ = ["FAMILIES", "Family", "Text", "family_class", "load_family"]
