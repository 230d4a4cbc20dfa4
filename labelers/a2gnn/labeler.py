"""From boxes (or scribbles, points, tags) to masks: seeds, a graph an image, its own small attention model, dense CRF.

Source: B. Zhang et al., "Affinity Attention Graph Neural Network for Weakly Supervised Semantic Segmentation", TPAMI
2021 (arXiv 2106.04054).
"""

import functools
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE, Instance, LabelSpace, Reason, Uint8Array, foreground_ids
from maskmill.labelers.a2gnn.boxes import PixelBox, clamp, fill_empty_boxes, pixel_boxes
from maskmill.labelers.a2gnn.config import Config
from maskmill.labelers.a2gnn.graphs import PlainGraphs
from maskmill.labelers.a2gnn.instances import box_instances
from maskmill.labelers.a2gnn.priors import fill_boxes
from maskmill.labelers.a2gnn.seeds import Confident, Seeds, box_seeds, fuse, other_seeds
from maskmill.labelers.a2gnn.solver import Problem, Solution, random_walk, solve
from maskmill.labelers.base import Labeler, LabelItem, PseudoLabel
from maskmill.labelers.clip_cam import ClipCam
from maskmill.labelers.clip_cam import load as load_cam
from maskmill.trainers.affinity import ImageGraph
from maskmill.trainers.engine import IMAGENET_MEAN, IMAGENET_STD, normalise, resize_image
from maskmill.trainers.registry import load_artifact
from maskmill.vision.refine import refine_many

logger = logging.getLogger("maskmill.label")
Float32 = NDArray[np.float32]


class Graphs(Protocol):
    """What turns images into graphs: a trained affinity network, or plain features."""

    def predict(self, images: Sequence[Uint8Array]) -> list[ImageGraph]: ...


@dataclass(frozen=True, eq=False)
class Task:
    """One image on its way: its hints in pixels, its seeds, and the classes that may occur."""

    item: LabelItem
    boxes: tuple[PixelBox, ...]
    class_ids: tuple[int, ...]  # shown in the image, ascending
    channel_ids: tuple[int, ...]  # of the channels after the background's
    seeds: Seeds


