"""Masks of a clip from boxes in its first frame: does deciding when to update the template, and how to match, pay?

A proposal segmenter is trained once on DAVIS training sequences, photos and drawn clips; the agent (one a seed) on
other DAVIS training sequences and drawn clips, so that it meets detections as imperfect as in the test.
Arms: `always_iou` (overlap match in the search region, template updated on every frame), `always_appearance` (Siamese
match on the whole frame, every frame, template kept), `always_update` and `never_update` (FTMU's loop with that
answer), `random` (a coin), `threshold` (update where template and prediction look alike; level chosen on the agent's
training clips), `always_likeness` (match by the region's own descriptors, template kept: the best that any single
action of the agent gives), `learned` (both decisions at once).
Metrics on held-out DAVIS sequences: `j`, `f` (mean over objects, 0 to 100), `fps` (frames a second of one core's time),
`j_recall`, `j_decay`, `update_rate`, `whole_rate`; on drawn clips whose objects cross: `crossing_j`, `kept_apart`.
Also writes FILE.png (with the JSON file's stem): crossing clips as the agent sees them.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.common import Options, Record, is_train_key, parse_options
from maskmill.data_contracts import (
    IGNORE,
    SAMPLE,
    Uint8Array,
    decode_image,
    decode_mask,
    encode_image,
    encode_mask,
    foreground_ids,
    load_label_space,
    pair_id,
    shard_name,
    write_shard,
)
from maskmill.pipelines.stages.evaluate import overlay
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.starter.drawn import KNOWN_STYLES, UNSEEN_STYLES, SceneConfig, render_clip
from maskmill.trainers.engine import DataConfig, Samples
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
from maskmill.trainers.ftmu.rollout import TrueClip, open_clips, walk
from maskmill.trainers.ftmu.tracker import Outcome
from maskmill.trainers.ftmu.train import make_episodes
from maskmill.trainers.registry import load_artifact
from maskmill.vision.instances import ProposalConfig
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
STILLS = ("weizmann_horses", "human_foreground", "ccp", "grabcut_scribbles")
SPACE = load_label_space("objects")
NETWORK = ProposalConfig()
LEVELS = (0.0, 0.3, 0.6, 0.8, 0.9)
SEGMENTER_TENTHS = 6  # of the training sequences; the agent learns on the others
DRAWN_SIDE = 160
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much of everything a budget allows."""

    segmenter_steps: int
    stills: int  # of each set
    drawn: int  # clips for the segmenter, and as many others for the agent
    agent_steps: int
    crossing: int  # drawn clips that are tested
    side: int = 128
    threads: int = 2
    network: ProposalConfig = NETWORK


SIZES = {
    "small": Size(segmenter_steps=1000, stills=150, drawn=12, agent_steps=90, crossing=8),
    "full": Size(segmenter_steps=6000, stills=400, drawn=60, agent_steps=600, crossing=40, side=160),
}


