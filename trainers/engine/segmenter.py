"""What trainers of a plain segmenter share: which crops it takes, and its way into an artifact and out again."""

from typing import Any

import torch
from torch import nn

from maskmill.trainers.engine.artifact import Artifact
from maskmill.trainers.engine.optim import ParamGroup, param_groups
from maskmill.trainers.engine.predict import SegmentationPredictor
from maskmill.vision.library_segmenters.base import LibrarySegmenter
from maskmill.vision.segmenters import SegmenterConfig, build_segmenter


def check_crops(model: Any, size: int, who: str) -> None:
    """Raise ValueError where an smp network cannot take crops of `size`; `who` names it in the message."""
    if isinstance(model, LibrarySegmenter) or not model.requires_divisible_input_shape:
        return  # takes any
    stride = model.encoder.output_stride
    if size % stride:
        raise ValueError(
            f"augment.size: expected a multiple of {stride} for {who}, found {size}; take {size + -size % stride}"
        )


def segmenter_groups(model: nn.Module, encoder_lr_factor: float) -> list[ParamGroup]:
    """Parameters that are trained: those of the encoder at a share of the rate, then the rest."""
    encoder: Any = model.encoder
    own = {id(p) for p in encoder.parameters()}
    rest = tuple(p for p in model.parameters() if p.requires_grad and id(p) not in own)
    return [*param_groups(encoder, encoder_lr_factor), ParamGroup(rest, 1.0)]


def describe_segmenter(config: SegmenterConfig, classes: int, model: nn.Module | None = None) -> dict[str, Any]:
    """What an artifact's config.json says under `model`; of the library's own models also their settings, so that the
    artifact needs no folder beside it.
    """
    if isinstance(model, LibrarySegmenter):
        kind = str(model.settings["model_type"])
        config = config.model_copy(update={"encoder": kind, "options": {"config": model.settings}})
    return {"segmenter": {**config.model_dump(mode="json"), "weights": "random"}, "classes": classes}


def load_segmenter(artifact: Artifact, device: torch.device) -> SegmentationPredictor:
    """The trained segmenter of an artifact that `describe_segmenter` describes, ready to predict."""
    info = artifact.info
    model = build_segmenter(SegmenterConfig.model_validate(info.model["segmenter"]), info.model["classes"])
    artifact.load(model=model)
    return SegmentationPredictor(model.to(device), info.label_space, info.mean, info.std, info.predict, device)
