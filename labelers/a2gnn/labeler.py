"""From boxes (or scribbles, points, tags) to masks: seeds, a graph an image, its own small attention model, dense CRF.

Source: B. Zhang et al., "Affinity Attention Graph Neural Network for Weakly Supervised Semantic Segmentation", TPAMI
2021 (arXiv 2106.04054).
"""

import functools
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Instance, LabelSpace, Reason, Uint8Array, foreground_ids
from maskmill.data_contracts.rle import Runs
from maskmill.labelers.a2gnn.boxes import Bool, PixelBox, clamp, fill_empty_boxes, inside, pixel_boxes
from maskmill.labelers.a2gnn.config import Config
from maskmill.labelers.a2gnn.graphs import PlainGraphs
from maskmill.labelers.a2gnn.hints import other_seeds, with_given
from maskmill.labelers.a2gnn.instances import box_instances
from maskmill.labelers.a2gnn.problem import make_problem
from maskmill.labelers.a2gnn.reseed import reseed
from maskmill.labelers.a2gnn.seeds import Seeds, box_seeds
from maskmill.labelers.a2gnn.solver import Problem, Solution, solve
from maskmill.labelers.a2gnn.view import Task, View, enlarge, shrink
from maskmill.labelers.a2gnn.walk import walked_maps
from maskmill.labelers.base import Labeler, LabelItem, PseudoLabel
from maskmill.labelers.clip_cam import ClipCam
from maskmill.labelers.clip_cam import load as load_cam
from maskmill.labelers.promptable.labeler import Promptable
from maskmill.labelers.promptable.labeler import load as load_promptable
from maskmill.labelers.promptable.masks import shares_of
from maskmill.labelers.promptable.prompts import Prompt
from maskmill.trainers.affinity import ImageGraph
from maskmill.trainers.registry import load_artifact
from maskmill.vision.device import pick_device
from maskmill.vision.refine import refine_many

logger = logging.getLogger("maskmill.label")
Float32 = NDArray[np.float32]


class Graphs(Protocol):
    """What turns images into graphs: a trained affinity network, or plain features."""

    def predict(self, images: Sequence[Uint8Array]) -> list[ImageGraph]: ...


