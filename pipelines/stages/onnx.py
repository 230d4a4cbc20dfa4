"""A trained artifact as an ONNX file."""

from dataclasses import dataclass

from maskmill.pipelines.core.settings import ConfigError
from maskmill.trainers.engine.onnx import export_onnx
from maskmill.trainers.engine.predict import SegmentationPredictor
from maskmill.trainers.registry import load_artifact


@dataclass(frozen=True)
class OnnxFile:
    """What was written."""

    bytes: int
    size: tuple[int, int]


def artifact_to_onnx(artifact: str, path: str, size: str | None = None) -> OnnxFile:
    """Write the segmenter of an artifact folder for photos of `size` ("480x640"); without one, for the square that the
    artifact makes of every photo, where it makes one.

    Raises:
        ConfigError: a size that is none, or none where one is needed. TypeError: an artifact that is no segmenter.
        ImportError: onnx is not installed.
    """
    predictor = load_artifact(artifact, device="cpu")
    wanted = _size(size) if size is not None else _own_size(predictor)
    return OnnxFile(export_onnx(predictor, path, wanted), wanted)


def _own_size(predictor: object) -> tuple[int, int]:
    if isinstance(predictor, SegmentationPredictor):
        if predictor.config.fit == "squash":
            return predictor.config.size, predictor.config.size
        fit = predictor.config.fit
        raise ConfigError(
            f"export --onnx: this artifact takes photos of any size (fit: {fit}), a file those of one; give --size HxW"
        )
    return 0, 0  # refused by name where it is written


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) >= 8 and int(width) >= 8):
        raise ConfigError(f"--size: expected height x width of at least 8 pixels, such as 480x640; found {text!r}")
    return int(height), int(width)