@dataclass(frozen=True, eq=False)
class View:
    """A task with its graph and the image, `image_side` long at most, that the graph was made of."""

    task: Task
    graph: ImageGraph
    image: Uint8Array
    prior: Float32 | None = None  # class shares (1 + K, H, W) learnt from all images, for the task's classes


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
        if boxes:
            maps = self._maps(item, class_ids) if self.config.seeds.fusion != "grabcut" else None
            seeds = box_seeds(item, boxes, maps, class_ids, self.background_id, self.config.seeds)
        else:
            ground = item.scribble is not None and bool((item.scribble == self.background_id).any())
            maps = None if ground else self._maps(item, class_ids)
            seeds = other_seeds(item, maps, class_ids, self.background_id, self.config.seeds)
        return Task(item, boxes, class_ids, class_ids if self.config.mask_absent_classes else self.space.ids, seeds)

    def _class_ids(self, item: LabelItem, boxes: Sequence[PixelBox]) -> tuple[int, ...]:
        """Classes of the boxes; without boxes, of scribble, points and tags together."""
        if boxes:
            return tuple(sorted({box.class_id for box in boxes}))
        drawn = [] if item.scribble is None else foreground_ids(item.scribble, self.space)
        found = {*drawn, *(int(row[0]) for row in item.points), *item.class_ids}
        return tuple(sorted(i for i in found if i in self.space.by_id))

    @functools.cached_property
    def _cam(self) -> ClipCam:
        return load_cam(self.config.seeds.cam, self.space)

    def _maps(self, item: LabelItem, class_ids: tuple[int, ...]) -> Float32:
        """CLIP's class maps at image size, float32 (K, H, W) in [0, 1]."""
        _, maps = self._cam.class_maps(self._cam.resize(item.image)[None], [class_ids])
        height, width = item.image.shape[:2]
        return np.stack([cv2.resize(m, (width, height), interpolation=cv2.INTER_LINEAR) for m in maps[0]])

    def _log_fallbacks(self, tasks: Sequence[Task]) -> None:
        sources = sum((task.seeds.sources for task in tasks), Counter[str]())
        if total := sum(sources.values()):
            shares = ", ".join(f"{name} {sources[name] / total:.1%}" for name in ("seeded", "grabcut", "centre"))
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
        solutions = self.solve([self.problem(view) for view in views])
        shares = [self.shares(view, solution) for view, solution in zip(views, solutions, strict=True)]
        return [view.task for view in views], shares

    def problems(self, tasks: Sequence[Task]) -> list[Problem]:
        """What the solver gets for these tasks."""
        return [self.problem(view) for view in self._views(tasks)]

    def solve(self, problems: Sequence[Problem]) -> list[Solution]:
        """The graph models alone."""
        return solve(problems, self.config, self.device)

    def refine(self, tasks: Sequence[Task], shares: Sequence[Float32]) -> list[Float32]:
        """Shares after the dense CRF, where the config has one."""
        if self.config.crf is None:
            return list(shares)
        return refine_many([(t.item.image, own) for t, own in zip(tasks, shares, strict=True)], 1, self.config.crf)

    def _views(self, tasks: Sequence[Task]) -> list[View]:
        images = [_shrink(task.item.image, self.config.image_side) for task in tasks]
        graphs = self.graphs.predict(images)
        return [self.reseed(View(*parts)) for parts in zip(tasks, graphs, images, strict=True)]

    def reseed(self, view: View) -> View:
        """The view with seeds from the class maps learnt from all images as well, where config and graph have them."""
        task, config = view.task, self.config
        if not task.boxes or not len(view.graph.prior) or not (config.prior_weight or config.reseed != "none"):
            return view
        maps = self._prior(view)
        view = replace(view, prior=maps)
        if config.reseed == "none" or (config.reseed == "weak" and not any(task.seeds.weak)):
            return view
        labels = np.array([self.background_id, *task.class_ids], np.uint8)[maps.argmax(axis=0)]
        doubtful = maps.max(axis=0) < config.reseed_floor
        claims, sound = list(task.seeds.claims), [True] * len(task.boxes)
        agree, options = None, config.seeds
        if config.reseed == "agree":
            background = ~doubtful & (labels == self.background_id)
            agree = Confident(np.where(doubtful | background, IGNORE, labels).astype(np.uint8), background)
            sound, options = [not weak for weak in task.seeds.weak], options.model_copy(update={"hollow": False})
        else:
            for i in np.flatnonzero(task.seeds.weak):
                claims[i] = _box_claim(labels, task.boxes[i])
        size = (maps.shape[1], maps.shape[2])
        fused = fuse(task.boxes, claims, sound, agree, size, self.background_id, options)
        if config.reseed == "weak":
            for i in np.flatnonzero(task.seeds.weak):
                box = task.boxes[i]
                unsure = doubtful[box.at] & np.isin(fused.labels[box.at], (self.background_id, box.class_id))
                fused.labels[box.at][unsure] = IGNORE
        seeds = replace(fused, plain=task.seeds.plain, weak=task.seeds.weak)
        return replace(view, task=replace(task, seeds=seeds))

    def _prior(self, view: View) -> Float32:
        """Class shares learnt from all images, float32 (1 + K, H, W), fitted to the image's boxes."""
        task = view.task
        size, grid = task.item.image.shape[:2], (2 * view.graph.grid[0], 2 * view.graph.grid[1])
        logits = F.interpolate(
            view.graph.prior[None, [self.background_id, *task.class_ids]],
            size=grid,
            mode="bilinear",
            align_corners=False,
        )
        factors = [a / b / 4 for a, b in zip(view.image.shape[:2], size, strict=True)]
        scaled = [(1 + task.class_ids.index(b.class_id), b.scaled(factors[0], factors[1], grid)) for b in task.boxes]
        corners = [(channel, b.y0, b.x0, b.y1, b.x1) for channel, b in scaled]
        shares = fill_boxes(logits[0].numpy(), corners, self.config.prior_fill)
        return clamp(_to_size(torch.from_numpy(shares), view.image, (size[0], size[1])), task.class_ids, task.boxes)

    def problem(self, view: View) -> Problem:
        """The image as the solver wants it."""
        task, graph, image = view.task, view.graph, view.image
        stride = self.config.loss_stride
        height, width = (side * 8 // stride for side in graph.grid)
        factor_y, factor_x = (a / b / stride for a, b in zip(image.shape[:2], task.item.image.shape[:2], strict=True))
        channel = {class_id: number for number, class_id in enumerate(task.channel_ids, start=1)}
        scaled = [(channel[b.class_id], b.scaled(factor_y, factor_x, (height, width))) for b in task.boxes]
        values = np.full(256, IGNORE, np.int64)
        values[[self.background_id, *task.channel_ids]] = range(len(task.channel_ids) + 1)
        seeds = np.full((height, width), IGNORE, np.int64)
        rows = np.arange(min(height, -(-image.shape[0] // stride)))
        columns = np.arange(min(width, -(-image.shape[1] // stride)))
        at_y = np.minimum(((rows + 0.5) / factor_y).astype(int), task.item.image.shape[0] - 1)
        at_x = np.minimum(((columns + 0.5) / factor_x).astype(int), task.item.image.shape[1] - 1)
        seeds[: len(rows), : len(columns)] = values[task.seeds.labels[np.ix_(at_y, at_x)]]
        _keep_every_box(seeds, [(k, b) for k, b in scaled])
        pixels = F.pad(normalise(image, IMAGENET_MEAN, IMAGENET_STD)[None], _padding(image), mode="replicate")
        return Problem(
            task.item.sample_id,
            graph.nodes,
            graph.affinity,
            F.interpolate(pixels, size=graph.grid, mode="area")[0],
            torch.from_numpy(seeds),
            tuple((k, b.y0, b.x0, b.y1, b.x1) for k, b in scaled),
            len(task.channel_ids) + 1,
        )

    def shares(self, view: View, solution: Solution) -> Float32:
        """Class shares float32 (1 + K, H, W) at the item's own size, from the cells' logits."""
        task = view.task
        size = (task.item.image.shape[0], task.item.image.shape[1])
        shares = _enlarge(solution.logits, view.image, size)
        walked = task.seeds.maps is not None and not task.boxes and task.item.scribble is None
        if walked and self.config.walk_weight and self.config.mask_absent_classes:
            shares = shares + self.config.walk_weight * self._walked(view)
            shares /= shares.sum(axis=0, keepdims=True)
        if view.prior is not None and self.config.prior_weight:
            channels = [0, *(1 + task.channel_ids.index(class_id) for class_id in task.class_ids)]
            shares[channels] += self.config.prior_weight * view.prior
            shares /= 1 + self.config.prior_weight
        if self.config.clamp_to_boxes and task.boxes:
            shares = clamp(shares, task.channel_ids, task.boxes)
        return shares

    def _walked(self, view: View) -> Float32:
        """Class maps with background (1 - max)^6, spread by a random walk along the graph's edges."""
        task, graph, maps = view.task, view.graph, view.task.seeds.maps
        if maps is None:
            raise ValueError(f"{task.item.sample_id}: expected class maps, found none")
        stack = np.concatenate([np.clip(1 - maps.max(axis=0, keepdims=True), 0, 1) ** 6, maps])
        cells = F.interpolate(torch.from_numpy(stack)[None].float(), size=graph.grid, mode="area")[0]
        spread = torch.from_numpy(random_walk(graph.affinity, cells.numpy()))
        size = (task.item.image.shape[0], task.item.image.shape[1])
        return _enlarge((spread / spread.sum(dim=0).clamp(min=1e-7)).clamp(min=1e-7).log(), view.image, size)

    def finish(self, task: Task, shares: Float32, unrefined: Float32) -> PseudoLabel:
        """Label and instances from shares (1 + K, H, W), confidence from those before the dense CRF.

        A CRF is sure of nearly every pixel, right or wrong. What the graph gave to the class that won in the end tells
        both apart far better.
        """
        if self.config.clamp_to_boxes and task.boxes:
            shares = clamp(shares, task.channel_ids, task.boxes)
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
        return tuple(
            Instance(box.class_id, (box.x0, box.y0, box.x1, box.y1), area)
            for box, area in zip(task.boxes, areas, strict=True)
        )


def _keep_every_box(seeds: NDArray[np.int64], boxes: Sequence[tuple[int, PixelBox]]) -> None:
    """A small box may lose its seeds between the points of a coarse grid: its middle point then takes their place."""
    for channel, box in boxes:
        if not (seeds[box.at] == channel).any():
            seeds[(box.y0 + box.y1) // 2, (box.x0 + box.x1) // 2] = channel


def _padding(image: Uint8Array) -> tuple[int, int, int, int]:
    return 0, -image.shape[1] % 8, 0, -image.shape[0] % 8


def _shrink(image: Uint8Array, side: int | None) -> Uint8Array:
    if side is None or max(image.shape[:2]) <= side:
        return image
    factor = side / max(image.shape[:2])
    height, width = (max(1, round(length * factor)) for length in image.shape[:2])
    shrunk: Uint8Array = resize_image(image, height, width)
    return shrunk


def _enlarge(logits: torch.Tensor, image: Uint8Array, size: tuple[int, int]) -> Float32:
    """Logits (K, h, w) to shares (K, H, W): up to the padded image, the padding cut off, softmax, then to `size`."""
    height, width = image.shape[:2]
    padded = (logits.shape[1] * 8, logits.shape[2] * 8)
    full = F.interpolate(logits[None], size=padded, mode="bilinear", align_corners=False)[..., :height, :width]
    return _resized(full.softmax(dim=1), size)


def _to_size(shares: torch.Tensor, image: Uint8Array, size: tuple[int, int]) -> Float32:
    """Shares (K, h, w) of the padded image, at any resolution, to (K, H, W) of `size`."""
    padded = [side + -side % 8 for side in image.shape[:2]]
    full = F.interpolate(shares[None], size=padded, mode="bilinear", align_corners=False)
    return _resized(full[..., : image.shape[0], : image.shape[1]], size)


def _resized(shares: torch.Tensor, size: tuple[int, int]) -> Float32:
    if tuple(shares.shape[2:]) != size:
        shares = F.interpolate(shares, size=size, mode="bilinear", align_corners=False)
    out: Float32 = shares[0].contiguous().numpy()
    return out


def _box_claim(labels: Uint8Array, box: PixelBox) -> NDArray[np.bool_]:
    """The box's pixels that bear its class."""
    claim = np.zeros(labels.shape, bool)
    claim[box.at] = labels[box.at] == box.class_id
    return claim


def load(config: Config, space: LabelSpace) -> A2gnn:
    """Load the affinity artefact, or a plain encoder; on a GPU where there is one.

    Raises:
        ValueError: the label space has no background. FileNotFoundError: no artefact there.
    """
    if space.background_id is None:
        raise ValueError(f"label space {space.name}: a2gnn needs a background id, found none. Fix: set background_id")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.affinity is None:
        return A2gnn(config, space, space.background_id, PlainGraphs.load(config, device), device)
    predictor = load_artifact(config.affinity, str(device))
    if predictor.space.size < space.size:
        raise ValueError(
            f"{config.affinity}: trained for {predictor.space.size} classes, expected the {space.size} of "
            f"{space.name}; train it on seeds of this label space"
        )
    return A2gnn(config, space, space.background_id, predictor, device)
