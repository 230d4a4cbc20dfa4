"""Seeds: the few pixels of an image whose class is taken for known, from boxes, scribbles, points or tags.

Source: A2GNN (arXiv 2106.04054) takes seeds from class maps and, for boxes, from GrabCut (C. Rother et al., SIGGRAPH
2004) as "Simple Does It" (CVPR 2017) does. How the released code merges both is not documented: the rules here are our
own, each one an option.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Uint8Array, sample_seed
from maskmill.labelers.a2gnn.boxes import Bool, PixelBox
from maskmill.labelers.a2gnn.config import SeedConfig
from maskmill.labelers.base import LabelItem
from maskmill.vision.refine.pool import CrfOptions, refine_many

Float32 = NDArray[np.float32]
CAM_CRF = CrfOptions(gaussian_sxy=3, gaussian_weight=3, bilateral_sxy=80, bilateral_srgb=13, bilateral_weight=10)


@dataclass(frozen=True, eq=False)
class Seeds:
    """`labels` uint8 (H, W), 255 where nobody knows; for boxes, GrabCut's claim of each one, and how each one got its
    seeds: `seeded`, or by falling back on `grabcut` or on its `centre`. `maps` are the class maps where there are any.
    """

    labels: Uint8Array
    claims: tuple[Bool, ...] = ()
    plain: tuple[Bool, ...] = ()  # GrabCut's claims as they came, box by box
    weak: tuple[bool, ...] = ()  # boxes for which no cut is plausible
    sources: Counter[str] = field(default_factory=Counter)
    maps: Float32 | None = None  # (K, H, W) in [0, 1], tags ascending


@dataclass(frozen=True, eq=False)
class Confident:
    """What class maps are sure of: `labels` uint8 (H, W), foreground ids or 255, and `background` bool (H, W)."""

    labels: Uint8Array
    background: Bool


def grabcut(image: Uint8Array, boxes: Sequence[PixelBox], seed: int, iterations: int = 5, margin: float = 1.0) -> Bool:
    """GrabCut's foreground in boxes, bool (H, W), started from the boxes as what may be foreground.

    It sees the image up to `margin` sides (at least 16 pixels) beyond the boxes: farther colours only blur its model of
    the background. Empty where the boxes leave no background at all to learn from.
    """
    height, width = image.shape[:2]
    y0, x0 = min(b.y0 for b in boxes), min(b.x0 for b in boxes)
    y1, x1 = max(b.y1 for b in boxes), max(b.x1 for b in boxes)
    reach_y, reach_x = max(16, round(margin * (y1 - y0))), max(16, round(margin * (x1 - x0)))
    window = slice(max(y0 - reach_y, 0), y1 + reach_y), slice(max(x0 - reach_x, 0), x1 + reach_x)
    whole = np.full((height, width), cv2.GC_BGD, np.uint8)
    for box in boxes:
        whole[box.at] = cv2.GC_PR_FGD
    view, mask = np.ascontiguousarray(image[window][..., ::-1]), np.ascontiguousarray(whole[window])
    claim = np.zeros((height, width), bool)
    if (mask == cv2.GC_BGD).sum() < 16 or (mask == cv2.GC_PR_FGD).sum() < 16:
        return claim
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(seed % 2**31)  # it starts its colour models by k-means from the thread's own generator
    try:
        cv2.grabCut(view, mask, (0, 0, 0, 0), *models, iterations, cv2.GC_INIT_WITH_MASK)  # no rectangle: the mask
    except cv2.error:  # a view of one colour has no mixture to fit
        return claim
    claim[window] = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
    return claim


def touching(boxes: Sequence[PixelBox]) -> list[list[int]]:
    """Boxes that overlap or touch, directly or through others: positions, group by group."""
    group = list(range(len(boxes)))
    for i, a in enumerate(boxes):
        for j, b in enumerate(boxes[:i]):
            if min(a.y1, b.y1) >= max(a.y0, b.y0) and min(a.x1, b.x1) >= max(a.x0, b.x0):
                old, new = group[i], group[j]
                group = [new if g == old else g for g in group]
    return [[i for i, g in enumerate(group) if g == name] for name in sorted(set(group))]


def grouped_claims(
    image: Uint8Array, boxes: Sequence[PixelBox], claims: Sequence[Bool], seed: int, config: SeedConfig
) -> tuple[list[Bool], list[bool]]:
    """Claims in which each box without a plausible one has its part of one GrabCut around all boxes that it touches,
    and which boxes have no plausible cut even so.

    A garment's colours say little against the garment beside it, while the person stands out from the street. Where
    that part is not plausible either (but it may fill the box), the box keeps its own claim if it fills more than half
    of it, and claims all of its pixels otherwise. A box that touches no other keeps its claim.
    """
    out, lost = list(claims), [not is_plausible(c, b, config) for c, b in zip(claims, boxes, strict=True)]
    filling = config.model_copy(update={"fill_range": (config.fill_range[0], 1.0)})
    for group in touching(boxes):
        weak = [i for i in group if lost[i]]
        if not weak or len(group) < 2:
            continue
        whole = grabcut(image, [boxes[i] for i in group], seed, config.grabcut_iterations, config.grabcut_margin)
        for i in weak:
            part = np.zeros_like(whole)
            part[boxes[i].at] = whole[boxes[i].at]
            if is_plausible(part, boxes[i], filling):
                out[i], lost[i] = part, False
            elif claims[i][boxes[i].at].mean() <= 0.5:
                out[i] = allowed_pixels(image, boxes[i])
    return out, lost


def is_plausible(claim: Bool, box: PixelBox, config: SeedConfig) -> bool:
    """True where a claim fills neither almost nothing nor almost all of its box, and reaches out to its sides."""
    share = float(claim[box.at].mean())
    low, high = config.fill_range
    if not low <= share <= high or not share:
        return False
    rows, columns = np.flatnonzero(claim.any(axis=1)), np.flatnonzero(claim.any(axis=0))
    tight = (rows[-1] + 1 - rows[0]) * (columns[-1] + 1 - columns[0])
    return bool(tight / box.area >= config.tight_iou)  # a claim lies inside its box, so this is the boxes' IoU


def confident(image: Uint8Array, maps: Float32, class_ids: Sequence[int], config: SeedConfig) -> Confident:
    """Confident pixels of class maps (K, H, W) in [0, 1].

    Foreground where a class beats the background (1 - max)^foreground_power and is among the class's strongest
    `cam_keep`; background where (1 - max)^background_power beats all classes and is above its floor.
    """
    ground = np.clip(1 - maps.max(axis=0), 0, 1)
    weak, strong = ground**config.background_power, ground**config.foreground_power
    if config.cam_crf:
        stacks = [np.concatenate([g[None], maps]).astype(np.float32) for g in (strong, weak)]
        first, second = refine_many([(image, s / s.sum(0, keepdims=True).clip(1e-7)) for s in stacks], 1, CAM_CRF)
    else:
        first, second = np.concatenate([strong[None], maps]), np.concatenate([weak[None], maps])
    labels = np.full(maps.shape[1:], IGNORE, np.uint8)
    best, winner = first.argmax(axis=0), np.concatenate([weak[None], maps]).argmax(axis=0)
    for channel, class_id in enumerate(class_ids, start=1):
        own = (winner == channel) & (maps[channel - 1] > config.cam_floor)
        if not own.any():
            continue
        threshold = np.quantile(maps[channel - 1][own], 1 - config.cam_keep)
        labels[own & (maps[channel - 1] >= threshold) & (best == channel)] = class_id
    background = (second.argmax(axis=0) == 0) & (weak > config.background_floor)
    if config.cam_crf:
        labels[first.max(axis=0) < config.crf_floor] = IGNORE
        background &= second[0] >= config.crf_floor
    return Confident(labels, background)


def box_seeds(
    item: LabelItem,
    boxes: Sequence[PixelBox],
    maps: Float32 | None,
    class_ids: Sequence[int],
    background_id: int,
    config: SeedConfig,
) -> Seeds:
    """Seeds of one image from its boxes. `maps` (K, H, W) belong to `class_ids`; None where fusion asks for none."""
    if config.fusion == "cam":
        claims, weak = [allowed_pixels(item.image, box) for box in boxes], [False] * len(boxes)
        plain = tuple(claims)
    else:
        seed = sample_seed(0, item.sample_id, "grabcut")
        claims = [grabcut(item.image, [box], seed, config.grabcut_iterations, config.grabcut_margin) for box in boxes]
        plain = tuple(claims)
        weak = [not is_plausible(claim, box, config) for claim, box in zip(claims, boxes, strict=True)]
        if config.groups:
            claims, weak = grouped_claims(item.image, boxes, claims, seed, config)
    sure = None
    if maps is not None and config.fusion != "grabcut":
        sure = confident(item.image, box_maps(maps, class_ids, boxes), class_ids, config)
    alone = {group[0] for group in touching(boxes) if len(group) == 1}
    sound = [not w or (config.groups and i not in alone) for i, w in enumerate(weak)]
    size = (item.image.shape[0], item.image.shape[1])
    found = fuse(boxes, claims, sound, sure, size, background_id, config)
    return replace(found, maps=maps, plain=plain, weak=tuple(weak))


def allowed_pixels(image: Uint8Array, box: PixelBox) -> Bool:
    """All pixels of a box: the claim where GrabCut is not asked."""
    claim = np.zeros(image.shape[:2], bool)
    claim[box.at] = True
    return claim


def box_maps(maps: Float32, class_ids: Sequence[int], boxes: Sequence[PixelBox]) -> Float32:
    """Class maps that are 0 outside the class's boxes and reach 1 in each of them: a box says that there is one."""
    out = np.zeros_like(maps)
    for channel, class_id in enumerate(class_ids):
        for box in (b for b in boxes if b.class_id == class_id):
            region = maps[channel][box.at]
            scaled = region / max(float(region.max()), 1e-7)
            out[channel][box.at] = np.maximum(out[channel][box.at], scaled)
    return out


