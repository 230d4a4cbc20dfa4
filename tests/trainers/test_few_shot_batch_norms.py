"""Batch norms of the frozen encoder in training mode, as SCL's release leaves them."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, Samples, read_artifact
from maskmill.trainers.few_shot import Config
from maskmill.trainers.few_shot.base import resize
from maskmill.trainers.few_shot.batch_norms import seen_together
from maskmill.trainers.few_shot.priors import plain_prior
from maskmill.trainers.few_shot.source import EpisodeSource
from maskmill.trainers.few_shot.train import config_of, featurizer_of, training_episodes
from maskmill.trainers.registry import load_artifact
from tests.trainers import shapes

torch.set_num_threads(1)

RELEASED: dict[str, Any] = {
    "scl": True,
    "encoder": "resnet10t",
    "encoder_weights": "random",
    "encoder_norms": "batch",
    "cached": False,
    "mask_stage": True,
    "scale_levels": False,
    "size": 65,
    "width": 8,
    "scales": (1.0, 0.5),
    "batch": 2,
    "steps": 2,
    "precision": "fp32",
    "episodes": {"held_out": ["blue bar"], "min_share": 0.0, "drop_held_out": False},
}


def made(**settings: Any) -> Any:
    return featurizer_of(Config.model_validate({**RELEASED, **settings}), shapes.SPACE, torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return DataConfig(samples=(shapes.write_scenes(tmp_path_factory.mktemp("scenes"), 8),))


def source_of(featurizer: Any, data: DataConfig, folder: Path) -> EpisodeSource:
    samples = Samples.open(data, str(folder))
    return EpisodeSource(samples, training_episodes(samples, shapes.SPACE, featurizer.config), featurizer)


def stages(encoder: nn.Module, x: Tensor) -> dict[str, Tensor]:
    found = {}
    for name, part in encoder.named_children():
        x = part(x)
        found[name] = x
        if name == "layer3":
            break
    return found


def norms(encoder: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in encoder.state_dict().items() if "running" in key or "tracked" in key}


@pytest.mark.parametrize("mask_stage", [True, False])
def test_a_batch_is_seen_as_in_training_mode(tmp_path: Path, data: DataConfig, mask_stage: bool) -> None:
    """Queries first, then supports, whose last stage sees the objects alone where the release cuts them out."""
    featurizer = made(mask_stage=mask_stage)
    batch = source_of(featurizer, data, tmp_path)(0)
    assert batch["query"].shape == (2, 3, 65, 65)
    assert batch["supports"].shape == (2, 1, 3, 65, 65)
    assert batch["masks"].shape == (2, 1, 1, 9, 9)
    plain: Any = copy.deepcopy(featurizer.encoder).train()
    with torch.no_grad():
        query = stages(plain, batch["query"])
        high = plain.layer4(query["layer3"])
        shown, masks = stages(plain, batch["supports"][:, 0]), batch["masks"][:, 0]
        shown_high = plain.layer4(shown["layer3"] * (masks if mask_stage else 1))
    found = seen_together(featurizer, batch)
    torch.testing.assert_close(found["query"], torch.cat([query["layer2"], query["layer3"]], dim=1))
    torch.testing.assert_close(found["supports"][:, 0], torch.cat([shown["layer2"], shown["layer3"]], dim=1))
    for i in range(2):
        prior = plain_prior(high[i], [(shown_high[i], masks[i, 0])])
        torch.testing.assert_close(found["priors"][i], resize(prior[None, None], (9, 9))[0])
    own, wanted = norms(featurizer.encoder), norms(plain)
    assert {int(value) for key, value in own.items() if "tracked" in key} == {2}
    for key, value in wanted.items():
        torch.testing.assert_close(own[key], value, msg=key)
    assert not any(part.training for part in featurizer.encoder.modules()), "tested as usual"
    stored = norms(made(encoder_norms="stored").encoder)
    assert all(not torch.equal(stored[key], value) for key, value in own.items()), "no other network is touched"


def test_levels_are_scaled_image_by_image(tmp_path: Path, data: DataConfig) -> None:
    featurizer = made(scale_levels=True, prior="none", scl=False)
    found = seen_together(featurizer, source_of(featurizer, data, tmp_path)(0))["query"]
    for level in found.split((featurizer.finer, featurizer.channels - featurizer.finer), dim=1):
        torch.testing.assert_close(level.square().mean(dim=(1, 2, 3)).sqrt(), torch.ones(2))


def test_pixels_are_mirrored_with_their_masks(tmp_path: Path, data: DataConfig) -> None:
    featurizer = made(mask_support=True, shots=2, test_shots=2, scl=False, mask_stage=False)
    source = source_of(featurizer, data, tmp_path)
    where = {sample_id: place for place, sample_id in enumerate(source.samples.ids)}
    turned = set()
    for episode in source.episodes.take(12):
        item = source.item(episode)
        for number, sample_id in enumerate(episode.supports):
            whole = source._whole(sample_id, episode.class_id)
            pixels = featurizer.pixels(whole.image, whole.mask)
            mirrored = torch.equal(item["supports"][number], pixels.flip(-1))
            assert mirrored != torch.equal(item["supports"][number], pixels)
            mask = featurizer.grid_mask(whole.mask, (9, 9))
            for name, plain in (("masks", mask), ("support_target", whole.target)):
                assert torch.equal(item[name][number], plain.flip(-1) if mirrored else plain)
            turned.add((number, mirrored))
        image = source.samples.example(where[episode.query]).image
        query = torch.equal(item["query"], featurizer.pixels(image).flip(-1))
        target = source._whole(episode.query, episode.class_id).target
        assert torch.equal(item["query_target"], target.flip(-1) if query else target)
        turned.add((-1, query))
    assert len(turned) == 6, "each image by itself"


def test_the_drift_is_trained_kept_and_tested_with(tmp_path: Path, data: DataConfig) -> None:
    runtime = {"threads": 1, "progress": False, "device": "cpu"}
    config = TrainConfig(
        trainer="few_shot", label_space=shapes.SPACE, data=data, settings={**RELEASED, "runtime": runtime}
    )
    path = train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
    again = made()
    source = source_of(again, data, tmp_path / "cache")
    for step in range(2):
        seen_together(again, source(step))
    found = read_artifact(path).tensors
    for key, value in again.encoder.state_dict().items():
        torch.testing.assert_close(found[f"module/encoder/{key}"], value, msg=key)
    predictor = load_artifact(path, "cpu")
    for key, value in again.encoder.state_dict().items():
        torch.testing.assert_close(predictor.featurizer.encoder.state_dict()[key], value, msg=key)
    image, mask = shapes.draw_scene(3)
    shown = predictor.supports([(image, (mask > 0).astype(np.uint8))], "thing")
    assert np.isfinite(predictor.predict([image], shown)[0].logits).all()


def test_an_artifact_from_before_has_its_norms_as_stored() -> None:
    """Its preset did not say so then."""
    saved = {key: value for key, value in Config(preset="scl").model_dump().items() if key != "encoder_norms"}
    assert Config.model_validate(saved).encoder_norms == "batch"
    assert config_of(SimpleNamespace(config=saved)).encoder_norms == "stored"  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"cached": True}, {"prior": "pi_clip"}, {"base_learner": "x", "scl": False}])
def test_what_cannot_depend_on_its_batch_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="encoder_norms: batch lets features depend on their batch"):
        Config.model_validate({**RELEASED, **settings})
