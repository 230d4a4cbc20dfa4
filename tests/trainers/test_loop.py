"""The loop: exact resume after SIGKILL, its log, its guards, its schedules."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from maskmill.data_contracts import decode_image
from maskmill.pipelines.stages.train import plan_job, train
from maskmill.trainers.engine import (
    Loop,
    TrainerConfig,
    lr_factor,
    make_optimizer,
    param_groups,
    pick_precision,
    read_artifact,
)
from maskmill.trainers.engine.checkpoint import pack_tensors
from maskmill.trainers.engine.loop import count_images
from maskmill.trainers.registry import TRAINERS
from tests.trainers import shapes, toy
from tests.trainers.conformance import TrainerConformance, same_weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _toy_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRAINERS, "toy", "tests.trainers.toy")


class TestToy(TrainerConformance):
    """The engine itself passes what every trainer must pass, with two modules, two optimisers and a memory."""

    name = "toy"

    @pytest.fixture(scope="class", autouse=True)
    def _registered(self) -> Iterator[None]:
        TRAINERS["toy"] = "tests.trainers.toy"
        yield
        TRAINERS.pop("toy", None)  # a trainer of tests is none of those that the reference lists


def test_the_folder_of_earlier_versions_is_still_found(tmp_path: Path) -> None:
    samples = shapes.write_scenes(tmp_path / "samples", 5)
    run, out = str(tmp_path / "run"), tmp_path / "artifact"
    wanted = toy.run_config(samples, 2)
    train(wanted, run, str(out))
    (tmp_path / "artifact").rename(tmp_path / "artefact")
    assert train(wanted, run, str(out)) == str(out)
    assert not list(out.glob("*.safetensors")), "what was trained is not trained again"
    assert read_artifact(str(out)).path == str(tmp_path / "artefact")


def test_curves_show_losses_and_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw_curves: Callable[[Loop], bytes]
) -> None:
    monkeypatch.setattr(Loop, "curves", draw_curves)
    samples = shapes.write_scenes(tmp_path / "samples", 3)
    train(toy.run_config(samples, 3), str(tmp_path / "run"), str(tmp_path / "artifact"))
    image = decode_image((tmp_path / "artifact" / "curves.png").read_bytes(), "curves")
    assert image.shape == (360, 1000, 3)
    blue = np.array([0x1F, 0x77, 0xB4])  # of the first line
    assert int((image == blue).all(axis=2)[:, :500].sum()) > 100


def test_sigkill_at_any_step_changes_nothing(tmp_path: Path) -> None:
    samples = shapes.write_scenes(tmp_path / "samples", 5)
    steps, pause = 24, 0.03
    log = tmp_path / "killed" / "run" / "metrics.jsonl"
    command = [sys.executable, "-m", "tests.trainers.toy", samples, str(tmp_path / "killed"), str(steps), str(pause)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (log.exists() and log.read_text().count("\n") >= 8):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)  # at whatever instant this turns out to be
    process.wait()
    assert not (tmp_path / "killed" / "artifact" / "config.json").exists()
    train(
        toy.run_config(samples, steps, pause), str(tmp_path / "killed" / "run"), str(tmp_path / "killed" / "artifact")
    )
    train(toy.run_config(samples, steps, pause), str(tmp_path / "whole" / "run"), str(tmp_path / "whole" / "artifact"))
    killed, whole = (read_artifact(str(tmp_path / name / "artifact")) for name in ("killed", "whole"))
    assert same_weights(killed.tensors, whole.tensors)
    assert killed.info == whole.info  # the memory's coins among it
    logs = [(tmp_path / name / "run" / "metrics.jsonl").read_text() for name in ("killed", "whole")]
    assert logs[0] == logs[1]


def test_another_config_does_not_take_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = shapes.write_scenes(tmp_path / "samples", 4)
    begin = Loop._begin_step

    def dies(loop: Loop) -> None:
        if loop.step == 4:
            raise KeyboardInterrupt
        begin(loop)

    monkeypatch.setattr(Loop, "_begin_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train(toy.run_config(samples, 6), str(tmp_path / "run"), str(tmp_path / "out"))
    monkeypatch.setattr(Loop, "_begin_step", begin)
    train(toy.run_config(samples, 6, lr=0.02), str(tmp_path / "run"), str(tmp_path / "out"))
    train(toy.run_config(samples, 6, lr=0.02), str(tmp_path / "fresh"), str(tmp_path / "fresh_out"))
    a, b = (read_artifact(str(tmp_path / name)) for name in ("out", "fresh_out"))
    assert same_weights(a.tensors, b.tensors)


@pytest.mark.parametrize(("before", "goes_on"), [("2.14.1", True), ("2.9.0", True), ("1.13.0", False)])
def test_a_run_is_trained_by_one_major_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, goes_on: bool
) -> None:
    samples = shapes.write_scenes(tmp_path / "samples", 4)
    begin, seen = Loop._begin_step, []

    def dies(loop: Loop) -> None:
        seen.append(loop.step)
        if len(seen) == 5:
            raise KeyboardInterrupt
        begin(loop)

    monkeypatch.setattr(Loop, "_begin_step", dies)
    versions = {"torch": before}
    monkeypatch.setattr("maskmill.data_contracts.versions._version", lambda name: versions.get(name, "not installed"))
    with pytest.raises(KeyboardInterrupt):
        train(toy.run_config(samples, 6), str(tmp_path / "run"), str(tmp_path / "out"))
    versions["torch"] = "2.14.1"
    train(toy.run_config(samples, 6), str(tmp_path / "run"), str(tmp_path / "out"))
    assert (seen[5] > 0) == goes_on


def test_fingerprint_follows_results_not_the_machine(tmp_path: Path) -> None:
    first = shapes.write_scenes(tmp_path / "a", 4)
    dealt = shapes.write_scenes(tmp_path / "b", 4, shards=3)
    other = shapes.write_scenes(tmp_path / "c", 4, first=1)

    def fingerprint(samples: str, **settings: Any) -> str:
        return plan_job(toy.run_config(samples, 2, **settings), str(tmp_path / "run"), "out").fingerprint

    base = fingerprint(first)
    assert fingerprint(dealt) == base
    assert fingerprint(first, runtime={"workers": 3, "save_every": 7}) == base
    assert len({base, fingerprint(other), fingerprint(first, seed=1), fingerprint(first, lr=0.5)}) == 4


def test_data_processes_change_nothing(tmp_path: Path) -> None:
    samples = shapes.write_scenes(tmp_path / "samples", 5)
    for workers in (0, 2):
        runtime = {"workers": workers, "threads": 1, "progress": False}
        folder = tmp_path / str(workers)
        train(toy.run_config(samples, 5, runtime=runtime), str(folder / "run"), str(folder / "out"))
    a, b = (read_artifact(str(tmp_path / name / "out")) for name in ("0", "2"))
    assert same_weights(a.tensors, b.tensors)


def test_loss_that_is_not_finite_stops_before_the_checkpoint(tmp_path: Path) -> None:
    samples = shapes.write_scenes(tmp_path / "samples", 4)
    with pytest.raises(FloatingPointError, match=r"loss is not finite .*Fix: lower lr"):
        train(toy.run_config(samples, 6, lr=1e30, schedule="constant"), str(tmp_path / "run"), str(tmp_path / "out"))
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    if checkpoint.exists():
        assert all(torch.isfinite(t).all() for t in load_file(checkpoint).values())


def test_mixed_precision_trains(tmp_path: Path) -> None:
    samples = shapes.write_scenes(tmp_path / "samples", 4)
    train(toy.run_config(samples, 2, precision="bf16"), str(tmp_path / "run"), str(tmp_path / "out"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert pick_precision("fp16", torch.device("cpu")) == torch.float16
    assert pick_precision("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)


def test_gradient_clipping_bounds_the_step(tmp_path: Path) -> None:
    samples = shapes.write_scenes(tmp_path / "samples", 4)
    plain: dict[str, Any] = {
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "lr": 1.0,
        "schedule": "constant",
    }
    torch.manual_seed(0)
    start = toy.build(8, shapes.SPACE.size).state_dict()
    moved = {}
    for name, clip in (("free", None), ("clipped", 1e-3)):
        train(
            toy.run_config(samples, 1, grad_clip=clip, **plain),
            str(tmp_path / name / "run"),
            str(tmp_path / name / "out"),
        )
        tensors = read_artifact(str(tmp_path / name / "out")).tensors
        parts = [
            (tensors[f"module/student/{k}"] - v).flatten() for k, v in start.items() if "running" not in k and v.ndim
        ]
        moved[name] = float(torch.cat(parts).norm())
    assert moved["clipped"] == pytest.approx(1e-3, rel=1e-3)
    assert moved["free"] > 0.01


def test_schedules() -> None:
    weclip = TrainerConfig(steps=30000, schedule="linear", warmup_steps=50, lr=2e-3)
    assert lr_factor(weclip, 0) == pytest.approx(1e-6)
    assert lr_factor(weclip, 50) == pytest.approx(1 - 50 / 30000)
    triangle = TrainerConfig(steps=100, schedule="triangle", lr_floor=1e-3)
    assert [lr_factor(triangle, t) for t in (0, 50, 100)] == pytest.approx([1e-3, 1.0, 1e-3])
    poly = TrainerConfig(steps=100, schedule="poly")
    assert lr_factor(poly, 25) == pytest.approx(0.75**0.9)
    assert lr_factor(TrainerConfig(steps=100, schedule="cosine"), 50) == pytest.approx(0.5)
    assert lr_factor(TrainerConfig(steps=100, schedule="constant"), 99) == 1.0
    with pytest.raises(ValueError, match="fewer than steps"):
        TrainerConfig(steps=10, warmup_steps=10)


def test_parameter_groups() -> None:
    model = toy.build(4, 3)
    config = TrainerConfig(lr=0.1, weight_decay=0.5)
    optimizer = make_optimizer(config, [*param_groups(model[0], 0.1, decay_norms=False), *param_groups(model[1])])
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups] == [
        (pytest.approx(0.01), 0.5, 1),
        (pytest.approx(0.01), 0.0, 3),
        (0.1, 0.5, 2),
    ]


def test_tied_weights_can_be_saved() -> None:
    shared = torch.ones(3)
    assert pack_tensors({"a": shared, "b": shared, "c": shared[1:]})


def test_images_are_counted_in_nested_batches() -> None:
    assert count_images({"labelled": {"sample_id": ["a", "b"]}, "unlabelled": {"sample_id": ["c"]}}) == 3
