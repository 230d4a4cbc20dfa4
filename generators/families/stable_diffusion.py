"""Stable Diffusion 1.x and 2.x."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskmill.generators.families.base import Control
from maskmill.generators.families.unet import UNetFamily


class StableDiffusion(UNetFamily):
    """One CLIP text encoder; a safety checker is used where the folder has one."""

    name = "stable_diffusion"
    pipeline_class = "StableDiffusionPipeline"
    control = Control("ControlNetModel", "StableDiffusionControlNetPipeline")
    text_encoders = ("text_encoder",)

    @classmethod
    def extra_parts(cls, folder: Path) -> Mapping[str, Any]:
        """No checker where there is none."""
        missing = {"safety_checker": None, "requires_safety_checker": False}
        return {} if (folder / "safety_checker").is_dir() else missing


FAMILY = StableDiffusion
