"""Training and labelling hold their folders, leave nothing behind, and go to object stores as to a disk."""

import os
from pathlib import Path

import pytest

from maskmill.data_contracts import SAMPLE, TEMPORARY
from maskmill.pipelines.core.lock import RunLockedError, lock
from maskmill.pipelines.core.working import working_folder
from maskmill.pipelines.stages.build import BuildConfig, build_segmenter
from maskmill.pipelines.stages.label import LabelConfig, label
from maskmill.pipelines.stages.train import TrainConfig, train
from tests.trainers import shapes

SETTINGS = {
    "steps": 1,
    "batch": 2,
    "segmenter": {"architecture": "fpn", "weights": "random"},
    "augment": {"size": 32},
    "runtime": {"threads": 1, "progress": False},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    rows = [shapes.sample_row(number) for number in range(3)]
    samples = shapes.write_rows(tmp_path_factory.mktemp("data") / "samples", rows, SAMPLE)
    return TrainConfig(label_space=shapes.SPACE, data={"samples": samples}, settings=SETTINGS)  # type: ignore[arg-type]


def test_what_a_kill_left_goes_and_two_trainings_exclude_each_other(config: TrainConfig, tmp_path: Path) -> None:
    run_dir, out_dir = tmp_path / "run", tmp_path / "artifact"
    train(config, str(run_dir), str(out_dir))
    names = {path.name for path in out_dir.iterdir()}
    assert names == {"config.json", "model.safetensors", "metrics.json", "curves.png"}
    (run_dir / "checkpoint.safetensors").write_bytes(b"left by a kill")
    for folder in (run_dir, out_dir):
        (folder / f"{TEMPORARY}1-x").write_bytes(b"left by a kill")
    inode = (out_dir / "model.safetensors").stat().st_ino
    train(config, str(run_dir), str(out_dir))
    assert {path.name for path in run_dir.iterdir()} <= {"metrics.jsonl", "cache"}
    assert {path.name for path in out_dir.iterdir()} == names
    assert (out_dir / "model.safetensors").stat().st_ino == inode
    for folder in (run_dir, out_dir):
        with lock(str(folder)), pytest.raises(RunLockedError):
            train(config, str(run_dir), str(out_dir))


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json", "curves.png", "config.json"])
def test_a_damaged_artifact_is_trained_again(config: TrainConfig, tmp_path: Path, name: str) -> None:
    folders = (str(tmp_path / "run"), str(tmp_path / "artifact"))
    train(config, *folders)
    path = tmp_path / "artifact" / name
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    train(config, *folders)
    assert len(path.read_bytes()) == len(before)
    assert path.read_bytes()[-1] == before[-1]


def test_an_object_store_gets_the_results_and_a_second_run_finds_them(
    config: TrainConfig, tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    out = f"s3://{s3_bucket}/segmenter"
    build = BuildConfig(train=config, test=config.data, overlays=1)
    first = build_segmenter(build, out)
    assert first.artifact.startswith(out)
    monkeypatch.setattr("maskmill.pipelines.stages.train.get_trainer", _unless_trained(config))
    assert build_segmenter(build, out).metrics["miou"] == first.metrics["miou"]
    assert os.listdir(tmp_path) == ["cache"]
    assert working_folder(out) == working_folder(f"{out}/")
    assert working_folder("file:///a/b") == "/a/b"


def _unless_trained(config: TrainConfig) -> object:
    """The trainer, which must not train."""
    from maskmill.trainers.registry import get_trainer

    class Trained:
        Config = get_trainer(config.trainer).Config
        VERSION = get_trainer(config.trainer).VERSION
        stamps = staticmethod(get_trainer(config.trainer).stamps)

        @staticmethod
        def train(*args: object) -> str:
            raise AssertionError("trained again")

    return lambda name: Trained


def test_two_labellings_of_one_folder_exclude_each_other(config: TrainConfig, tmp_path: Path) -> None:
    wanted = LabelConfig(label_space=shapes.SPACE, samples=config.data.samples[0])
    with lock(str(tmp_path / "labels")), pytest.raises(RunLockedError):
        label(wanted, str(tmp_path / "labels"))
