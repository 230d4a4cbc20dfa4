"""The library's own segmenters under trainers that need more of a network than logits: taken, or refused by name."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.dfr import Config as DfrConfig
from maskmill.trainers.engine import DataConfig, read_info
from maskmill.trainers.registry import load_artifact
from maskmill.vision.library_segmenters import FAMILIES
from tests.trainers import shapes
from tests.trainers.library_folders import FOLDERS, MEAN, STD

torch.set_num_threads(1)


def test_an_artifact_of_abd_needs_no_folder_of_either_network(tmp_path: Path) -> None:
    folders = [FOLDERS[family](tmp_path / family) for family in ("segformer", "upernet")]
    network, partner = ({"architecture": "transformers", "encoder": str(folder)} for folder in folders)
    settings = {
        "network": network,
        "partner": partner,
        "augment": {"size": 32},
        "labelled_groups": ["group 0"],
        "steps": 2,
        "batch": 2,
        "unlabelled_batch": 2,
        "runtime": {"threads": 1, "progress": False},
    }
    data = DataConfig(samples=(shapes.write_scenes(tmp_path / "samples", 4, group_size=2),))
    config = TrainConfig(trainer="abd", label_space=shapes.SPACE, data=data, settings=settings)
    path = train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
    for folder in folders:
        shutil.rmtree(folder)
    info = read_info(path)
    assert {info.model["first"]["encoder"], info.model["second"]["encoder"]} <= set(FAMILIES)
    assert (list(info.mean), list(info.std)) == (MEAN, STD)
    (found,) = load_artifact(path).predict([shapes.draw_scene(0)[0]])
    assert np.isfinite(found.logits).all()


@pytest.mark.parametrize("architecture", ["transformers", "deeplabv3_mmseg"])
def test_dfr_needs_an_encoder_whose_levels_it_can_read(architecture: str) -> None:
    with pytest.raises(ValidationError, match=f"expected one of segmentation-models-pytorch, .* found {architecture}"):
        DfrConfig.model_validate({"segmenter": {"architecture": architecture, "encoder": "anywhere"}})
