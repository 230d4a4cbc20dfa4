"""Would a finer graph help A2GNN with thin parts, tails and legs? Cells of 4 pixels beside those of 8.

No artifact of an affinity network: nodes are the encoder's levels, at stride 4 enlarged (bilinear), with the colours of
the finer cells beside them; edges come from the nodes by the rule of graphs without an artifact, and the window has as
many cells, so it reaches half as far. Photos, boxes and seeds are those of the development part of `benchmarks.a2gnn`,
which may be tuned on; no part that is tested is opened.
Arms: `stride8`, `stride8+crf`, `stride4`, `stride4+crf`. Metrics: `miou` is the mean over the sets of `miou@SET`;
`thin` and `thin@SET`, the share of the pixels of thin parts that have their class (what an opening by a tenth of the
object's shorter side takes away); `seconds_per_image` of one thread's own time, without seeds and CRF.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.box_labels import CUTS
from benchmarks.box_sets import Photo, photos
from benchmarks.common import Options, Record, parse_options
from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.labelers.a2gnn import A2gnn, Config, load
from maskmill.labelers.a2gnn.graphs import PlainGraphs
from maskmill.labelers.a2gnn.problem import make_problem
from maskmill.labelers.a2gnn.solver import Problem
from maskmill.labelers.a2gnn.view import Float32, Task, View, padding, shrink, to_size
from maskmill.trainers.affinity import ImageGraph
from maskmill.trainers.affinity.cells import cell_colours
from maskmill.trainers.affinity.model import colour_level, unit_level
from maskmill.trainers.affinity.pairs import feature_distance, pairs_inside, to_window
from maskmill.trainers.affinity.predict import pad_image
from maskmill.trainers.engine import IMAGENET_MEAN, IMAGENET_STD, SegmentationMetrics, normalise

STRIDES = (8, 4)
COUNTS = {"small": 4, "full": 40}  # photos a set
COLOURS = 6  # the last channels of balanced nodes
SETTINGS: dict[str, Any] = CUTS  # of the labeler; tests make it faster


def finer(graph: ImageGraph, image: Uint8Array, config: Config) -> tuple[ImageGraph, torch.Tensor]:
    """The graph of an image uint8 (H, W, 3) with two cells a side for one, and the finer cells' colours (3, 2h, 2w)."""
    grid = (2 * graph.grid[0], 2 * graph.grid[1])
    pixels = pad_image(normalise(image, IMAGENET_MEAN, IMAGENET_STD)[None], padding(image), config.cells)
    levels = F.interpolate(graph.nodes[None, :-COLOURS], size=grid, mode="bilinear", align_corners=False)
    nodes = torch.cat([levels, unit_level(colour_level(pixels, grid))], dim=1)
    distance = config.plain_sharpness * feature_distance(nodes, config.radius) * nodes.shape[1] ** 0.5
    inside = pairs_inside(torch.ones_like(nodes[:, 0], dtype=torch.bool), config.radius)
    window = to_window(torch.exp(-distance) * inside, config.radius, 1.0)[0]
    fine = ImageGraph(nodes[0], window, graph.prior)
    return fine, cell_colours(pixels, grid, config.cells)[0]


def fine_problem(view: View, config: Config) -> Problem:
    """What the solver gets at stride 4: losses are taken at the same points as at stride 8."""
    graph, rgb = finer(view.graph, view.image, config)
    return replace(make_problem(view, config, 0), nodes=graph.nodes, affinity=graph.affinity, rgb=rgb)


def graph_shares(model: A2gnn, view: View, stride: int) -> Float32:
    """The graph's class shares (1 + K, H, W) at one of both strides."""
    if stride == 8:
        return model.shares(view, model.solve([make_problem(view, model.config, 0)])[0])
    logits = model.solve([fine_problem(view, model.config)])[0].logits
    height, width = view.task.item.image.shape[:2]
    scores = torch.from_numpy(to_size(logits, view.image, (height, width)))
    shares: Float32 = scores.softmax(dim=0).numpy()
    return shares


def thin_parts(mask: Uint8Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Pixels bool (H, W) of each connected object of a class that an opening by a tenth of its shorter side removes."""
    thin = np.zeros(mask.shape, np.bool_)
    for class_id in (int(i) for i in np.unique(mask) if i not in (0, IGNORE)):
        _, parts, stats, _ = cv2.connectedComponentsWithStats((mask == class_id).astype(np.uint8))
        for number, row in enumerate(stats[1:], start=1):
            side = max(3, round(0.1 * min(row[cv2.CC_STAT_WIDTH], row[cv2.CC_STAT_HEIGHT])))
            own = np.pad((parts == number).astype(np.uint8), side)
            disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
            opened = cv2.morphologyEx(own, cv2.MORPH_OPEN, disc)
            thin |= (own > opened)[side:-side, side:-side]
    return thin


@dataclass
class Tally:
    """Labels of one arm on one set."""

    metrics: SegmentationMetrics
    right: int = 0
    thin: int = 0

    def add(self, label: Uint8Array, truth: Uint8Array) -> None:
        self.metrics.update(label, truth)
        thin = thin_parts(truth)
        self.thin += int(thin.sum())
        self.right += int((label == truth)[thin].sum())


def measure(model: A2gnn, pairs: Sequence[tuple[Task, Photo]], stride: int) -> dict[str, dict[str, float]]:
    """Metrics of a stride without and with the dense CRF."""
    sources = list(dict.fromkeys(photo.source for _, photo in pairs))
    tallies = {crf: {s: Tally(SegmentationMetrics(model.space)) for s in sources} for crf in ("", "+crf")}
    seconds = 0.0
    for task, photo in pairs:
        image = shrink(task.item.image, model.config.image_side)
        begun = time.process_time()
        shares = graph_shares(model, View(task, model.graphs.predict([image])[0], image), stride)
        seconds += time.process_time() - begun
        for crf, own in (("", shares), ("+crf", model.refine([task], [shares])[0])):
            label = model.finish(task, own, shares).mask
            assert label is not None
            tallies[crf][photo.source].add(label, photo.mask)
    found = {}
    for crf, by_source in tallies.items():
        miou = {s: float(t.metrics.compute()["miou"]) for s, t in by_source.items()}
        thin = {s: t.right / max(t.thin, 1) for s, t in by_source.items()}
        row = {"miou": float(np.mean(list(miou.values()))), "thin": float(np.mean(list(thin.values())))}
        row |= {f"miou@{s}": v for s, v in miou.items()} | {f"thin@{s}": v for s, v in thin.items()}
        found[f"stride{stride}{crf}"] = {**row, "seconds_per_image": seconds / max(len(pairs), 1)}
    return found


def run(options: Options) -> None:
    """Both strides for all seeds."""
    torch.set_num_threads(1)
    record = Record.open(options)
    for seed in options.seeds:
        missing = [stride for stride in STRIDES if not record.has(f"stride{stride}+crf", seed)]
        if not missing:
            continue
        parts = photos(options, (0, COUNTS[options.budget]), seed)
        model = load(Config.model_validate({"instances": False, "seed": seed, **SETTINGS}), parts.space)
        assert isinstance(model.graphs, PlainGraphs)
        tasks = [(model.task(photo.item), photo) for photo in parts.dev]
        pairs = [(task, photo) for task, photo in tasks if task is not None]
        for stride in missing:
            for arm, found in measure(model, pairs, stride).items():
                record.add(arm, seed, found)
                print(f"seed {seed}: {arm} {found}", flush=True)
    record.finish()


if __name__ == "__main__":
    run(parse_options("graph_stride", __doc__))