@dataclass(frozen=True, eq=False)
class Clip:
    """A tested clip: RGB frames, label maps uint8 (T, H, W) of object ids, and the ids that its first frame shows."""

    name: str
    frames: list[Uint8Array]
    truth: Uint8Array
    ids: tuple[int, ...]

    @property
    def boxes(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Boxes of the first frame, (n, 4): all that a tracker is told."""
        return np.stack([MaskCrop.of(self.truth[0] == number).box for number in self.ids])


# --- data


def sequences(root: Path) -> list[str]:
    """Names of the DAVIS sequences under a data folder."""
    folders = sorted(path.name for path in (root / "davis" / "JPEGImages").glob("*") if path.is_dir())
    if not folders:
        raise FileNotFoundError(f"{root}: expected sequences under davis/JPEGImages, found none")
    return folders


def split(options: Options) -> tuple[list[str], list[str], list[str]]:
    """Sequences for the segmenter, for the agent and for the test."""
    if options.data is None or options.tested is None:
        raise FileNotFoundError("ftmu: expected --data DIR with davis/")
    learnt, tested = sequences(options.data), sequences(options.tested)
    if options.test_data is None:
        learnt, tested = [n for n in learnt if is_train_key(n)], [n for n in tested if not is_train_key(n)]
    first = [name for name in learnt if is_train_key(f"segmenter/{name}", SEGMENTER_TENTHS)]
    return first, [name for name in learnt if name not in first], tested


def read_sequence(root: Path, name: str) -> Iterator[tuple[bytes, Uint8Array]]:
    """Encoded frames with their masks, in order; frames without a mask are left out."""
    for path in sorted((root / "davis" / "JPEGImages" / name).glob("*.jpg")):
        mask = root / "davis" / "Annotations" / name / f"{path.stem}.png"
        if mask.is_file():
            yield path.read_bytes(), decode_mask(mask.read_bytes(), str(mask))


def read_stills(root: Path, most: int) -> Iterator[tuple[bytes, Uint8Array]]:
    """Photos with one foreground: people, horses, objects. Sets that are not there are named and left out."""
    for name in STILLS:
        found = sorted((root / name / "images").glob("*.jpg"))[:most]
        if not found:
            print(f"{name}: not there, left out", flush=True)
        for path in found:
            mask = root / name / "masks" / f"{path.stem}.png"
            if mask.is_file():
                values = decode_mask(mask.read_bytes(), str(mask))
                yield path.read_bytes(), np.where(values == IGNORE, IGNORE, values > 0).astype(np.uint8)


def drawn_clip(number: int, styles: tuple[str, ...], seed: int, frames: int = 14) -> Clip:
    """Two or three objects that cross."""
    config = SceneConfig(size=DRAWN_SIDE, styles=styles, seed=seed)
    clip = render_clip(config, number, frames, 2 + number % 2)
    ids = tuple(int(i) for i in np.unique(clip.instance_masks[0]) if i)
    return Clip(f"drawn {number}", list(clip.frames), clip.instance_masks, ids)


def sample_row(image: bytes, mask: Uint8Array, group: str | None = None, index: int | None = None) -> Row:
    """A SAMPLE row."""
    encoded = encode_mask(mask, SPACE.palette)
    return {
        "sample_id": pair_id(image, encoded, group, index),
        "image": {"bytes": image, "path": None},
        "mask": {"bytes": encoded, "path": None},
        "height": mask.shape[0],
        "width": mask.shape[1],
        "class_ids": foreground_ids(mask, SPACE),
        "group": group,
        "index": index,
        "provenance": {"source": "benchmark"},
    }


def write_rows(rows: Iterator[Row], folder: Path) -> str:
    """Rows as one shard; returns the folder."""
    unique = {row["sample_id"]: row for row in rows}
    table = SAMPLE.table(list(unique.values()))
    write_shard(str(folder / shard_name(0)), table, SAMPLE, stage="benchmark", fingerprint=folder.name)
    return str(folder)


def clip_rows(root: Path, names: Sequence[str], drawn: Sequence[int]) -> Iterator[Row]:
    """DAVIS sequences and drawn clips of the known styles as groups."""
    for name in names:
        for index, (image, mask) in enumerate(read_sequence(root, name)):
            yield sample_row(image, mask, name, index)
    for number in drawn:
        clip = drawn_clip(number, KNOWN_STYLES, 1)
        for index, (frame, mask) in enumerate(zip(clip.frames, clip.truth, strict=True)):
            yield sample_row(encode_image(frame), mask, clip.name, index)


def tested_clips(root: Path, names: Sequence[str]) -> list[Clip]:
    """DAVIS sequences of 3 frames and more whose first frame shows something."""
    clips = []
    for name in names:
        rows = list(read_sequence(root, name))
        if len(rows) < 3:
            print(f"{name}: {len(rows)} frames, left out", flush=True)
            continue
        truth = np.stack([mask for _, mask in rows])
        ids = tuple(int(i) for i in np.unique(truth[0]) if i not in (0, IGNORE))
        if ids:
            clips.append(Clip(name, [decode_image(image, name) for image, _ in rows], truth, ids))
    return clips


# --- training


def train_segmenter(options: Options, size: Size, names: Sequence[str], work: Path) -> str:
    """The proposal segmenter, once for all seeds; taken up where an earlier run left it."""
    if options.data is None:
        raise FileNotFoundError("ftmu: expected --data DIR")
    stills = (sample_row(image, mask) for image, mask in read_stills(options.data, size.stills))
    data = DataConfig(
        samples=(
            write_rows(clip_rows(options.data, names, range(size.drawn)), work / "clips"),
            write_rows(stills, work / "stills"),
        )
    )
    settings = {
        "steps": size.segmenter_steps,
        "crops": {"side": size.side},
        "network": size.network.model_dump(mode="json"),
        "precision": "fp32",
        "runtime": {"threads": size.threads, "save_every": 50, "progress": False},
    }
    config = TrainConfig(trainer="proposals", label_space=SPACE, data=data, settings=settings)
    return train(config, str(work / "segmenter-run"), str(work / "segmenter"))


def train_agent(size: Size, seed: int, segmenter: str, data: str, work: Path) -> Agent:
    """The agent of one seed."""
    settings = {
        "segmenter": segmenter,
        "steps": size.agent_steps,
        "batch": 16,
        "seed": seed,
        "runtime": {"threads": 1, "save_every": 20, "progress": False},
    }
    config = TrainConfig(trainer="ftmu", label_space=SPACE, data=DataConfig(samples=(data,)), settings=settings)
    agent: Agent = load_artifact(train(config, str(work / f"agent-{seed}-run"), str(work / f"agent-{seed}")), "cpu")
    return agent


def choose_level(agent: Agent, clips: dict[str, TrueClip]) -> float:
    """The similarity above which the rule updates, best on the agent's training clips."""
    episodes = make_episodes(clips, [(name, 0, len(clips[name])) for name in sorted(clips)])
    track = agent.config.track.model_copy(update={"actions": "history"})
    found = {
        level: float(np.mean(walk(episodes, Threshold(level).act, agent.encoder, track, agent.config).j))
        for level in LEVELS
    }
    print(f"threshold: J on the training clips by level {found}", flush=True)
    return max(found, key=lambda level: found[level])


# --- test


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


@cache
def crossing_clips(count: int) -> tuple[Clip, ...]:
    """Drawn clips of styles that nothing was trained on."""
    return tuple(drawn_clip(number, UNSEEN_STYLES, 2) for number in range(count))


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


def _repeat(record: Record, arm: str, seed: int) -> bool:
    """Take over what another seed gave, for arms without chance over the one segmenter."""
    if arm in ONCE and (known := record.values.get(arm)):
        record.add(arm, seed, next(iter(known.values())))
    return record.has(arm, seed)


def run(options: Options) -> None:
    """All arms of all seeds, each added as soon as it is measured."""
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    own, others, tested = split(options)
    print(f"{len(own)} sequences for the segmenter, {len(others)} for the agent, {len(tested)} tested", flush=True)
    segmenter = train_segmenter(options, size, own, work)
    print(f"segmenter: {segmenter}", flush=True)
    torch.set_num_threads(1)
    root, tested_root = options.data, options.tested
    if root is None or tested_root is None:
        raise FileNotFoundError("ftmu: expected --data DIR with davis/")
    data = write_rows(clip_rows(root, others, range(1000, 1000 + size.drawn)), work / "agent-clips")
    clips = tested_clips(tested_root, tested)
    level, sheet = None, options.json_path.with_suffix(".png")
    for seed in options.seeds:
        arms = [arm for arm in ARMS if not record.has(arm, seed) and not _repeat(record, arm, seed)]
        if not arms:
            continue
        agent = train_agent(size, seed, segmenter, data, work)
        if level is None:
            samples = Samples.open(DataConfig(samples=(data,)), str(work / "cache"))
            level = choose_level(agent, open_clips(samples, agent.segmenter, SPACE.background_id))
        for arm, tally in measure_arms(agent, level, seed, clips, arms).items():
            found = {**tally.metrics(), **crossing(agent, level, seed, arm, size.crossing)}
            record.add(arm, seed, found)
            if arm == "learned" and seed == options.seeds[0]:
                draw_sheet(agent, sheet, size.crossing)
            print(f"seed {seed}: {arm} " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()), flush=True)
    record.finish()
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    run(parse_options("ftmu", __doc__))
