"""Hindsight: the best sequence of methods and updates over the detections of a clip, by beam search with the truth.

It is a bound from below on what deciding can give: frame by frame every kept course tries every action for all objects
at once, and for each object the one that its truth likes best; the courses with the highest J so far are kept. Fixed
rules are followed beside them, so that the answer is never below one of them.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.ftmu.clips import Clip
from maskmill.trainers.ftmu.clips import ClipDetections
from maskmill.trainers.ftmu.config import TrackConfig
from maskmill.trainers.ftmu.policies import drive
from maskmill.trainers.ftmu.rollout import overlap_with_truth
from maskmill.trainers.ftmu.state import SharedState
from maskmill.trainers.ftmu.tracker import Outcome, Tracker
from maskmill.vision.instances import InstanceSegmenter
from maskmill.vision.video import MaskCrop

ACTIONS = 6
BEAM = 4


@dataclass(frozen=True)
class Listed:
    """One given action a state."""

    actions: tuple[int, ...]

    def act(self, states: NDArray[np.float32]) -> list[int]:
        return list(self.actions[: len(states)])


@dataclass(frozen=True, eq=False)
class Course:
    """A tracker as it stands, what it has put out, its actions, and the sum of J over frames and objects."""

    tracker: Tracker
    outcomes: tuple[list[Outcome], ...]
    actions: tuple[tuple[int, ...], ...] = ()
    total: float = 0.0


def hindsight(clip: Clip, segmenter: InstanceSegmenter, track: TrackConfig, beam: int = BEAM) -> Course:
    """The best course found. Every target is asked once a frame, whatever is seen of it (`actions: joint`)."""
    config = track.model_copy(update={"actions": "joint"})
    detections = ClipDetections(clip.frames, segmenter, keep=True)
    tracker = Tracker(detections, np.asarray(clip.boxes, np.float32), SharedState(), config)
    courses = [Course(tracker, (tracker.outcomes,))]
    rules = courses * ACTIONS
    for frame in range(1, len(clip.frames)):
        truths = [MaskCrop.of(clip.truth[frame] == number) for number in clip.ids]
        found = [child for course in courses for child in _children(course, frame, truths)]
        found.sort(key=lambda course: -course.total)
        courses = _apart(found)[:beam]
        everyone = len(clip.ids)
        rules = [_step(course, frame, (action,) * everyone, truths) for action, course in enumerate(rules)]
    return max([*courses, *rules], key=lambda course: course.total)


def _children(course: Course, frame: int, truths: Sequence[MaskCrop]) -> list[Course]:
    """One child an action for all objects, and two with each object's own best method: updated, and kept."""
    plain = [_step(course, frame, (action,) * len(truths), truths) for action in range(ACTIONS)]
    gains = np.array(
        [[overlap_with_truth(o.mask, t, None) for o, t in zip(c.outcomes[-1], truths, strict=True)] for c in plain]
    )
    best = gains[1::2].argmax(axis=0)  # by method: what is put out is the same, updated or kept
    own = [_step(course, frame, tuple(int(2 * m + kept) for m in best), truths) for kept in (0, 1)]
    good = tuple(int(2 * m + (gains[2 * m, i] < 0.5)) for i, m in enumerate(best))
    return [*plain, *own, _step(course, frame, good, truths)]


def _step(course: Course, frame: int, actions: tuple[int, ...], truths: Sequence[MaskCrop]) -> Course:
    tracker = copy.copy(course.tracker)
    tracker.tracks = [copy.copy(track) for track in course.tracker.tracks]
    outcomes = drive(tracker.step(frame), Listed(actions))
    total = course.total + sum(_gains(outcomes, truths))
    return Course(tracker, (*course.outcomes, outcomes), (*course.actions, actions), total)


def _gains(outcomes: Sequence[Outcome], truths: Sequence[MaskCrop]) -> list[float]:
    return [overlap_with_truth(outcome.mask, truth, None) for outcome, truth in zip(outcomes, truths, strict=True)]


def _apart(courses: Sequence[Course]) -> list[Course]:
    """Courses in order, without those whose templates are those of one before."""
    seen: set[tuple[int, ...]] = set()
    kept = []
    for course in courses:
        key = tuple(id(track.template) for track in course.tracker.tracks)
        if key not in seen:
            seen.add(key)
            kept.append(course)
    return kept
