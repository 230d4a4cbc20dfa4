"""The benchmark of clips: its split, a whole run on tiny videos, and the two commands."""

import json
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.common import Options, is_train_key, parse_options
from benchmarks.ftmu import run as command
from benchmarks.ftmu import toy, training
from benchmarks.ftmu.arms import ARMS, FIXED, variety
from benchmarks.ftmu.clips import Clip, split
from benchmarks.ftmu.counterfactual import CLIPS, DISCOUNT, LENGTH, Exploring, counterfactuals
from benchmarks.ftmu.long_clips import BACK, GONE, PARTS, _walkers, long_clip, long_clips
from benchmarks.ftmu.oracle import hindsight
from maskmill.starter.drawn import SceneConfig
from maskmill.starter.drawn.scenes import scene_rng
from maskmill.trainers.ftmu.agent import follow
from maskmill.trainers.ftmu.clips import ClipDetections
from maskmill.trainers.ftmu.config import TrackConfig
from maskmill.trainers.ftmu.policies import Constant, Head
from maskmill.trainers.ftmu.rollout import overlap_with_truth
from maskmill.trainers.ftmu.state import SharedState
from maskmill.vision.instances import ProposalConfig
from maskmill.vision.video import MaskCrop, box_iou
from tests.trainers.clips import BLUE, RED, ColourSegmenter, draw

