"""From images and prompts to masks, by a promptable model: embeddings once an image, all its prompts together.

What the library does with one image and one kind of prompt is done here for shards of images, with the same numbers:
its processor reads the photo, its model answers, and its enlargement brings a mask back to the photo's size.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, LabelSpace, Reason, Uint8Array
from maskmill.labelers.base import Labeler, LabelItem, PseudoLabel
from maskmill.labelers.clip_cam.labeler import ClipCam
from maskmill.labelers.clip_cam.labeler import load as load_cam
from maskmill.labelers.detect.labeler import Detector
from maskmill.labelers.detect.labeler import load as load_detector
from maskmill.labelers.promptable.config import Config
from maskmill.labelers.promptable.masks import Answer, Box, Drawn, compose, owned, unsure
from maskmill.labelers.promptable.prompts import Prompt, calls, item_prompts, map_prompts
from maskmill.labelers.promptable.views import View, views_of
from maskmill.vision.batches import Batches, stacked
from maskmill.vision.device import pick_device
from maskmill.vision.pretrained import model_folder
from maskmill.vision.promptable import Family, load_family
from maskmill.vision.promptable.ask import GPU_BATCH
from maskmill.vision.promptable.readings import best_reading
from maskmill.vision.refine import refine_many

NOTHING = "expected a box, a point, a stroke or a tag of a class, found none"
Task = tuple[LabelItem, list[Prompt]]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Promptable(Labeler):
    """The engine. Every embedding holds exactly `batches.size` images, padded with blanks, because kernels round
    differently for other shapes; with one image, the default on a CPU, a label does not depend on its companions to
    the bit.
    """

    config: Config
    space: LabelSpace
    family: Family
    batches: Batches

    def label(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        """Masks with one instance a prompt; abstains where nothing says what to look for, or nothing is found."""
        prompts = self.prompts(items)
        todo = [(item, own) for item, own in zip(items, prompts, strict=True) if own]
        done = iter(self.batches.run(todo, self._batch))
        return [next(done) if own else PseudoLabel.abstain(Reason.NO_CLASSES, NOTHING) for own in prompts]

    def probabilities(self, image: Uint8Array, prompts: Sequence[Prompt]) -> Iterator[Float32]:
        """Each prompt's own mask in an image (H, W, 3), float32 (H, W) in [0, 1], in their order, one at a time."""
        (found,) = self.batches.run([(image, list(prompts))], self._asked)
        for one in found:
            yield one.whole.sigmoid().float().cpu().numpy()

    def prompts(self, items: Sequence[LabelItem]) -> list[list[Prompt]]:
        """What to ask of each image: its own boxes, points and strokes; else what the detector or CLIP finds."""
        options: dict[str, Any] = {"objects": self.config.objects, "stroke_points": self.config.stroke_points}
        found = [item_prompts(item, self.space, **options) for item in items]
        bare = [i for i, (item, own) in enumerate(zip(items, found, strict=True)) if not own and not _spoken(item)]
        seek = self._detected if self.config.detector is not None else self._mapped
        for position, own in zip(bare, seek([items[i] for i in bare]), strict=True):
            found[position] = own
        return found

    def answers(self, embedding: Any, view: View, boxes: Sequence[Box | None], size: tuple[int, int]) -> list[Answer]:
        """One answer a prompt of a view, in their order, from its embedding; `boxes` are the prompts' in the photo of
        `size` (H, W).
        """
        config, found, shown = self.config, dict[int, Answer](), view.shown.shape[:2]

        def restore(logits: torch.Tensor) -> torch.Tensor:
            return view.restore(self.family.restore, logits, size)

        for positions, call in calls(view.prompts, config.prompts):
            logits, ious = self.family.decode(embedding, call, shown, several=config.masks == "best")
            real = self.family.real(logits, shown)
            chosen, scores = best_reading(logits, ious, real, config.stability_offset)
            for position, one, score in zip(positions, chosen, scores.tolist(), strict=True):
                prompt, box = view.prompts[position], boxes[position] if config.clamp_to_boxes else None
                found[position] = Answer(prompt.class_id, one, score * prompt.weight, box, restore)
        return [found[position] for position in range(len(view.prompts))]

    def _batch(self, tasks: Sequence[Task], size: int) -> list[PseudoLabel]:
        asked = self._asked([(item.image, own) for item, own in tasks], size)
        return [self._finish(item.image, answers) for (item, _), answers in zip(tasks, asked, strict=True)]

    def _asked(self, tasks: Sequence[tuple[Uint8Array, list[Prompt]]], size: int) -> list[list[Answer]]:
        """Answers for images and their prompts, in the prompts' order."""
        seen = [(n, v) for n, (image, own) in enumerate(tasks) for v in views_of(image, own, self.config.zoom)]
        found: list[dict[int, Answer]] = [{} for _ in tasks]
        for start in range(0, len(seen), size):
            part = seen[start : start + size]
            pixels = stacked([self.family.pixels(view.shown) for _, view in part], size)
            for (number, view), embedding in zip(part, self.family.embed(pixels), strict=False):
                image, prompts = tasks[number]
                boxes = [prompts[position].box for position in view.positions]
                answers = self.answers(embedding, view, boxes, (image.shape[0], image.shape[1]))
                found[number] |= zip(view.positions, answers, strict=True)
        return [[own[position] for position in sorted(own)] for own in found]

    def _finish(self, image: Uint8Array, answers: Sequence[Answer]) -> PseudoLabel:
        """The label of a photo from the answers for its prompts."""
        config, shape = self.config, (image.shape[0], image.shape[1])
        good = [one for one in answers if one.score >= config.min_score]
        if not good:
            best = max(one.score for one in answers)
            detail = f"expected an object with a score of {config.min_score}, found {best:.3f} at best"
            return PseudoLabel.abstain(Reason.LOW_CONFIDENCE, detail)
        background = IGNORE if self.space.background_id is None else self.space.background_id
        classes = sorted({one.class_id for one in good}) if config.crf is not None else []
        drawn = compose(good, shape, background, classes)
        if drawn.shares is not None:
            drawn = self._refined(image, drawn, classes, background)
        if not drawn.instances:
            found = f"{len(answers)} prompts with an empty mask each"
            return PseudoLabel.abstain(Reason.LOW_CONFIDENCE, f"expected pixels of an object, found {found}")
        empty = len(answers) - len(drawn.instances)
        note = f"{empty} of {len(answers)} prompts without a mask" if empty else None
        return PseudoLabel(unsure(drawn, config.confidence), drawn.confidence, None, note, drawn.instances)

    def _refined(self, image: Uint8Array, drawn: Drawn, classes: Sequence[int], background: int) -> Drawn:
        """The label map after a dense CRF over the classes' shares."""
        assert drawn.shares is not None
        assert self.config.crf is not None
        factor = min(1.0, self.config.refine_side / max(image.shape[:2]))
        height, width = (max(1, round(side * factor)) for side in image.shape[:2])
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
        stack = np.stack([cv2.resize(s, (width, height), interpolation=cv2.INTER_LINEAR) for s in drawn.shares])
        (shares,) = refine_many([(small, stack)], options=self.config.crf)
        size = (image.shape[1], image.shape[0])
        shares = np.stack([cv2.resize(s, size, interpolation=cv2.INTER_LINEAR) for s in shares])
        mask: Uint8Array = np.array([background, *classes], np.uint8)[shares.argmax(axis=0)]
        confidence = np.rint(255 * shares.max(axis=0).clip(0, 1)).astype(np.uint8)
        return replace(drawn, mask=mask, confidence=confidence, instances=owned(mask, drawn.instances, classes))

    def _detected(self, items: Sequence[LabelItem]) -> list[list[Prompt]]:
        if not items:
            return []
        found = self._detector.detect(items)
        return [[Prompt(one.class_id, one.box, weight=one.score) for one in boxes] for boxes in found]

    def _mapped(self, items: Sequence[LabelItem]) -> list[list[Prompt]]:
        """Prompts from CLIP's class maps of the tags, or of what CLIP finds."""
        if self.config.tags == "none":
            return [[] for _ in items]
        found = []
        for item in items:  # one at a time: the maps are those of clip_cam's own default
            pixels = self._cam.resize(item.image)[None]
            (shown,), (maps,) = self._cam.class_maps(pixels, [item.class_ids])
            size = (item.image.shape[0], item.image.shape[1])
            share, threshold = self.config.cam_share, self.config.cam_threshold
            found.append(map_prompts(maps, shown, size, threshold, share) if shown else [])
        return found

    @functools.cached_property
    def _cam(self) -> ClipCam:
        return load_cam(self.config.cam, self.space)

    @functools.cached_property
    def _detector(self) -> Detector:
        assert self.config.detector is not None
        return load_detector(self.config.detector, self.space)


def _spoken(item: LabelItem) -> bool:
    """Whether somebody has drawn on a photo, be it that nothing of it is of use: then nobody else is asked."""
    drawn = item.scribble is not None and bool((item.scribble != IGNORE).any())
    return bool(len(item.boxes) or len(item.points) or drawn)


def load(config: Config, space: LabelSpace) -> Promptable:
    """Load the model; on a GPU where there is one.

    Raises:
        FileNotFoundError: no such model. ModelError: one of another kind, or with weights that do not fit.
    """
    device = pick_device()
    family = load_family(model_folder(config.model), device, config.precision)
    batch = config.batch or (GPU_BATCH if device.type == "cuda" else 1)
    return Promptable(config, space, family, Batches(batch, config.model))
