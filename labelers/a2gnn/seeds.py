"""Seeds from boxes: the few pixels of an image whose class is taken for known.

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
from maskmill.labelers.a2gnn.cam_seeds import Confident, box_maps, confident
from maskmill.labelers.a2gnn.config import SeedConfig
from maskmill.labelers.base import LabelItem

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Seeds:
    """`labels` uint8 (H, W), 255 where nobody knows; for boxes, the claim of each one, and how each one got its seeds:
    `seeded`, or by falling back on its whole `claim` or on its `centre`. `maps` are the class maps where there are any.
    """

    labels: Uint8Array
    claims: tuple[Bool, ...] = ()
    plain: tuple[Bool, ...] = ()  # the claims as they came, box by box
    weak: tuple[bool, ...] = ()  # boxes for which no cut is plausible
    sources: Counter[str] = field(default_factory=Counter)
    maps: Float32 | None = None  # (K, H, W) in [0, 1], tags ascending


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


def box_seeds(
    item: LabelItem,
    boxes: Sequence[PixelBox],
    maps: Float32 | None,
    class_ids: Sequence[int],
    background_id: int,
    config: SeedConfig,
    prompted: Sequence[Bool] = (),
) -> Seeds:
    """Seeds of one image from its boxes. `maps` (K, H, W) belong to `class_ids`; None where fusion asks for none.
    `prompted`: for fusion `prompted`, what the promptable model claims of each box, (H, W).
    """
    if config.fusion == "prompted":
        claims, weak = prompted_claims(item, boxes, prompted, config)
        plain = tuple(claims)
    elif config.fusion == "cam":
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
    if maps is not None and "cam" in config.fusion:
        sure = confident(item.image, box_maps(maps, class_ids, boxes), class_ids, config)
    alone = {group[0] for group in touching(boxes) if len(group) == 1}
    grouped = config.groups and config.fusion != "prompted"
    sound = [not w or (grouped and i not in alone) for i, w in enumerate(weak)]
    size = (item.image.shape[0], item.image.shape[1])
    found = fuse(boxes, claims, sound, sure, size, background_id, config)
    return replace(found, maps=maps, plain=plain, weak=tuple(weak))


def prompted_claims(
    item: LabelItem, boxes: Sequence[PixelBox], prompted: Sequence[Bool], config: SeedConfig
) -> tuple[list[Bool], list[bool]]:
    """The promptable model's claims, GrabCut's where a box's is not plausible and the cut is; which boxes have none."""
    claims, filling = list(prompted), config.model_copy(update={"fill_range": config.prompted_fill})
    weak = [not is_plausible(claim, box, filling) for claim, box in zip(claims, boxes, strict=True)]
    seed = sample_seed(0, item.sample_id, "grabcut")
    for i in np.flatnonzero(weak):
        cut = grabcut(item.image, [boxes[i]], seed, config.grabcut_iterations, config.grabcut_margin)
        if is_plausible(cut, boxes[i], config):
            claims[i], weak[i] = cut, False
    return claims, weak


def allowed_pixels(image: Uint8Array, box: PixelBox) -> Bool:
    """All pixels of a box: the claim where GrabCut is not asked."""
    claim = np.zeros(image.shape[:2], bool)
    claim[box.at] = True
    return claim


def fuse(
    boxes: Sequence[PixelBox],
    claims: Sequence[Bool],
    sound: Sequence[bool],
    sure: Confident | None,
    size: tuple[int, int],
    background_id: int,
    config: SeedConfig,
) -> Seeds:
    """Merge claims and confident class maps.

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
        return "claim"
    region[_centre(region.shape, config.centre_area) & (free | ~free.any())] = box.class_id
    return "centre"


def _centre(shape: tuple[int, ...], area: float) -> Bool:
    """The middle of a box, `area` of it, at least one pixel."""
    middle = np.zeros(shape, bool)
    height, width = (max(1, round(side * area**0.5)) for side in shape)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    middle[top : top + height, left : left + width] = True
    return middle
