"""Trainer supervised on the library's own segmenters: weights of the folder, logits, artifacts without the folder."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, read_info
from maskmill.trainers.engine.segmenter import segmenter_groups
from maskmill.trainers.registry import get_trainer, load_artifact
from maskmill.vision.library_segmenters import FAMILIES, build_library_segmenter
from maskmill.vision.library_segmenters.base import query_logits
from maskmill.vision.pretrained import ModelError
from maskmill.vision.segmenters import SegmenterConfig, build_segmenter, segmenter_normalisation
from tests.trainers import shapes
from tests.trainers.conformance import TrainerConformance
from tests.trainers.library_folders import CLASSES, FOLDERS, MEAN, STD

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder a family, made once."""
    place = tmp_path_factory.mktemp("segmenters")
    return {name: make(place / name) for name, make in FOLDERS.items()}


class TestSegformer(TrainerConformance):
    name = "supervised"

    @pytest.fixture(autouse=True, scope="class")
    def _with_folder(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = FOLDERS["segformer"](tmp_path_factory.mktemp("segformer") / "m")
        segmenter = {"architecture": "transformers", "encoder": str(folder)}
        type(self).settings = {"segmenter": segmenter, "augment": {"size": 32}}


@pytest.mark.parametrize("family", FOLDERS)
def test_logits_are_those_of_the_library(family: str, folders: dict[str, Path]) -> None:
    """With as many classes as the folder has, every weight is the folder's."""
    config = SegmenterConfig(architecture="transformers", encoder=str(folders[family]))
    model = build_segmenter(config, CLASSES).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model(images)
        theirs = model.model(pixel_values=images)  # type: ignore[operator]
    assert found.shape == (2, CLASSES, 32, 32)
    if hasattr(theirs, "logits"):
        small = torch.nn.functional.interpolate(theirs.logits, (32, 32), mode="bilinear", align_corners=False)
        torch.testing.assert_close(found, small)
    else:
        shares = found.softmax(dim=1)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(2, 32, 32))
    odd = model(torch.rand(2, 3, 64, 96))
    assert odd.shape == (2, CLASSES, 64, 96)


@pytest.mark.parametrize("family", FOLDERS)
def test_a_trained_artifact_needs_no_folder(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders[family], tmp_path / "m"))
    data = DataConfig(samples=(shapes.write_scenes(tmp_path / "samples", 4),))
    settings = {
        "segmenter": {"architecture": "transformers", "encoder": str(folder)},
        "augment": {"size": 32},
        "steps": 2,
        "batch": 2,
        "runtime": {"threads": 1, "progress": False},
    }
    config = TrainConfig(label_space=shapes.SPACE, data=data, settings=settings)
    path = train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
    shutil.rmtree(folder)
    info = read_info(path)
    assert info.model["segmenter"]["encoder"] in FAMILIES
    assert list(info.mean) == MEAN
    assert list(info.std) == STD
    (found,) = load_artifact(path).predict([shapes.draw_scene(0)[0]])
    assert found.logits.shape == (shapes.SPACE.size, 48, 56)
    assert np.isfinite(found.logits).all()


@pytest.mark.parametrize("family", FOLDERS)
def test_the_backbone_learns_at_its_own_rate(family: str, folders: dict[str, Path]) -> None:
    model = build_library_segmenter(str(folders[family]), 4)
    slow, fast = segmenter_groups(model, 0.1)
    assert (slow.lr_factor, fast.lr_factor) == (0.1, 1.0)
    assert len(slow.params) + len(fast.params) == len(list(model.parameters()))
    assert {id(p) for p in slow.params} == {id(p) for p in model.encoder.parameters()}


def test_another_number_of_classes_changes_the_head_alone(folders: dict[str, Path]) -> None:
    same, other = (build_library_segmenter(str(folders["segformer"]), n).state_dict() for n in (CLASSES, 3))
    changed = {
        name for name in same if same[name].shape != other[name].shape or not torch.equal(same[name], other[name])
    }
    assert changed == {"model.decode_head.classifier.weight", "model.decode_head.classifier.bias"}


def test_missing_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(folders["segformer"], tmp_path / "m"))
    state = load_file(folder / "model.safetensors")
    del state[next(name for name in state if name.startswith("segformer."))]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="1 missing or of another shape"):
        build_library_segmenter(str(folder), CLASSES)
    random = build_library_segmenter(str(folder), CLASSES, weights="random")
    assert len(random.state_dict()) > len(state)


def test_queries_become_shares_of_classes() -> None:
    classes = torch.full((1, 2, 3), -20.0)
    classes[0, 0, 0], classes[0, 1, 1] = 20.0, 20.0
    masks = torch.tensor([[[[5.0, -5.0]], [[-5.0, 5.0]]]])
    shares = query_logits(classes, masks).softmax(dim=1)
    assert shares[0, :, 0, 0].tolist() == pytest.approx([0.9933, 0.0067], abs=1e-3)
    assert shares[0, :, 0, 1].argmax() == 1


def test_normalisation_and_weights_are_the_folders(folders: dict[str, Path]) -> None:
    config = SegmenterConfig(architecture="transformers", encoder=str(folders["dpt"]))
    assert segmenter_normalisation(config) == (tuple(MEAN), tuple(STD))
    module: Any = get_trainer("supervised")
    segmenters = [{"architecture": "transformers", "encoder": str(folder)} for folder in folders.values()]
    stamps = [module.stamps(module.Config(segmenter=one)) for one in segmenters]
    assert len(set(stamps)) == len(folders)
