"""BAM's base learner: conformance, labels without held-out classes, its release's checkpoint, few_shot on top of it."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from maskmill.pipelines.stages.import_checkpoint import import_checkpoint
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, Samples, read_artifact
from maskmill.trainers.few_shot import Config
from maskmill.trainers.few_shot.encoder import encoder_of
from maskmill.trainers.few_shot.known import read_known
from maskmill.trainers.few_shot.learner import Config as LearnerConfig
from maskmill.trainers.few_shot.learner.released import own_name
from maskmill.trainers.few_shot.learner.train import KnownView, LearnerNet, base_classes
from maskmill.trainers.few_shot.model import FewShotNet
from maskmill.trainers.few_shot.scl import cross_entropy
from maskmill.trainers.few_shot.source import EpisodeSource
from maskmill.trainers.few_shot.train import episode_loss, featurizer_of, optimizer_groups, stamps, training_episodes
from maskmill.trainers.registry import load_artifact
from tests.trainers import shapes
from tests.trainers.conformance import TrainerConformance
from tests.trainers.test_few_shot import SMALL, run, support

torch.set_num_threads(1)

HELD_OUT = {"held_out": ["blue bar"]}
LEARNER: dict[str, Any] = {
    "episodes": HELD_OUT,
    "encoder": "test_efficientnet",
    "encoder_weights": "random",
    "output_stride": 16,
    "width": 8,
    "augment": {"size": 64},
}
NOVEL = shapes.SPACE.find("blue bar").id
KNOWN = tuple(i for i in shapes.SPACE.ids if i != NOVEL)


class TestBaseLearner(TrainerConformance):
    name = "base_learner"
    settings: ClassVar = LEARNER


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return DataConfig(samples=(shapes.write_scenes(tmp_path_factory.mktemp("scenes"), 12),))


@pytest.fixture(scope="module")
def learner(scenes: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("learner")
    runtime = {"threads": 1, "progress": False, "device": "cpu"}
    settings = {**LEARNER, "steps": 1, "batch": 2, "precision": "fp32", "runtime": runtime}
    config = TrainConfig(trainer="base_learner", label_space=shapes.SPACE, data=scenes, settings=settings)
    return train(config, str(folder / "run"), str(folder / "artifact"))


def test_held_out_classes_are_background() -> None:
    class Plain:
        def __call__(self, mask: torch.Tensor, _: Any) -> dict[str, Any]:
            return {"mask": mask, "sample_id": "a"}

    view = KnownView(Plain(), KNOWN)  # type: ignore[arg-type]
    mask = torch.tensor([[0, NOVEL, *KNOWN, 255]])
    found = view(mask, np.random.default_rng(0))  # type: ignore[arg-type]
    assert found["mask"].tolist() == [[0, 0, *range(1, 1 + len(KNOWN)), 255]]
    assert found["sample_id"] == "a"


def test_it_answers_in_the_label_space_and_never_with_what_it_does_not_know() -> None:
    config = LearnerConfig(**LEARNER)
    assert base_classes(shapes.SPACE, config) == KNOWN
    net = LearnerNet(config, KNOWN, shapes.SPACE, "random").eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        full, known = net(images), net.known(images)
    assert full.shape == (1, shapes.SPACE.size, 64, 96)
    assert torch.equal(full[:, [0, *KNOWN]], known)
    assert full[:, NOVEL].max() < known.min()


def test_few_shot_takes_its_encoder_and_leaves_out_the_asked_class(
    learner: str, scenes: DataConfig, tmp_path: Path
) -> None:
    config = Config.model_validate({**SMALL, "base_learner": learner, "prior": "plain", "batch": 2})
    tensors = read_artifact(learner).tensors
    own = encoder_of(config, "cpu")[0].state_dict()
    named = {key.removeprefix("module/encoder/"): value for key, value in tensors.items() if "/encoder/" in key}
    assert own.keys() == named.keys()
    assert all(torch.equal(own[key], named[key]) for key in own)
    assert stamps(config) == (read_artifact(learner).info.weights,)
    assert read_known(learner).place(NOVEL) == 0
    assert [read_known(learner).place(i) for i in KNOWN] == list(range(1, 1 + len(KNOWN)))

    featurizer = featurizer_of(config, shapes.SPACE, torch.device("cpu"))
    samples = Samples.open(scenes, str(tmp_path))
    episodes = training_episodes(samples, shapes.SPACE, config)
    source = EpisodeSource(samples, episodes, featurizer)
    batch = source(0)
    asked = [episodes.episode(number).class_id for number in range(2)]
    assert batch["left_out"].tolist() == [read_known(learner).place(i) for i in asked]
    assert batch["base"].shape[1] == 1 + len(KNOWN)
    turned = set()
    for number in range(8):
        episode = episodes.episode(number)
        item, shown = source.item(episode), samples.example(samples.ids.index(episode.query))
        seen = featurizer.image(shown.image)
        turns = not torch.equal(item["query"], seen.middle)
        base = featurizer.base_logits(seen)
        torch.testing.assert_close(item["base"], base.flip(-1) if turns else base)
        turned.add(turns)
    assert turned == {False, True}, "the base learner's map is mirrored with its query"
    net = build(config, featurizer.channels, featurizer.finer).eval()
    decoded = net(*(batch[key] for key in ("query", "supports", "masks", "priors", "base", "left_out")))
    assert decoded.final is not None
    torch.testing.assert_close(decoded.final, decoded.logits.softmax(dim=1))  # as it begins
    assert decoded.answer is decoded.final
    loss = episode_loss(net, batch, config)[0]
    plain = episode_loss(net, {key: value for key, value in batch.items() if key != "base"}, config)[0]
    more = cross_entropy(decoded.final, batch["query_target"], config.object_weight)
    torch.testing.assert_close(loss, plain + more)


def build(config: Config, channels: int, finer: int) -> FewShotNet:
    torch.manual_seed(0)
    return FewShotNet(config, channels, config.prior_channels, finer)


def test_merges_learn_at_the_rate_of_new_layers(learner: str) -> None:
    given = {**SMALL, "base_learner": learner, "lr_parity": 10.0, "base": "hdmnet_released", "width": 16}
    config = Config.model_validate(given)
    net = build(config, 32, 16)
    _, fast = optimizer_groups(net, config)
    ids = {id(p) for p in fast.params}
    assert net.ensemble is not None
    assert {id(net.ensemble.cls_merge.weight), id(net.ensemble.gram_merge.weight)} <= ids


@pytest.mark.parametrize("shots", [1, 2])
def test_trained_and_asked_for_a_new_class_and_a_known_one(
    tmp_path: Path, learner: str, scenes: DataConfig, shots: int
) -> None:
    more = {"shots": shots, "test_shots": shots, "base": "hdmnet_released", "width": 16}
    path = run(tmp_path, scenes, scenes, base_learner=learner, prior="plain", **more)
    names = {key for key in read_artifact(path).tensors if "ensemble" in key}
    assert len(names) == (2 if shots == 1 else 6)
    predictor = load_artifact(path, "cpu")
    image = shapes.draw_scene(3)[0]
    seen = predictor.see(image)
    for name in ("blue bar", "red box"):
        class_id = shapes.SPACE.find(name).id
        shown = predictor._supports(class_id, [predictor._seen_shot(*support(n), None) for n in range(shots)])
        base, left_out = predictor._learnt(seen, shown)
        assert left_out.tolist() == [0 if name == "blue bar" else read_known(learner).place(class_id)]
        assert base.shape[:2] == (1, 1 + len(KNOWN))
        assert np.isfinite(predictor.predict([image], shown)[0].logits).all()


def test_what_does_not_fit_is_refused(tmp_path: Path, learner: str, scenes: DataConfig) -> None:
    with pytest.raises(ValueError, match="expected a base learner with output_stride: 8, found 16"):
        run(tmp_path / "a", scenes, base_learner=learner, output_stride=8)
    with pytest.raises(ValueError, match="knows the held-out classes"):
        run(tmp_path / "b", scenes, base_learner=learner, episodes={**SMALL["episodes"], "held_out": ["red box"]})
    with pytest.raises(ValidationError, match="base_learner: merges with a network that is not SCL's"):
        Config(base_learner=learner, scl=True)
    with pytest.raises(ValidationError, match="test_shots: with base_learner a network is for 1"):
        Config(base_learner=learner, test_shots=5)
    few = run(tmp_path / "c", scenes, prior="none")
    with pytest.raises(ValueError, match="expected an artifact of trainer base_learner, found one of few_shot"):
        run(tmp_path / "d", scenes, base_learner=few)


def test_the_releases_checkpoint(tmp_path: Path) -> None:
    """PSPNet's names: the stem in numbers, its stages a second time under `encoder`, pools and classifier."""
    given = {"preset": "faithful", "encoder": "resnet18d", "width": 16, "episodes": HELD_OUT}
    given["encoder_weights"] = "random"
    net = LearnerNet(LearnerConfig.model_validate(given), KNOWN, shapes.SPACE, "random")
    theirs = {}
    for key, value in net.state_dict().items():
        name = key.replace("head.pools.", "ppm.features.").replace("head.classify.", "cls.")
        name = name.replace("encoder.conv1.", "layer0.").replace("encoder.bn1.", "layer0.7.")
        theirs[f"module.{name.replace('encoder.layer', 'layer')}"] = value + 0.01
    theirs["module.encoder.0.0.weight"] = torch.zeros(1)
    assert {own_name(key) for key in theirs if "encoder" not in key} == set(net.state_dict())
    torch.save({"state_dict": theirs}, tmp_path / "best.pth")
    path = import_checkpoint("base_learner", str(tmp_path / "best.pth"), str(tmp_path / "out"), shapes.SPACE, given)
    known = read_known(path)
    assert known.ids == KNOWN
    head = known.head(net.encoder.feature_info.channels()[-1], torch.device("cpu")).state_dict()
    torch.testing.assert_close(head["classify.4.bias"], net.head.state_dict()["classify.4.bias"] + 0.01)


