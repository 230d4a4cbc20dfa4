"""semi_supervised: conformance with a trained artifact, labelled groups, cleaning, confidence, other classes."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from maskmill.data_contracts import IGNORE, PSEUDO_LABEL, LabelSpace, Reason, list_shards, load_label_space, read_shard
from maskmill.labelers import Labeler, LabelItem, get_labeler
from maskmill.labelers.semi_supervised import Config, SemiSupervised, load, stamps
from maskmill.labelers.semi_supervised.labeler import decide
from maskmill.pipelines.stages.label import LabelConfig, label
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, Prediction
from tests.labelers.conformance import LabelerConformance
from tests.trainers import shapes

torch.set_num_threads(1)
TINY = {
    "architecture": "unet",
    "encoder": "lcnet_035",
    "weights": "random",
    "options": {"encoder_depth": 2, "decoder_channels": [16, 8]},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(artifact of abd trained on group 0, its samples: groups 0, 1, 2)."""
    folder = tmp_path_factory.mktemp("abd")
    samples = shapes.write_scenes(folder / "samples", 6, group_size=2)
    settings = {
        "network": TINY,
        "partner": TINY,
        "labelled_groups": ["group 0"],
        "augment": {"size": 32},
        "steps": 2,
        "batch": 2,
        "unlabelled_batch": 2,
        "runtime": {"threads": 1, "progress": False, "device": "cpu"},
    }
    config = TrainConfig(
        trainer="abd", label_space=shapes.SPACE, data=DataConfig(samples=(samples,)), settings=settings
    )
    return train(config, str(folder / "run"), str(folder / "artifact")), samples


class TestSemiSupervised(LabelerConformance):
    name = "semi_supervised"
    settings: ClassVar[dict[str, Any]] = {"device": "cpu", "min_confidence": 0.3}

    @pytest.fixture(scope="class", autouse=True)
    def _artifact(self, trained: tuple[str, str]) -> None:
        type(self).settings = {**self.settings, "artifact": trained[0]}

    @pytest.fixture(scope="class")
    def engine(self, trained: tuple[str, str], _artifact: None) -> Labeler:
        module = get_labeler(self.name)
        return module.load(module.Config.model_validate(self.settings), self.space)


def prediction(seed: int = 0) -> Prediction:
    return Prediction(np.random.default_rng(seed).normal(size=(4, 20, 24)).astype(np.float32) * 3)


def test_labelled_groups_are_left_out_unless_wanted(trained: tuple[str, str], tmp_path: Path) -> None:
    artifact, samples = trained
    config = LabelConfig(
        labeler="semi_supervised", label_space=shapes.SPACE, samples=samples, settings={"artifact": artifact}
    )
    assert label(config, str(tmp_path / "labels")) == {"already_labelled": 2, "kept": 4}
    rows = [row for path in list_shards(str(tmp_path / "labels")) for row in read_shard(path, PSEUDO_LABEL).to_pylist()]
    assert sum(row["mask"] is None and row["confidence"] is None for row in rows) == 2
    everyone = config.model_copy(update={"settings": {"artifact": artifact, "labelled_groups": "label"}})
    assert label(everyone, str(tmp_path / "all")) == {"kept": 6}


def test_both_networks_or_the_tested_one(trained: tuple[str, str]) -> None:
    image = shapes.draw_scene(3)[0]
    labelers: list[SemiSupervised] = [
        load(Config(artifact=trained[0], networks=which), shapes.SPACE)  # type: ignore[arg-type]
        for which in ("both", "first")
    ]
    both, first = (engine.label([LabelItem("x", image)])[0] for engine in labelers)
    assert both.confidence is not None
    assert first.confidence is not None
    assert not np.array_equal(both.confidence, first.confidence)
    assert np.array_equal(first.confidence, labelers[1].predictor.predict([image])[0].confidence)


def test_small_blobs_and_unsure_pixels_are_undecided() -> None:
    plain = decide(prediction(), shapes.SPACE, Config(artifact="", largest_component=False))
    assert plain.mask is not None
    assert np.array_equal(plain.mask, prediction().labels)
    cleaned = decide(prediction(), shapes.SPACE, Config(artifact=""))
    assert cleaned.mask is not None
    gone = cleaned.mask == IGNORE
    assert gone.any()
    assert np.array_equal(cleaned.mask[~gone], plain.mask[~gone])
    unsure = decide(prediction(), shapes.SPACE, Config(artifact="", largest_component=False, min_confidence=0.8))
    assert unsure.mask is not None
    assert np.array_equal(unsure.mask == IGNORE, prediction().confidence < 255 * 0.8)
    none = decide(prediction(), shapes.SPACE, Config(artifact="", min_confidence=0.999, min_decided=0.5))
    assert none.mask is None
    assert none.reason is Reason.LOW_CONFIDENCE


def test_stamp_is_the_artifacts_and_other_classes_are_refused(trained: tuple[str, str]) -> None:
    config = Config(artifact=trained[0])
    assert len(stamps(config)[0]) > 8
    with pytest.raises(ValueError, match=r"expected classes \(1, 2, 3, .*label with its label space shapes"):
        load(config, load_label_space("voc"))
    assert load(config, LabelSpace.from_names(["a", "b", "c"])).space.size == 4
    with pytest.raises(FileNotFoundError, match="train it first"):
        stamps(Config(artifact="nowhere"))


def test_an_artifact_without_dense_labels_is_refused(trained: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskmill.labelers.semi_supervised.labeler.load_artifact", lambda *_: object())
    with pytest.raises(ValueError, match="expected a segmenter, found object"):
        load(Config(artifact=trained[0]), shapes.SPACE)


def test_nothing_is_cleaned_where_no_blob_is_asked_for() -> None:
    """Abstaining needs less than `min_decided`, not as much."""
    half = Prediction(np.stack([np.full((2, 2), 2.0), np.array([[9.0, 9.0], [2.1, 2.1]])]).astype(np.float32))
    config = Config(artifact="", largest_component=False, min_confidence=0.9, min_decided=0.5)
    assert decide(half, shapes.SPACE, config).mask is not None
    assert decide(half, shapes.SPACE, config.model_copy(update={"min_decided": 0.51})).mask is None
