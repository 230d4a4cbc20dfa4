"""A trained Mask R-CNN at work: photos in, scored objects out, and a label map that they make together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from maskmill.data_contracts import IGNORE, Instance, LabelSpace, Uint8Array
from maskmill.trainers.engine import PredictConfig, Samples, check_images, evaluating


@dataclass(frozen=True, eq=False)
class ObjectPrediction:
    """The objects of one photo, best first, as they were found: they may overlap."""

    instances: tuple[Instance, ...]
    labels: Uint8Array  # (H, W) class ids; a pixel of several objects is the best one's
    confidence: Uint8Array  # (H, W), 255 = certain: the object's score; 255 on background


@dataclass(frozen=True, eq=False)
class InstancePredictor:
    """Photos one at a time, so that an answer depends on its photo alone."""

    net: nn.Module
    space: LabelSpace
    device: torch.device

    def predict(self, images: Sequence[Uint8Array], config: PredictConfig | None = None) -> list[ObjectPrediction]:
        """Objects of RGB photos uint8 (H, W, 3).

        Raises:
            ValueError: no photo, or scales, windows and mirrors, which objects do not take.
        """
        check_images(images)
        if config is not None and config != PredictConfig():
            raise ValueError("predict: expected no scales, flip, fit or window for objects; leave `predict` out")
        return [self._predict(image) for image in images]

    def _predict(self, image: Uint8Array) -> ObjectPrediction:
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy()).to(self.device) / 255
        with evaluating(self.net):
            found = {name: value.cpu().numpy() for name, value in self.net([pixels])[0].items()}
        objects, masks = [], found["masks"][:, 0] > 0.5
        for label, score, mask in zip(found["labels"], found["scores"], masks, strict=True):
            if mask.any():
                objects.append(Instance.of(self.space.ids[int(label) - 1], mask, score=round(float(score), 6)))
        return drawn(objects, (image.shape[0], image.shape[1]), self.space)


def drawn(objects: Sequence[Instance], size: tuple[int, int], space: LabelSpace) -> ObjectPrediction:
    """The label map of objects in the order of their scores, the best on top."""
    labels = np.full(size, IGNORE if space.background_id is None else space.background_id, np.uint8)
    confidence = np.full(size, 255, np.uint8)
    for one in reversed(objects):
        if one.runs is not None:
            mask = one.runs.draw()
            labels[mask], confidence[mask] = one.class_id, round(255 * (one.score or 0.0))
    return ObjectPrediction(tuple(objects), labels, confidence)


def judged(predictor: InstancePredictor, samples: Samples) -> dict[str, object]:
    """`average_precision` of a predictor on samples whose objects are told apart."""
    from maskmill.trainers.mask_rcnn.views import known_objects
    from maskmill.vision.instances.precision import average_precision

    truths = [known_objects(samples, position) for position in range(len(samples))]
    sizes = [(info.height, info.width) for info in samples.infos]
    images = (samples.example(position).image for position in range(len(samples)))
    found = [predictor.predict([image])[0].instances for image in images]
    return average_precision(truths, found, sizes, predictor.space)