def fuse(
    boxes: Sequence[PixelBox],
    claims: Sequence[Bool],
    sound: Sequence[bool],
    sure: Confident | None,
    size: tuple[int, int],
    background_id: int,
    config: SeedConfig,
) -> Seeds:
    """Merge GrabCut's claims and confident class maps.

    Outside all boxes: background. Inside: a class where its box's claim and the class maps agree; background where the
    maps say so and no claim objects (with `hollow`, wherever none objects); 255 everywhere else. Claims that are not
    `sound` do not count. A pixel that two classes claim is the smaller box's, or 255. A box that gets no seed falls
    back on its claim, then on its centre.
    """
    labels = np.full(size, background_id, np.uint8)
    for box in boxes:
        labels[box.at] = IGNORE
    sound = [bool(c.any()) and known for c, known in zip(claims, sound, strict=True)]
    owner = np.full(size, -1, np.int16)  # class of the claims on a pixel; -2 where two classes claim it
    claimed = np.zeros(size, bool)
    for i in sorted(range(len(boxes)), key=lambda i: -boxes[i].area):
        claimed |= claims[i]
        if sound[i]:
            seen = core(claims[i], config.core)
            clash = seen & (owner != -1) & (owner != boxes[i].class_id)
            owner[seen] = boxes[i].class_id
            if config.overlap == "undecided":
                owner[clash] = -2
    agreed = owner >= 0 if sure is None else (owner >= 0) & (owner == sure.labels)
    inside = labels == IGNORE
    if sure is not None:
        labels[inside & sure.background & (~claimed if config.fusion != "cam" else True)] = background_id
    if config.hollow:
        unclear = np.zeros(size, bool)  # who claims nothing sensible says nothing of the background either
        for box, known in zip(boxes, sound, strict=True):
            unclear[box.at] |= not known
        labels[inside & ~claimed & ~unclear] = background_id
    labels[agreed & inside] = owner[agreed & inside]
    sources = Counter[str]()
    for box, claim, known in zip(boxes, claims, sound, strict=True):
        sources[_fall_back(labels, box, claim if known else None, config)] += 1
    return Seeds(labels, tuple(claims), sources=sources)


