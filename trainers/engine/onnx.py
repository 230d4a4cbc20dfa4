"""A trained segmenter as one ONNX file, for onnxruntime and what reads it: no Python of ours is needed to run it."""

import importlib.util
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.trainers.engine.device import evaluating
from maskmill.trainers.engine.predict import SegmentationPredictor

NEEDED = ("onnx", "onnxscript")
OPSET = 18


class WholeSegmenter(nn.Module):
    """From photos float32 (B, 3, H, W), RGB in 0..255, to logits (B, C, H, W): normalisation, padding to what the
    network takes, and the way back are inside.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, predictor: SegmentationPredictor) -> None:
        super().__init__()
        self.model, self.multiple = predictor.model, predictor.config.multiple
        for name, values in (("mean", predictor.mean), ("std", predictor.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1) * 255)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        x = (image - self.mean) / self.std
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        logits: Tensor = self.model(x).float()
        logits = F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]


def export_onnx(predictor: Any, path: str, size: tuple[int, int]) -> int:
    """Write a segmenter for photos of `size` (H, W) in batches of any size. Returns the file's bytes.

    The input is `image`, the output `logits`, whose largest channel is the class id; the metadata `class_names` names
    the ids, as JSON. Test-time scales, mirrors, windows and CRFs are not in it, nor is a resizing of the photo: `fit`
    in the metadata says how the artifact does that, and photos come to the file resized.

    Raises:
        ImportError: onnx is not installed. TypeError: an artifact that is no plain segmenter.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ImportError(f"export --onnx: {', '.join(missing)} not installed; pip install 'maskmill[onnx]'")
    if not isinstance(predictor, SegmentationPredictor):
        found = type(predictor).__name__
        raise TypeError(f"export --onnx: expected an artifact that maps photos to classes, found {found}")
    whole = WholeSegmenter(predictor).to("cpu").to(memory_format=torch.contiguous_format)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with evaluating(whole), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            program: Any = torch.onnx.export(
                whole,
                (torch.zeros(2, 3, *size),),
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        finally:
            logging.disable(level)
    program.model.metadata_props.update(_about(predictor))
    program.save(path)
    return Path(path).stat().st_size


def _about(predictor: SegmentationPredictor) -> dict[str, str]:
    """A channel is a class id of the label space."""
    space = predictor.space
    names = {i: space.by_id[i].name if i in space.by_id else "background" for i in sorted(space.allowed_ids)}
    config = predictor.config
    return {"label_space": space.name, "class_names": json.dumps(names), "fit": f"{config.fit} {config.size}"}
