"""The training-free consensus of `dcfm`: what the group shares rises, alone nothing changes, artifacts keep it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.dcfm import Config
from maskmill.trainers.dcfm.consensus import Consensus, aligned, consensus_of, quantile
from maskmill.trainers.dcfm.model import Dcfm
from maskmill.trainers.dcfm.predict import GroupPredictor
from maskmill.trainers.engine import DataConfig, PredictConfig
from maskmill.trainers.registry import load_artifact
from maskmill.vision.refine import par
from maskmill.vision.segmenters import IMAGENET
from tests.trainers import shapes

torch.set_num_threads(1)

SETTINGS: dict[str, Any] = {
    "parts": "plain",
    "encoder_weights": "random",
    "feature_levels": (1, 2, 3),
    "trained_layers": (),
    "channels": 8,
    "width": 8,
    "augment": {"size": 32, "fit": "squash"},
    "consensus_weight": 2.0,
    "consensus_size": 64,
    "consensus_layers": ("blocks.3", "blocks.4"),
    "consensus_threshold": 0.5,
    "consensus_level": None,
    "consensus_edges": (0, 0),
}


@pytest.fixture(scope="module")
def consensus() -> Consensus:
    torch.manual_seed(0)
    return Consensus(Config.model_validate(SETTINGS))


def shared() -> Tensor:
    """Four images of 6x6 cells: the same feature at one place of each, another thing of its own at a second."""
    generator = torch.Generator().manual_seed(1)
    features = 0.1 * torch.randn(4, 16, 6, 6, generator=generator)
    features[:, 0] += 1  # what every cell has
    for image in range(4):
        features[image, 1:3, image, 2] += 3
        features[image, 4 + image, 5, image] += 3
    return features


def test_what_is_in_every_image_gets_the_most_votes(consensus: Consensus) -> None:
    votes, agree = consensus.votes(shared(), torch.full((4, 1, 24, 24), 0.5))
    assert votes.shape == (4, 1, 6, 6)
    assert votes.flatten(1).argmax(dim=1).tolist() == [6 * image + 2 for image in range(4)]
    for image in range(4):
        assert float(votes[image, 0, 5, image]) < 0.5 * float(votes[image].max()), "things of one image alone"
    torch.testing.assert_close(votes.mean(dim=(2, 3)), torch.zeros(4, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(votes.square().mean(dim=(1, 2, 3)), torch.ones(4))
    assert bool((agree > 0.2).all())


def test_votes_by_hand(consensus: Consensus) -> None:
    features, saliency = shared(), torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    unit = F.normalize(features - features.mean(dim=(0, 2, 3), keepdim=True), dim=1)
    found = torch.zeros(4, 36)
    for image in range(4):
        for cell in range(36):
            best = [
                max(float(unit[image].flatten(1)[:, cell] @ unit[other].flatten(1)[:, mate]) for mate in range(36))
                for other in range(4)
                if other != image
            ]
            found[image, cell] = sum(best) / len(best)
    found = (found - found.mean(dim=1, keepdim=True)) / found.std(dim=1, keepdim=True, unbiased=False)
    votes, agree = consensus.votes(features, saliency)
    torch.testing.assert_close(votes.flatten(1), found, atol=1e-4, rtol=1e-4)
    weights = saliency.flatten(1) * found.sigmoid()
    seeds = F.normalize(torch.einsum("ncp,np->nc", unit.flatten(2), weights), dim=1)
    others = (seeds @ seeds.T).fill_diagonal_(0).sum(dim=1) / 3
    torch.testing.assert_close(agree, others, atol=1e-4, rtol=1e-4)


def test_alone_there_are_no_votes_and_full_agreement(consensus: Consensus) -> None:
    votes, agree = consensus.votes(shared()[:1], torch.rand(1, 1, 6, 6))
    assert not votes.any()
    assert agree.tolist() == [1.0]


def test_layers_lie_side_by_side_on_one_grid_and_nothing_is_trained(consensus: Consensus) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    consensus.train()
    assert not any(module.training for module in consensus.modules())
    assert not any(parameter.requires_grad for parameter in consensus.parameters())
    found = consensus.encode(images)
    assert found.shape == (2, 80 + 112, 4, 4)
    torch.testing.assert_close(found[:, :80].norm(dim=1), torch.ones(2, 4, 4))
    torch.testing.assert_close(found[:, 80:].norm(dim=1), torch.ones(2, 4, 4))
    torch.testing.assert_close(consensus.encode(images[:1]), found[:1], atol=1e-5, rtol=1e-4)
    coarse = Consensus(Config.model_validate({**SETTINGS, "consensus_layers": ("blocks.1", "blocks.4")}))
    assert coarse.encode(images).shape == (2, 24 + 112, 4, 4)
    fine = Consensus(Config.model_validate({**SETTINGS, "consensus_layers": ("blocks.4", "blocks.1")}))
    assert fine.encode(images).shape == (2, 112 + 24, 16, 16)


def test_unknown_layers_are_named() -> None:
    with pytest.raises(ValueError, match=r"consensus_layers: expected names among .*blocks\.4, .* found 'blocks\.9'"):
        Consensus(Config.model_validate({**SETTINGS, "consensus_layers": ("blocks.9",)}))
    assert consensus_of(Config.model_validate({**SETTINGS, "consensus_weight": 0.0})) is None


def predictor(**changes: Any) -> GroupPredictor:
    config = Config.model_validate({**SETTINGS, **changes})
    torch.manual_seed(5)
    model = Dcfm(config)
    where = (PredictConfig(fit="squash", size=32, batch=2), torch.device("cpu"))
    torch.manual_seed(6)
    return GroupPredictor(model, shapes.SPACE, *IMAGENET, *where, consensus=consensus_of(config))


def test_what_is_salient_and_shared(consensus: Consensus) -> None:
    logits = torch.tensor([-40.0, -2, 0, 3, 40]).reshape(1, 1, 1, 5)
    votes = torch.full((1, 1, 1, 1), 1.5)
    found = consensus.shared(logits, votes, torch.zeros(1, 3, 1, 5))
    product = logits.double().sigmoid() * torch.sigmoid(torch.tensor(2 * (1.5 - 0.5), dtype=torch.float64))
    torch.testing.assert_close(found.sigmoid().double(), product, atol=1e-6, rtol=1e-5)
    assert bool(found.isfinite().all())
    assert bool(consensus.shared(logits, votes + 40, torch.zeros(1, 3, 1, 5)).isfinite().all())


def test_the_most_shared_part_of_an_image_keeps_its_map() -> None:
    """Relative to the vote below which a share `level` of what is salient lies; by hand."""
    consensus = Consensus(Config.model_validate({**SETTINGS, "consensus_level": 0.6}))
    votes = torch.tensor([[1.0, -1.0, 0.0, 2.0], [3.0, 3.0, 3.0, 3.0]]).view(2, 1, 1, 4)
    mass = torch.tensor([[0.1, 0.2, 0.5, 0.2], [0.2, 0.2, 0.2, 0.2]]).view(2, 1, 1, 4)
    found = consensus.favour(votes, mass).exp()
    factor = torch.sigmoid(2 * (votes - 0.5))
    at = factor[0, 0, 0, 2]  # -1 has 0.2 of the mass, 0 the next 0.5
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([1.0, float(factor[0, 0, 0, 1] / at), 1.0, 1.0]))
    torch.testing.assert_close(found[1], torch.ones(1, 1, 4), msg="votes that are the same everywhere lower nothing")
    assert quantile(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 1.0]), 1.0) == 3
    assert quantile(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.0, 0.0, 0.0]), 0.5) == 1, "nothing is salient"


@pytest.mark.parametrize("edges", [(3, 0), (0, 2)])
def test_votes_and_map_follow_the_edges(edges: tuple[int, int]) -> None:
    """Each for its own rounds; PAR's growth is taken off again."""
    consensus = Consensus(Config.model_validate({**SETTINGS, "consensus_edges": edges}))
    generator = torch.Generator().manual_seed(3)
    images = torch.zeros(2, 3, 32, 32)
    images[..., 16:] = 1
    logits, votes = (torch.randn(2, 1, side, side, generator=generator) for side in (16, 4))
    found = consensus.shared(logits, votes, images)
    logits, votes = (F.interpolate(x, (32, 32), mode="bilinear", align_corners=False) for x in (logits, votes))
    if edges[0]:
        votes = par(images, votes, iterations=3) / 1.01**3
    expected = logits.sigmoid() * torch.sigmoid(2 * (votes - 0.5))
    if edges[1]:
        expected = par(images, expected, iterations=2) / 1.01**2
    torch.testing.assert_close(found.sigmoid(), expected, atol=1e-5, rtol=1e-4)
    one = consensus.shared(logits[:1], F.interpolate(votes, (4, 4))[:1], images[:1])
    two = consensus.shared(logits, F.interpolate(votes, (4, 4)), images)
    torch.testing.assert_close(one, two[:1])
    even = aligned(torch.full((1, 1, 32, 32), 0.3), images[:1], 4)
    torch.testing.assert_close(even, torch.full((1, 1, 32, 32), 0.3), atol=1e-5, rtol=1e-5)


