"""Clips with their truth, the reward, and many clips walked through in step with each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.trainers.engine import Samples
from maskmill.trainers.ftmu.clips import ClipDetections
from maskmill.trainers.ftmu.config import Config, TrackConfig
from maskmill.trainers.ftmu.state import StateEncoder
from maskmill.trainers.ftmu.tracker import UPDATE, Ask, Frame, Outcome, Tracker
from maskmill.vision.instances import InstanceSegmenter
from maskmill.vision.video import Boxes, MaskCrop, mask_iou, region_similarity

Float32 = NDArray[np.float32]
Act = Callable[[Float32], list[int]]
LEAST = 48  # pixels of an object that a clip may start with


def reward(j: float, offset: float = 10.0) -> float:
    """100 J^3 + offset above J = 0.1, -offset up to there, in units of 100."""
    return (100 * j**3 + offset) / 100 if j > 0.1 else -offset / 100


def overlap_with_truth(found: MaskCrop | None, truth: MaskCrop, void: NDArray[np.bool_] | None) -> float:
    """J; an object that is not there is found by finding nothing."""
    if found is None:
        return float(truth.area == 0)
    if void is not None:
        return region_similarity(found.paste(void.shape), truth.paste(void.shape), void)
    return mask_iou(found, truth) if truth.area or found.area else 1.0


class Frames(Sequence[Uint8Array]):
    """Frames of a clip, decoded when looked at and kept."""

    def __init__(self, samples: Samples, positions: Sequence[int]) -> None:
        self._samples, self._positions = samples, positions
        self.example = lru_cache(maxsize=None)(lambda frame: samples.example(positions[frame]))

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, frame: int) -> Uint8Array:  # type: ignore[override]
        image: Uint8Array = self.example(frame).image
        return image


class TrueClip:
    """A clip with masks: each id but the background and 255 is one object that keeps its id."""

    def __init__(
        self,
        name: str,
        samples: Samples,
        positions: Sequence[int],
        segmenter: InstanceSegmenter,
        background: int | None,
    ) -> None:
        self.name, self.background = name, background
        self.frames = Frames(samples, positions)
        self.detections = ClipDetections(self.frames, segmenter, keep=True)
        self.truth = lru_cache(maxsize=None)(self._truth)
        self.void = lru_cache(maxsize=None)(self._void)

    def __len__(self) -> int:
        return len(self.frames)

    def labels(self, frame: int) -> Uint8Array:
        """The label map of one frame; all 255 where it has none."""
        example = self.frames.example(frame)
        blank = np.full(example.image.shape[:2], IGNORE, np.uint8)
        return blank if example.mask is None else example.mask

    def objects(self, frame: int) -> list[int]:
        """Ids of the objects that are large enough to be followed from here."""
        counts = np.bincount(self.labels(frame).ravel(), minlength=256)
        return [int(i) for i in np.flatnonzero(counts >= LEAST) if i not in (self.background, IGNORE)]

    def boxes(self, frame: int, ids: Sequence[int]) -> Boxes:
        """Tight boxes float32 (n, 4): all that a tracker is told."""
        return np.stack([self.truth(frame, i).box for i in ids]).astype(np.float32)

    def _truth(self, frame: int, number: int) -> MaskCrop:
        return MaskCrop.of(self.labels(frame) == number)

    def _void(self, frame: int) -> NDArray[np.bool_] | None:
        void = self.labels(frame) == IGNORE
        return void if void.any() else None

    def j(self, frame: int, number: int, outcome: Outcome) -> float:
        """J of one outcome."""
        return overlap_with_truth(outcome.mask, self.truth(frame, number), self.void(frame))


_opened: dict[tuple[str, str], dict[str, "TrueClip"]] = {}


def open_clips(samples: Samples, segmenter: InstanceSegmenter, background: int | None) -> dict[str, TrueClip]:
    """All clips of at least three frames, by name.

    The last two sets of a process are kept, so that agents of several seeds share one set of detections.
    """
    key = f"{samples.fingerprint} {background}", segmenter.fingerprint
    if key not in _opened:
        while len(_opened) > 1:
            del _opened[next(iter(_opened))]
        _opened[key] = {
            name: TrueClip(name, samples, positions, segmenter, background)
            for name, positions in samples.groups.items()
            if len(positions) >= 3
        }
    return _opened[key]


@dataclass
class Trajectory:
    """Decisions on one target of one clip, in order, with the rewards earned until the next one."""

    states: list[Float32] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def decide(self, state: Float32, action: int, frame: int) -> None:
        """Note a decision."""
        self.states.append(state)
        self.actions.append(action)
        self.frames.append(frame)
        self.rewards.append(0.0)

    def earn(self, amount: float, frame: int, discount: float) -> None:
        """Credit a frame's reward to the last decision, discounted by the frames since."""
        if self.rewards:
            self.rewards[-1] += amount * discount ** (frame - self.frames[-1])

    def discounts(self, discount: float) -> list[float]:
        """Factor of each next decision's value: discount^frames, 1 within one frame, 0 at the end."""
        steps = [discount ** (b - a) for a, b in zip(self.frames, self.frames[1:], strict=False)]
        return [*steps, 0.0] if self.frames else []