@dataclass(frozen=True)
class A2gnn(Labeler):
    """The engine. Images of one size are trained as stacks; each has its own weights and its own random numbers."""

    config: Config
    space: LabelSpace
    background_id: int
    graphs: Graphs
    device: torch.device

    def label(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        """Pseudo-labels of images of any sizes; abstains where an image has no hint at all."""
        self._left_out(items)
        tasks = [self.task(item) for item in items]
        chosen = [task for task in tasks if task is not None]
        self._log_fallbacks(chosen)
        labels = iter(self._seed_labels(chosen) if self.config.output == "seeds" else self._graph_labels(chosen))
        missing = PseudoLabel.abstain(Reason.NO_CLASSES, "no box, scribble, point or tag of a known class")
        return [missing if task is None else next(labels) for task in tasks]

    def task(self, item: LabelItem) -> Task | None:
        """Boxes in pixels and seeds of one image; None where nothing is known of it."""
        known = [row for row in item.boxes if int(row[0]) in self.space.by_id]
        size = (item.image.shape[0], item.image.shape[1])
        boxes = pixel_boxes(np.array(known, np.float32).reshape(-1, 5), size)
        class_ids = self._class_ids(item, boxes)
        if not class_ids:
            return None
        claims, prompted = self._asked(item, boxes, class_ids)
        if boxes and self.config.seeds.ready and item.scribble is not None:
            seeds = Seeds(item.scribble.copy())
        elif boxes:
            maps = self._maps(item, class_ids) if "cam" in self.config.seeds.fusion else None
            seeds = box_seeds(item, boxes, maps, class_ids, self.background_id, self.config.seeds, claims)
            seeds = with_given(seeds, item, self.config.seeds.point_radius)
        else:
            ground = item.scribble is not None and bool((item.scribble == self.background_id).any())
            maps = None if ground else self._maps(item, class_ids)
            seeds = other_seeds(item, maps, class_ids, self.background_id, self.config.seeds)
        beside = bool(boxes) and not self.config.seeds.ready
        free: frozenset[int] = frozenset(class_ids) - {box.class_id for box in boxes} if beside else frozenset()
        channel_ids = class_ids if self.config.mask_absent_classes else self.space.ids
        return Task(item, boxes, class_ids, channel_ids, seeds, prompted, free)

    def _left_out(self, items: Sequence[LabelItem]) -> None:
        """Say which hints do not count: silence would let people believe that they do."""
        alone = [item for item in items if len(item.boxes) and set(item.class_ids) - self._named(item)]
        ready = [item for item in items if self.config.seeds.ready and len(item.boxes) and item.scribble is not None]
        pointed = sum(len(item.points) > 0 for item in ready)
        if alone:
            logger.warning(
                "tags of %d images are not used: they name classes that no box, stroke or point there has; tags alone "
                "count where an image has no boxes",
                len(alone),
            )
        if pointed:
            logger.warning("points of %d images are not used: their seeds are ready-made", pointed)

    def _named(self, item: LabelItem) -> set[int]:
        """Classes that boxes, strokes and points name."""
        drawn = [] if item.scribble is None else foreground_ids(item.scribble, self.space)
        return {*drawn, *(int(row[0]) for row in item.points), *(int(row[0]) for row in item.boxes)}

    def _class_ids(self, item: LabelItem, boxes: Sequence[PixelBox]) -> tuple[int, ...]:
        """Classes of boxes, strokes (or ready-made seeds) and points; without boxes, of tags as well."""
        if boxes and self.config.seeds.ready:
            drawn = [] if item.scribble is None else foreground_ids(item.scribble, self.space)
            return tuple(sorted({box.class_id for box in boxes} | set(drawn)))
        beside = {int(row[0]) for row in item.points} | ({b.class_id for b in boxes} if boxes else set(item.class_ids))
        beside |= set() if item.scribble is None else set(foreground_ids(item.scribble, self.space))
        return tuple(sorted(i for i in beside if i in self.space.by_id))

    @functools.cached_property
    def _cam(self) -> ClipCam:
        return load_cam(self.config.seeds.cam, self.space)

    @functools.cached_property
    def _promptable(self) -> Promptable:
        return load_promptable(self.config.seeds.prompted, self.space)

    def _asked(
        self, item: LabelItem, boxes: Sequence[PixelBox], class_ids: Sequence[int]
    ) -> tuple[list[Bool], Float32 | None]:
        """What the promptable model claims of each box, bool (H, W), and its class shares (1 + K, H, W); nothing where
        it is not asked.
        """
        ready = self.config.seeds.ready and item.scribble is not None
        if not boxes or not (self.config.prompted_weight or (self.config.seeds.fusion == "prompted" and not ready)):
            return [], None
        prompts = [Prompt(box.class_id, (box.x0, box.y0, box.x1, box.y1)) for box in boxes]
        maps, claims = np.zeros((len(class_ids), *item.image.shape[:2]), np.float32), []
        for box, mask in zip(boxes, self._promptable.probabilities(item.image, prompts), strict=True):
            claims.append(mask > 0.5)
            own = maps[class_ids.index(box.class_id)]
            np.maximum(own, mask, out=own)
        return claims, shares_of(maps) if self.config.prompted_weight else None

    def _maps(self, item: LabelItem, class_ids: tuple[int, ...]) -> Float32:
        """CLIP's class maps at image size, float32 (K, H, W) in [0, 1]."""
        _, maps = self._cam.class_maps(self._cam.resize(item.image)[None], [class_ids])
        height, width = item.image.shape[:2]
        return np.stack([cv2.resize(m, (width, height), interpolation=cv2.INTER_LINEAR) for m in maps[0]])

    def _log_fallbacks(self, tasks: Sequence[Task]) -> None:
        sources = sum((task.seeds.sources for task in tasks), Counter[str]())
        if total := sum(sources.values()):
            shares = ", ".join(f"{name} {sources[name] / total:.1%}" for name in ("seeded", "claim", "centre"))
            logger.info("%d boxes took their seeds from: %s", total, shares)

    def _seed_labels(self, tasks: Sequence[Task]) -> list[PseudoLabel]:
        return [PseudoLabel(t.seeds.labels, np.where(t.seeds.labels == IGNORE, 0, 255).astype(np.uint8)) for t in tasks]

    def _graph_labels(self, tasks: Sequence[Task]) -> list[PseudoLabel]:
        tasks, shares = self.graph_shares(tasks)
        refined = self.refine(tasks, shares)
        return [self.finish(*parts) for parts in zip(tasks, refined, shares, strict=True)]

    def graph_shares(self, tasks: Sequence[Task]) -> tuple[list[Task], list[Float32]]:
        """The graph models' own class shares (1 + K, H, W), and the tasks with the seeds that they were made from."""
        views = self._views(tasks)
        solutions = self.solve([make_problem(view, self.config, self.background_id) for view in views])
        shares = [self.shares(view, solution) for view, solution in zip(views, solutions, strict=True)]
        return [view.task for view in views], shares

    def problems(self, tasks: Sequence[Task]) -> list[Problem]:
        """What the solver gets for these tasks."""
        return [make_problem(view, self.config, self.background_id) for view in self._views(tasks)]

    def solve(self, problems: Sequence[Problem]) -> list[Solution]:
        """The graph models alone."""
        return solve(problems, self.config, self.device)

    def refine(self, tasks: Sequence[Task], shares: Sequence[Float32]) -> list[Float32]:
        """Shares after the dense CRF, where the config has one."""
        if self.config.crf is None:
            return list(shares)
        return refine_many([(t.item.image, own) for t, own in zip(tasks, shares, strict=True)], options=self.config.crf)

    def _views(self, tasks: Sequence[Task]) -> list[View]:
        images = [shrink(task.item.image, self.config.image_side) for task in tasks]
        graphs = self.graphs.predict(images)
        return [
            reseed(View(*parts), self.config, self.background_id) for parts in zip(tasks, graphs, images, strict=True)
        ]

    def shares(self, view: View, solution: Solution) -> Float32:
        """Class shares float32 (1 + K, H, W) at the item's own size, from the cells' logits."""
        task = view.task
        size = (task.item.image.shape[0], task.item.image.shape[1])
        shares = enlarge(solution.logits, view.image, size, self.config.cells)
        walked = task.seeds.maps is not None and not task.boxes and task.item.scribble is None
        if walked and self.config.walk_weight and (self.config.walk == "raw" or self.config.mask_absent_classes):
            shares[task.channels] += self.config.walk_weight * walked_maps(view, self.config)
            shares /= shares.sum(axis=0, keepdims=True)
        if view.prior is not None and self.config.prior_weight:
            shares[task.channels] += self.config.prior_weight * view.prior
            shares /= 1 + self.config.prior_weight
        if task.prompted is not None:
            added = self.config.prompted_weight * inside(task.boxes, size)
            shares[task.channels] += added * task.prompted
            shares /= 1 + added
        if self.config.clamp_to_boxes and task.boxes:
            shares = clamp(shares, task.channel_ids, task.boxes, task.free)
        return shares

    def finish(self, task: Task, shares: Float32, unrefined: Float32) -> PseudoLabel:
        """Label and instances from shares (1 + K, H, W), confidence from those before the dense CRF.

        A CRF is sure of nearly every pixel, right or wrong. What the graph gave to the class that won in the end tells
        both apart far better.
        """
        if self.config.clamp_to_boxes and task.boxes:
            shares = clamp(shares, task.channel_ids, task.boxes, task.free)
        ids = np.array([self.background_id, *task.channel_ids], np.uint8)
        mask: Uint8Array = ids[shares.argmax(axis=0)]
        if self.config.ensure_box_nonempty and task.boxes:
            mask, filled = fill_empty_boxes(mask, shares, task.channel_ids, task.boxes, task.seeds.labels)
            if filled:
                logger.info(
                    "%s: %d of %d boxes were empty and got pixels", task.item.sample_id, filled, len(task.boxes)
                )
        channels = np.zeros(256, np.int64)
        channels[ids] = range(len(ids))
        certainty = np.take_along_axis(unrefined, channels[mask][None], axis=0)[0]
        confidence: Uint8Array = np.rint(255 * certainty).astype(np.uint8)
        return PseudoLabel(mask, confidence, instances=self._instances(task, mask))

    def _instances(self, task: Task, mask: Uint8Array) -> tuple[Instance, ...]:
        if not self.config.instances:
            return ()
        areas = box_instances(mask, task.boxes, task.seeds.claims)
        boxed = [
            Instance(box.class_id, (box.x0, box.y0, box.x1, box.y1), Runs.of(area))
            for box, area in zip(task.boxes, areas, strict=True)
        ]
        unboxed = [Instance.of(i, mask == i) for i in sorted(task.free) if (mask == i).any()]
        return (*boxed, *unboxed)


def load(config: Config, space: LabelSpace) -> A2gnn:
    """Load the affinity artifact, or a plain encoder; on a GPU where there is one.

    Raises:
        ValueError: the label space has no background. FileNotFoundError: no artifact there.
    """
    if space.background_id is None:
        raise ValueError(f"label space {space.name}: a2gnn needs a background id, found none. Fix: set background_id")
    device = pick_device()
    if config.affinity is None:
        return A2gnn(config, space, space.background_id, PlainGraphs.load(config, device), device)
    predictor = load_artifact(config.affinity, str(device))
    if predictor.space.size < space.size:
        raise ValueError(
            f"{config.affinity}: trained for {predictor.space.size} classes, expected the {space.size} of "
            f"{space.name}; train it on seeds of this label space"
        )
    return A2gnn(config, space, space.background_id, predictor, device)
