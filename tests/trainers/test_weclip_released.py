"""The release's checkpoint as an artifact: names, another network's weights, another CLIP."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from maskmill.pipelines.cli.main import app
from maskmill.pipelines.stages.import_checkpoint import import_checkpoint, known_methods
from maskmill.trainers.registry import load_artifact
from maskmill.trainers.weclip import Config
from maskmill.trainers.weclip.model import Weclip
from maskmill.trainers.weclip.released import own_name
from maskmill.vision.weights import WeightsError
from tests.golden import golden
from tests.trainers import shapes

TINY = str(Path(__file__).parents[1] / "data" / "tiny_clip")
SETTINGS = {"preset": "starter", "model": TINY, "test_size": 64}
KEYS = golden("weclip", "train")["keys"].tolist()

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`WeCLIP_model_iter_30000.pth` of a narrow CLIP: the release's names, its CLIP and PAR's kernel beside them."""
    torch.manual_seed(3)
    model = Weclip(Config.model_validate(SETTINGS), shapes.SPACE.size, torch.device("cpu"))
    own = model.decoder.state_dict()
    state = {key: own[own_name(key)] for key in KEYS if own_name(key) in own}
    assert len(state) == len(own)
    clip = {f"encoder.{key}": value.half() for key, value in model.backbone.model.state_dict().items()}
    path = tmp_path_factory.mktemp("released") / "WeCLIP_model_iter_30000.pth"
    torch.save({**clip, **state, "par.kernel": torch.zeros(8, 1, 3, 3)}, path)
    return path


def test_a_released_checkpoint_becomes_an_artifact(checkpoint: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(shapes.SPACE.model_dump_json())
    out = str(tmp_path / "artifact")
    flags = [f"{key}={value}" for key, value in SETTINGS.items()]
    args = ["import-checkpoint", "weclip", str(checkpoint), "--out", out, "--label-space", str(space)]
    done = CliRunner().invoke(app, [*args, *(part for flag in flags for part in ("--set", flag))])
    assert done.exit_code == 0, done.output
    predictor = load_artifact(out, "cpu")
    stored = torch.load(checkpoint, weights_only=True)
    for key in KEYS:
        if key in stored and not key.startswith("par."):
            assert torch.equal(predictor.model.decoder.state_dict()[own_name(key)], stored[key])
    (found,) = predictor.predict([shapes.draw_scene(0, 64, 64)[0]])
    assert found.logits.shape == (shapes.SPACE.size, 64, 64)


def test_weights_that_do_not_fit_are_counted(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    short = {key: value for key, value in state.items() if "linear_fuse" not in key}
    short["decoder.linear_pred.bias"] = torch.zeros(81)
    path = tmp_path / "short.pth"
    torch.save(short, path)
    with pytest.raises(WeightsError, match=r"2 missing \(fuse.weight, fuse.bias\); 1 of another shape \(head.bias"):
        import_checkpoint("weclip", str(path), str(tmp_path), shapes.SPACE, SETTINGS)


def test_another_clip_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["encoder.visual.conv1.weight"] = state["encoder.visual.conv1.weight"] + 1
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"expected the frozen CLIP .*conv1\.weight"):
        import_checkpoint("weclip", str(path), str(tmp_path), shapes.SPACE, SETTINGS)


def test_methods_without_released_checkpoints_are_named() -> None:
    assert known_methods() == "base_learner, dcfm, few_shot, scwssod, supervised, weclip"
    with pytest.raises(ValueError, match="expected one of base_learner, dcfm, few_shot, scwssod, supervised, weclip"):
        import_checkpoint("abd", "x.pth", "out", shapes.SPACE, {})
