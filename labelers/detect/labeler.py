"""From images and class names to boxes with scores, by an open-vocabulary detector.

Boxes are no masks: a label says 255 inside of them and background elsewhere, and its instances hold the boxes. Labeler
`promptable` turns them into masks in the same run, `a2gnn` from WeakLabel shards.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maskmill.data_contracts import IGNORE, Instance, LabelSpace, Reason, Uint8Array
from maskmill.labelers.base import Labeler, LabelItem, PseudoLabel
from maskmill.labelers.detect.config import Config
from maskmill.labelers.detect.families import Family, Text, load_family
from maskmill.vision.batches import Batches, stacked, thickened
from maskmill.vision.device import pick_device
from maskmill.vision.pretrained import model_folder

GPU_BATCH = 4
MOST_THIN = 16  # times that one side may be longer than the other; no model was trained on more
Classes = tuple[int, ...]
Texts = list[tuple[range, Text]]


@dataclass(frozen=True)
class Found:
    """One box, in pixels of the photo, x0 <= x < x1."""

    class_id: int
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Detector(Labeler):
    """The engine. Images of one input size and one list of classes share a forward of exactly `batches.size` images,
    padded with blanks; with one image, the default on a CPU, a photo's boxes do not depend on its companions.
    """

    config: Config
    space: LabelSpace
    family: Family
    batches: Batches

    def label(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        """Boxes as instances; abstains where no class reaches the threshold."""
        found = self.detect(items)
        return [self._label(item.image, boxes) for item, boxes in zip(items, found, strict=True)]

    def detect(self, items: Sequence[LabelItem]) -> list[list[Found]]:
        """Boxes of each image, best first: of the classes of its tags, or of all where it has none."""
        groups: dict[tuple[Classes, tuple[int, ...]], list[int]] = defaultdict(list)
        images = [thickened(item.image, MOST_THIN) for item in items]
        inputs = [self.family.pixels(image) for image in images]
        for position, (item, pixels) in enumerate(zip(items, inputs, strict=True)):
            groups[self._classes(item), tuple(pixels.shape)].append(position)
        texts = {classes: self._texts(classes) for classes, _ in groups}
        found: dict[int, list[Found]] = {}
        for (classes, _), positions in groups.items():

            def call(part: Sequence[int], size: int, classes: Classes = classes) -> list[list[Found]]:
                shapes = [(images[p].shape[:2], items[p].image.shape[:2]) for p in part]
                return self._batch([inputs[p] for p in part], shapes, classes, texts[classes], size)

            found.update(zip(positions, self.batches.run(positions, call), strict=True))
        return [found[position] for position in range(len(items))]

    def _classes(self, item: LabelItem) -> Classes:
        named = tuple(sorted({i for i in item.class_ids if i in self.space.by_id}))
        return named or self.space.ids

    def _texts(self, classes: Classes) -> Texts:
        template = self.config.template or self.family.template
        names = [template.replace("{}", self.space.by_id[i].text) for i in classes]
        return self.family.texts(names, self.config.words or self.family.words)

    def _batch(
        self,
        inputs: Sequence[Tensor],
        shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        classes: Classes,
        texts: Texts,
        size: int,
    ) -> list[list[Found]]:
        """`shapes` are those of the image that the model sees and of the photo."""
        pixels = stacked(inputs, size)
        answers = [(step, *self.family.scores(pixels, text)) for step, text in texts]
        found = []
        for number, (shown, shape) in enumerate(shapes):
            candidates = [
                (boxes[number].cpu(), scores[number].cpu(), torch.tensor(classes)[list(step)])
                for step, boxes, scores in answers
            ]
            found.append(self._chosen(candidates, self.family.extent((shown[0], shown[1])), shape))
        return found

    def _chosen(
        self, candidates: Sequence[tuple[Tensor, Tensor, Tensor]], extent: tuple[float, float], size: tuple[int, ...]
    ) -> list[Found]:
        """Each box goes to its best class; of each class those that are sure enough and no copies of better ones.

        Boxes of several texts are other boxes, unless the family has the same for all.
        """
        from torchvision.ops import nms

        least = self.config.threshold or self.family.threshold
        if self.family.same_boxes:
            together = torch.cat([s for _, s, _ in candidates], dim=1), torch.cat([i for _, _, i in candidates])
            candidates = [(candidates[0][0], *together)]
        best = [(boxes, *scores.max(dim=1), ids) for boxes, scores, ids in candidates]
        boxes = torch.cat([b for b, _, _, _ in best])
        scores = torch.cat([s for _, s, _, _ in best])
        ids = torch.cat([known[chosen] for _, _, chosen, known in best])
        boxes = _in_photo(boxes, extent, size)
        real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # a box of the padding has no pixel
        found = []
        for class_id in sorted(set(ids.tolist())):
            own = torch.nonzero((ids == class_id) & (scores > least) & real)[:, 0]
            kept = own[nms(boxes[own], scores[own], self.config.nms)][: self.config.most]
            rows = zip(boxes[kept].tolist(), scores[kept].tolist(), strict=True)
            found += [Found(int(class_id), (row[0], row[1], row[2], row[3]), score) for row, score in rows]
        return sorted(found, key=lambda one: (-one.score, one.class_id, one.box))

    def _label(self, image: Uint8Array, found: Sequence[Found]) -> PseudoLabel:
        if not found:
            least = self.config.threshold or self.family.threshold
            detail = f"expected a box of one of the classes with a score above {least}, found none"
            return PseudoLabel.abstain(Reason.NO_CLASSES, detail)
        background = IGNORE if self.space.background_id is None else self.space.background_id
        mask = np.full(image.shape[:2], background, np.uint8)
        confidence = np.full(image.shape[:2], 255, np.uint8)
        for one in found:
            x0, y0, x1, y1 = one.box
            rows, columns = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
            mask[rows, columns], confidence[rows, columns] = IGNORE, 0
        instances = tuple(Instance(one.class_id, one.box, None, round(one.score, 6)) for one in found)
        return PseudoLabel(mask, confidence, instances=instances)


def _in_photo(boxes: Tensor, extent: tuple[float, float], size: tuple[int, ...]) -> Tensor:
    """Shares (Q, 4) to the photo's pixels, cut at its borders."""
    pixels = boxes * torch.tensor([*extent, *extent])
    limits = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32)
    return torch.minimum(pixels.clamp(min=0), limits)


def load(config: Config, space: LabelSpace) -> Detector:
    """Load the model; on a GPU where there is one.

    Raises:
        FileNotFoundError: no such model. ModelError: one of another kind, or with weights that do not fit.
    """
    device = pick_device()
    family = load_family(model_folder(config.model), device, config.precision)
    batch = config.batch or (GPU_BATCH if device.type == "cuda" else 1)
    return Detector(config, space, family, Batches(batch, config.model))