def test_presets_as_the_release_has_them() -> None:
    """Constants of BAM's configs for the base learner; on PASCAL the head's rate is ten times the encoder's."""
    pascal, coco = LearnerConfig(preset="faithful"), LearnerConfig(preset="faithful_coco")
    assert (pascal.steps, pascal.batch, pascal.optimizer, pascal.momentum) == (100 * 496, 12, "sgd", 0.9)
    assert (pascal.lr * pascal.encoder_lr_factor, pascal.lr, pascal.weight_decay) == (2.5e-4, 2.5e-3, 1e-4)
    views = {key: value for key, value in pascal.augment.model_dump().items() if value}
    assert views == {"size": 417, "fit": "native", "scale": (0.5, 2.0), "rotate": 10.0, "flip": 0.5, "blur": 0.5}
    assert (pascal.encoder, pascal.output_stride, pascal.released_dilation, pascal.width) == ("resnet50s", 8, True, 512)
    assert (pascal.schedule, pascal.poly_power, pascal.seed, pascal.precision) == ("poly", 0.9, 321, "fp32")
    assert pascal.episodes.split == "blocks"
    assert (coco.steps, coco.encoder_lr_factor, coco.episodes.split) == (20 * 6_840, 1.0, "interleaved")
    differ = {key for key, value in coco.model_dump().items() if value != pascal.model_dump()[key]}
    assert differ == {"preset", "steps", "encoder_lr_factor", "episodes"}
