"""One new class from a few labelled images: by the priors of PI-CLIP alone, or by a trained few-shot network.

Sources: PI-CLIP (CVPR 2024) for the priors, SCL (CVPR 2021) for the weights of several supports, PAR (AFA, CVPR 2022)
for the edges. That the threshold is chosen on the supports is ours.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE, LabelSpace, Reason, Uint8Array
from maskmill.labelers.base import Labeler, LabelItem, PseudoLabel
from maskmill.labelers.few_shot.config import Config
from maskmill.labelers.few_shot.support import Exemplar, read_supports
from maskmill.trainers.engine import resize_image
from maskmill.trainers.few_shot.predict import FewShotPredictor, Supports
from maskmill.trainers.few_shot.priors import ClipPriors, ClipView, product_with_text
from maskmill.trainers.registry import load_artifact
from maskmill.vision.device import pick_device
from maskmill.vision.refine import par

Float32 = NDArray[np.float32]
PriorShot = tuple[ClipView, Uint8Array]
THRESHOLDS = np.linspace(0.3, 0.9, 25)
# Threshold where there is no second support to try one on, without the product of match and text, and with it: chosen
# on development episodes.
ONE_SUPPORT = {False: 0.65, True: 0.4}


class Engine(ABC):
    """Where in an image the class is."""

    threshold: float  # value of `map` from which a pixel belongs to the class

    @abstractmethod
    def map(self, image: Uint8Array) -> Float32 | None:
        """(H, W) in [0, 1]; None where nothing in the image is like the class."""


class PriorEngine(Engine):
    """Training-free: VVP of all supports and VTP with PIR, mixed, as a share of the image's own peak.

    Peaks differ from image to image far more than shapes do, so a threshold on the share holds where one on the plain
    value does not.
    """

    def __init__(self, config: Config, space: LabelSpace, supports: Sequence[Exemplar]) -> None:
        self.config = config
        text = next((c.text for c in space.classes if c.name == config.class_name), config.class_name)
        device = str(pick_device(config.device))
        self.priors = ClipPriors(config.priors, {1: text}, surroundings=space.background_prompts, device=device)
        self.shots = [(self._view(s), s.mask) for s in supports]
        lone = ONE_SUPPORT[config.priors.product_text]
        self.threshold = config.threshold or best_threshold(self._peaked, supports, self.shots, lone)

    def _view(self, support: Exemplar) -> ClipView:
        view = self.priors.encode(support.image, support.mask, text=False)
        cut_too = self.config.priors.product_blocks and not self.config.priors.mask_image
        return self.priors.cut_out(view, support.image, support.mask) if cut_too else view

    def map(self, image: Uint8Array) -> Float32 | None:
        raw, peak = self._raw(image, self.shots)
        return None if peak < self.config.min_peak else self._share(raw)

    def _peaked(self, image: Uint8Array, shots: Sequence[PriorShot]) -> Float32:
        return self._share(self._raw(image, shots)[0])

    def _share(self, raw: Float32) -> Float32:
        peaked: Float32 = raw / max(float(raw.max()), 1e-6)
        return peaked

    def _raw(self, image: Uint8Array, shots: Sequence[PriorShot]) -> tuple[Float32, float]:
        """What is thresholded as a share of its peak, and the peak of the mix, which says whether there is a thing."""
        query, options = self.priors.encode(image), self.config.priors
        matches, text = self.priors.vvp(query, shots), self.priors.vtp(query, 1)
        share, plain = self.config.visual, len(matches) - options.products(len(shots))
        products = matches[plain:]
        mix = share * matches[:plain].mean(dim=0) + (1 - share) * text
        maps = mix
        if options.product_text:
            maps = product_with_text(products, text).mean(dim=0)
        elif options.product_blocks:
            maps = share * products.mean(dim=0) + (1 - share) * text
        full = F.interpolate(torch.stack([maps, mix])[:, None], image.shape[:2], mode="bilinear", align_corners=False)
        found, mixed = full[:, 0].clamp(0, 1).cpu().numpy()
        return found, float(mixed.max())


class TrainedEngine(Engine):
    """A trained network: the probability of the object, decided at one half."""

    def __init__(self, config: Config, predictor: FewShotPredictor, supports: Sequence[Exemplar]) -> None:
        self.predictor = predictor
        known = {c.name: c.text for c in predictor.space.classes}
        name = known.get(config.class_name, config.class_name)
        self.supports: Supports = predictor.supports([(s.image, s.mask) for s in supports], name)
        self.threshold = config.threshold or 0.5

    def map(self, image: Uint8Array) -> Float32 | None:
        found: Float32 = self.predictor.predict([image], self.supports)[0].probabilities[1]
        return found


def best_threshold(
    map_of: Callable[[Uint8Array, Sequence[PriorShot]], Float32],
    supports: Sequence[Exemplar],
    shots: Sequence[PriorShot],
    lone: float,
) -> float:
    """The threshold with the best mean IoU on the supports, each segmented by the others; `lone` for a single one."""
    if len(supports) < 2:
        return lone
    curves = [
        _iou_curve(map_of(support.image, [*shots[:number], *shots[number + 1 :]]), support.mask)
        for number, support in enumerate(supports)
    ]
    return float(THRESHOLDS[int(np.mean(curves, axis=0).argmax())])


def _iou_curve(map_: Float32, mask: Uint8Array) -> NDArray[np.float64]:
    judged = mask != IGNORE
    values, truth = map_[judged], mask[judged] == 1
    found = values[None] >= THRESHOLDS[:, None]
    union = (found | truth).sum(axis=1)
    curve: NDArray[np.float64] = (found & truth).sum(axis=1) / np.maximum(union, 1)
    return curve


@dataclass(frozen=True)
class FewShot(Labeler):
    """The labeler: images one at a time, so that a label never depends on companions."""

    config: Config
    engine: Engine
    class_id: int
    background: int | None

    def label(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        """Masks of the one class; abstains where an image shows less of it than `min_share`."""
        return [self._label(item.image) for item in items]

    def _label(self, image: Uint8Array) -> PseudoLabel:
        map_ = self.engine.map(image)
        if map_ is None:
            detail = (
                f"expected something like {self.config.class_name}, found no value of {self.config.min_peak} or more"
            )
            return PseudoLabel.abstain(Reason.NO_CLASSES, detail)
        share = centred(map_, self.engine.threshold)
        if self.config.refine == "par":
            share = self._refined(image, share)
        found = share >= 0.5
        if found.mean() < self.config.min_share or not found.any():
            wanted = f"at least {self.config.min_share:.2%} of the image"
            detail = f"expected {wanted} to be {self.config.class_name}, found {found.mean():.2%}"
            return PseudoLabel.abstain(Reason.NO_CLASSES, detail)
        certainty = np.maximum(share, 1 - share)
        background = IGNORE if self.background is None else self.background
        mask = np.where(found, self.class_id, background).astype(np.uint8)
        mask[certainty < self.config.confidence] = IGNORE
        return PseudoLabel(mask, np.rint(255 * certainty).astype(np.uint8))

    def _refined(self, image: Uint8Array, share: Float32) -> Float32:
        factor = min(1.0, self.config.refine_side / max(image.shape[:2]))
        height, width = (max(1, round(side * factor)) for side in image.shape[:2])
        small = torch.from_numpy(np.ascontiguousarray(resize_image(image, height, width))).permute(2, 0, 1)[None]
        maps = torch.from_numpy(np.stack([1 - share, share]))[None]
        maps = F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)
        spread = par(small.float(), maps, iterations=self.config.par_iterations)
        spread = F.interpolate(spread, image.shape[:2], mode="bilinear", align_corners=False)[0]
        refined: Float32 = (spread[1] / spread.sum(dim=0).clamp_min(1e-6)).numpy()
        return refined


def centred(map_: Float32, threshold: float) -> Float32:
    """Bend [0, 1] so that `threshold` becomes one half: linear below it and above it."""
    low, high = 0.5 * map_ / threshold, 0.5 + 0.5 * (map_ - threshold) / (1 - threshold)
    bent: Float32 = np.where(map_ < threshold, low, high).clip(0, 1).astype(np.float32)
    return bent


def load(config: Config, space: LabelSpace) -> FewShot:
    """Load models and supports.

    Raises:
        FileNotFoundError: no supports, or no artifact. ValueError: the label space lacks the class, a broken support,
        or an artifact of another trainer.
    """
    try:
        class_id = space.find(config.class_name).id
    except KeyError as error:
        raise ValueError(f"few_shot: {error.args[0]}. Fix: add it to the label space") from None
    supports = read_supports(config.support)
    if config.artifact is None:
        return FewShot(config, PriorEngine(config, space, supports), class_id, space.background_id)
    predictor = load_artifact(config.artifact, config.device)
    if not isinstance(predictor, FewShotPredictor):
        raise ValueError(f"{config.artifact}: expected an artifact of trainer few_shot, found another trainer's")
    return FewShot(config, TrainedEngine(config, predictor, supports), class_id, space.background_id)
