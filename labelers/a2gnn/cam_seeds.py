"""Seeds from class maps: the pixels of which the maps are sure.

Source: A2GNN (arXiv 2106.04054), released `infer_SEAM`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.labelers.a2gnn.boxes import Bool, PixelBox
from maskmill.labelers.a2gnn.config import SeedConfig
from maskmill.vision.crf_options import CrfOptions
from maskmill.vision.refine.pool import refine_many

Float32 = NDArray[np.float32]
CAM_CRF = CrfOptions(
    gaussian_sxy=3, gaussian_weight=3, bilateral_sxy=80, bilateral_srgb=13, bilateral_weight=10, backend="auto"
)


@dataclass(frozen=True, eq=False)
class Confident:
    """What class maps are sure of: `labels` uint8 (H, W), foreground ids or 255, and `background` bool (H, W)."""

    labels: Uint8Array
    background: Bool


def confident(image: Uint8Array, maps: Float32, class_ids: Sequence[int], config: SeedConfig) -> Confident:
    """Confident pixels of class maps (K, H, W) in [0, 1].

    Foreground where a class beats the background (1 - max)^foreground_power and is among the class's strongest
    `cam_keep`; background where (1 - max)^background_power beats all classes and is above its floor. With `cam_rule:
    released`, see `released_sure`.
    """
    ground = np.clip(1 - maps.max(axis=0), 0, 1)
    weak, strong = ground**config.background_power, ground**config.foreground_power
    if config.cam_crf:
        stacks = [np.concatenate([g[None], maps]).astype(np.float32) for g in (strong, weak)]
        first, second = refine_many([(image, s / s.sum(0, keepdims=True).clip(1e-7)) for s in stacks], options=CAM_CRF)
    else:
        first, second = np.concatenate([strong[None], maps]), np.concatenate([weak[None], maps])
    if config.cam_rule == "released":
        return released_sure(np.concatenate([weak[None], maps]), first, second, class_ids, config)
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


def released_sure(
    maps: Float32, first: Float32, second: Float32, class_ids: Sequence[int], config: SeedConfig
) -> Confident:
    """The release's rule, on stacks (1 + K, H, W), background first: class maps with the background that is hard to
    beat, and what the dense CRF made of foreground (`first`) and background (`second`) maps.

    The CRF names the class; the maps only say where anything is sure. Of n values of a class above `cam_floor`, those
    above the one at place n (1 - keep) in order are; of the background, those above its floor.
    """
    winner = maps.argmax(axis=0)
    label, ground = first.argmax(axis=0), second.argmax(axis=0) == 0
    sure = np.zeros(label.shape, bool)
    for channel in np.unique(label):
        own = np.where(winner == channel, maps[channel], 0)
        if channel == 0:
            sure |= own > config.background_floor
            continue
        values = np.sort(own[own > config.cam_floor])
        place = int(len(values) * (1 - config.cam_keep))
        if place >= 1:
            sure |= own > values[place]
    if config.cam_crf:
        sure &= np.concatenate([second[:1], first[1:]]).max(axis=0) >= config.crf_floor
    labels: Uint8Array = np.array([IGNORE, *class_ids], np.uint8)[np.where(sure & ~ground, label, 0)]
    return Confident(labels, sure & ground)


def box_maps(maps: Float32, class_ids: Sequence[int], boxes: Sequence[PixelBox]) -> Float32:
    """Class maps that are 0 outside the class's boxes and reach 1 in each of them: a box says that there is one."""
    out = np.zeros_like(maps)
    for channel, class_id in enumerate(class_ids):
        for box in (b for b in boxes if b.class_id == class_id):
            region = maps[channel][box.at]
            scaled = region / max(float(region.max()), 1e-7)
            out[channel][box.at] = np.maximum(out[channel][box.at], scaled)
    return out
