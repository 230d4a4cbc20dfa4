"""What an instance segmenter is: image and region in, scored masks with descriptors out, in frame coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import Uint8Array
from maskmill.vision.video.masks import Boxes, MaskCrop
from maskmill.vision.video.region import Region

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Detections:
    """Candidates of one region of one frame, best first. All coordinates are the frame's."""

    boxes: Boxes  # (n, 4)
    scores: Float32  # (n,) in [0, 1]
    masks: tuple[MaskCrop, ...]
    descriptors: Float32  # (n, d) unit vectors of each mask's own pixels, a by-product of the pass; d may be 0

    def __len__(self) -> int:
        return len(self.masks)

    @classmethod
    def none(cls, width: int = 0) -> "Detections":
        """No candidate."""
        empty = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), (), np.zeros((0, width), np.float32)
        return cls(*empty)


class InstanceSegmenter(Protocol):
    """A class-agnostic segmenter. Results depend on the arguments alone, to the bit."""

    fingerprint: str  # of weights and options

    def detect(self, image: Uint8Array, region: Region | None = None) -> Detections:
        """Candidates of one RGB frame uint8 (H, W, 3) inside `region`; None = the whole frame, in finer detail."""
        ...

    def embed(self, image: Uint8Array, boxes: Sequence[Boxes] | Boxes) -> Float32:
        """Siamese embedding of box patches: unit vectors float32 (n, e); a dot product compares two objects."""
        ...


def unit(vectors: Float32) -> Float32:
    """Rows scaled to length 1; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Float32 = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled
