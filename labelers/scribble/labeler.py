"""Pseudo-labels of a model trained on scribbles, with the strokes laid over them last: they always win."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, LabelSpace, Reason, Uint8Array
from maskmill.labelers.base import Labeler, LabelItem, PseudoLabel
from maskmill.labelers.scribble.config import Config
from maskmill.trainers.engine import PredictConfig
from maskmill.trainers.registry import load_artifact

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class ScribbleLabeler(Labeler):
    """The engine. `detail` of each label is a JSON object: agreement with the strokes *before* they are laid over
    (null without strokes), share of pixels kept, mean entropy in nats, and mean |p(image) - p(half the image)|, which
    is high where the model is not sure of what it sees.
    """

    config: Config
    space: LabelSpace
    predictor: Any
    single: PredictConfig  # one image a forward, so that no companion moves a bit

    def label(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        """One pseudo-label an item, with or without a scribble."""
        return [self._label(item) for item in items]

    def _label(self, item: LabelItem) -> PseudoLabel:
        several = self.single.model_copy(update={"scales": self.config.scales, "flip": self.config.flip})
        p = self._filtered(self._probabilities(item, several), item)
        half = self._filtered(self._probabilities(item, self.single.model_copy(update={"scales": (0.5,)})), item)
        labels: Uint8Array = p.argmax(axis=0).astype(np.uint8)
        quality = {
            "scribble_agreement": agreement(labels, item.scribble),
            "entropy": round(float(-(p * np.log(np.maximum(p, 1e-7))).sum(axis=0).mean()), 4),
            "scale_residual": round(float(np.abs(p - half).max(axis=0).mean()), 4),
        }
        return self._decide(p, labels, item, quality)

    def _probabilities(self, item: LabelItem, config: PredictConfig) -> Float32:
        found: Float32 = self.predictor.predict([item.image], config)[0].probabilities
        return found

    def _filtered(self, p: Float32, item: LabelItem) -> Float32:
        """Probabilities of ids outside the label space, and with the filter of classes that the scribble and the tags
        do not name, set to 0; the rest scaled to sum 1.
        """
        allowed = self.space.allowed_ids - {IGNORE}
        drawn = set() if item.scribble is None else {int(i) for i in np.unique(item.scribble)} - {IGNORE}
        named = (drawn | set(item.class_ids)) & allowed
        if self.config.class_filter and named:
            background = set() if self.space.background_id is None else {self.space.background_id}
            allowed = allowed & (named | background)
        gate = np.array([class_id in allowed for class_id in range(len(p))], np.float32)
        kept = np.maximum(p, 1e-7) * gate[:, None, None]
        shares: Float32 = kept / kept.sum(axis=0, keepdims=True)
        return shares

    def _decide(self, p: Float32, labels: Uint8Array, item: LabelItem, quality: dict[str, Any]) -> PseudoLabel:
        config, agrees = self.config, quality["scribble_agreement"]
        if agrees is not None and agrees < config.min_agreement:
            detail = f"expected agreement with {config.min_agreement:.0%} of the strokes' pixels, found {agrees:.1%}"
            return PseudoLabel.abstain(Reason.LOW_CONFIDENCE, detail)
        certainty: Uint8Array = np.rint(255 * p.max(axis=0)).astype(np.uint8)
        mask = labels.copy()
        mask[(certainty < 255 * config.confidence) | ~surest(labels, certainty, config.keep_share)] = IGNORE
        if item.scribble is not None:
            drawn = item.scribble != IGNORE
            mask[drawn], certainty[drawn] = item.scribble[drawn], 255
        decided = float((mask != IGNORE).mean())
        if decided < config.min_decided:
            detail = f"expected {config.min_decided:.0%} of the pixels above {config.confidence}, found {decided:.1%}"
            return PseudoLabel.abstain(Reason.LOW_CONFIDENCE, detail)
        detail = json.dumps({**quality, "kept": round(decided, 4)}, sort_keys=True)
        return PseudoLabel(mask, certainty, detail=detail)


def agreement(labels: Uint8Array, scribble: Uint8Array | None) -> float | None:
    """Share of the strokes' pixels that a label map agrees with; None without strokes."""
    if scribble is None or not (drawn := scribble != IGNORE).any():
        return None
    return round(float((labels[drawn] == scribble[drawn]).mean()), 4)


def surest(labels: Uint8Array, certainty: Uint8Array, share: float) -> NDArray[np.bool_]:
    """Pixels at or above the certainty that `share` of their own class's pixels reach."""
    kept = np.ones(labels.shape, bool)
    if share < 1:
        for class_id in np.unique(labels):
            own = labels == class_id
            kept[own] = certainty[own] >= np.quantile(certainty[own], 1 - share)
    return kept


def load(config: Config, space: LabelSpace) -> ScribbleLabeler:
    """Load the trained model; on a GPU where there is one.

    Raises:
        FileNotFoundError: no artifact there. ValueError: it was trained in another label space.
    """
    predictor = load_artifact(config.artifact)
    trained: LabelSpace = predictor.space
    if trained.ids != space.ids or trained.background_id != space.background_id:
        raise ValueError(
            f"{config.artifact}: expected a model of label space {space.name} with ids {space.ids}, found "
            f"{trained.name} with ids {trained.ids}; label in the space that it was trained in"
        )
    return ScribbleLabeler(config, space, predictor, predictor.config.model_copy(update={"batch": 1, "flip": False}))