NAMES = [f"clip{number}" for number in range(10)]
TINY = training.Size(
    segmenter_steps=2,
    stills=2,
    drawn=1,
    agent_steps=2,
    crossing=1,
    long=1,
    frames=4,
    side=32,
    threads=1,
    network=ProposalConfig(encoder="lcnet_035", weights="random", width=16, prototypes=4, descriptor=8),
)
torch.set_num_threads(1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """DAVIS's layout: a red square that moves, and photos of horses."""
    for name in NAMES:
        for kind in ("JPEGImages", "Annotations"):
            (tmp_path / "data/davis" / kind / name).mkdir(parents=True)
        for frame in range(4):
            square = (10 + 2 * frame, 8 + 4 * frame, 20, RED)
            image = draw([square, (40, 70, 12, BLUE)])
            Image.fromarray(image).save(tmp_path / f"data/davis/JPEGImages/{name}/{frame:05d}.jpg")
            mask = (image == RED).all(-1).astype(np.uint8)
            cv2.imwrite(str(tmp_path / f"data/davis/Annotations/{name}/{frame:05d}.png"), mask)
    return tmp_path / "data"


def options(data: Path, *more: str) -> Options:
    argv = ["--data", str(data), "--json", str(data.parent / "found.json"), *more]
    return parse_options("ftmu", None, argv, has_dev=True)


def test_nothing_tested_is_learnt_from(data: Path) -> None:
    first, others, tested = split(options(data))
    assert first
    assert others
    assert tested
    assert sorted([*first, *others, *tested]) == sorted(NAMES)
    assert not any(is_train_key(name) for name in tested)
    first, others, tested = split(options(data, "--test-data", str(data)))
    assert sorted([*first, *others]) == sorted(NAMES) == tested
    first, others, tested = split(options(data, "--dev"))
    assert tested
    assert not set(tested) & {*first, *others}
    assert all(is_train_key(name) for name in [*first, *others, *tested])


def test_all_arms_are_measured_and_a_second_run_takes_up_the_first(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(training.SIZES, "small", TINY)
    monkeypatch.setattr(training, "LEVELS", (0.5,))
    asked: list[str] = []
    whole = command.measure

    def cut_off(name: str, *rest: Any) -> Any:
        asked.append(name)
        if asked == ["davis", "long"]:
            raise KeyboardInterrupt
        return whole(name, *rest)

    monkeypatch.setattr(command, "measure", cut_off)
    with pytest.raises(KeyboardInterrupt):
        command.run(options(data))
    asked.append("again")
    command.run(options(data))
    assert asked == ["davis", "long", "again", "long", "crossing"]
    found = json.loads((data.parent / "found.json").read_text())
    assert set(found["metrics"]) == set(ARMS)
    for arm, metrics in found["metrics"].items():
        assert {
            "j",
            "f",
            "fps",
            "update_rate",
            "whole_rate",
            "action_variety",
            "long_j",
            "long_fps",
            "long_action_variety",
            "crossing_j",
            "kept_apart",
        } <= metrics.keys()
        assert 0 <= metrics["j"]["mean"] <= 100
        assert metrics["fps"]["mean"] > 0, arm
    rates = {arm: metrics["whole_rate"]["mean"] for arm, metrics in found["metrics"].items()}
    assert rates["iou_always"] == rates["likeness_never"] == 0
    assert rates["appearance_never"] == rates["appearance_always"] == 1
    updates = {arm: metrics["update_rate"]["mean"] for arm, metrics in found["metrics"].items()}
    assert updates["iou_never"] == updates["likeness_never"] == updates["appearance_never"] == 0
    variety = {arm: metrics["action_variety"]["mean"] for arm, metrics in found["metrics"].items()}
    assert all(variety[arm] == 0 for arm in FIXED)
    j = {arm: metrics["j"]["mean"] for arm, metrics in found["metrics"].items()}
    assert all(metrics["long_action_variety"]["mean"] == 0 for arm, metrics in found["metrics"].items() if arm in FIXED)
    assert j["oracle"] >= max(j[arm] for arm in FIXED if not arm.startswith("appearance")) - 1e-6
    assert found["metrics"]["never_update"]["update_rate"]["mean"] == 0
    assert not (data.parent / "found.json.work").exists()
    assert Image.open(data.parent / "found.png").size == (6 * 160, 160)


@pytest.mark.parametrize("number", range(3))
def test_long_clips_cross_leave_and_look_alike(number: int) -> None:
    clip = long_clip(number, "dev", 35)
    assert clip.ids == tuple(range(1, 3 + number))
    shown = [[int((mask == i).sum()) for i in clip.ids] for mask in clip.truth]
    assert min(shown[0]) > 100, "all objects have a box"
    absent = [row[0] == 0 for row in shown]
    first, last = absent.index(True), len(absent) - absent[::-1].index(True)
    assert 6 <= last - first <= 10
    assert not any(absent[:first])
    assert max(row[0] for row in shown[last:]) > 100, "it comes back"
    assert not any(row[1] == 0 for row in shown[first:last])
    middle = clip.truth[round(0.3 * 34)]
    boxes = [MaskCrop.of(middle == i).box for i in (1, 2)]
    assert box_iou(boxes[0], boxes[1][None])[0] > 0.05, "they cross"


def test_parts_of_long_clips_are_drawn_alone_and_again() -> None:
    again, other = long_clip(1, "dev", 4), long_clip(1, "learn", 4)
    np.testing.assert_array_equal(np.stack(again.frames), np.stack(long_clips(2, "dev", 4)[1].frames))
    assert not np.array_equal(again.frames[0], other.frames[0])
    styles = {part: set(given) for part, (given, _) in PARTS.items()}
    assert not styles["test"] & (styles["learn"] | styles["dev"])
    assert len({seed for _, seed in PARTS.values()}) == 3


def test_an_untracked_look_alike_walks_in_while_the_first_is_away() -> None:
    rng = scene_rng(SceneConfig(seed=1), 1, "x")
    walkers = _walkers(rng, SceneConfig(seed=1), 3, twin=False)
    assert len(walkers) == 4
    assert walkers[3].drawing is walkers[0].drawing
    assert not np.allclose(walkers[3].colours, walkers[0].colours)
    assert walkers[3].patch(GONE - 0.01, 64) is None
    assert walkers[3].patch(0.6, 64) is not None
    assert walkers[0].patch(0.5 * (GONE + BACK), 64) is None
    twins = _walkers(rng, SceneConfig(seed=1), 2, twin=True)
    assert len(twins) == 2
    assert twins[1].drawing is twins[0].drawing


def test_how_much_actions_vary() -> None:
    assert variety(Counter()) == 0
    assert variety(Counter({1: 5})) == 0
    assert variety(Counter({1: 5, 0: 3, 3: 2})) == pytest.approx(0.5)


def test_hindsight_beats_every_fixed_rule_where_they_fail() -> None:
    """A look-alike passes by: overlap drifts onto it when it updates, and loses the target when it never does."""
    script = [[(20, 10 + 5 * t, 14, RED), (24, 70 - 5 * t, 14, BLUE)] for t in range(10)]
    frames = [draw(squares) for squares in script]
    truth = np.stack([(f == RED).all(-1).astype(np.uint8) for f in frames])
    clip = Clip("passing", frames, truth, (1,))
    config = TrackConfig(actions="joint", aligned=False)
    course = hindsight(clip, ColourSegmenter(), config)
    assert len(course.outcomes) == len(frames) == len(course.actions) + 1
    fixed = []
    for action in range(6):
        detections = ClipDetections(frames, ColourSegmenter())
        tracks = follow(
            detections, clip.boxes, Constant(action), SharedState(), TrackConfig(actions="joint", aligned=False)
        )
        found = [overlap_with_truth(o[0].mask, MaskCrop.of(truth[t] == 1), None) for t, o in enumerate(tracks)]
        fixed.append(sum(found[1:]))
    assert course.total >= max(fixed) - 1e-6
    assert min(fixed) < course.total


def test_counterfactuals_differ_in_one_action_and_what_follows() -> None:
    """The state of the moment is the same whatever is done then, and returns are those of walks with that action."""
    torch.manual_seed(0)
    rules, config = toy.WIDER["counted"], toy.settings(1, 0)
    actor = Head(rules.width, (8,), 2)
    states, gains = counterfactuals(actor, 7, (6, False), config, rules, 5)
    assert states.shape[1] == rules.width
    assert gains.shape == (len(states), 2)
    np.testing.assert_allclose(gains.sum(1), 0, atol=1e-5)
    walks = []
    for action in (0, 1):
        forced = toy.Forced(6, False, action)
        walked = toy.play(Exploring(actor, 2, 7), 7, CLIPS, LENGTH, 5, config, rules, forced)
        walks.append(np.array(walked.j).reshape(LENGTH - 1, CLIPS))
        assert forced.clips is not None
        np.testing.assert_array_equal(forced.states, states)
    np.testing.assert_array_equal(walks[0][:5], walks[1][:5])
    weights = DISCOUNT ** np.arange(LENGTH - 6)[:, None]
    wanted = ((walks[0] - walks[1])[5:, forced.clips] * weights).sum(0)
    np.testing.assert_allclose(gains[:, 0] - gains[:, 1], wanted, atol=1e-4)
    assert np.abs(wanted).max() > 1


@pytest.mark.parametrize("name", ["ftmu", "ftmu_toy"])
def test_both_commands_run(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as done:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert done.value.code == 0
    assert f"python -m benchmarks.{name} " in capsys.readouterr().out