def core(claim: Bool, depth: float) -> Bool:
    """The claim without a rim of `depth` pixels; the whole claim where nothing would be left."""
    if depth <= 0:
        return claim
    padded = np.pad(claim, 1).astype(np.uint8)
    inner: Bool = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1] > depth
    return inner if inner.any() else claim


def _fall_back(labels: Uint8Array, box: PixelBox, claim: Bool | None, config: SeedConfig) -> str:
    """Seed a box that has no seed of its class, where nobody else has; says from what it has its seeds."""
    region = labels[box.at]
    if (region == box.class_id).any():
        return "seeded"
    free = region == IGNORE
    if claim is not None and (free & claim[box.at]).any():
        region[free & claim[box.at]] = box.class_id
        return "grabcut"
    region[_centre(region.shape, config.centre_area) & (free | ~free.any())] = box.class_id
    return "centre"


def _centre(shape: tuple[int, ...], area: float) -> Bool:
    """The middle of a box, `area` of it, at least one pixel."""
    middle = np.zeros(shape, bool)
    height, width = (max(1, round(side * area**0.5)) for side in shape)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    middle[top : top + height, left : left + width] = True
    return middle


def point_seeds(item: LabelItem, radius: int) -> Uint8Array:
    """Discs around the given points, uint8 (H, W), 255 elsewhere; where two classes' discs meet, the nearer has it."""
    height, width = item.image.shape[:2]
    labels = np.full((height, width), IGNORE, np.uint8)
    nearest = np.full((height, width), np.inf)
    y, x = np.mgrid[:height, :width]
    for class_id, at_x, at_y in item.points:
        column, row = min(max(int(at_x), 0), width - 1), min(max(int(at_y), 0), height - 1)
        distance = np.hypot(y - row, x - column)
        closer = (distance <= radius) & (distance < nearest)
        labels[closer], nearest[closer] = int(class_id), distance[closer]
    return labels


def other_seeds(
    item: LabelItem, maps: Float32 | None, class_ids: Sequence[int], background_id: int, config: SeedConfig
) -> Seeds:
    """Seeds from a scribble, from points, or, where maps are given, from what they are sure of.

    Given pixels win over maps. Maps fill in the background where nothing given is background, and everything where
    nothing is given.
    """
    size = item.image.shape[:2]
    labels = item.scribble.copy() if item.scribble is not None else np.full(size, IGNORE, np.uint8)
    points = point_seeds(item, config.point_radius)
    labels[(labels == IGNORE) & (points != IGNORE)] = points[(labels == IGNORE) & (points != IGNORE)]
    if maps is not None:
        sure, free = confident(item.image, maps, class_ids, config), labels == IGNORE
        if free.all():
            labels[sure.labels != IGNORE] = sure.labels[sure.labels != IGNORE]
        if not (labels == background_id).any():
            labels[free & sure.background & (labels == IGNORE)] = background_id
    return Seeds(labels, maps=maps)
