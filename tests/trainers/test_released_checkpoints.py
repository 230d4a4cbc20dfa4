"""`dcfm.pth` and `model-36.pt` as artifacts: all names of the releases, and files that do not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from maskmill.data_contracts import load_label_space
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.stages.import_checkpoint import import_checkpoint
from maskmill.trainers.dcfm import Config as DcfmConfig
from maskmill.trainers.dcfm import released as dcfm
from maskmill.trainers.dcfm.model import Dcfm
from maskmill.trainers.registry import load_artifact
from maskmill.trainers.scwssod import Config as ScwssodConfig
from maskmill.trainers.scwssod import released as scwssod
from maskmill.trainers.scwssod.config import DUTS
from maskmill.trainers.scwssod.train import build
from maskmill.vision.segmenters import IMAGENET
from maskmill.vision.weights import WeightsError
from tests.golden import fill_large, golden
from tests.trainers import shapes

torch.set_num_threads(1)

FOREGROUND = load_label_space("foreground")
NARROW: dict[str, dict[str, Any]] = {
    "dcfm": {"preset": "faithful", "width": 4, "augment": {"size": 32}},
    "scwssod": {"preset": "repository", "width": 8, "augment": {"size": 64}},
}


def written(method: str, path: Path, own: dict[str, Tensor], own_name: Callable[[str], str]) -> Path:
    """A checkpoint with every name of the release: our weights, and small ones for what we have no place for."""
    keys = golden(method, "network")["keys"].tolist()
    state = {key: own.get(own_name(key), torch.zeros(2)) for key in keys}
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("released")
    group = Dcfm(DcfmConfig.model_validate({**NARROW["dcfm"], "encoder_weights": "random"}))
    saliency = build(ScwssodConfig.model_validate(NARROW["scwssod"]), "random")
    return {
        "dcfm": written("dcfm", folder / "dcfm.pth", fill_large(group.state_dict()), dcfm.own_name),
        "scwssod": written("scwssod", folder / "model-36.pt", fill_large(saliency.state_dict()), scwssod.own_name),
    }


@pytest.mark.parametrize("method", ["dcfm", "scwssod"])
def test_a_released_checkpoint_becomes_an_artifact(method: str, files: dict[str, Path], tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(FOREGROUND.model_dump_json())
    out = str(tmp_path / "artifact")
    flags = [f"{key}={value}" for key, value in NARROW[method].items() if key != "augment"]
    flags.append(f"augment.size={NARROW[method]['augment']['size']}")
    args = ["import-checkpoint", method, str(files[method]), "--out", out, "--label-space", str(space)]
    done = CliRunner().invoke(app, [*args, *(part for flag in flags for part in ("--set", flag))])
    assert done.exit_code == 0, done.output
    predictor = load_artifact(out, "cpu")
    assert (predictor.mean, predictor.std) == (DUTS if method == "scwssod" else IMAGENET)
    image = shapes.draw_scene(0, 40, 56)[0]
    if method == "dcfm":
        assert predictor.resize == "maps"
        found = predictor.predict_group([image, shapes.draw_scene(1)[0]])[0]
        assert found.logits.shape == (40, 56)
        assert np.isfinite(found.logits).all()
    else:
        (one,) = predictor.predict([image])
        assert one.logits.shape == (2, 40, 56)
        assert predictor.config.fit == "squash"
        assert predictor.config.multiple == 1


@pytest.mark.parametrize("method", ["dcfm", "scwssod"])
def test_files_that_do_not_fit_are_counted(method: str, files: dict[str, Path], tmp_path: Path) -> None:
    state = torch.load(files[method], weights_only=True)
    gone = next(key for key in state if key.endswith(("toplayer.0.bias", "linear2.bias")))
    del state[gone]
    state["another.weight"] = torch.zeros(3)
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"1 missing \(.*1 left over \(another.weight"):
        import_checkpoint(method, str(path), str(tmp_path / "out"), FOREGROUND, NARROW[method])


def test_the_starter_s_network_does_not_take_them(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"weights fit; .* missing"):
        import_checkpoint("scwssod", str(files["scwssod"]), str(tmp_path), FOREGROUND, {"width": 8})
    with pytest.raises(ValueError, match="one foreground"):
        import_checkpoint("scwssod", str(files["scwssod"]), str(tmp_path), shapes.SPACE, NARROW["scwssod"])
