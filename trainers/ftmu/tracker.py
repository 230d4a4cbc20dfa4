"""The loop of FTMU: search region, overlap match, the agent's word, and appearance on the whole frame when lost.

A frame is a generator: it yields what the agent has to decide on and is sent the decisions, so that one clip on a
screen and a hundred clips in training run through the same lines.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from maskmill.trainers.ftmu.clips import ClipDetections
from maskmill.trainers.ftmu.config import TrackConfig
from maskmill.trainers.ftmu.matching import (
    Match,
    Template,
    alignment,
    assign,
    likeness_scores,
    make_match,
    overlap_scores,
)
from maskmill.trainers.ftmu.state import Moment, StateEncoder
from maskmill.vision.instances import Detections
from maskmill.vision.video import Boxes, MaskCrop, Motion, Region, search_region

UPDATE, KEEP = 0, 1
METHODS = ("overlap", "likeness", "appearance")  # action = 2 * method + (UPDATE or KEEP)
Float32 = NDArray[np.float32]


@dataclass
class Track:
    """One target as it stands."""

    template: Template
    first: Template
    last: Boxes  # of the latest prediction
    before: Boxes  # of the one before
    missed: int = 0  # frames in a row without a candidate
    kept: int = 0  # keeps in a row, of the agent or for want of a candidate


@dataclass(frozen=True, eq=False)
class Ask:
    """States float32 (k, d) to decide on, and whose they are."""

    states: Float32
    targets: tuple[int, ...]
    lost: bool  # after an appearance match


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one frame gave for one target."""

    mask: MaskCrop | None
    score: float
    matcher: str  # one of METHODS, or none
    updated: bool
    whole: bool  # the whole frame was matched for it


Answers = Sequence[int]
Frame = Generator[Ask, Answers, list[Outcome]]


