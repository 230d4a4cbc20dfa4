"""Families of text-to-image models. A folder's `model_index.json` decides which it is, not its name.

A new family is one module here with a class `FAMILY`, one line in the table below, and one conformance class in
tests/generators/test_families.py.
"""

import importlib
from pathlib import Path

from maskmill.data_contracts.texts import parse_json
from maskmill.generators.families.base import Control, Family

FAMILIES = {  # class in model_index.json: module of this package
    "StableDiffusionPipeline": "stable_diffusion",
    "StableDiffusionXLPipeline": "stable_diffusion_xl",
    "StableDiffusion3Pipeline": "stable_diffusion_3",
    "FluxPipeline": "flux",
    "PixArtSigmaPipeline": "pixart_sigma",
    "SanaPipeline": "sana",
    "QwenImagePipeline": "qwen_image",
}


class UnknownFamilyError(ValueError):
    """A model folder of a family that nothing here draws with."""


def family_of(folder: Path) -> type[Family]:
    """The family of a model folder.

    Raises:
        UnknownFamilyError: names the class that the folder asks for, and those that are known.
    """
    known = ", ".join(FAMILIES)
    try:
        named = str(parse_json((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        expected = f"expected a diffusers folder whose model_index.json names one of {known}"
        raise UnknownFamilyError(f"model {folder}: {expected}; found none ({error})") from error
    if named not in FAMILIES:
        fix = "take a model of one of these; docs/generate.md says what a new family needs"
        raise UnknownFamilyError(f"model {folder}: expected one of {known} in model_index.json, found {named}; {fix}")
    return _family(FAMILIES[named])


def control_of(family: type[Family]) -> Control:
    """How the ControlNets of a family are used.

    Raises:
        UnknownFamilyError: none are used.
    """
    if family.control is None:
        known = [name for name, module in FAMILIES.items() if _family(module).control is not None]
        raise UnknownFamilyError(f"no ControlNets for {family.name}; take a model of one of {', '.join(known)}")
    return family.control


def _family(module: str) -> type[Family]:
    family: type[Family] = importlib.import_module(f"{__name__}.{module}").FAMILY
    return family


def check_controlnet(folder: Path, family: type[Family]) -> Path:
    """The folder of a ControlNet, if it is one of this family's.

    Raises:
        UnknownFamilyError: its config.json names another class.
    """
    control = control_of(family)
    try:
        named = parse_json((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        expected = f"expected a ControlNet's folder with a config.json that names {control.model}"
        raise UnknownFamilyError(f"controlnet {folder}: {expected}; found none ({error})") from error
    if named != control.model:
        expected = f"expected {control.model}, which {family.name} takes"
        raise UnknownFamilyError(
            f"controlnet {folder}: {expected}, found {named}; take one that was made for the model"
        )
    return folder