@dataclass
class Walk:
    """What a set of episodes gave."""

    trajectories: list[Trajectory]
    j: list[float]  # of every frame and target but the first frames'
    decisions: int = 0
    updates: int = 0
    whole: int = 0

    @property
    def update_rate(self) -> float:
        """Share of decisions that update."""
        return self.updates / max(self.decisions, 1)

    @property
    def collapsed(self) -> bool:
        """True when (nearly) every decision is the same one."""
        return not 0.02 <= self.update_rate <= 0.98


@dataclass(frozen=True)
class Episode:
    """A stretch of a clip, and the objects that are followed from its first frame on."""

    clip: TrueClip
    start: int
    length: int
    ids: tuple[int, ...]


def walk(episodes: Sequence[Episode], act: Act, encoder: StateEncoder, track: TrackConfig, config: Config) -> Walk:
    """Walk through all episodes in step, one call of `act` for everything that is asked at a time."""
    trackers = [Tracker(e.clip.detections, e.clip.boxes(e.start, e.ids), encoder, track, e.start) for e in episodes]
    paths = [[Trajectory() for _ in e.ids] for e in episodes]
    walked = Walk([path for group in paths for path in group], [])
    for offset in range(1, max((e.length for e in episodes), default=0)):
        live = [i for i, e in enumerate(episodes) if offset < e.length]
        frames = {i: episodes[i].start + offset for i in live}
        outcomes = _lockstep({i: trackers[i].step(frames[i]) for i in live}, frames, paths, act, walked)
        for i in live:
            for number, path, outcome in zip(episodes[i].ids, paths[i], outcomes[i], strict=True):
                j = episodes[i].clip.j(frames[i], number, outcome)
                walked.j.append(j)
                walked.whole += outcome.whole
                path.earn(reward(j, config.offset) - config.price * outcome.whole, frames[i], config.discount)
    return walked


def _lockstep(
    steps: dict[int, Frame], frames: dict[int, int], paths: list[list[Trajectory]], act: Act, walked: Walk
) -> dict[int, list[Outcome]]:
    """Run the generators of one frame to their ends, answering all that ask at once."""
    done: dict[int, list[Outcome]] = {}
    answers: dict[int, list[int] | None] = dict.fromkeys(steps)
    while len(done) < len(steps):
        asks: dict[int, Ask] = {}
        for i in answers:
            try:
                given = answers[i]
                asks[i] = next(steps[i]) if given is None else steps[i].send(given)
            except StopIteration as end:
                done[i] = end.value
        answers = {}
        if not asks:
            continue
        actions = act(np.concatenate([ask.states for ask in asks.values()]))
        for i, ask in asks.items():
            own, actions = actions[: len(ask.targets)], actions[len(ask.targets) :]
            answers[i] = own
            for target, state, action in zip(ask.targets, ask.states, own, strict=True):
                paths[i][target].decide(state, action, frames[i])
                walked.decisions += 1
                walked.updates += action % 2 == UPDATE
    return done