class Tracker:
    """Follows the boxes of a clip's first frame. All that it remembers is in `tracks`."""

    def __init__(self, clip: ClipDetections, boxes: Boxes, encoder: StateEncoder, config: TrackConfig, start: int = 0):
        if not len(boxes):
            raise ValueError("boxes: expected at least one box in the first frame, found none")
        self.clip, self.encoder, self.config = clip, encoder, config
        self._size = (clip.frames[start].shape[0], clip.frames[start].shape[1])
        self.tracks = [self._begin(box.astype(np.float32), start) for box in boxes]
        self.outcomes = self._first(start)

    def _begin(self, box: Boxes, start: int) -> Track:
        template = Template(start, self.clip.frames[start], box)
        return Track(template, template, box, box)

    def _first(self, start: int) -> list[Outcome]:
        """The first frame: boxes alone decide, and what they find becomes the template's mask."""
        found = self.clip.detect(start, self._region(first=True))
        outcomes = []
        for track, match in zip(self.tracks, self._by_overlap(found), strict=True):
            if match is not None:
                box = track.template.box
                track.template = Template(
                    start, self.clip.frames[start], box, match.mask, match.descriptor, match.score
                )
                track.first = track.template
            outcomes.append(_outcome(match, "overlap", match is not None, False))
        return outcomes

    def _region(self, *, first: bool = False) -> Region | None:
        if any(track.missed >= self.config.search_whole_after for track in self.tracks):
            return Region(0, 0, *self._size)
        motions = [Motion(track.last, track.before, track.missed) for track in self.tracks]
        return search_region(motions, self._size, self.config.region, first=first)

    def _shift(self, track: Track) -> tuple[int, int]:
        return alignment(track.template, track.last) if self.config.aligned else (0, 0)

    def _overlaps(self, found: Detections) -> Float32:
        """S_iou of every target with every candidate."""
        share = self.config.box_share
        return np.stack([overlap_scores(t.template, found, share, self._shift(t)) for t in self.tracks])

    def _pick(self, found: Detections, overlaps: Float32, by: Float32, gate: float) -> list[Match | None]:
        """The candidate of each target that is best in `by`, described by its overlap."""
        picked = assign(by, gate, self.config.assignment == "hungarian")
        return [None if p is None else make_match(found, overlaps[i], p) for i, p in enumerate(picked)]

    def _by_overlap(self, found: Detections) -> list[Match | None]:
        overlaps = self._overlaps(found)
        return self._pick(found, overlaps, overlaps, self.config.gate)

    def _by_appearance(self, frame: int, targets: Sequence[int]) -> list[Match | None]:
        """Whole-frame matches: the candidate whose patch the Siamese network finds closest to the template's."""
        found = self.clip.detect(frame, None)
        if not len(found):
            return [None] * len(targets)
        candidates = self.clip.embed(frame, found.boxes)
        templates = [self.tracks[t].template for t in targets]
        wanted = np.concatenate([self.clip.embed(t.frame, t.box[None]) for t in templates])
        similarity = wanted @ candidates.T
        picked = assign(similarity, self.config.min_similarity, self.config.assignment == "hungarian")
        matches: list[Match | None] = []
        for row, target, position in zip(similarity, targets, picked, strict=True):
            if position is None:
                matches.append(None)
                continue
            track = self.tracks[target]
            scores = overlap_scores(track.template, found, self.config.box_share, self._shift(track))
            matches.append(make_match(found, scores, position, float(row[position])))
        return matches

    def step(self, frame: int) -> Frame:
        """One frame. Yields an `Ask` for each decision, is sent one action a state, returns an `Outcome` a target."""
        everyone = range(len(self.tracks))
        if self.config.patience == 0:
            return (yield from self._all_by_appearance(frame))
        if self.config.actions == "joint":
            return (yield from self._jointly(frame))
        matches = self._by_overlap(self.clip.detect(frame, self._region()))
        asked = [t for t in everyone if matches[t] is not None]
        actions = dict.fromkeys(everyone, KEEP)  # without a candidate there is nothing to update with
        if asked:
            actions.update(zip(asked, (yield self._ask(frame, asked, matches, False)), strict=True))
        outcomes = [self._settle(frame, t, matches[t], actions[t], "overlap") for t in everyone]
        lost = [t for t in everyone if self.config.patience and self.tracks[t].kept >= self.config.patience]
        if lost:
            yield from self._recover(frame, lost, actions, outcomes)
        return self._finish(outcomes)

    def _jointly(self, frame: int) -> Frame:
        """Method and update in one decision; both region methods are at hand when the agent is asked."""
        everyone = list(range(len(self.tracks)))
        found = self.clip.detect(frame, self._region())
        overlaps = self._overlaps(found)
        likeness = np.stack([likeness_scores(t.template, found, o) for t, o in zip(self.tracks, overlaps, strict=True)])
        by_method = [
            self._pick(found, overlaps, overlaps, self.config.gate),
            self._pick(found, overlaps, likeness, 0.0),
        ]
        said = yield self._ask(frame, everyone, by_method[0], False, by_method[1])
        actions = dict(zip(everyone, said, strict=True))
        outcomes = []
        for target, action in actions.items():
            method = min(action // 2, 1) if action < 4 else 0
            match, word = by_method[method][target], action % 2 if action < 4 else KEEP
            outcomes.append(self._settle(frame, target, match, word, METHODS[method]))
        lost = [t for t in everyone if actions[t] >= 4]
        if lost:
            yield from self._recover(frame, lost, actions, outcomes)
        return self._finish(outcomes)

    def _all_by_appearance(self, frame: int) -> Frame:
        targets = list(range(len(self.tracks)))
        actions = dict.fromkeys(targets, KEEP)
        outcomes = [_outcome(None, "none", False, True) for _ in targets]
        yield from self._recover(frame, targets, actions, outcomes)
        return self._finish(outcomes)

    def _recover(
        self, frame: int, lost: list[int], actions: dict[int, int], outcomes: list[Outcome]
    ) -> Generator[Ask, Answers, None]:
        """Match lost targets by appearance, once a frame; ask again where history decides, else do as was said."""
        matches = dict(zip(lost, self._by_appearance(frame, lost), strict=True))
        found = [t for t in lost if matches[t] is not None]
        said = {t: actions[t] % 2 for t in lost if actions[t] >= 4}  # both decisions were taken at once
        again = {t: said.get(t, KEEP) for t in lost}
        if found and not said:
            again.update(zip(found, (yield self._ask(frame, found, matches, True)), strict=True))
        for target in lost:
            match = matches[target]
            if match is None:
                outcomes[target] = replace(outcomes[target], whole=True)
            else:
                outcomes[target] = self._settle(frame, target, match, again[target], "appearance")
            if again[target] == KEEP and self.config.after_rejection == "reset":
                self.tracks[target].kept = 0

    def _ask(
        self,
        frame: int,
        targets: Sequence[int],
        matches: Sequence[Match | None] | dict[int, Match | None],
        lost: bool,
        others: Sequence[Match | None] = (),
    ) -> Ask:
        patience, image = self.config.patience or 3, self.clip.frames[frame]
        moments = []
        for t in targets:
            track, other = self.tracks[t], others[t] if others else None
            counts = track.kept / patience, track.missed / patience
            moments.append(
                Moment(frame, image, track.template, track.first, track.last, matches[t], other, *counts, lost)
            )
        return Ask(self.encoder.encode(moments), tuple(targets), lost)

    def _settle(self, frame: int, target: int, match: Match | None, action: int, matcher: str) -> Outcome:
        """Carry out one decision: the template becomes the prediction, or nothing of it changes."""
        track = self.tracks[target]
        updates = action == UPDATE and match is not None
        if updates and match is not None:
            track.template, track.kept = match.template(frame, self.clip.frames[frame]), 0
        elif matcher != "appearance":
            track.kept += 1
        return _outcome(match, matcher, updates, matcher == "appearance")

    def _finish(self, outcomes: list[Outcome]) -> list[Outcome]:
        for track, outcome in zip(self.tracks, outcomes, strict=True):
            track.before = track.last
            if outcome.mask is None:
                track.missed += 1
            else:
                track.last, track.missed = outcome.mask.box, 0
        self.outcomes = outcomes
        return outcomes


def _outcome(match: Match | None, matcher: str, updated: bool, whole: bool) -> Outcome:
    if match is None:
        return Outcome(None, 0.0, "none", False, whole)
    return Outcome(match.mask, match.score, matcher, updated, whole)
