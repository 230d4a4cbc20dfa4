"""The few_shot trainer: conformance of base, SCL and PI-CLIP networks, frozen parts, presets, prediction."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from maskmill.data_contracts import Uint8Array
from maskmill.pipelines.stages.evaluate import EvaluateConfig, evaluate_artifact
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, make_optimizer, read_artifact
from maskmill.trainers.engine.optim import lr_factor
from maskmill.trainers.few_shot import Config
from maskmill.trainers.few_shot.model import FewShotNet
from maskmill.trainers.few_shot.predict import FewShotPredictor
from maskmill.trainers.few_shot.train import featurizer_of, optimizer_groups
from maskmill.trainers.registry import load_artifact
from maskmill.vision.clip import load_clip
from tests.trainers import shapes
from tests.trainers.conformance import TrainerConformance

TINY = str(Path(__file__).parents[1] / "data" / "tiny_clip")
PRIORS = {"model": TINY, "match_side": 64, "text_side": 64}
SMALL: dict[str, Any] = {
    "episodes": {"held_out": ["blue bar"], "min_share": 0.0, "drop_held_out": False},
    "size": 64,
    "width": 8,
    "scales": [1.0, 0.5],
    "encoder": "test_efficientnet",
    "encoder_weights": "random",
    "output_stride": 16,
    "test_episodes": 4,
    "priors": PRIORS,
}

torch.set_num_threads(1)


def support(number: int) -> tuple[Uint8Array, Uint8Array]:
    image, mask = shapes.draw_scene(number)
    return image, (mask == mask[(mask > 0) & (mask < 255)][0]).astype(np.uint8)


class FewShotConformance(TrainerConformance):
    name = "few_shot"
    settings: ClassVar = SMALL

    def check_prediction(self, predictor: Any, images: list[Uint8Array]) -> list[np.ndarray[Any, Any]]:
        shown = predictor.supports([support(2), support(5)], "blue bar")
        found = predictor.predict(images, shown)
        for image, prediction in zip(images, found, strict=True):
            assert prediction.logits.shape == (2, *image.shape[:2])
            assert prediction.logits.dtype == np.float32
            assert np.isfinite(prediction.logits).all()
            assert set(np.unique(prediction.labels).tolist()) <= {0, 1}
        return [prediction.logits for prediction in found]


class TestSclWithPriors(FewShotConformance):
    priors: ClassVar = {**PRIORS, "product_blocks": 2, "product_text": True}
    settings: ClassVar = {**SMALL, "scl": True, "prior": "pi_clip", "priors": priors}


def run(folder: Path, data: DataConfig, val: DataConfig | None = None, **settings: Any) -> str:
    runtime = {"threads": 1, "progress": False, "log_every": 1, "device": "cpu"}
    given = {**SMALL, "steps": 2, "batch": 2, "precision": "fp32", "runtime": runtime, **settings}
    config = TrainConfig(trainer="few_shot", label_space=shapes.SPACE, data=data, val=val, settings=given)
    return train(config, str(folder / "run"), str(folder / "artifact"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return DataConfig(samples=(shapes.write_scenes(tmp_path_factory.mktemp("scenes"), 12),))


@pytest.mark.parametrize("base", ["pfenet", "hdmnet", "hdmnet_released"])
@pytest.mark.parametrize("prior", ["none", "plain", "pi_clip"])
def test_every_base_takes_every_prior(tmp_path: Path, scenes: DataConfig, base: str, prior: str) -> None:
    path = run(tmp_path, scenes, scenes, base=base, prior=prior, width=16)
    metrics = read_artifact(path).metrics
    assert 0 <= metrics["miou"] <= 1
    assert 0 <= metrics["fbiou"] <= 1
    assert set(metrics["iou"]) == {"blue bar"}
    assert metrics["prompts"] == ("target" if prior == "pi_clip" else "none"), "a leak would be written down"


def test_an_artifact_is_measured_on_episodes(tmp_path: Path, scenes: DataConfig) -> None:
    """`maskmill evaluate`: with the settings of the training, or others that are given; both are remembered apart."""
    path = run(tmp_path, scenes, test_seeds=[3, 4])
    out = str(tmp_path / "metrics")
    plain = evaluate_artifact(EvaluateConfig(artifact=path, data=scenes, device="cpu"), out)
    assert set(plain) >= {"miou", "fbiou", "iou", "seeds", "prompts"}
    assert len(plain["seeds"]) == 2  # type: ignore[arg-type]
    given: dict[str, Any] = {"test_shots": 2, "test_seeds": [3], "episodes": {"held_out": ["red box"]}}
    config = EvaluateConfig(artifact=path, data=scenes, device="cpu", settings=given)
    other = evaluate_artifact(config, out)
    assert set(other["iou"]) == {"red box"}  # type: ignore[call-overload]
    assert len(other["seeds"]) == 1  # type: ignore[arg-type]
    assert other["fingerprint"] != plain["fingerprint"]
    assert evaluate_artifact(config, out) == other
    with pytest.raises(ValidationError, match="test_shot"):
        evaluate_artifact(config.model_copy(update={"settings": {"test_shot": 2}}), out)


def test_frozen_parts_stay_frozen_and_out_of_the_artifact(tmp_path: Path, scenes: DataConfig) -> None:
    backbone = load_clip(TINY)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    path = run(tmp_path, scenes, prior="pi_clip")
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.model.state_dict().items())
    assert all(p.grad is None for p in backbone.model.parameters())
    keys = read_artifact(path).tensors
    assert keys
    assert all(key.startswith(("module/net/down_", "module/net/decoder.")) for key in keys)
    predictor: FewShotPredictor = load_artifact(path, "cpu")
    assert not any(p.requires_grad for p in predictor.featurizer.encoder.parameters())


def test_cached_features_are_those_of_fresh_ones(tmp_path: Path, scenes: DataConfig) -> None:
    cached, fresh = (read_artifact(run(tmp_path / str(c), scenes, cached=c, prior="pi_clip")) for c in (True, False))
    assert all(torch.equal(t, fresh.tensors[name]) for name, t in cached.tensors.items())


def test_random_views_and_masked_supports_train_too(tmp_path: Path, scenes: DataConfig) -> None:
    augment = {"size": 64, "fit": "short", "rotate": 10.0, "scale": [0.9, 1.1]}
    path = run(tmp_path, scenes, cached=False, augment=augment, mask_support=True, area_masks=False)
    assert read_artifact(path).info.config["mask_support"]


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> FewShotPredictor:
    """SCL after a short training on red boxes and green discs."""
    folder = tmp_path_factory.mktemp("guided")
    data = DataConfig(samples=(shapes.write_scenes(folder / "samples", 24),))
    settings = {"steps": 80, "batch": 4, "lr": 5e-3, "width": 16, "output_stride": 8, "prior": "none"}
    settings |= {"scl": True, "split": "hard", "support_from": 0.0}  # as released
    predictor: FewShotPredictor = load_artifact(run(folder, data, **settings), "cpu")
    return predictor


def shots_of(class_id: int, first: int, count: int) -> list[tuple[Uint8Array, Uint8Array]]:
    """Scenes that show enough of a class."""
    found = []
    for number in range(first, first + 200):
        image, mask = shapes.draw_scene(number)
        if (mask == class_id).sum() > 60:
            found.append((image, (mask == class_id).astype(np.uint8)))
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize("class_id", [1, 2])
def test_a_spoilt_support_scores_lowest_and_counts_less(guided: FewShotPredictor, class_id: int) -> None:
    """Three sound supports and one whose mask was moved off the object, eight times over."""
    lowest, shares = 0, []
    for trial in range(8):
        *sound, (image, mask) = shots_of(class_id, 40 + 20 * trial, 4)
        spoilt = (image, np.roll(mask, (24, 28), (0, 1)))
        scores = guided.supports([*sound, spoilt], "anything").scores
        lowest += int(scores.argmin() == 3)
        shares.append(float(scores[3] / scores.sum()))
    assert lowest >= 6
    assert np.mean(shares) < 0.24, "less than its quarter under uniform averaging"


def test_supports_weigh_and_one_is_its_own_measure(guided: FewShotPredictor) -> None:
    supports = guided.supports(shots_of(2, 40, 2), "blue bar")
    assert supports.scores.shape == (2,)
    assert 0 < supports.scores.min() < supports.scores.max() < 1
    image = shapes.draw_scene(17)[0]
    cross, mean = (guided.predict([image], supports, fusion)[0].logits for fusion in ("cross", "mean"))
    assert not np.allclose(cross, mean)
    assert guided.supports(shots_of(2, 40, 1), "blue bar").scores.tolist() == [1.0]
    with pytest.raises(ValueError, match="at least one image"):
        guided.supports([], "blue bar")


def test_a_changed_frozen_model_is_noticed(tmp_path: Path, scenes: DataConfig) -> None:
    path = run(tmp_path, scenes)
    file = Path(path) / "config.json"
    file.write_text(file.read_text().replace('"stamps": [\n      "random"', '"stamps": [\n      "other"'))
    with pytest.raises(ValueError, match="trained on frozen weights"):
        load_artifact(path, "cpu")


def test_prior_channels_of_the_release() -> None:
    """Its presets stand as whole tables beside its numbers."""
    assert Config(preset="pi_clip").prior_channels == 4
    assert Config(preset="pi_clip", shots=5, test_shots=5).prior_channels == 12
    with pytest.raises(ValidationError, match="set test_shots: 1"):
        Config(preset="pi_clip", test_shots=5)
    kept = Config.model_validate({"preset": "scl", "episodes": {"fold": 1}}).episodes
    assert (kept.fold, kept.min_pixels, kept.drop_held_out, kept.pick) == (1, 2_048, False, "raw")
    words = Config.model_validate({"preset": "pi_clip", "priors": {"prompts": "target"}}).priors
    assert (words.model, words.prompts, words.text_source) == ("ViT-B-16-quickgelu", "target", "canvas")


def test_the_grid_of_the_release() -> None:
    given = {
        "preset": "scl",
        "encoder": "resnet10t",
        "encoder_weights": "random",
        "released_dilation": False,
        "episodes": SMALL["episodes"],
    }
    config = Config.model_validate(given)
    featurizer = featurizer_of(config, shapes.SPACE, torch.device("cpu"))
    image, mask = support(2)
    shot = featurizer.shot(image, mask)
    assert shot.features.middle.shape == (featurizer.channels, 60, 60), "473 pixels at stride 8"
    assert shot.grid_mask.shape == (1, 60, 60)
    assert set(shot.grid_mask.unique().tolist()) == {0.0, 1.0}


def test_learning_rates_of_the_release_and_of_ours() -> None:
    rates = []
    for config in (Config(preset="scl", width=8, scales=(1.0,)), Config(lr=0.0025, width=8, scales=(1.0,))):
        optimizer = make_optimizer(config, optimizer_groups(FewShotNet(config, 8, 1), config))
        assert lr_factor(config, 0) == 1
        rates.append({group["lr"] for group in optimizer.param_groups})
    assert rates == [{0.025}, {0.0025}], "the release multiplies its nominal rate by 10"
    release = Config(preset="pi_clip", width=8)
    groups = make_optimizer(release, optimizer_groups(FewShotNet(release, 8, 4), release)).param_groups
    assert [group["lr"] for group in groups] == [pytest.approx(1e-4), pytest.approx(1e-3)]
    assert sum(len(group["params"]) for group in groups) == len(list(FewShotNet(release, 8, 4).parameters()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": "hdmnet", "scl": True}, "needs base: pfenet"),
        ({"scl": True, "shots": 5}, "expected shots=1"),
        ({"augment": {"size": 64}, "size": 64}, "set cached: false"),
        ({"augment": {"size": 96}, "cached": False, "size": 64}, "expected the canvas of 64"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(settings)
