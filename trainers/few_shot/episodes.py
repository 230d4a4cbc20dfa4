"""Episodes over contract shards: classes in folds, lists with the papers' filters, and (query, supports) as a pure
function of (seed, number).

Source: Shaban et al., BMVC 2017 (folds of PASCAL-5i); lists and filters as in PFENet (TPAMI 2020), SCL (CVPR 2021), and
BAM (CVPR 2022), which HDMNet and PI-CLIP follow.
"""

import functools
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import IGNORE, LabelSpace, sample_seed
from maskmill.trainers.engine import Remembered, Samples, shuffled

logger = logging.getLogger("maskmill.few_shot")

#: The ten seeds over which PI-CLIP's tests are repeated (NumPy seed 123).
PI_CLIP_SEEDS = (510, 365, 382, 322, 988, 98, 742, 17, 595, 106)
SCL_SEEDS = (321,)


class EpisodeConfig(BaseModel):
    """Which classes are held out, which images are listed, and how an episode is drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folds: int = Field(default=4, ge=1, description="parts that the classes are split into")
    fold: int = Field(default=0, ge=0, description="part whose classes are held out from training, from 0")
    split: Literal["blocks", "interleaved"] = Field(
        default="blocks", description="blocks: PASCAL-5i takes 5f+1..5f+5; interleaved: COCO-20i takes f+1, f+5, …"
    )
    held_out: tuple[str, ...] | None = Field(
        default=None, description="names of classes to hold out instead of a fold's; [] holds none out"
    )
    min_pixels: int = Field(
        default=0, ge=0, description="pixels of a class from which an image is listed under it; the papers: 2048"
    )
    min_share: float = Field(default=0.01, ge=0, lt=1, description="the same as a share of the image")
    drop_held_out: bool = Field(
        default=True,
        description="leave out training images that show a held-out class, as BAM, HDMNet and PI-CLIP do; PFENet "
        "and SCL do not",
    )
    held_out_pixels: Literal["background", "ignore"] = Field(
        default="background",
        description="what held-out classes are in the training images that stay; the papers: background",
    )
    pick: Literal["listed", "raw"] = Field(
        default="listed", description="a query's class: one of those it is listed under, or any that it shows (raw)"
    )


@dataclass(frozen=True)
class Episode:
    """Segment `class_id` in `query`, given `supports`; all by sample_id."""

    number: int
    class_id: int
    query: str
    supports: tuple[str, ...]


def split_classes(ids: Sequence[int], folds: int, split: str = "blocks") -> tuple[tuple[int, ...], ...]:
    """Class ids of each fold: disjoint, together all of them.

    Raises:
        ValueError: fewer classes than folds.
    """
    if len(ids) < folds:
        raise ValueError(f"folds: expected at most one a class, found {folds} folds for {len(ids)} classes")
    ordered = sorted(ids)
    if split == "interleaved":
        return tuple(tuple(ordered[fold::folds]) for fold in range(folds))
    ends = [len(ordered) * fold // folds for fold in range(folds + 1)]
    return tuple(tuple(ordered[a:b]) for a, b in itertools.pairwise(ends))


def held_out(space: LabelSpace, config: EpisodeConfig) -> tuple[int, ...]:
    """Class ids that training must not learn.

    Raises:
        ValueError: a fold that does not exist, or a name that the space lacks.
    """
    if config.held_out is not None:
        try:
            return tuple(sorted(space.find(name).id for name in config.held_out))
        except KeyError as error:
            raise ValueError(f"held_out: {error.args[0]}") from None
    if config.fold >= config.folds:
        raise ValueError(f"fold: expected 0..{config.folds - 1}, found {config.fold}")
    return split_classes(space.ids, config.folds, config.split)[config.fold]


@dataclass(frozen=True)
class ClassIndex:
    """Labelled pixels of every class in every image: `pixels` int64 (images, classes), `area` int64 (images,)."""

    sample_ids: tuple[str, ...]
    class_ids: tuple[int, ...]
    pixels: NDArray[np.int64]
    area: NDArray[np.int64]

    @classmethod
    def of(cls, samples: Samples, class_ids: Sequence[int]) -> "ClassIndex":
        """Count the masks of all samples; those without a mask count 0."""
        ids = tuple(class_ids)
        pixels = np.zeros((len(samples), len(ids)), np.int64)
        area = np.ones(len(samples), np.int64)
        for position in range(len(samples)):
            mask = samples.example(position).mask
            if mask is not None:
                pixels[position] = np.bincount(mask.ravel(), minlength=256)[list(ids)]
                area[position] = mask.size
        return cls(samples.ids, ids, pixels, area)

    def shown(self) -> NDArray[np.bool_]:
        """Which classes each image shows at all."""
        shown: NDArray[np.bool_] = self.pixels > 0
        return shown

    def listed(self, config: EpisodeConfig) -> NDArray[np.bool_]:
        """Under which classes each image is listed: those with enough pixels."""
        enough: NDArray[np.bool_] = self.pixels >= max(config.min_pixels, 1)
        return enough & (self.pixels >= config.min_share * self.area[:, None])

    def without(self, class_ids: Sequence[int]) -> "ClassIndex":
        """The images that show none of these classes, by a single pixel."""
        columns = [self.class_ids.index(i) for i in class_ids]
        keep = np.logical_not(self.shown()[:, columns].any(axis=1)).tolist()
        ids = tuple(i for i, kept in zip(self.sample_ids, keep, strict=True) if kept)
        return ClassIndex(ids, self.class_ids, self.pixels[keep], self.area[keep])


class Episodes:
    """Episodes of some classes: `episode(number)` depends on (seed, number) and the listed images only, so that
    workers, shards and resumed runs draw the same.

    Query images take turns in a seeded order; one of a query's classes is drawn uniformly; `shots` distinct supports
    are drawn from the images listed under that class, never the query itself.
    """

    def __init__(self, index: ClassIndex, classes: Sequence[int], shots: int, config: EpisodeConfig, seed: int) -> None:
        self.shots, self.seed = shots, seed
        columns = {class_id: index.class_ids.index(class_id) for class_id in classes}
        listed, shown = index.listed(config), index.shown()
        lists = {c: [index.sample_ids[i] for i in np.flatnonzero(listed[:, at])] for c, at in columns.items()}
        self.lists = {c: sorted(ids) for c, ids in lists.items() if len(ids) > shots}
        if few := {c: len(ids) for c, ids in lists.items() if len(ids) <= shots}:
            logger.warning("classes with too few images for %d shots are left out: %s", shots, few)
        may = listed if config.pick == "listed" else shown
        usable = {c: columns[c] for c in self.lists}
        self.classes_of = {
            sample_id: tuple(c for c, at in usable.items() if may[i, at])
            for i, sample_id in enumerate(index.sample_ids)
            if any(listed[i, at] for at in usable.values())
        }
        self.queries = tuple(sorted(self.classes_of))
        if not self.queries:
            raise ValueError(
                f"episodes: expected a class of {sorted(classes)} with more than {shots} images that show enough of "
                f"it, found { ({c: len(ids) for c, ids in lists.items()}) }. Fix: lower min_pixels or min_share, take "
                "fewer shots, or add images"
            )
        self._order = Remembered(functools.partial(shuffled, self.queries, seed), 2)

    @property
    def classes(self) -> tuple[int, ...]:
        """Those that can be drawn."""
        return tuple(sorted(self.lists))

    def episode(self, number: int) -> Episode:
        """Episode `number` of an endless sequence."""
        turn, at = divmod(number, len(self.queries))
        query = self.queries[self._order(turn)[at]]
        rng = np.random.default_rng(sample_seed(self.seed, query, f"episode {turn} {self.shots}"))
        class_id = self.classes_of[query][int(rng.integers(len(self.classes_of[query])))]
        others = [i for i in self.lists[class_id] if i != query]
        chosen = rng.choice(len(others), self.shots, replace=False)
        return Episode(number, class_id, query, tuple(others[i] for i in chosen))

    def take(self, count: int) -> list[Episode]:
        """The first `count` episodes, exactly."""
        return [self.episode(number) for number in range(count)]


def binary_mask(mask: NDArray[np.uint8], class_id: int, hidden: Sequence[int] = ()) -> NDArray[np.uint8]:
    """1 where the class is, 255 kept as ignore and put where `hidden` classes are, all else 0."""
    out: NDArray[np.uint8] = (mask == class_id).astype(np.uint8)
    out[np.isin(mask, (IGNORE, *hidden))] = IGNORE
    return out