def test_a_group_s_maps_are_multiplied_and_a_photo_alone_is_left() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (40, 48, 3)).astype(np.uint8) for _ in range(3)]
    plain, once, never = (
        predictor(**given).predict_group(images)
        for given in ({"consensus_weight": 0.0}, {}, {"consensus_threshold": 9.0})
    )
    for place in range(3):
        assert (once[place].logits < plain[place].logits + 1e-4).all(), "nothing becomes more salient"
        assert np.ptp(plain[place].logits - once[place].logits) > 0.1
        assert never[place].saliency.max() < 1e-3
    assert plain[0].agreement == 1.0
    assert once[0].agreement < 1.0
    alone = predictor().predict_group(images[:1])
    np.testing.assert_allclose(alone[0].logits, predictor(consensus_weight=0.0).predict_group(images[:1])[0].logits)


def test_an_artifact_keeps_its_consensus(tmp_path: Path) -> None:
    places = shapes.write_scenes(tmp_path / "samples", 6, group_size=3)
    settings = {**SETTINGS, "steps": 1, "batch": 1, "members": 2, "precision": "fp32"}
    config = TrainConfig(
        trainer="dcfm", label_space=shapes.SPACE, data=DataConfig(samples=(places,)), settings=settings
    )
    artifact = train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
    images = [np.random.default_rng(1).integers(0, 255, (40, 40, 3)).astype(np.uint8) for _ in range(2)]
    first, second = (load_artifact(artifact, "cpu").predict_group(images)[0].logits for _ in range(2))
    np.testing.assert_array_equal(first, second)
    loaded = load_artifact(artifact, "cpu")
    loaded.consensus = None
    assert np.abs(loaded.predict_group(images)[0].logits - first).max() > 0.1
