"""From groups of images to masks of the object that each group shares, by a network that the trainer `dcfm` left.

Source: S. Yu et al., "Democracy Does Matter: Comprehensive Feature Mining for Co-Salient Object Detection", CVPR 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, LabelSpace, Reason
from maskmill.labelers.base import Labeler, LabelItem, PseudoLabel
from maskmill.labelers.co_saliency.config import Config
from maskmill.trainers.dcfm.predict import GroupMap, GroupPredictor
from maskmill.trainers.engine import read_artifact
from maskmill.trainers.registry import get_trainer
from maskmill.vision.device import pick_device
from maskmill.vision.refine import par, refine_many

TRAINER = "dcfm"
MIN_GROUP = 2  # images that must be left for outliers to be put out


@dataclass(frozen=True)
class CoSaliency(Labeler):
    """The engine. `predictor` is the artifact's; each group goes through it whole, alone and in order of sample ids,
    so that a label depends on its group and on nothing else. Images without a group are groups of their own.
    """

    config: Config
    space: LabelSpace
    predictor: GroupPredictor

    def label(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        """One mask an image: the class that the whole group is tagged with, else the label space's first."""
        groups: dict[tuple[str, str], list[int]] = {}
        for place, item in enumerate(items):
            name = ("alone", item.sample_id) if item.group is None else ("group", item.group)
            groups.setdefault(name, []).append(place)
        found: dict[int, PseudoLabel] = {}
        for places in groups.values():
            ordered = sorted(places, key=lambda place: items[place].sample_id)
            found.update(zip(ordered, self._label_group([items[place] for place in ordered]), strict=True))
        return [found[place] for place in range(len(items))]

    def _label_group(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        class_id = self._class_of(items)
        maps = self._maps(items)
        strangers = [i for i, one in enumerate(maps) if one.agreement < self.config.min_agreement]
        members = [i for i in range(len(items)) if i not in strangers]
        if strangers and len(members) >= MIN_GROUP:
            again = self._maps([items[i] for i in members])
            labels = {i: self._decide(items[i], one, class_id) for i, one in zip(members, again, strict=True)}
            labels |= {i: self._stranger(maps[i]) for i in strangers}
            return [labels[i] for i in range(len(items))]
        return [self._decide(item, one, class_id) for item, one in zip(items, maps, strict=True)]

    def _maps(self, items: Sequence[LabelItem]) -> list[GroupMap]:
        config = self.predictor.config.model_copy(update={"batch": self.config.batch})
        return self.predictor.predict_group([item.image for item in items], config)

    def _class_of(self, items: Sequence[LabelItem]) -> int:
        shared = set.intersection(*(set(item.class_ids) for item in items)) & set(self.space.by_id)
        return shared.pop() if len(shared) == 1 else self.space.classes[0].id

    def _stranger(self, one: GroupMap) -> PseudoLabel:
        wanted = self.config.min_agreement
        detail = f"expected agreement with its group of at least {wanted}, found {one.agreement:.2f}"
        return PseudoLabel.abstain(Reason.LOW_CONFIDENCE, detail)

    def _decide(self, item: LabelItem, one: GroupMap, class_id: int) -> PseudoLabel:
        share = self._refined(item, one.saliency)
        inside = share >= self.config.threshold
        if inside.mean() < self.config.min_area:
            detail = f"expected {self.config.min_area:.1%} of the image to be object, found {inside.mean():.1%}"
            return PseudoLabel.abstain(Reason.LOW_CONFIDENCE, detail)
        sure = np.rint(255 * np.maximum(share, 1 - share)).astype(np.uint8)
        background = IGNORE if self.space.background_id is None else self.space.background_id
        mask = np.where(inside, np.uint8(class_id), np.uint8(background))
        mask[sure < 255 * self.config.confidence] = IGNORE
        return PseudoLabel(mask, sure, detail=f"agreement with its group {one.agreement:.2f}")

    def _refined(self, item: LabelItem, share: NDArray[np.float32]) -> NDArray[np.float32]:
        """The map as it is, or spread along the image's edges."""
        stack = np.stack([1 - share, share])
        if self.config.refine == "crf":
            stack = refine_many([(item.image, stack)], options=self.config.crf)[0]
        elif self.config.refine == "par":
            pixels = torch.from_numpy(item.image.transpose(2, 0, 1).copy())[None].float()
            with torch.no_grad():
                stack = par(pixels, torch.from_numpy(stack)[None])[0].numpy()
        refined: NDArray[np.float32] = np.clip(stack[1] / np.maximum(stack.sum(axis=0), 1e-7), 0, 1)
        return refined


def load(config: Config, space: LabelSpace) -> CoSaliency:
    """Load the artifact; on a GPU where there is one.

    Raises:
        FileNotFoundError: no artifact there. ValueError: it is another trainer's.
    """
    artifact = read_artifact(config.artifact)
    if artifact.info.trainer != TRAINER:
        raise ValueError(
            f"{config.artifact}: expected an artifact of trainer {TRAINER}, found {artifact.info.trainer}'s; "
            "name the folder of a co-saliency network"
        )
    return CoSaliency(config, space, get_trainer(TRAINER).load(artifact, pick_device()))
