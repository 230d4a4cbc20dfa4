"""The arms of benchmarks.ftmu: who decides, what came out on tested clips and on clips that cross, and a picture."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.ftmu.clips import SPACE, Clip, crossing_clips
from benchmarks.ftmu.oracle import hindsight
from maskmill.data_contracts import Uint8Array
from maskmill.pipelines.stages.evaluate import overlay
from maskmill.trainers.ftmu.agent import Agent, follow
from maskmill.trainers.ftmu.clips import ClipDetections
from maskmill.trainers.ftmu.config import TrackConfig
from maskmill.trainers.ftmu.policies import (
    AlwaysUpdate,
    Constant,
    Learned,
    NeverUpdate,
    Policy,
    RandomPolicy,
    Threshold,
)
from maskmill.trainers.ftmu.tracker import Outcome
from maskmill.vision.video import MaskCrop, mask_iou, resolve_overlaps, score_clip, summarise_objects

FIXED = {  # one action for everything: method, and whether the template is always or never updated
    "iou_always": 0,
    "iou_never": 1,
    "likeness_always": 2,
    "likeness_never": 3,
    "appearance_always": 4,
    "appearance_never": 5,
}
ARMS = (*FIXED, "always_update", "never_update", "random", "threshold", "learned", "oracle")
ONCE = (*FIXED, "always_update", "never_update", "threshold", "oracle")  # no chance in them: measured for one seed


@dataclass
class Tally:
    """What one arm gave on the tested clips."""

    j: list[Any] = field(default_factory=list)
    f: list[Any] = field(default_factory=list)
    frames: int = 0
    seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    actions: Counter[int] = field(default_factory=Counter)

    def metrics(self) -> dict[str, float]:
        """Named figures; shares and seconds of nothing are 0."""
        j, f = summarise_objects(self.j), summarise_objects(self.f)
        count = max(len(self.outcomes), 1)
        return {
            "j": 100 * j.mean,
            "f": 100 * f.mean,
            "fps": self.frames / max(self.seconds, 1e-9),
            "j_recall": 100 * j.recall,
            "j_decay": 100 * j.decay,
            "update_rate": sum(outcome.updated for outcome in self.outcomes) / count,
            "whole_rate": sum(outcome.whole for outcome in self.outcomes) / count,
            "action_variety": variety(self.actions),
        }


def variety(actions: Counter[int]) -> float:
    """Share of the decisions that are not the most frequent one: 0 where a policy is one rule."""
    total = sum(actions.values())
    return 1 - max(actions.values()) / total if total else 0.0


@dataclass(frozen=True)
class Counted:
    """A policy whose decisions are counted."""

    policy: Policy
    actions: Counter[int]

    def act(self, states: NDArray[np.float32]) -> list[int]:
        chosen = self.policy.act(states)
        self.actions.update(chosen)
        return chosen


def arm_of(name: str, agent: Agent, level: float, seed: int) -> tuple[Policy, TrackConfig]:
    """Who decides in an arm, and by which loop."""
    track, history = agent.config.track, agent.config.track.model_copy(update={"actions": "history"})
    if name in FIXED:
        return fixed_arm(name, track)
    arms: dict[str, tuple[Policy, TrackConfig]] = {
        "always_update": (AlwaysUpdate(), history),
        "never_update": (NeverUpdate(), history),
        "random": (RandomPolicy(seed), history),
        "threshold": (Threshold(level), history),
        "learned": (Learned(agent.actor), track),
    }
    return arms[name]


def fixed_arm(name: str, track: TrackConfig) -> tuple[Policy, TrackConfig]:
    """One method, always or never updated; appearance does without the search region."""
    action = FIXED[name]
    if action < 4:
        return Constant(action), track.model_copy(update={"actions": "joint"})
    policy = AlwaysUpdate() if action == 4 else NeverUpdate()
    return policy, track.model_copy(update={"actions": "history", "patience": 0})


def follow_clip(clip: Clip, policy: Policy, agent: Agent, track: TrackConfig) -> tuple[list[list[Outcome]], float]:
    """Outcomes by frame, and the seconds of this process that they cost."""
    begun = time.process_time()
    outcomes = list(follow(ClipDetections(clip.frames, agent.segmenter), clip.boxes, policy, agent.encoder, track))
    return outcomes, time.process_time() - begun


def label_maps(clip: Clip, outcomes: Sequence[Sequence[Outcome]]) -> Uint8Array:
    """Exclusive ids, uint8 (T, H, W)."""
    maps = np.zeros(clip.truth.shape, np.uint8)
    for frame, found in enumerate(outcomes):
        shape = (clip.truth.shape[1], clip.truth.shape[2])
        masks = resolve_overlaps([one.mask for one in found], [one.score for one in found], shape)
        for number, mask in zip(clip.ids, masks, strict=True):
            maps[frame][mask] = number
    return maps


def measure_arms(agent: Agent, level: float, seed: int, clips: Sequence[Clip], arms: Sequence[str]) -> dict[str, Tally]:
    """All arms on all clips; arms take turns on each clip, so that a slow minute slows them all."""
    tallies = {arm: Tally() for arm in arms}
    plain = {arm: arm_of(arm, agent, level, seed) for arm in arms if arm != "oracle"}
    policies = {arm: (Counted(policy, tallies[arm].actions), track) for arm, (policy, track) in plain.items()}
    for policy, track in list(plain.values())[:1]:
        follow_clip(clips[0], policy, agent, track)  # warm-up
    for clip in clips:
        for arm in arms:
            tally = tallies[arm]
            if arm == "oracle":
                outcomes, seconds = best_in_hindsight(clip, agent, tally)
            else:
                outcomes, seconds = follow_clip(clip, *_with_agent(policies[arm], agent))
            score = score_clip(label_maps(clip, outcomes), clip.truth, clip.ids)
            tally.j.append(score.j)
            tally.f.append(score.f)
            tally.frames += len(clip.frames)
            tally.seconds += seconds
            tally.outcomes += [one for frame in outcomes[1:] for one in frame]
    return tallies


def best_in_hindsight(clip: Clip, agent: Agent, tally: Tally) -> tuple[list[list[Outcome]], float]:
    """Outcomes of the oracle, and the seconds that its search took."""
    begun = time.process_time()
    course = hindsight(clip, agent.segmenter, agent.config.track)
    tally.actions.update(action for frame in course.actions for action in frame)
    return list(course.outcomes), time.process_time() - begun


def _with_agent(arm: tuple[Policy, TrackConfig], agent: Agent) -> tuple[Policy, Agent, TrackConfig]:
    return arm[0], agent, arm[1]


def crossing(agent: Agent, level: float, seed: int, arm: str, count: int) -> dict[str, float]:
    """J on drawn clips, and the share of objects whose last mask lies on themselves and not on another object."""
    curves, apart = [], []
    for clip in crossing_clips(count):
        if arm == "oracle":
            outcomes, _ = best_in_hindsight(clip, agent, Tally())
        else:
            outcomes, _ = follow_clip(clip, *_with_agent(arm_of(arm, agent, level, seed), agent))
        curves.append(score_clip(label_maps(clip, outcomes), clip.truth, clip.ids, boundaries=False).j)
        truths = [MaskCrop.of(clip.truth[-1] == number) for number in clip.ids]
        for number, outcome in enumerate(outcomes[-1]):
            overlaps = [0.0 if outcome.mask is None else mask_iou(outcome.mask, truth) for truth in truths]
            apart.append(overlaps[number] > 0 and int(np.argmax(overlaps)) == number)
    return {"crossing_j": 100 * summarise_objects(curves).mean, "kept_apart": float(np.mean(apart))}


def draw_sheet(agent: Agent, path: Path, count: int, columns: int = 6) -> None:
    """A PNG of crossing clips, a row each: the given boxes, then what the agent makes of later frames."""
    rows = []
    for clip in crossing_clips(count)[:3]:
        outcomes, _ = follow_clip(clip, Learned(agent.actor), agent, agent.config.track)
        maps = label_maps(clip, outcomes)
        first = clip.frames[0].copy()
        for x0, y0, x1, y1 in clip.boxes.astype(int).tolist():
            cv2.rectangle(first, (x0, y0), (x1 - 1, y1 - 1), (255, 255, 255), 2)
        times = np.linspace(1, len(clip.frames) - 1, columns - 1).round().astype(int)
        rows.append(np.hstack([first, *(overlay(clip.frames[t], maps[t], SPACE) for t in times)]))
    # 128 colours: a picture for a page, not for measuring
    Image.fromarray(np.vstack(rows)).quantize(128).save(path, optimize=True)
