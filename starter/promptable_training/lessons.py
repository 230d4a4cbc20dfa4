"""What is asked of a scene, and how an answer is judged: prompts as people give them, losses like SAM's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from maskmill.starter.promptable_training.scenes import Bool, Float, Rng, Scene

#: Shapes of prompts, and how often each is asked: number of points, whether there is a box.
SHAPES = (
    ((0, True), 0.56),
    ((1, True), 0.06),
    ((3, True), 0.06),
    ((1, False), 0.1),
    ((3, False), 0.11),
    ((5, False), 0.11),
)
STRIDE = 4  # of the model's masks
OUTSIDE = 0.15  # weight of pixels far from the thing, beside those in and around its box


@dataclass(frozen=True, eq=False)
class Lesson:
    """Prompts of one shape, P of each of B scenes, and the masks they mean."""

    asked: dict[str, Tensor]
    masks: Tensor  # float32 (B, P, h, w): share of each cell
    near: Tensor  # bool (B, P, h, w): in and around the thing's box


def draw_shape(rng: Rng) -> tuple[int, bool]:
    """Number of points, and whether there is a box."""
    weights = np.array([weight for _, weight in SHAPES])
    shape, _ = SHAPES[int(rng.choice(len(SHAPES), p=weights / weights.sum()))]
    return shape


def draw_lesson(rng: Rng, scenes: Sequence[Scene], prompts: int, *, filled: bool = False) -> Lesson:
    """`prompts` questions about each scene. A `filled` lesson shows boxes alone and wants them filled, whatever is in
    them: where a prompt lies is learnt in two hundred steps that way, and hardly at all from masks of things.
    """
    points, boxed = (0, True) if filled else draw_shape(rng)
    drawn = [[_question(rng, scene, points, boxed) for _ in range(prompts)] for scene in scenes]
    if filled:
        drawn = [[_fill(q) for q in row] for row in drawn]
    asked = {}
    if points:
        asked["input_points"] = torch.from_numpy(np.array([[q.at for q in row] for row in drawn], np.float32))
        asked["input_labels"] = torch.from_numpy(np.array([[q.signs for q in row] for row in drawn], np.int64))
    if boxed:
        asked["input_boxes"] = torch.from_numpy(np.array([[q.box for q in row] for row in drawn], np.float32))
    masks = torch.from_numpy(np.array([[_cells(q.mask) for q in row] for row in drawn], np.float32))
    near = torch.from_numpy(np.array([[_cells(q.near) > 0 for q in row] for row in drawn]))
    return Lesson(asked, masks, near)


@dataclass(frozen=True, eq=False)
class _Question:
    mask: Bool
    near: Bool
    box: Float  # (4,)
    at: Float  # (n, 2): x, y
    signs: "np.ndarray[tuple[int], np.dtype[np.int64]]"


def _question(rng: Rng, scene: Scene, points: int, boxed: bool) -> _Question:
    mask = scene.mask(int(rng.integers(len(scene.targets))))
    y, x = np.nonzero(mask)
    tight = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float32)
    near = _around(tight, mask.shape)
    box = _jittered(rng, tight, mask.shape[0])
    signs = np.ones(points, np.int64)
    if points > 1 and rng.random() < 0.4:
        signs[rng.integers(1, points) :] = 0
    spots = [_spot(rng, mask if sign else near & ~mask, mask) for sign in signs]
    at = np.array(spots, np.float32).reshape(-1, 2)
    return _Question(mask, near, box, at, signs)


def _fill(question: _Question) -> _Question:
    found = np.zeros_like(question.mask)
    left, top, right, bottom = np.rint(question.box).astype(int)
    found[top:bottom, left:right] = True
    return replace(question, mask=found, near=np.ones_like(found))


def _around(box: Float, shape: tuple[int, ...]) -> Bool:
    """The box, a quarter larger on every side."""
    margin = 2 + 0.25 * (box[2:] - box[:2])
    found = np.zeros(shape, bool)
    left, top = np.maximum(box[:2] - margin, 0).astype(int)
    right, bottom = np.ceil(box[2:] + margin).astype(int)
    found[top:bottom, left:right] = True
    return found


def _jittered(rng: Rng, tight: Float, side: int) -> Float:
    """As people draw boxes: half of them tight, the others off by some hundredths."""
    if rng.random() < 0.5:
        return tight
    size = np.tile(tight[2:] - tight[:2], 2)
    moved = tight + rng.normal(0, 0.04, 4) * size + rng.normal(0, 1, 4)
    low, high = np.minimum(moved[:2], moved[2:] - 2), np.maximum(moved[2:], moved[:2] + 2)
    return np.asarray(np.clip(np.concatenate([low, high]), 0, side), np.float32)


def _spot(rng: Rng, area: Bool, instead: Bool) -> tuple[int, int]:
    """A pixel of an area, away from its rim where it has an inside."""
    if not area.any():
        area = instead
    if rng.random() < 0.8:
        inner = cv2.erode(area.astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=0).astype(bool)
        area = inner if inner.any() else area
    flat = np.flatnonzero(area)
    y, x = divmod(int(flat[rng.integers(len(flat))]), area.shape[1])
    return x, y


def _cells(mask: Bool) -> Float:
    """Shares of cells of 4 x 4 pixels."""
    height, width = (side // STRIDE for side in mask.shape)
    found: Float = mask.reshape(height, STRIDE, width, STRIDE).mean(axis=(1, 3), dtype=np.float32)
    return found


def loss(logits: Tensor, ious: Tensor, lesson: Lesson) -> tuple[Tensor, dict[str, float]]:
    """Loss of answers (B, P, M, h, w) with the IoU (B, P, M) that the model expects of them.

    Cross entropy and Dice of the best of the M answers, a share of those of all (few prompts leave several readings),
    and the squared error of the expected IoU.
    """
    truth = lesson.masks[:, :, None].expand_as(logits)
    weight = torch.where(lesson.near, 1.0, OUTSIDE)[:, :, None]
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    entropy = (entropy * weight).sum((-2, -1)) / weight.sum((-2, -1))
    shares = logits.sigmoid()
    dice = 1 - (2 * (shares * truth).sum((-2, -1)) + 1) / (shares.sum((-2, -1)) + truth.sum((-2, -1)) + 1)
    each = 2 * entropy + dice
    with torch.no_grad():
        found, real = logits > 0, truth > 0.5
        union = (found | real).sum((-2, -1)).clamp(min=1)
        reached = (found & real).sum((-2, -1)) / union
    spread = 0.25 if "input_boxes" in lesson.asked else 0.05
    total = each.amin(-1).mean() + spread * each.mean() + functional.mse_loss(ious, reached)
    chosen = reached.gather(-1, ious.argmax(-1, keepdim=True))
    figures = {"loss": float(total.detach()), "iou": float(chosen.mean()), "best": float(reached.amax(-1).mean())}
    return total, figures
