"""At test time: several sets, scales, a dense CRF, VOC's server layout, and epochs in place of steps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from maskmill.pipelines.cli.main import app
from maskmill.pipelines.stages.evaluate import EvaluateConfig, _fingerprint
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import Samples, TrainerConfig, read_info
from tests.trainers import shapes

SETTINGS: dict[str, Any] = {
    "epochs": 1.5,
    "batch": 2,
    "augment": {"size": 32},
    "segmenter": {"architecture": "fpn", "weights": "random"},
    "runtime": {"progress": False, "threads": 1, "device": "cpu"},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(shapes.write_scenes(tmp_path_factory.mktemp("scenes"), 3))


@pytest.fixture(scope="module")
def artifact(scenes: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("trained")
    data: Any = {"samples": scenes}
    config = TrainConfig(trainer="supervised", label_space=shapes.SPACE, data=data, settings=SETTINGS)
    return train(config, str(out / "run"), str(out / "artifact"))


def invoke(*args: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*args, "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_epochs_become_steps(artifact: str) -> None:
    assert read_info(artifact).config["steps"] == 3  # 1.5 x 3 samples in batches of 2, rounded up
    assert TrainerConfig(epochs=2, batch=4).with_steps(10).steps == 5
    assert TrainerConfig(steps=7).with_steps(10).steps == 7
    with pytest.raises(ValueError, match="found 9; 1 epochs over 10 samples in batches of 8 are 2 steps"):
        TrainerConfig(epochs=1, warmup_steps=9).with_steps(10)
    assert TrainerConfig(epochs=1).fingerprint != TrainerConfig().fingerprint
    assert "epochs" not in json.dumps(TrainerConfig().model_dump(mode="json", context={"for_hash": True}))


def test_several_sets_and_a_crf_in_one_go(artifact: str, scenes: str, tmp_path: Path) -> None:
    flags = ["--set", "predict.fit=short", "--set", "predict.size=32", "--set", "predict.scales=[1.0,0.75]"]
    sets = ["--samples", f"val={scenes}", "--samples", f"test={scenes}"]
    found = invoke("evaluate", artifact, *sets, "--out", str(tmp_path), *flags, "--set", "crf.backend=mean_field")[
        "metrics"
    ]
    assert set(found) == {"val", "test"}
    assert found["val"]["miou"] == found["test"]["miou"]
    assert 0 <= found["val"]["miou_crf"] <= 1
    assert (tmp_path / "val" / "metrics.json").is_file()
    alone = invoke("evaluate", artifact, "--samples", scenes, "--out", str(tmp_path / "alone"))["metrics"]
    assert "miou" in alone
    assert "miou_crf" not in alone


def test_evaluations_without_crf_keep_their_fingerprint(artifact: str, scenes: str, tmp_path: Path) -> None:
    data: Any = {"samples": scenes}
    plain = EvaluateConfig(artifact=artifact, data=data)
    with_crf = EvaluateConfig.model_validate({"artifact": artifact, "data": data, "crf": {}})
    samples = Samples.open(plain.data, str(tmp_path))
    info = read_info(artifact)
    assert _fingerprint(plain, info, samples) != _fingerprint(with_crf, info, samples)


def test_masks_in_the_layout_of_vocs_server(artifact: str, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(shapes.draw_scene(0, 40, 56)[0]).save(photos / "2008_000006.jpg")
    out = tmp_path / "out"
    flags = ["--set", "layout=voc_server", "--set", "crf.iterations=2", "--set", "predict.flip=true"]
    invoke("predict", artifact, "--images", str(photos), "--out", str(out), *flags, "--device", "cpu")
    mask = Image.open(out / "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png")
    assert mask.mode == "P"
    assert np.asarray(mask).shape == (40, 56)
