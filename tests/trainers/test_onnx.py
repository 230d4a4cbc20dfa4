"""A segmenter as an ONNX file: onnxruntime gives the mask that `predict` gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from maskmill.pipelines.cli.main import app
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.stages.onnx import artifact_to_onnx
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, PredictConfig
from maskmill.trainers.engine.onnx import export_onnx
from maskmill.trainers.registry import load_artifact
from tests.trainers import shapes
from tests.trainers.library_folders import segformer

pytest.importorskip("onnxscript", reason="needs the extra `onnx`: pip install 'maskmill[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`: pip install 'maskmill[onnx]'")
torch.set_num_threads(1)
SMALL = {"architecture": "fpn", "options": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}}


def trained(place: Path, segmenter: dict[str, object]) -> str:
    data = DataConfig(samples=(shapes.write_scenes(place / "samples", 4),))
    settings = {
        "segmenter": segmenter,
        "augment": {"size": 32},
        "steps": 2,
        "batch": 2,
        "runtime": {"threads": 1, "progress": False},
    }
    config = TrainConfig(label_space=shapes.SPACE, data=data, settings=settings)
    return train(config, str(place / "run"), str(place / "artifact"))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained(tmp_path_factory.mktemp("onnx"), {**SMALL, "weights": "random"})


def run(path: Path, images: list[np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pixels = np.stack([image.transpose(2, 0, 1) for image in images]).astype(np.float32)
    (found,) = session.run(["logits"], {"image": pixels})
    return np.asarray(found)


@pytest.mark.parametrize("kind", ["smp", "transformers"])
def test_onnxruntime_gives_the_same_mask(kind: str, artifact: str, tmp_path: Path) -> None:
    if kind == "transformers":
        folder = segformer(tmp_path / "m")
        artifact = trained(tmp_path, {"architecture": "transformers", "encoder": str(folder)})
    path = tmp_path / "model.onnx"
    done = CliRunner().invoke(app, ["export", artifact, "--onnx", str(path), "--size", "48x56"])
    assert done.exit_code == 0, done.output + str(done.exception)
    images = [shapes.draw_scene(number)[0] for number in range(3)]
    found = run(path, images)
    expected = load_artifact(artifact).predict(images, PredictConfig(fit="native"))
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one, other.logits, atol=1e-3)
        close = np.sort(other.logits, axis=0)
        sure = close[-1] - close[-2] > 2e-3
        assert np.array_equal(one.argmax(0)[sure], other.labels[sure])
    about = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"])["1"] == shapes.SPACE.by_id[1].name
    assert about["fit"] == f"{load_artifact(artifact).config.fit} 32"


def test_a_size_is_asked_for_where_photos_have_any(artifact: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --size HxW"):
        artifact_to_onnx(artifact, str(tmp_path / "a.onnx"))
    with pytest.raises(ConfigError, match="such as 480x640; found '48'"):
        artifact_to_onnx(artifact, str(tmp_path / "a.onnx"), "48")


def test_what_is_no_segmenter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected an artifact that maps photos to classes, found object"):
        export_onnx(object(), str(tmp_path / "a.onnx"), (32, 32))
