"""Turns of training: a pool of scenes whose backbone maps are kept, and steps of the neck, the prompts and the decoder.

The backbone stays as ImageNet left it: its maps of pasted and of photographed things are alike, and a scene's maps can
be kept for several steps.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskmill.data_contracts import sample_seed
from maskmill.starter.generator_training.loop import Average, Turn, load_checkpoint, save_checkpoint
from maskmill.starter.promptable_training.lessons import draw_lesson, loss
from maskmill.starter.promptable_training.model import SIDE, decode, embeddings, new_model, trunk_features, write
from maskmill.starter.promptable_training.pictures import Pictures
from maskmill.starter.promptable_training.scenes import Scene, compose

BATCH, PROMPTS = 8, 6
FRESH = 2  # scenes that join the pool each step
POOL = 1200
RATE, WARMUP = 1e-3, 60
DECAY = 0.997
FILLED = 240  # first steps, whose lessons are about places alone
SEVERAL = 0.8  # share of steps that ask for three readings
SAVE_EVERY, SAY_EVERY = 100, 20


@dataclass(frozen=True, eq=False)
class Kept:
    """A scene with the backbone's maps of its image, float16."""

    scene: Scene
    maps: list[Tensor]


class Pool:
    """The last scenes, each drawn from its own number."""

    def __init__(self, model: Any, pictures: Pictures, first: int) -> None:
        self.model, self.pictures, self.next = model, pictures, first
        self.kept: list[Kept] = []

    def grow(self, count: int) -> None:
        """Compose some more; the oldest leave."""
        rngs = [np.random.default_rng(sample_seed(0, str(self.next + i), "promptable")) for i in range(count)]
        scenes = [compose(rng, self.pictures, SIDE) for rng in rngs]
        with torch.no_grad():
            maps = trunk_features(self.model, torch.from_numpy(np.stack([s.image for s in scenes])))
        self.kept += [Kept(s, [level[i : i + 1].half() for level in maps]) for i, s in enumerate(scenes)]
        self.kept = self.kept[-POOL:]
        self.next += count

    def draw(self, rng: np.random.Generator, count: int) -> tuple[list[Scene], list[Tensor]]:
        """Scenes, and their maps as one batch."""
        chosen = [self.kept[int(i)] for i in rng.integers(len(self.kept), size=count)]
        maps = [torch.cat([k.maps[level] for k in chosen]).float() for level in range(len(chosen[0].maps))]
        return [k.scene for k in chosen], maps


def train(pictures: Pictures, work: Path, minutes: float, *, last: bool) -> None:
    """One turn, from the checkpoint in `work` where there is one."""
    torch.manual_seed(0)
    model, state = new_model(), load_checkpoint(work / "checkpoint.pt")
    model.vision_encoder.backbone.requires_grad_(False)
    own = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    average, done = Average(own, DECAY), 0
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.values, done = state["average"], state["step"]
    model.train()
    model.vision_encoder.backbone.eval()
    pool = Pool(model, pictures, done * FRESH)
    for _ in range(8):
        pool.grow(BATCH)
    turn = Turn.begin(minutes, last)
    figures: dict[str, list[float]] = {}
    while turn.spent < 1:
        pool.grow(FRESH)
        rng = np.random.default_rng(sample_seed(1, str(done), "lesson"))
        for group in optimizer.param_groups:
            group["lr"] = RATE * turn.rate(done, WARMUP)
        scenes, maps = pool.draw(rng, BATCH)
        lesson = draw_lesson(rng, scenes, PROMPTS, filled=done < FILLED)
        masks, ious = decode(model, embeddings(model, maps), lesson.asked, several=bool(rng.random() < SEVERAL))
        total, found = loss(masks, ious, lesson)
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        average.update(done)
        done += 1
        kind = "box" if "input_boxes" in lesson.asked else "points"
        for name, value in found.items():
            figures.setdefault(f"{kind} {name}", []).append(value)
        if done % SAY_EVERY == 0:
            said = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in sorted(figures.items()))
            print(f"step {done}, {turn.spent:.0%} of the turn: {said}", flush=True)
            figures = {}
        if done % SAVE_EVERY == 0:
            _save(work, model, optimizer, average, done)
    _save(work, model, optimizer, average, done)


def _save(work: Path, model: Any, optimizer: Any, average: Average, step: int) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.values, "step": step}
    save_checkpoint(work / "checkpoint.pt", state)


def export(work: Path, folder: Path, side: int = SIDE) -> int:
    """Write the folder that ships, its card among it; returns the bytes of its weights.

    Raises:
        FileNotFoundError: nothing was trained in `work`.
    """
    size = write(finished(work, side), folder)
    steps = (load_checkpoint(work / "checkpoint.pt") or {})["step"]
    given = {"steps": f"{steps:,}", "batch": BATCH, "prompts": PROMPTS, "filled": FILLED, "side": side}
    card = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(card.format(megabytes=size / 1e6, **given), encoding="utf-8")
    return size


def finished(work: Path, side: int = SIDE) -> Any:
    """The model with the averaged weights, for images of `side` pixels.

    Raises:
        FileNotFoundError: nothing was trained in `work`.
    """
    state = load_checkpoint(work / "checkpoint.pt")
    if state is None:
        raise FileNotFoundError(f"{work}: no checkpoint.pt; run the part train first")
    model = new_model(side)
    model.load_state_dict(state["model"])
    model.vision_encoder.backbone.requires_grad_(False)
    own = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter, value in zip(own, state["average"], strict=True):
            parameter.copy_(value)
    return model.eval()
