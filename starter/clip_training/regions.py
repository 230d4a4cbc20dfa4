"""Labelled regions: what sky, road or a person look like patch by patch, from folders of photos with masks.

Words such as "sky" or "person" have no ImageNet class. Folders laid out as `<set>/images/*.jpg` + `<set>/masks/*.png`
(CamVid, LabelMeFacade, human foreground, Clothing Co-Parsing) give them a look, and teach patches to agree with words.
Only stems whose hash falls into the training part are used, so that the rest can serve for tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from maskmill.data_contracts import decode_mask
from maskmill.starter.clip_training.photos import PhotoSet
from maskmill.starter.clip_training.space import Space
from maskmill.starter.clip_training.teacher import head_features

IGNORE = -1
NOT_PERSON = 99
PURE = 0.75  # share of a patch that must carry one label
TRAIN_TENTHS = 7

#: Regions and the words that are right for each: a patch may agree with any of them.
REGIONS: dict[str, tuple[str, ...]] = {
    "sky": ("sky", "cloud"),
    "building": ("building", "house", "wall"),
    "road": ("road", "street", "ground"),
    "pavement": ("pavement", "street", "road", "ground"),
    "tree": ("tree", "grass"),
    "sign": ("sign",),
    "fence": ("fence", "wall", "building"),
    "car": ("car",),
    "person": ("person",),
    "cyclist": ("cyclist", "person"),
}
NUMBERS = {name: number for number, name in enumerate(REGIONS)}


@dataclass(frozen=True)
class RegionSet:
    """A folder below the data folder, and the region number (or NOT_PERSON) of each mask value; others are ignored."""

    folder: str
    side: int
    values: Mapping[int, int]


def _named(**regions: Sequence[int]) -> dict[int, int]:
    return {value: NUMBERS[name] for name, values in regions.items() for value in values}


REGION_SETS = (
    RegionSet("human_foreground", 320, {0: NOT_PERSON} | _named(person=[1])),
    RegionSet(
        "labelme_facade",
        320,
        _named(building=[1, 3, 8], car=[2], pavement=[4], road=[5], sky=[6], tree=[7]),
    ),
    RegionSet(
        "camvid",
        320,
        _named(sky=[0], building=[1], road=[3], pavement=[4], tree=[5], sign=[6], fence=[7], car=[8])
        | _named(person=[9], cyclist=[10]),
    ),
    RegionSet("ccp", 320, {0: NOT_PERSON} | _named(person=list(range(1, 59)))),
)


def in_training_part(stem: str) -> bool:
    """Seven tenths of all stems, by BLAKE2b: the same part that the benchmarks may learn from."""
    return int.from_bytes(hashlib.blake2b(stem.encode(), digest_size=8).digest(), "big") % 10 < TRAIN_TENTHS


def patch_labels(regions: RegionSet, data: Path, paths: Sequence[Path]) -> Tensor:
    """Region number of each patch, IGNORE where it is mixed or unlabelled: int64 (n, s*s), s = side / 16."""
    grid = regions.side // 16
    out = np.full((len(paths), grid, grid), IGNORE, dtype=np.int64)
    for row, path in enumerate(paths):
        file = data / regions.folder / "masks" / f"{path.stem}.png"
        mask = Image.fromarray(decode_mask(file.read_bytes(), str(file)))
        values = np.array(mask.resize((regions.side, regions.side), Image.Resampling.NEAREST))
        for number in set(regions.values.values()):
            wanted = [value for value, other in regions.values.items() if other == number]
            share = np.isin(values, wanted).reshape(grid, 16, grid, 16).mean((1, 3))
            out[row][share > PURE] = number
    return torch.from_numpy(out).flatten(1)


@torch.inference_mode()
def prototypes(teacher: nn.Module, space: Space, sets: Sequence[tuple[PhotoSet, Tensor]]) -> dict[str, Tensor]:
    """The look of each region: mean unit patch embedding (160,), unit length.

    Regions of street sets have half of the street's mean look taken off, since the trunk sees wide and every patch
    of a street also says "street"; a person has a third of the look of what is not a person taken off.
    """
    sums: dict[int, Tensor] = {}
    for photos, labels in sets:
        for start in range(0, len(labels), 32):
            maps = head_features(teacher, torch.from_numpy(np.array(photos.last[start : start + 32])).float())
            patches = functional.normalize(space.embed(maps.flatten(2).transpose(1, 2)), dim=-1)
            chosen = labels[start : start + 32]
            for number in set(chosen.flatten().tolist()):
                if number != IGNORE:
                    sums[number] = sums.get(number, torch.zeros(patches.shape[-1])) + patches[chosen == number].sum(0)
    looks = {number: functional.normalize(total, dim=0) for number, total in sums.items()}
    named = {name: looks[number] for name, number in NUMBERS.items() if number in looks}
    return {name: functional.normalize(_less_context(name, named, looks), dim=0) for name in named}


def _less_context(name: str, named: Mapping[str, Tensor], looks: Mapping[int, Tensor]) -> Tensor:
    if name == "person" and NOT_PERSON in looks:
        return named[name] - 0.3 * looks[NOT_PERSON]
    street = [named[part] for part in ("road", "building") if part in named]
    if name in ("sky", "tree") and street:
        return named[name] - 0.5 * functional.normalize(torch.stack(street).sum(0), dim=0)
    return named[name]
