"""Video files in and out through PyAV, with limits on what an untrusted file may cost."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import ContractError, Problem, Reason, Uint8Array
from maskmill.data_contracts.image_files import MAX_PIXELS

# Containers whose demuxers open other files or addresses (playlists, concat lists, devices) are left out.
FORMATS = frozenset(
    {"mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpeg", "mpegts", "gif", "ogg"}
)


class VideoLimits(BaseModel):
    """What a file may hold and which of its frames are taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_frames: int = Field(default=10_000, ge=1, description="more frames than this are refused")
    max_pixels: int = Field(default=MAX_PIXELS, gt=0, description="of one frame")
    every: int = Field(default=1, ge=1, description="take every k-th frame")


@contextmanager
def _opened(data: bytes | BinaryIO, where: str) -> Iterator[Any]:
    """The container; whatever FFmpeg makes of broken bytes becomes one ContractError."""
    import av

    faults = (av.FFmpegError, ValueError, EOFError)  # looked up now: a clip half read may be closed at exit, after av
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        with av.open(source, mode="r", options={"protocol_whitelist": "file,pipe"}) as container:
            if not set(container.format.name.split(",")) & FORMATS:
                raise _fault(where, f"a container out of {', '.join(sorted(FORMATS))}", container.format.name)
            if not container.streams.video:
                raise _fault(where, "a video stream", "none")
            yield container
    except faults as error:
        if isinstance(error, ContractError):
            raise
        raise _fault(where, "a complete video file", str(error)) from error


def _fault(where: str, expected: str, found: str, reason: Reason = Reason.UNDECODABLE_IMAGE) -> ContractError:
    return ContractError(where, Problem(reason, expected, found, "replace, convert or remove the file"))


def count_frames(data: bytes | BinaryIO, where: str = "video", limits: VideoLimits | None = None) -> int:
    """Frames in the file (before `every`), from its packets: nothing is decoded.

    Raises:
        ContractError: no readable video, frames above `max_pixels`, or more than `max_frames` of them.
    """
    limits = limits or VideoLimits()
    with _opened(data, where) as container:
        stream = container.streams.video[0]
        _check_size(stream.codec_context.width, stream.codec_context.height, where, limits)
        count = 0
        for packet in container.demux(stream):
            count += packet.size > 0
            if count > limits.max_frames:
                raise _fault(where, f"at most {limits.max_frames} frames", "more; cut it or raise max_frames")
    return count


def read_frames(
    data: bytes | BinaryIO, where: str = "video", limits: VideoLimits | None = None
) -> Iterator[tuple[int, Uint8Array]]:
    """(number, RGB uint8 (H, W, 3)) of every `every`-th frame, in order of display.

    Raises:
        ContractError: as `count_frames`; also while iterating, where a file breaks off.
    """
    limits = limits or VideoLimits()
    with _opened(data, where) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number >= limits.max_frames:
                raise _fault(where, f"at most {limits.max_frames} frames", "more; cut it or raise max_frames")
            _check_size(frame.width, frame.height, where, limits)
            if number % limits.every == 0:
                yield number, np.ascontiguousarray(frame.to_ndarray(format="rgb24"))


def _check_size(width: int, height: int, where: str, limits: VideoLimits) -> None:
    if width * height > limits.max_pixels:
        raise _fault(where, f"at most {limits.max_pixels} pixels a frame", f"{width}x{height}", Reason.IMAGE_TOO_LARGE)


def encode_video(frames: Iterable[Uint8Array], rate: int = 12) -> bytes:
    """RGB uint8 (H, W, 3) frames of one size as the bytes of an .mp4 file (MPEG-4).

    Odd sides lose their last row or column, as 4:2:0 needs even ones.
    """
    import av

    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        stream: Any = None
        for image in frames:
            height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
            if stream is None:
                stream = container.add_stream("mpeg4", rate=Fraction(rate))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.bit_rate = 40 * width * height
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))
    return buffer.getvalue()
