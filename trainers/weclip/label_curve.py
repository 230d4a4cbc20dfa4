"""How good the labels are that training is fed with, as it goes on: pseudo-labels of whole images against true masks.

WeCLIP's papers print its final labels alone; whether RFM's feedback (decoder -> affinity -> labels -> decoder) helps,
does nothing or drifts shows only in the curve.
"""

import cv2
import numpy as np
import torch

from maskmill.data_contracts import Uint8Array
from maskmill.trainers.engine import Samples, SegmentationMetrics
from maskmill.trainers.weclip.decoder import affinity_logits
from maskmill.trainers.weclip.labels import PseudoLabeler
from maskmill.trainers.weclip.model import Weclip


def label_miou(model: Weclip, labeler: PseudoLabeler, samples: Samples, *, refining: bool) -> float:
    """mIoU in [0, 1] of the labels that the trainer would make for `samples` now, each told its classes.

    Args:
        model: encoders and decoder as they stand; its training mode is left as it was found.
        labeler: what makes the labels of training.
        samples: with masks; a sample's tags are its `class_ids`.
        refining: spread by the decoder's affinity, as after the kick-in.
    """
    training = model.decoder.training
    model.decoder.eval()
    metrics, known = SegmentationMetrics(labeler.space), samples.with_masks()
    for position in range(len(known)):
        example = known.example(position)
        if example.mask is None:
            continue
        labels = one_label(model, labeler, example.image, example.info.class_ids, refining=refining)
        metrics.update(labels, example.mask)
    model.decoder.train(training)
    return float(metrics.compute()["miou"])


def one_label(
    model: Weclip, labeler: PseudoLabeler, image: Uint8Array, tags: tuple[int, ...], *, refining: bool
) -> Uint8Array:
    """Labels uint8 (H, W) of an `image` uint8 (H, W, 3) with these classes, made at `test_size`."""
    height, width = image.shape[:2]
    patch, scale = model.backbone.patch, labeler.config.test_size / max(height, width)
    rows, columns = (max(patch, round(side * scale / patch) * patch) for side in (height, width))
    shown = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    rgb = (
        torch.from_numpy(np.ascontiguousarray(shown)).permute(2, 0, 1)[None].to(next(model.decoder.parameters()).device)
    )
    images = model.normalisation(rgb)
    dense = model.encode(images, labeler.n_attention)
    form = labeler.config.affinity
    affinity = affinity_logits(model.decode(dense, images).features, form) if refining else None
    labels, _ = labeler(dense, rgb, [list(tags)], affinity)
    small = labels[0].to(torch.uint8).cpu().numpy()
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
