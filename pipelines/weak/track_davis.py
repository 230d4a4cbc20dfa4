"""A trained agent on DAVIS: boxes of each sequence's first frame in, the results tree and the table of J and F out."""

import csv
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import (
    IGNORE,
    Uint8Array,
    content_id,
    decode_image,
    decode_mask,
    encode_mask,
    load_label_space,
    read_bytes,
    write_bytes,
    write_if_changed,
)
from maskmill.data_contracts.texts import TextError, parse_json
from maskmill.pipelines.core.lock import working
from maskmill.pipelines.ingest.davis import sequence_names
from maskmill.pipelines.ingest.files import Root
from maskmill.vision.video import ClipScore, MaskCrop, Void, resolve_overlaps, score_clip, summarise_objects

STAMP = "made-from.json"


class TrackDavisConfig(BaseModel):
    """Which agent on which sequences. Only the boxes of a first frame reach the agent, never its masks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: str = Field(description="artifact folder of the trainer `ftmu`")
    root: str = Field(description="the folder DAVIS")
    split: str = Field(default="val", description="name of the list of sequences, without .txt")
    lists: str = Field(default="ImageSets/2017", description="folder of the lists under the root")
    images: str = Field(default="JPEGImages/480p", description="folder of the sequences' frames under the root")
    masks: str = Field(default="Annotations/480p", description="folder of the sequences' masks under the root")
    void: Void = Field(
        default="background",
        description="where the truth is 255: background, as for the official evaluator, or left_out",
    )
    device: str = Field(default="auto", description="auto (cuda where there is one), cpu, cuda or cuda:N")


@dataclass(frozen=True, eq=False)
class Clip:
    """One sequence: frames in order, and the truth uint8 (T, H, W), 0 = background, 255 = void."""

    name: str
    frames: tuple[Path, ...]
    truth: Uint8Array

    @property
    def ids(self) -> tuple[int, ...]:
        """Objects are those of the first frame, 1 to the largest id, as for the official evaluator."""
        first = self.truth[0]
        return tuple(range(1, int(first[first != IGNORE].max(initial=0)) + 1))


def track_davis(config: TrackDavisConfig, out_dir: str) -> dict[str, Any]:
    """Track all sequences and judge them; returns means in [0, 1]. Sequences that are done are not tracked again.

    Writes OUT/results/SEQUENCE/FRAME.png (palette PNG of object ids: what the official toolkit reads), and beside them
    OUT/global_results.csv and OUT/per-sequence_results.csv in the toolkit's columns.

    Raises:
        FileNotFoundError: no artifact, list, frames or masks. ValueError: a sequence without objects in its first
            frame, or the artifact of another trainer.
    """
    with working(out_dir):
        return _track(config, out_dir)


def _track(config: TrackDavisConfig, out_dir: str) -> dict[str, Any]:
    from maskmill.trainers.engine import read_info

    stamp = content_id(read_info(config.artifact).fingerprint, read_info(config.artifact).weights)
    results, agent = Path(out_dir) / "results", None
    scores: dict[str, ClipScore] = {}
    seconds = frames = 0.0
    for name in sequence_names(Root(config.root), config.lists, config.split):
        sequence = read_sequence(config, name)
        if not _is_done(results / name, sequence, stamp):
            agent = agent or _agent(config)
            begun = time.perf_counter()
            maps = follow_sequence(agent, sequence)
            seconds += time.perf_counter() - begun
            frames += len(maps)
            _write(results / name, sequence, maps, stamp)
        found = np.stack([decode_mask(read_bytes(str(_png(results / name, f)))) for f in sequence.frames])
        scores[name] = score_clip(found, sequence.truth, sequence.ids, config.void)
    measured = table(scores)
    _write_tables(out_dir, scores, measured)
    speed = {"frames_per_second": frames / seconds} if seconds else {}
    return {**measured, "sequences": len(scores), "objects": sum(len(s.j) for s in scores.values()), **speed}


def read_sequence(config: TrackDavisConfig, name: str) -> Clip:
    """Frames and truth of one sequence.

    Raises:
        FileNotFoundError: frames or masks are missing. ValueError: no object in the first frame.
    """
    root = Path(config.root)
    frames = tuple(sorted((root / config.images / name).glob("*.jpg")))
    masks = [root / config.masks / name / f"{frame.stem}.png" for frame in frames]
    if len(frames) < 3 or not all(mask.is_file() for mask in masks):
        raise FileNotFoundError(f"{root / config.images / name}: expected 3 frames or more, each with a mask")
    sequence = Clip(name, frames, np.stack([decode_mask(read_bytes(str(m)), str(m)) for m in masks]))
    if not sequence.ids:
        raise ValueError(f"{masks[0]}: expected objects in the first frame, found none")
    return sequence


def _agent(config: TrackDavisConfig) -> Any:
    from maskmill.trainers.ftmu.agent import Agent
    from maskmill.trainers.registry import load_artifact

    agent = load_artifact(config.artifact, config.device)
    if not isinstance(agent, Agent):
        raise ValueError(f"{config.artifact}: expected an artifact of the trainer ftmu, found {type(agent).__name__}")
    return agent


def follow_sequence(agent: Any, sequence: Clip) -> Uint8Array:
    """Label maps uint8 (T, H, W) of object ids. An id that the first frame skips has no box and stays empty."""
    images = [decode_image(read_bytes(str(frame)), str(frame)) for frame in sequence.frames]
    shown = [number for number in sequence.ids if (sequence.truth[0] == number).any()]
    boxes = np.stack([MaskCrop.of(sequence.truth[0] == number).box for number in shown])
    frames, height, width = sequence.truth.shape
    maps: Uint8Array = np.zeros((frames, height, width), np.uint8)
    size = (height, width)
    for frame, outcomes in enumerate(agent.track(images, boxes)):
        masks = resolve_overlaps([o.mask for o in outcomes], [o.score for o in outcomes], size)
        for number, mask in zip(shown, masks, strict=True):
            maps[frame][mask] = number
    return maps


def table(scores: dict[str, ClipScore]) -> dict[str, float]:
    """The official table: means over objects of J and F, their recall and decay, and J&F."""
    j, f = summarise_objects([s.j for s in scores.values()]), summarise_objects([s.f for s in scores.values()])
    found = {f"{name}_{part}": getattr(one, part) for name, one in (("j", j), ("f", f)) for part in PARTS}
    return {"jf_mean": (j.mean + f.mean) / 2, **found}


PARTS = ("mean", "recall", "decay")


def _png(folder: Path, frame: Path) -> Path:
    return folder / f"{frame.stem}.png"


def _is_done(folder: Path, sequence: Clip, stamp: str) -> bool:
    made = _stamps(folder.parent.parent).get(sequence.name)
    return bool(made == stamp) and all(_png(folder, frame).is_file() for frame in sequence.frames)


def _stamps(out: Path) -> dict[str, str]:
    """Which agent tracked each sequence that is done; nothing where that cannot be read."""
    try:
        found = parse_json(read_bytes(str(out / STAMP)))
    except (FileNotFoundError, TextError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(folder: Path, sequence: Clip, maps: Uint8Array, stamp: str) -> None:
    palette, out = load_label_space("objects").palette, folder.parent.parent
    for frame, mask in zip(sequence.frames, maps, strict=True):
        write_bytes(str(_png(folder, frame)), encode_mask(mask, palette))
    made = {**_stamps(out), sequence.name: stamp}
    write_bytes(str(out / STAMP), json.dumps(made, indent=1, sort_keys=True).encode())


def _write_tables(out_dir: str, scores: dict[str, ClipScore], measured: dict[str, float]) -> None:
    names = ["jf_mean", *(f"{measure}_{part}" for measure in "jf" for part in PARTS)]
    heads = ["J&F-Mean", *(f"{measure}-{part.capitalize()}" for measure in "JF" for part in PARTS)]
    write_if_changed(f"{out_dir}/global_results.csv", _csv([heads, [f"{measured[n]:.3f}" for n in names]]))
    rows = [
        [f"{name}_{number}", f"{j.mean():.3f}", f"{f.mean():.3f}"]
        for name, score in scores.items()
        for number, (j, f) in enumerate(zip(score.j, score.f, strict=True), start=1)
    ]
    write_if_changed(f"{out_dir}/per-sequence_results.csv", _csv([["Sequence", "J-Mean", "F-Mean"], *rows]))


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
