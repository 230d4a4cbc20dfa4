"""What benchmarks.ftmu shows: DAVIS sequences, photos and drawn clips, and who learns from which."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Options, is_train_key, role_of
from benchmarks.shards import Row, sample_row
from maskmill.data_contracts import (
    IGNORE,
    Uint8Array,
    decode_image,
    decode_mask,
    encode_image,
    load_label_space,
)
from maskmill.starter.drawn import KNOWN_STYLES, UNSEEN_STYLES, SceneConfig, render_clip
from maskmill.vision.video import MaskCrop

STILLS = ("weizmann_horses", "human_foreground", "ccp", "grabcut_scribbles")
SPACE = load_label_space("objects")
SEGMENTER_TENTHS = 6  # of the training sequences; the agent learns on the others
DRAWN_SIDE = 160


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


def sequences(root: Path) -> list[str]:
    """Names of the DAVIS sequences under a data folder."""
    folders = sorted(path.name for path in (root / "davis" / "JPEGImages").glob("*") if path.is_dir())
    if not folders:
        raise FileNotFoundError(f"{root}: expected sequences under davis/JPEGImages, found none")
    return folders


def split(options: Options) -> tuple[list[str], list[str], list[str]]:
    """Sequences for the segmenter, for the agent and for the test; with `dev` all of them are of `--data`."""
    if options.data is None or options.tested is None:
        raise FileNotFoundError("ftmu: expected --data DIR with davis/")
    learnt, tested = sequences(options.data), sequences(options.tested)
    if options.dev:
        roles = {name: role_of(name, dev=True) for name in learnt}
        learnt, tested = ([n for n in learnt if roles[n] == role] for role in ("learn", "tested"))
    elif options.test_data is None:
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


def clip_rows(root: Path, names: Sequence[str], drawn: Sequence[int]) -> Iterator[Row]:
    """DAVIS sequences and drawn clips of the known styles as groups."""
    for name in names:
        for index, (image, mask) in enumerate(read_sequence(root, name)):
            yield sample_row(image, mask, SPACE, name, index)
    yield from drawn_rows(drawn_clip(number, KNOWN_STYLES, 1) for number in drawn)


def drawn_rows(clips: Iterable[Clip]) -> Iterator[Row]:
    """Clips as groups."""
    for clip in clips:
        for index, (frame, mask) in enumerate(zip(clip.frames, clip.truth, strict=True)):
            yield sample_row(encode_image(frame), mask, SPACE, clip.name, index)


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


@cache
def crossing_clips(count: int) -> tuple[Clip, ...]:
    """Drawn clips of styles that nothing was trained on."""
    return tuple(drawn_clip(number, UNSEEN_STYLES, 2) for number in range(count))
