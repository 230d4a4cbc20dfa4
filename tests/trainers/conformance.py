"""What every trainer must do. A trainer's test inherits `TrainerConformance`, sets `name` and `settings`, and adds
its own cases.

    class TestSupervised(TrainerConformance):
        name = "supervised" settings = {"segmenter": {"weights": "random"}, "augment": {"size": 32}}

Override `write_data` where the method needs other labels, and `check_prediction` where it predicts something other than
one `Prediction` an image.
"""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from maskmill.data_contracts import LabelSpace, Uint8Array
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, Loop, read_artifact
from maskmill.trainers.registry import load_artifact
from tests.elsewhere import elsewhere
from tests.trainers import shapes
from tests.trainers.two_processes import noted, train_by

STEPS, KILLED_AT, SAVE_EVERY = 4, 3, 2


class KilledError(Exception):
    """Stands for the end of a process between two steps."""


class TrainerConformance:
    name: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}
    batch: ClassVar[int] = 2
    space: ClassVar[LabelSpace] = shapes.SPACE

    def write_data(self, folder: Path, shards: int) -> DataConfig:
        """Training data under `folder`, dealt over so many shards; the same samples whatever `shards` is."""
        return DataConfig(samples=(shapes.write_scenes(folder / "samples", 6, shards=shards),))

    def check_prediction(self, predictor: Any, images: list[Uint8Array]) -> list[np.ndarray[Any, Any]]:
        """Predict, check shapes and dtypes, and return one float array an image for comparisons."""
        predictions = predictor.predict(images)
        assert len(predictions) == len(images)
        for image, prediction in zip(images, predictions, strict=True):
            assert prediction.logits.shape == (self.space.size, *image.shape[:2])
            assert prediction.logits.dtype == np.float32
            assert prediction.labels.shape == prediction.confidence.shape == image.shape[:2]
            assert prediction.labels.dtype == prediction.confidence.dtype == np.uint8
            assert prediction.labels.max() < self.space.size
            assert np.isfinite(prediction.logits).all()
        return [prediction.logits for prediction in predictions]

    # --- helpers

    def run_config(self, data: DataConfig, seed: int = 0) -> TrainConfig:
        runtime = {"device": "cpu", "threads": 1, "save_every": SAVE_EVERY, "log_every": 1, "progress": False}
        common = {"steps": STEPS, "batch": self.batch, "precision": "fp32"}
        settings = {**common, **self.settings, "seed": seed, "runtime": runtime}
        return TrainConfig(trainer=self.name, label_space=self.space, data=data, settings=settings)

    def run(self, folder: Path, data: DataConfig, seed: int = 0) -> str:
        return train(self.run_config(data, seed), str(folder / "run"), str(folder / "artifact"))

    @pytest.fixture(scope="class")
    def data(self, tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
        return self.write_data(tmp_path_factory.mktemp("data"), shards=1)

    @pytest.fixture(scope="class")
    def trained(self, data: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Folder of one finished run: `run` and `artifact`."""
        folder = tmp_path_factory.mktemp("trained")
        self.run(folder, data)
        return folder

    # --- the contract

    def test_leaves_a_complete_artifact(self, trained: Path) -> None:
        names = {path.name for path in (trained / "artifact").iterdir()}
        assert names == {"config.json", "model.safetensors", "metrics.json", "curves.png"}
        info = read_artifact(str(trained / "artifact")).info
        assert info.trainer == self.name
        assert info.label_space == self.space
        assert info.lineage
        lines = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(STEPS))
        assert not (trained / "run" / "checkpoint.safetensors").exists()

    def test_weights_changed_and_are_finite(self, trained: Path, data: DataConfig, tmp_path: Path) -> None:
        tensors = read_artifact(str(trained / "artifact")).tensors
        assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
        other = read_artifact(self.run(tmp_path, data, seed=1)).tensors
        assert tensors.keys() == other.keys()
        assert any(not torch.equal(tensors[k], other[k]) for k in tensors), "another seed must give other weights"

    def test_same_seed_same_weights_whatever_the_shards(self, trained: Path, tmp_path: Path) -> None:
        data = self.write_data(tmp_path / "dealt", shards=2)
        again = read_artifact(self.run(tmp_path, data))
        assert same_weights(again.tensors, read_artifact(str(trained / "artifact")).tensors)

    def test_killed_and_resumed_equals_uninterrupted(
        self, trained: Path, data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []
        begin = Loop._begin_step

        def dies(loop: Loop) -> None:
            if loop.step == KILLED_AT and KILLED_AT not in seen:
                seen.append(KILLED_AT)
                raise KilledError
            seen.append(loop.step)
            begin(loop)

        monkeypatch.setattr(Loop, "_begin_step", dies)
        with pytest.raises(KilledError):
            self.run(tmp_path, data)
        resumed = read_artifact(self.run(tmp_path, data))
        assert seen == [0, 1, 2, KILLED_AT, *range(SAVE_EVERY, STEPS)], "expected to go on from the checkpoint"
        whole = read_artifact(str(trained / "artifact"))
        assert same_weights(resumed.tensors, whole.tensors)
        assert resumed.info == whole.info

    def test_its_batches_can_come_from_data_processes(
        self, data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(loop: Loop) -> None:
            raise KilledError(loop.source)

        monkeypatch.setattr(Loop, "_begin_step", stop)
        with pytest.raises(KilledError) as stopped:
            self.run(tmp_path, data)
        source = stopped.value.args[0]
        there = pickle.loads(pickle.dumps(source))  # what a spawned process is given
        assert same_batch(there(1), source(1))

    def test_trains_in_bf16(self, data: DataConfig, tmp_path: Path) -> None:
        config = self.run_config(data)
        settings = {**config.settings, "precision": "bf16", "steps": 1}
        runs = (str(tmp_path / "run"), str(tmp_path / "artifact"))
        tensors = read_artifact(train(config.model_copy(update={"settings": settings}), *runs)).tensors
        floats = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
        assert all(torch.isfinite(tensor).all() for tensor in floats)
        assert {tensor.dtype for tensor in floats} == {torch.float32}, "weights themselves stay fp32"

    def test_learns_and_predicts_on_a_second_device(self, data: DataConfig, tmp_path: Path) -> None:
        """All that meets lies on one device: what a GPU would refuse, `elsewhere` refuses too."""
        config = self.run_config(data)
        runtime = {**config.settings["runtime"], "device": "meta"}
        settings = {**config.settings, "steps": 2, "runtime": runtime}
        with elsewhere():
            train(config.model_copy(update={"settings": settings}), str(tmp_path / "run"), str(tmp_path / "artifact"))
            predictor = load_artifact(str(tmp_path / "artifact"), "meta")
            self.check_prediction(predictor, [shapes.draw_scene(50)[0]])

    @pytest.mark.slow
    def test_two_processes_train_as_one(self, data: DataConfig, tmp_path: Path) -> None:
        """They end with the same weights, and have gone through the batches of one process with twice the steps, each
        through every second; the first loss is that process's, and the log has the mean of both.
        """
        config = self.run_config(data)
        two, one = tmp_path / "two", tmp_path / "one"
        together = train_by(2, config, two)
        train_by(1, config.model_copy(update={"settings": {**config.settings, "steps": 2 * STEPS}}), one)
        assert same_weights(*(load_file(two / f"weights-{rank}.safetensors") for rank in (0, 1)))
        seen = [noted(two, "seen", rank) for rank in (0, 1)]
        assert [batch for pair in zip(*seen, strict=True) for batch in pair] == noted(one, "seen", 0)
        losses = [noted(two, "loss", rank) for rank in (0, 1)]
        assert losses[0][0] == noted(one, "loss", 0)[0]
        lines = [json.loads(line) for line in (two / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [line["loss"] for line in lines] == pytest.approx(np.mean(losses, axis=0))
        tensors = read_artifact(together).tensors
        assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
        assert tensors.keys() == read_artifact(str(one / "artifact")).tensors.keys()

    def test_finished_run_is_skipped(
        self, trained: Path, data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(loop: Loop) -> None:
            raise AssertionError("a finished run was trained again")

        shutil.copytree(trained, tmp_path / "mine")
        monkeypatch.setattr(Loop, "_begin_step", refuse)
        self.run(tmp_path / "mine", data)
        with pytest.raises(AssertionError, match="trained again"):
            self.run(tmp_path / "mine", data, seed=5)

    def test_predicts_any_size_alone_or_in_company(self, trained: Path) -> None:
        images = [shapes.draw_scene(50)[0], shapes.draw_scene(51, 37, 80)[0], shapes.draw_scene(52)[0]]
        predictor = load_artifact(str(trained / "artifact"), "cpu")
        together = self.check_prediction(predictor, images)
        reloaded = self.check_prediction(load_artifact(str(trained / "artifact"), "cpu"), images)
        for a, b in zip(together, reloaded, strict=True):
            np.testing.assert_array_equal(a, b)
        alone = [self.check_prediction(predictor, [image])[0] for image in images]
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)

    def test_refuses_unknown_settings(self, data: DataConfig, tmp_path: Path) -> None:
        config = TrainConfig(trainer=self.name, label_space=self.space, data=data, settings={"no_such_setting": 1})
        with pytest.raises(ValueError, match="no_such_setting"):
            train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))


def same_batch(a: Any, b: Any) -> bool:
    """True when two batches hold the same keys, bits and words."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_batch(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(np.all(a == b))


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """True when both hold the same names and bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
