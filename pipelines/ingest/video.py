"""Video files: each one a clip, each of its frames a sample without a mask."""

import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason, Uint8Array, encode_image
from maskmill.pipelines.ingest.base import Entry, RawSample, Source
from maskmill.pipelines.ingest.files import File
from maskmill.vision.video import VideoLimits, count_frames, read_frames

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".gif", ".ogv"))
AHEAD = 16  # decoded frames of one file that are kept for threads that ask out of order


class VideoSource(Source):
    """Video files under the root. Group = path without suffix, index = number of the frame; frames become PNG, as
    decoded. `every: 5` takes every fifth frame; longer or larger videos than allowed are turned away whole.
    """

    kind: Literal["video"] = Field(default="video", description="kind of the source")
    folder: str = Field(default="", description="folder under the root")
    every: int = Field(default=1, ge=1, description="take every k-th frame")
    max_frames: int = Field(default=10_000, ge=1, description="videos with more frames are rejected whole")

    @property
    def limits(self) -> VideoLimits:
        """What one file may hold."""
        return VideoLimits(max_frames=self.max_frames, max_pixels=self.max_pixels, every=self.every)

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        for file in root.walk(self.folder, VIDEO_SUFFIXES):
            problem = file.problem
            try:
                count = 0 if problem else count_frames(root.read(file.path), file.path, self.limits)
                problem = problem or (None if count else _no_frames())
            except ContractError as error:
                problem = error.problem
            if problem is not None:
                yield Entry(file.path, file.stamp, problem=problem)
                continue
            yield from self._frames(file, count)

    def _frames(self, file: File, count: int) -> Iterator[Entry]:
        for number in range(0, count, self.every):
            yield Entry(f"{file.path}#{number:06d}", file.stamp, {"path": file.path, "frame": number})

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        path, frame = entry.fields["path"], int(entry.fields["frame"])
        image = _player(self.model_dump_json(), path, entry.stamp).frame(frame)
        return RawSample(image=encode_image(image), group=str(PurePosixPath(path).with_suffix("")), index=frame)


def _no_frames() -> Problem:
    return Problem(Reason.UNDECODABLE_IMAGE, "a video with frames", "none", "replace or remove the file")


class _Player:
    """Plays one file forward for whoever asks; a frame that has gone by starts it again."""

    def __init__(self, source: VideoSource, path: str) -> None:
        self._source, self._path = source, path
        self._lock = threading.Lock()
        self._kept: dict[int, Uint8Array] = {}
        self._frames: Iterator[tuple[int, Uint8Array]] = iter(())
        self._next = -1  # nothing is playing

    def frame(self, number: int) -> Uint8Array:
        """One frame, RGB uint8 (H, W, 3).

        Raises:
            ContractError: the file ends before it, or breaks off.
        """
        with self._lock:
            if number not in self._kept:
                self._play_to(number)
            return self._kept[number]

    def _play_to(self, number: int) -> None:
        if self._next < 0 or number < self._next:
            data = self._source.reader().read(self._path)
            self._frames = read_frames(data, self._path, self._source.limits)
            self._kept.clear()
        for at, image in self._frames:
            self._next = at + 1
            self._kept[at] = image
            while len(self._kept) > AHEAD:
                del self._kept[min(self._kept)]
            if at == number:
                return
        self._next = -1
        problem = Problem(Reason.UNDECODABLE_IMAGE, f"frame {number}", "an earlier end", "replace or cut the file")
        raise ContractError(self._path, problem)


@lru_cache(maxsize=4)
def _player(source: str, path: str, stamp: str) -> _Player:
    return _Player(VideoSource.model_validate_json(source), path)
