"""A trained agent at work: boxes of a clip's first frame in, one mask an object and frame out."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from maskmill.data_contracts import Uint8Array, content_id, read_bytes
from maskmill.trainers.ftmu.clips import ClipDetections
from maskmill.trainers.ftmu.config import Config, TrackConfig
from maskmill.trainers.ftmu.policies import Head, Learned, Policy, drive
from maskmill.trainers.ftmu.state import StateEncoder, build_encoder
from maskmill.trainers.ftmu.tracker import Outcome, Tracker
from maskmill.vision.instances import MASK_RCNNS, ZOOM, InstanceSegmenter, load_mask_rcnn
from maskmill.vision.video import Boxes
from maskmill.vision.weights import weight_file


def open_segmenter(name: str, weights: str = "hub", device: str = "cpu") -> InstanceSegmenter:
    """A Mask R-CNN by torchvision's name, or a trained artifact by its folder.

    Raises:
        FileNotFoundError: neither. ValueError: an artifact of a trainer that finds no instances.
    """
    from maskmill.trainers.registry import load_artifact

    if name in MASK_RCNNS:
        return load_mask_rcnn(name, weights, device)
    segmenter: InstanceSegmenter = load_artifact(name, device)
    if not hasattr(segmenter, "detect"):
        raise ValueError(f"{name}: expected an artifact of `proposals` or one of {', '.join(MASK_RCNNS)}")
    return segmenter


def segmenter_stamp(name: str, weights: str) -> str:
    """What the segmenter's answers depend on."""
    if name in MASK_RCNNS:
        there = os.path.exists(weights)
        return f"{name} {content_id(read_bytes(weight_file(weights))) if there else weights} zoom {ZOOM}"
    return content_id(read_bytes(os.path.join(name, "config.json")))


@dataclass(frozen=True)
class Agent:
    """Actor, critic and the segmenter that they were trained with."""

    config: Config
    actor: Head
    critic: Head
    trained_with: str  # fingerprint of that segmenter
    device: str = "cpu"

    @cached_property
    def segmenter(self) -> InstanceSegmenter:
        """Opened when first asked for.

        Raises:
            ValueError: another segmenter lies at that place now.
        """
        found = open_segmenter(self.config.segmenter, self.config.segmenter_weights, self.device)
        if found.fingerprint != self.trained_with:
            raise ValueError(
                f"{self.config.segmenter}: expected segmenter {self.trained_with}, which the agent was trained with, "
                f"found {found.fingerprint}; restore it, or train the agent again"
            )
        return found

    @cached_property
    def encoder(self) -> StateEncoder:
        """Makes the agent's states."""
        return build_encoder(self.config.state, self.config.trunk, self.config.trunk_weights, self.device)

    def track(self, frames: Sequence[Uint8Array], boxes: Boxes) -> Iterator[list[Outcome]]:
        """One list of outcomes a frame, the first frame included."""
        clip = ClipDetections(frames, self.segmenter)
        yield from follow(clip, boxes, Learned(self.actor), self.encoder, self.config.track)


def follow(
    clip: ClipDetections, boxes: Boxes, policy: Policy, encoder: StateEncoder, config: TrackConfig, start: int = 0
) -> Iterator[list[Outcome]]:
    """Track by any policy: one list of outcomes (one a box) for every frame from `start` on."""
    tracker = Tracker(clip, np.asarray(boxes, np.float32), encoder, config, start)
    yield tracker.outcomes
    for frame in range(start + 1, len(clip.frames)):
        yield drive(tracker.step(frame), policy)
