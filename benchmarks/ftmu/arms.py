"""The arms of benchmarks.ftmu: who decides, what came out on tested clips and on clips that cross, and a picture."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from benchmarks.ftmu.clips import SPACE, Clip, crossing_clips
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

ARMS = (
    "always_iou",
    "always_update",
    "never_update",
    "random",
    "threshold",
    "always_likeness",
    "learned",
    "always_appearance",
)
ONCE = ("always_update", "never_update", "threshold", "always_appearance")  # no chance in them: measured for one seed


@dataclass
class Tally:
    """What one arm gave on the tested clips."""

    j: list[Any] = field(default_factory=list)
    f: list[Any] = field(default_factory=list)
    frames: int = 0
    seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)

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
        }


def arm_of(name: str, agent: Agent, level: float, seed: int) -> tuple[Policy, TrackConfig]:
    """Who decides in an arm, and by which loop."""
    track, history = agent.config.track, agent.config.track.model_copy(update={"actions": "history"})
    arms: dict[str, tuple[Policy, TrackConfig]] = {
        "always_iou": (AlwaysUpdate(), history.model_copy(update={"patience": None})),
        "always_appearance": (NeverUpdate(), history.model_copy(update={"patience": 0})),
        "always_update": (AlwaysUpdate(), history),
        "never_update": (NeverUpdate(), history),
        "always_likeness": (Constant(3), history.model_copy(update={"actions": "joint"})),
        "random": (RandomPolicy(seed), history),
        "threshold": (Threshold(level), history),
        "learned": (Learned(agent.actor), track),
    }
    return arms[name]


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
    policies = {arm: arm_of(arm, agent, level, seed) for arm in arms}
    follow_clip(clips[0], *_with_agent(policies[arms[0]], agent))  # warm-up
    for clip in clips:
        for arm in arms:
            outcomes, seconds = follow_clip(clip, *_with_agent(policies[arm], agent))
            score = score_clip(label_maps(clip, outcomes), clip.truth, clip.ids)
            tally = tallies[arm]
            tally.j.append(score.j)
            tally.f.append(score.f)
            tally.frames += len(clip.frames)
            tally.seconds += seconds
            tally.outcomes += [one for frame in outcomes[1:] for one in frame]
    return tallies


def _with_agent(arm: tuple[Policy, TrackConfig], agent: Agent) -> tuple[Policy, Agent, TrackConfig]:
    return arm[0], agent, arm[1]


def crossing(agent: Agent, level: float, seed: int, arm: str, count: int) -> dict[str, float]:
    """J on drawn clips, and the share of objects whose last mask lies on themselves and not on another object."""
    curves, apart = [], []
    for clip in crossing_clips(count):
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
