"""Labels of volumes that nobody has drawn, by the artifact of a trainer such as `abd`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from maskmill.data_contracts import IGNORE, LabelSpace, Reason
from maskmill.labelers.base import Labeler, LabelerConfig, LabelItem, PseudoLabel
from maskmill.trainers.abd.mixing import keep_largest
from maskmill.trainers.abd.predict import AbdPredictor
from maskmill.trainers.engine import Prediction, SegmentationPredictor, read_info
from maskmill.trainers.registry import load_artifact

VERSION = 1


class Config(LabelerConfig):
    """Options of `semi_supervised`."""

    artifact: str = Field(description="folder of a trained artifact")
    device: str = Field(default="auto", description="auto (cuda where there is one), cpu, cuda or cuda:N")
    networks: Literal["both", "first"] = Field(
        default="both", description="mean of both networks where the artifact has two, or the tested one alone"
    )
    largest_component: bool = Field(default=True, description="of each class keep only the largest blob of a slice")
    min_confidence: float = Field(default=0.0, ge=0, lt=1, description="pixels that are less sure become 255")
    min_decided: float = Field(default=0.0, ge=0, le=1, description="abstain where less of the slice is decided")
    labelled_groups: Literal["leave_out", "label"] = Field(
        default="leave_out",
        description="groups whose masks the artifact was trained on: abstain, or label them",
    )


def stamps(config: Config) -> tuple[str, ...]:
    """The artifact's weights."""
    return (read_info(config.artifact).weights,)


@dataclass(frozen=True, eq=False)
class SemiSupervised(Labeler):
    """The engine. Slices go through the network one at a time, so that a label is its own to the bit."""

    config: Config
    space: LabelSpace
    predictor: SegmentationPredictor

    def label(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        """Label and confidence of each slice; abstains from groups that have true masks already."""
        return [self._label(item) for item in items]

    def _label(self, item: LabelItem) -> PseudoLabel:
        known: tuple[str, ...] = getattr(self.predictor, "labelled_groups", ())
        if item.group in known and self.config.labelled_groups == "leave_out":
            return PseudoLabel.abstain(Reason.ALREADY_LABELLED, f"group {item.group} has the masks it was learnt from")
        return decide(self._predict(item), self.space, self.config)

    def _predict(self, item: LabelItem) -> Prediction:
        if isinstance(self.predictor, AbdPredictor) and self.config.networks == "both":
            return self.predictor.predict_both([item.image])[0]
        return self.predictor.predict([item.image])[0]


def decide(prediction: Prediction, space: LabelSpace, config: Config) -> PseudoLabel:
    """Labels cleaned to their largest blobs; unsure pixels, and what was cleaned away, become 255."""
    labels, certainty = prediction.labels, prediction.confidence
    if config.largest_component and space.background_id is not None:
        cleaned = keep_largest(labels, space.background_id)
        labels = np.where(cleaned == labels, labels, np.uint8(IGNORE))
    labels = np.where(certainty < 255 * config.min_confidence, np.uint8(IGNORE), labels)
    decided = float((labels != IGNORE).mean())
    if decided < config.min_decided:
        detail = f"expected {config.min_decided:.0%} of the pixels above {config.min_confidence}, found {decided:.1%}"
        return PseudoLabel.abstain(Reason.LOW_CONFIDENCE, detail)
    return PseudoLabel(labels, certainty)


def load(config: Config, space: LabelSpace) -> SemiSupervised:
    """Load the artifact.

    Raises:
        FileNotFoundError: no finished artifact there.
        ValueError: it was trained for other classes, or predicts no dense labels.
    """
    theirs = read_info(config.artifact).label_space
    if (theirs.ids, theirs.background_id) != (space.ids, space.background_id):
        raise ValueError(
            f"{config.artifact}: expected classes {space.ids} over background {space.background_id}, found "
            f"{theirs.ids} over {theirs.background_id}; label with its label space {theirs.name}"
        )
    predictor = load_artifact(config.artifact, config.device)
    if not isinstance(predictor, SegmentationPredictor):
        raise ValueError(f"{config.artifact}: expected a segmenter, found {type(predictor).__name__}; train `abd`")
    return SemiSupervised(config, space, predictor)
