"""Labeler `video`: follows boxes through a clip with the agent that `trainers.ftmu` has trained.

A clip is all items of one group, in order of their index; its boxes are those of the first item that has any.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from maskmill.data_contracts import Instance, LabelSpace, Reason, content_id, read_bytes
from maskmill.data_contracts.rle import Runs
from maskmill.labelers.base import Labeler, LabelerConfig, LabelItem, PseudoLabel, by_clip
from maskmill.trainers.ftmu.agent import Agent, follow
from maskmill.trainers.ftmu.clips import ClipDetections
from maskmill.trainers.ftmu.policies import AlwaysUpdate, Learned, NeverUpdate, Policy
from maskmill.trainers.ftmu.tracker import Outcome
from maskmill.trainers.registry import load_artifact
from maskmill.vision.video import MaskCrop, resolve_overlaps

VERSION = 2


class Config(LabelerConfig):
    """Options of `video`."""

    agent: str = Field(description="artifact folder of the trainer `ftmu`")
    policy: Literal["learned", "always_update", "never_update"] = Field(
        default="learned",
        description="who decides on the template: the trained agent, or a fixed rule to compare it with",
    )
    min_found: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of a clip's objects that a frame must show, else it gets no label; 0 = any of them: objects "
        "leave",
    )


def stamps(config: Config) -> tuple[str, ...]:
    """The agent's artifact, which names its segmenter."""
    return (content_id(read_bytes(os.path.join(config.agent, "config.json"))),)


@dataclass(frozen=True)
class VideoLabeler(Labeler):
    """The engine. A frame's label depends on its clip up to that frame, and on nothing else."""

    config: Config
    space: LabelSpace
    agent: Agent

    def label(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        """Masks with instances in the order of their boxes; abstains from frames before the first box."""
        found: dict[int, PseudoLabel] = {}
        for positions in by_clip(items):
            clip = [items[p] for p in positions]
            start = next((i for i, item in enumerate(clip) if len(item.boxes)), None)
            for position, label in zip(positions, self._label_clip(clip, start), strict=True):
                found[position] = label
        return [found[position] for position in range(len(items))]

    def _label_clip(self, clip: Sequence[LabelItem], start: int | None) -> list[PseudoLabel]:
        if start is None:
            return [PseudoLabel.abstain(Reason.NO_CLASSES, "expected a box in a frame of the clip, found none")] * len(
                clip
            )
        ids = [int(i) for i in clip[start].boxes[:, 0]]
        if unknown := sorted(set(ids) - set(self.space.by_id)):
            return [PseudoLabel.abstain(Reason.NO_CLASSES, f"boxes of unknown classes {unknown}")] * len(clip)
        before = PseudoLabel.abstain(Reason.NO_CLASSES, "before the first frame that has a box")
        detections = ClipDetections([item.image for item in clip], self.agent.segmenter)
        boxes = clip[start].boxes[:, 1:5]
        track = follow(detections, boxes, self._policy(), self.agent.encoder, self.agent.config.track, start)
        return [before] * start + [
            self._frame(outcomes, ids, (item.image.shape[0], item.image.shape[1]))
            for outcomes, item in zip(track, clip[start:], strict=True)
        ]

    def _policy(self) -> Policy:
        fixed: dict[str, Policy] = {"always_update": AlwaysUpdate(), "never_update": NeverUpdate()}
        return fixed.get(self.config.policy) or Learned(self.agent.actor)

    def _frame(self, outcomes: Sequence[Outcome], ids: Sequence[int], size: tuple[int, int]) -> PseudoLabel:
        shown = sum(outcome.mask is not None for outcome in outcomes)
        if shown < self.config.min_found * len(ids) or not shown:
            return PseudoLabel.abstain(Reason.LOW_CONFIDENCE, f"{shown} of {len(ids)} objects found")
        masks = resolve_overlaps([o.mask for o in outcomes], [o.score for o in outcomes], size)
        background = self.space.background_id
        mask = np.full(size, 255 if background is None else background, np.uint8)
        confidence = np.full(size, 255, np.uint8)
        instances = []
        for number, pixels, outcome in zip(ids, masks, outcomes, strict=True):
            if pixels.any():
                mask[pixels], confidence[pixels] = number, round(255 * outcome.score)
                x0, y0, x1, y1 = (float(v) for v in MaskCrop.of(pixels).box)
                instances.append(Instance(number, (x0, y0, x1, y1), Runs.of(pixels)))
        return PseudoLabel(mask, confidence, instances=tuple(instances))


def load(config: Config, space: LabelSpace) -> VideoLabeler:
    """Load the agent and its segmenter.

    Raises:
        FileNotFoundError: no artifact there. ValueError: one of another trainer.
    """
    agent = load_artifact(config.agent)
    if not isinstance(agent, Agent):
        raise ValueError(f"{config.agent}: expected an artifact of the trainer ftmu, found {type(agent).__name__}")
    return VideoLabeler(config, space, agent)
