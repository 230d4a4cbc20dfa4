"""One refiner behind any labeler: a dense CRF, PAR, or a promptable model that is asked for each object anew."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Instance, LabelSpace, Uint8Array
from maskmill.labelers.base import Labeler, LabelItem, PseudoLabel
from maskmill.labelers.promptable.masks import Answer, compose, owned
from maskmill.labelers.refiner_options import RefinerConfig
from maskmill.vision.batches import Batches
from maskmill.vision.crf_options import crf_stamp
from maskmill.vision.device import pick_device
from maskmill.vision.pretrained import model_fingerprint as fingerprint
from maskmill.vision.pretrained import model_folder
from maskmill.vision.promptable import Family, load_family
from maskmill.vision.promptable.ask import Asked, Question, ask, batches_of
from maskmill.vision.refine import par, refine_many

VERSION = 2
Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Objects = list[tuple[Instance, Bool]]
CERTAIN = 6.0  # the logit inside an object that stays as its labeler drew it
LEAST = 16  # pixels: smaller parts of a class without objects are no object, and stay


def refiner_stamps(config: RefinerConfig) -> tuple[str, ...]:
    """What a refined label depends on beside the options: our version, the model's weights, which CRF."""
    version = f"refiner {VERSION}"
    if config.kind == "promptable":
        return (version, fingerprint(str(config.model)))
    return (version, *(crf_stamp(config.crf) if config.kind == "crf" else ()))


def with_refiner(labeler: Labeler, config: RefinerConfig, space: LabelSpace) -> Labeler:
    """The labeler, its masks refined.

    Raises:
        FileNotFoundError: no such model. ModelError: one of another kind.
    """
    family = None
    if config.kind == "promptable":
        family = load_family(model_folder(str(config.model)), pick_device(), config.precision)
    return Refined(labeler, config, space, family, Batches(1, "refiner") if family is None else batches_of(family))


