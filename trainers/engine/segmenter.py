"""What trainers of a plain segmenter share: which crops it takes, and its way into an artefact and out again."""

from typing import Any

import torch

from maskmill.trainers.engine.artifact import Artifact
from maskmill.trainers.engine.predict import SegmentationPredictor
from maskmill.vision.segmenters import SegmenterConfig, build_segmenter


def check_crops(model: Any, size: int, who: str) -> None:
    """Raise ValueError where an smp network cannot take crops of `size`; `who` names it in the message."""
    stride = model.encoder.output_stride
    if model.requires_divisible_input_shape and size % stride:
        raise ValueError(
            f"augment.size: expected a multiple of {stride} for {who}, found {size}; take {size + -size % stride}"
        )


def describe_segmenter(config: SegmenterConfig, classes: int) -> dict[str, Any]:
    """What an artefact's config.json says under `model`."""
    return {"segmenter": {**config.model_dump(mode="json"), "weights": "random"}, "classes": classes}


def load_segmenter(artifact: Artifact, device: torch.device) -> SegmentationPredictor:
    """The trained segmenter of an artefact that `describe_segmenter` describes, ready to predict."""
    info = artifact.info
    model = build_segmenter(SegmenterConfig.model_validate(info.model["segmenter"]), info.model["classes"])
    artifact.load(model=model)
    return SegmentationPredictor(model.to(device), info.label_space, info.mean, info.std, info.predict, device)
