"""The photos of `clean_and_train` and the faults of their labels: what annotators and pseudo-labelers get wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks import keep_sets
from benchmarks.box_sets import object_boxes
from benchmarks.common import Options, part_of, take_turns
from benchmarks.keep_sets import Photo, PhotoSet
from maskmill.curation.faults import shift_mask
from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array, foreground_ids

SETS = ("horses", "people", "ccp", "davis", "camvid")
#: Photos of each set that are trained on, and that are tested.
COUNTS = {"small": (40, 30), "full": (400, 200)}
KINDS = ("wrong_class", "foreign_mask", "shifted", "coarse_polygon", "missing_object", "merged_object")
PSEUDO = ("grabcut",)
#: What moves in DAVIS, in three kinds: its sequences are split, and no class of the fine ones is in both parts.
DAVIS_KINDS = {
    "animal": ("bird", "cow", "dog", "horse", "camel", "bear", "elephant", "goat", "rhinoceros"),
    "vehicle": ("bicycle", "boat", "bus", "car", "motorbike", "train", "ball"),
    "person": ("person",),
}
#: Names that a horse or a person may be given by mistake; elsewhere any other class of the set.
RIVALS = {"horses": ("cow", "dog"), "people": ("dog", "chair")}
COARSE = 0.035  # of an outline's length: how far a coarse polygon may stray from it
SHIFT = 0.12  # of each side
GRABCUT_SIDE = 160
GRABCUT_STEPS = 3


@dataclass(frozen=True)
class CleanSet:
    """One set: photos to train on and to test, in one label space; `rivals` are the classes that a mistake may name."""

    name: str
    space: LabelSpace
    trained: tuple[Photo, ...]
    tested: tuple[Photo, ...]
    rivals: tuple[int, ...]

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """Ids that a segmenter of the set can predict, background first."""
        background = () if self.space.background_id is None else (self.space.background_id,)
        used = {int(i) for photo in self.trained if (m := photo.mask()) is not None for i in np.unique(m)}
        return (*background, *sorted(({*used, *self.rivals} - set(background)) & set(self.space.ids)))


def load_clean_sets(options: Options) -> list[CleanSet]:
    """Every set that is there. With --dev the train part is learnt and the development part tested; else both are
    learnt and the test part is tested; with --test-data all of --data is learnt and only --test-data tested.

    Raises:
        FileNotFoundError: none of them is there.
    """
    if options.data is None or options.tested is None:
        raise FileNotFoundError("clean_and_train: expected --data DIR")
    learnt, tested = _load(options.data), _load(options.tested)
    found = []
    for name in (n for n in SETS if n in learnt and n in tested):
        first = [p for p in learnt[name].photos if options.test_data is not None or _learnt(p.key, options.dev)]
        last = [p for p in tested[name].photos if options.test_data is not None or _is_tested(p.key, options.dev)]
        counts = COUNTS[options.budget]
        drawn = [_drawn(part, count) for part, count in zip((first, last), counts, strict=True)]
        space = learnt[name].space
        rivals = tuple(space.find(n).id for n in RIVALS.get(name, ())) or space.ids
        found.append(CleanSet(name, space, drawn[0], drawn[1], rivals))
    if not found:
        raise FileNotFoundError(f"{options.data}: expected {', '.join(SETS)} as the data's README lays them out")
    return found


def _learnt(key: str, dev: bool) -> bool:
    return part_of(key) == "train" or (not dev and part_of(key) == "dev")


def _is_tested(key: str, dev: bool) -> bool:
    return part_of(key) == ("dev" if dev else "test")


def _drawn(photos: Sequence[Photo], count: int) -> tuple[Photo, ...]:
    return tuple(take_turns(photos, lambda p: p.clip or p.key, count, (1,)))


def _load(root: Path) -> dict[str, PhotoSet]:
    loaders: tuple[Callable[[Path], PhotoSet | None], ...] = (
        *(keep_sets._horses, keep_sets._people, keep_sets._ccp),
        *(keep_sets._davis, keep_sets._camvid),
    )
    sets = [s for load in loaders if (s := load(root)) is not None and s.photos]
    return {s.name: in_kinds(s) if s.name == "davis" else s for s in sets}


def in_kinds(davis: PhotoSet) -> PhotoSet:
    """DAVIS with three classes."""
    space = LabelSpace.from_names(list(DAVIS_KINDS), "davis-kinds")
    kind = {davis.space.find(n).id: space.find(k).id for k, names in DAVIS_KINDS.items() for n in names}
    photos = tuple(_renamed(photo, kind) for photo in davis.photos)
    return PhotoSet("davis", space, photos)


def _renamed(photo: Photo, kind: dict[int, int]) -> Photo:
    assert photo.lookup is not None
    lookup = np.array([kind.get(int(i), int(i)) for i in photo.lookup], dtype=np.uint8)
    return replace(photo, lookup=lookup, tags=tuple(kind[t] for t in photo.tags or ()))


def deal_kinds(count: int, rate: int, seed: int) -> dict[int, str]:
    """Which of `count` photos carry which fault at `rate` per cent; what carries one at a small rate carries the same
    at a larger one.
    """
    rng = np.random.default_rng([seed, 17])
    order = rng.permutation(count)
    turn = int(rng.integers(len(KINDS)))
    return {int(i): KINDS[(turn + place) % len(KINDS)] for place, i in enumerate(order[: round(rate / 100 * count)])}


def spoil(kind: str, place: int, masks: Sequence[Uint8Array], one: CleanSet, seed: int) -> Uint8Array:
    """The mask of photo `place` with a fault."""
    rng, mask, space = np.random.default_rng([seed, place]), masks[place], one.space
    match kind:
        case "wrong_class":
            return _wrong_class(mask, one, rng)
        case "foreign_mask":
            return _foreign(mask, [m for i, m in enumerate(masks) if one.trained[i].key != one.trained[place].key], rng)
        case "shifted":
            return shift_mask(mask, int(rng.integers(2**31)), SHIFT, _outside(space))
        case "coarse_polygon":
            return coarse_polygons(mask, space)
        case "missing_object":
            return _without_object(mask, space, rng)
        case _:
            return _merged(mask, space, rng)


def _outside(space: LabelSpace) -> int:
    return IGNORE if space.background_id is None else space.background_id


def _wrong_class(mask: Uint8Array, one: CleanSet, rng: np.random.Generator) -> Uint8Array:
    """The class of the largest region under another name."""
    areas = {i: int((mask == i).sum()) for i in foreground_ids(mask, one.space)}
    own = max(areas, key=lambda i: areas[i])
    others = [i for i in one.rivals if i not in areas] or [i for i in one.rivals if i != own]
    return np.where(mask == own, others[int(rng.integers(len(others)))], mask).astype(np.uint8)


def _foreign(mask: Uint8Array, others: Sequence[Uint8Array], rng: np.random.Generator) -> Uint8Array:
    """The mask of a photo of another key, resized."""
    other = others[int(rng.integers(len(others)))]
    return np.asarray(cv2.resize(other, mask.shape[::-1], interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def coarse_polygons(mask: Uint8Array, space: LabelSpace) -> Uint8Array:
    """Every region drawn with few corners, the largest class first."""
    out = np.full_like(mask, _outside(space))
    for class_id in sorted(foreground_ids(mask, space), key=lambda i: -int((mask == i).sum())):
        outlines, _ = cv2.findContours((mask == class_id).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        corners = [cv2.approxPolyDP(o, COARSE * cv2.arcLength(o, True), True) for o in outlines]
        cv2.fillPoly(out, corners, class_id)
    return out


def _without_object(mask: Uint8Array, space: LabelSpace, rng: np.random.Generator) -> Uint8Array:
    """One class gone: what lay under it becomes background, or where there is none, the nearest other class."""
    present = foreground_ids(mask, space)
    gone = mask == present[int(rng.integers(len(present)))]
    if space.background_id is not None:
        return np.where(gone, space.background_id, mask).astype(np.uint8)
    return _grown_over(mask, gone)


def _grown_over(mask: Uint8Array, gone: NDArray[np.bool_]) -> Uint8Array:
    rest = ~gone & (mask != IGNORE)
    if not rest.any():
        return mask
    y, x = ndimage.distance_transform_edt(~rest, return_distances=False, return_indices=True)
    return np.where(gone, mask[y, x], mask).astype(np.uint8)


def _merged(mask: Uint8Array, space: LabelSpace, rng: np.random.Generator) -> Uint8Array:
    """Two classes under the name of the larger one; where there is one class, its parts and what lies between them."""
    present = sorted(foreground_ids(mask, space), key=lambda i: -int((mask == i).sum()))
    if len(present) > 1:
        lost = present[1 + int(rng.integers(len(present) - 1))]
        kept = present[int(rng.integers(present.index(lost)))]
        return np.where(mask == lost, kept, mask).astype(np.uint8)
    points = cv2.findNonZero((mask == present[0]).astype(np.uint8))
    out = mask.copy()
    if points is not None:
        cv2.fillPoly(out, [cv2.convexHull(points)], present[0])
    return out


def grabcut(image: Uint8Array, mask: Uint8Array, space: LabelSpace) -> Uint8Array:
    """Pseudo-label of a photo with known boxes: GrabCut in each (Rother et al. 2004), the largest box first."""
    scale = GRABCUT_SIDE / max(mask.shape)
    size = (max(8, round(mask.shape[1] * scale)), max(8, round(mask.shape[0] * scale)))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    out = np.full((size[1], size[0]), _outside(space), np.uint8)
    boxes = object_boxes(mask)
    for class_id, *corners in sorted(boxes.tolist(), key=lambda b: -(b[3] - b[1]) * (b[4] - b[2])):
        x0, y0, x1, y1 = (round(c * scale) for c in corners)
        box = (x0, y0, max(2, x1 - x0), max(2, y1 - y0))
        out[_cut(small, box)] = int(class_id)
    return np.asarray(cv2.resize(out, mask.shape[::-1], interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def _cut(image: Uint8Array, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    x, y, width, height = box
    inside = np.zeros(image.shape[:2], dtype=bool)
    inside[y : y + height, x : x + width] = True
    if inside.mean() > 0.95 or width < 4 or height < 4:
        return inside
    cv2.setRNGSeed(0)
    state = np.zeros(image.shape[:2], np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(image, state, box, *models, GRABCUT_STEPS, cv2.GC_INIT_WITH_RECT)
    found = np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return found if found.any() else inside
