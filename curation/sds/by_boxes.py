"""A promptable model as judge of masks: what it draws for the boxes of a mask's own objects, beside the mask.

It knows no class, so a mask of the right place under the wrong name passes; CLIP's part of SDS looks at names. What it
sees is whether a mask's borders are those of something: shifted, loose and cut masks have other borders than what lies
in their boxes.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from maskmill.curation.sds.asf import AsfScore, IgnorePolicy, asf_score
from maskmill.curation.sds.images import Prepared
from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.vision.batches import Batches
from maskmill.vision.promptable import Family
from maskmill.vision.promptable.ask import Asked, Found, Question, ask

LEAST = 16  # pixels: a smaller part of a class has no box of its own
MOST = 64  # boxes a sample: the largest parts; the model's cost is an embedding a photo and little a box


Answer = tuple[float, int, Callable[[], NDArray[np.bool_]]]  # score, class, and the mask bool (H, W) when asked for


def boxed(family: Family, samples: Sequence[Prepared], background: int, batches: Batches) -> list[Uint8Array]:
    """What the model draws for the boxes of the connected parts of each sample's mask."""

    def some(part: Sequence[Prepared], size: int) -> list[Uint8Array]:
        parts = [part_boxes(_mask(sample), sample.mask_classes) for sample in part]
        questions = [Question(sample.image, boxes) for sample, (_, boxes) in zip(part, parts, strict=True)]
        asked = ask(family, questions, size)
        return [drawn(one, classes, background) for one, (classes, _) in zip(asked, parts, strict=True)]

    return batches.run(samples, some)


def _mask(sample: Prepared) -> Uint8Array:
    assert sample.mask is not None
    return sample.mask


def agreement(sample: Prepared, pseudo: Uint8Array, ignore: IgnorePolicy) -> AsfScore:
    """Overlap of a sample's mask with the map that a model drew."""
    assert sample.mask is not None
    if ignore == "exclude":
        return asf_score(sample.mask, pseudo, sample.mask_classes, ignore)
    undecided = sample.mask == IGNORE  # the annotator's own: the model has no doubt to be counted
    return asf_score(sample.mask, np.where(undecided, IGNORE, pseudo).astype(np.uint8), sample.mask_classes, ignore)


def part_boxes(mask: Uint8Array, class_ids: tuple[int, ...]) -> tuple[list[int], NDArray[np.float32]]:
    """Class and box (n, 4) x0, y0, x1, y1 of the connected parts of each class, the largest `MOST`; every class has at
    least its largest part.
    """
    found: list[tuple[int, int, tuple[int, ...]]] = []
    image_size = mask.size  # ranks the largest part of each class before all others
    for class_id in class_ids:
        number, _, stats, _ = cv2.connectedComponentsWithStats((mask == class_id).astype(np.uint8))
        rows = sorted((tuple(int(v) for v in stats[part]) for part in range(1, number)), key=lambda row: -row[4])
        found += [
            (-(image_size + area) if rank == 0 else -area, class_id, (x, y, x + w, y + h))
            for rank, (x, y, w, h, area) in enumerate(rows)
            if rank == 0 or area >= LEAST
        ]
    chosen = sorted(found)[:MOST]
    return [class_id for _, class_id, _ in chosen], np.array([box for *_, box in chosen], np.float32).reshape(-1, 4)


def drawn(asked: Asked, classes: Sequence[int], background: int) -> Uint8Array:
    """The model's label map uint8 (H, W), of a class a box: a pixel belongs to the best-scored box whose mask holds
    it.
    """

    def answer(class_id: int, found: Found) -> Answer:
        return found.score, class_id, lambda: (asked.restored(found.logits) > 0).cpu().numpy()

    return painted(asked.size, background, [answer(*one) for one in zip(classes, asked.found, strict=True)])


def painted(size: tuple[int, ...], background: int, answers: Sequence[Answer]) -> Uint8Array:
    """Label map uint8 (H, W): a pixel belongs to the best-scored answer whose mask holds it, the first of equals."""
    label = np.full(size, background, np.uint8)
    for position in sorted(range(len(answers)), key=lambda i: (answers[i][0], -i)):
        _, class_id, mask = answers[position]
        label[mask()] = class_id
    return label
