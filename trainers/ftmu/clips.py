"""A clip with its detections: computed when first asked for, kept where the same clip is walked through again."""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import Uint8Array
from maskmill.vision.instances import Detections, InstanceSegmenter
from maskmill.vision.video import Boxes, Region

Float32 = NDArray[np.float32]


class ClipDetections:
    """What the segmenter sees in the frames of one clip.

    With `keep` every answer is stored by (frame, region), so training looks most of them up; without it only the frame
    at hand is. Regions are snapped to a grid and a segmenter answers to the bit, so both give the same track.
    `calls` and `seconds` count the work by stage.
    """

    def __init__(self, frames: Sequence[Uint8Array], segmenter: InstanceSegmenter, keep: bool = False) -> None:
        self.frames, self.segmenter, self.keep = frames, segmenter, keep
        self._found: dict[tuple[int, Region | None], Detections] = {}
        self._embedded: dict[tuple[int, tuple[float, ...]], Float32] = {}
        self.calls: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def detect(self, frame: int, region: Region | None) -> Detections:
        """Candidates of a region (None: of the whole frame)."""
        key = (frame, region)
        if key not in self._found:
            if not self.keep:
                self._found.clear()
            self._found[key] = self._timed("whole" if region is None else "region", frame, region)
        return self._found[key]

    def _timed(self, stage: str, frame: int, region: Region | None) -> Detections:
        begun = time.perf_counter()
        found = self.segmenter.detect(self.frames[frame], region)
        self.calls[stage] += 1
        self.seconds[stage] += time.perf_counter() - begun
        return found

    def embed(self, frame: int, boxes: Boxes) -> Float32:
        """Siamese embeddings (n, e) of box patches; templates' are kept, being asked for again and again."""
        keys = [(frame, tuple(float(v) for v in box)) for box in boxes]
        missing = [i for i, key in enumerate(keys) if key not in self._embedded]
        if missing:
            begun = time.perf_counter()
            vectors = self.segmenter.embed(self.frames[frame], boxes[missing])
            self.calls["embed"] += len(missing)
            self.seconds["embed"] += time.perf_counter() - begun
            self._embedded.update((keys[i], vector) for i, vector in zip(missing, vectors, strict=True))
        return np.stack([self._embedded[key] for key in keys]) if keys else np.zeros((0, 1), np.float32)