@dataclass(frozen=True)
class Refined(Labeler):
    """Labels of `inner`, refined one by one (a promptable model embeds `batches.size` photos at a time, blanks among
    them); what it abstained from stays so.
    """

    inner: Labeler
    config: RefinerConfig
    space: LabelSpace
    family: Family | None = None
    batches: Batches = field(default_factory=lambda: Batches(1, "refiner"))

    def label(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        """One answer an item, in their order."""
        return self.refined([item.image for item in items], self.inner.label(items))

    def refined(self, images: Sequence[Uint8Array], labels: Sequence[PseudoLabel]) -> list[PseudoLabel]:
        """The labels of photos after the refiner; one stays as it is where it has no mask or nothing in it."""
        found = list(labels)
        todo = [place for place, label in enumerate(labels) if self._present(label)]
        refined = self.batches.run([(images[place], labels[place]) for place in todo], self._batch)
        for place, label in zip(todo, refined, strict=True):
            found[place] = label
        return found

    def _present(self, label: PseudoLabel) -> list[int]:
        """Ids of the classes that a label shows."""
        if label.mask is None or label.confidence is None:
            return []
        return [int(i) for i in np.unique(label.mask) if int(i) in self.space.by_id and int(i) != self._empty]

    def _batch(self, some: Sequence[tuple[Uint8Array, PseudoLabel]], size: int) -> list[PseudoLabel]:
        if self.family is None:
            return [self._spread(image, label, self._present(label)) for image, label in some]
        objects = [list(_objects(label, self.space, self._empty)) for _, label in some]
        known = [place for place, own in enumerate(objects) if own]
        found = [label for _, label in some]
        asked = ask(self.family, [_question(some[p][0], objects[p]) for p in known], size) if known else []
        for place, answers in zip(known, asked, strict=True):
            found[place] = self._redrawn(found[place], objects[place], answers)
        return found

    @property
    def _empty(self) -> int:
        return IGNORE if self.space.background_id is None else self.space.background_id

    def _spread(self, image: Uint8Array, label: PseudoLabel, present: Sequence[int]) -> PseudoLabel:
        """By colours: shares of the classes, as sure as the label is, through CRF or PAR."""
        assert label.mask is not None
        assert label.confidence is not None
        values = np.array([self._empty, *present], np.uint8)
        factor = min(1.0, self.config.side / max(image.shape[:2]))
        size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        shares = _shares(label.mask, label.confidence, values)
        shares = np.stack([cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in shares])
        if self.config.kind == "crf":
            (shares,) = refine_many([(small, shares)], options=self.config.crf)
        else:
            pixels = torch.from_numpy(small.transpose(2, 0, 1).copy())[None].float()
            with torch.no_grad():
                shares = par(pixels, torch.from_numpy(shares)[None], iterations=self.config.rounds)[0].numpy()
        shares = shares / np.maximum(shares.sum(axis=0, keepdims=True), 1e-7)
        whole = (image.shape[1], image.shape[0])
        shares = np.stack([cv2.resize(one, whole, interpolation=cv2.INTER_LINEAR) for one in shares])
        mask: Uint8Array = values[shares.argmax(axis=0)]
        sure: Uint8Array = np.rint(255 * shares.max(axis=0).clip(0, 1)).astype(np.uint8)
        instances = owned(mask, label.instances, present) if label.instances else ()
        return replace(label, mask=mask, confidence=sure, instances=instances)

    def _redrawn(self, label: PseudoLabel, objects: Objects, asked: Asked) -> PseudoLabel:
        """Object by object: the model's mask where it means the same thing, the labeler's where not."""
        assert label.mask is not None
        answers, redrawn = [], 0
        for (one, pixels), found in zip(objects, asked.found, strict=True):
            new = (asked.restored(found.logits) > 0).cpu().numpy()
            if _iou(new, pixels) >= self.config.agreement:
                redrawn += 1
                answers.append(Answer(one.class_id, found.logits, found.score, restore=asked.restored))
            else:
                own = torch.from_numpy(np.where(pixels, CERTAIN, -CERTAIN).astype(np.float32))
                answers.append(Answer(one.class_id, own, 0.5 if one.score is None else float(one.score)))
        drawn = compose(answers, asked.size, self._empty)
        mask = drawn.mask
        held = np.logical_or.reduce([pixels for _, pixels in objects])
        other = ~held & (label.mask != self._empty) & (mask == self._empty)  # crumbs, and what nobody decided
        mask[other] = label.mask[other]
        words = f"{redrawn} of {len(objects)} objects redrawn"
        detail = words if label.detail is None else f"{label.detail}; {words}"
        return replace(label, mask=mask, confidence=drawn.confidence, instances=drawn.instances, detail=detail)


def _shares(mask: Uint8Array, confidence: Uint8Array, values: Uint8Array) -> Float32:
    """Shares (K, H, W) of the classes `values`: a pixel's own class has its confidence, at least an even share, and the
    others what is left; undecided pixels are even.
    """
    number = len(values)
    sure = np.maximum(confidence.astype(np.float32) / 255, 1 / number)
    shares = np.repeat(((1 - sure) / max(number - 1, 1))[None], number, axis=0)
    for channel, value in enumerate(values):
        own = mask == value
        shares[channel][own] = sure[own]
    undecided = ~np.isin(mask, values)
    shares[:, undecided] = 1 / number
    return np.asarray(shares, np.float32)


def _objects(label: PseudoLabel, space: LabelSpace, empty: int) -> Iterator[tuple[Instance, Bool]]:
    """The label's objects with their pixels; of classes without objects, their connected parts."""
    assert label.mask is not None
    told = {one.class_id for one in label.instances}
    for one in label.instances:
        pixels = one.mask
        if pixels is not None and pixels.any():
            yield one, pixels
    for class_id in (int(i) for i in np.unique(label.mask)):
        if class_id in told or class_id == empty or class_id not in space.by_id:
            continue
        number, parts, stats, _ = cv2.connectedComponentsWithStats((label.mask == class_id).astype(np.uint8))
        for part in range(1, number):
            if stats[part, cv2.CC_STAT_AREA] >= LEAST:
                pixels = parts == part
                yield Instance.of(class_id, pixels), pixels


def _question(image: Uint8Array, objects: Objects) -> Question:
    """A box around each object, and a point deep inside."""
    boxes = np.array([_box(pixels) for _, pixels in objects], np.float32)
    return Question(image, boxes, np.array([_peak(pixels) for _, pixels in objects], np.float32))


def _box(pixels: Bool) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _peak(pixels: Bool) -> tuple[int, int]:
    """x, y of the pixel deepest inside."""
    deep = cv2.distanceTransform(np.pad(pixels, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(deep.argmax()), deep.shape)
    return int(x), int(y)


def _iou(one: Bool, other: Bool) -> float:
    return float((one & other).sum() / max(int((one | other).sum()), 1))
