"""What surrounds the release's U-Net: dropout, nearest neighbour at test time, an artifact that keeps both."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.abd.networks import build_networks, input_normalisation
from maskmill.trainers.abd.predict import AbdPredictor
from maskmill.trainers.abd.unet import ReleasedUnet
from maskmill.trainers.abd.views import zoom_nearest
from maskmill.trainers.engine import DataConfig, PredictConfig
from maskmill.trainers.registry import load_artifact
from tests.trainers import shapes
from tests.trainers.test_abd import options

torch.set_num_threads(1)
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Grey(nn.Module):
    """Logits that are the first channel, and one less it."""

    def __init__(self, turn: bool = False) -> None:
        super().__init__()
        self.turn = turn

    def forward(self, x: Tensor) -> Tensor:
        pair = [1 - x[:, :1], x[:, :1]]
        return torch.cat(pair[::-1] if self.turn else pair, dim=1)


def predictor(zoom: Any, second: nn.Module | None = None) -> AbdPredictor:
    config = PredictConfig(fit="squash", size=16, multiple=1)
    return AbdPredictor(Grey(), shapes.SPACE, *PLAIN, config, torch.device("cpu"), second=second, zoom=zoom)


def checkered() -> Any:
    rng = np.random.default_rng(0)
    return np.repeat(rng.integers(0, 2, (21, 33, 1), dtype=np.uint8) * 255, 3, axis=2)


def test_nearest_there_and_back() -> None:
    image = checkered()
    wanted = zoom_nearest(zoom_nearest(image[..., 0] > 127, 16, 16), 21, 33)
    (found,) = predictor("nearest").predict([image])
    assert found.logits.shape == (2, 21, 33)
    assert np.array_equal(found.labels == 1, wanted)
    assert set(np.unique(found.logits)) == {0, 1}, "no value in between"
    (smooth,) = predictor("smooth").predict([image])
    assert len(np.unique(smooth.logits)) > 2
    (asked,) = predictor("nearest").predict([image], PredictConfig(fit="squash", size=16, multiple=1))
    np.testing.assert_array_equal(asked.logits, smooth.logits)


def test_both_networks_sample_alike() -> None:
    (found,) = predictor("nearest", Grey(turn=True)).predict_both([checkered()])
    assert len(np.unique(found.logits)) == 1, "one says what the other denies, pixel by pixel"


def test_the_released_network() -> None:
    rates = [layer.p for layer in ReleasedUnet(4).modules() if isinstance(layer, nn.Dropout)]
    assert rates == [0.05, 0.1, 0.2, 0.3, 0.5, 0, 0, 0, 0]
    assert ReleasedUnet(3)(torch.zeros(1, 3, 32, 48)).shape == (1, 3, 32, 48)
    plain = options()
    assert input_normalisation(plain)[0] != (0, 0, 0)
    apart = build_networks(
        options(network={"architecture": "ssl4mis_unet"}, partner={"architecture": "ssl4mis_unet"}), 4
    )
    assert apart.second is not None
    assert not torch.equal(*(next(iter(network.parameters())) for network in apart.pair)), "starts of their own"


def test_an_artifact_keeps_the_way_of_testing(tmp_path: Path) -> None:
    samples = shapes.write_scenes(tmp_path / "samples", 6, shards=1, group_size=2)
    unet = {"architecture": "ssl4mis_unet", "weights": "random"}
    settings = {
        "network": unet,
        "partner": unet,
        "augment": {"size": 32},
        "labelled_groups": ["group 0"],
        "test_zoom": "nearest",
        "steps": 1,
        "batch": 2,
        "unlabelled_batch": 2,
        "precision": "fp32",
        "runtime": {"threads": 1, "progress": False, "device": "cpu"},
    }
    config = TrainConfig(
        trainer="abd", label_space=shapes.SPACE, data=DataConfig(samples=(samples,)), settings=settings
    )
    found = load_artifact(train(config, str(tmp_path / "run"), str(tmp_path / "artifact")), "cpu")
    assert found.zoom == "nearest"
    assert (found.mean, found.std) == PLAIN
    assert found.config.size == 32
