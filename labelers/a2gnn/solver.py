"""One small attention model an image, trained from scratch on that image's seeds; many images as one stack.

Source: A2GNN, arXiv 2106.04054, and its released code. Stacked, the models share every kernel call but no number:
losses are summed over images and Adam works element by element.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE, sample_seed
from maskmill.labelers.a2gnn.attention import Tiling, dense_attention, dense_bias, make_tiling, tile_attention
from maskmill.labelers.a2gnn.check import Pixels, make_pixels, remove_seeds
from maskmill.labelers.a2gnn.config import Config
from maskmill.labelers.a2gnn.losses import (
    BoxTable,
    Points,
    gated_crf_loss,
    interpolation,
    multi_points,
    point_weights,
    seed_weights,
    similarity_loss,
)
from maskmill.trainers.affinity.pairs import colour_kernel

CRF_RADIUS = 5  # of the gated CRF's window, in cells
ABSENT = -1e9
CHANNEL_STEP = 4  # stacks hold images whose numbers of classes round up to the same multiple


@dataclass(frozen=True, eq=False)
class Problem:
    """One image to solve. Channel 0 is background; `boxes` are (channel, y0, x0, y1, x1) on the loss grid, which has
    8 / loss_stride points a cell.
    """

    sample_id: str
    nodes: Tensor  # float32 (C, h, w), non-negative
    affinity: Tensor  # float32 ((2r + 1)^2, h, w)
    rgb: Tensor  # float32 (3, h, w), ImageNet-normalised
    seeds: Tensor  # int64 (H', W'), channels, 255 = unknown
    boxes: tuple[tuple[int, int, int, int, int], ...]
    channels: int

    @property
    def grid(self) -> tuple[int, int]:
        return int(self.nodes.shape[1]), int(self.nodes.shape[2])


@dataclass(frozen=True, eq=False)
class Solution:
    """Logits float32 (channels, h, w) of the cells, and how many seeds the consistency check took away."""

    logits: Tensor
    removed: int


def solve(problems: Sequence[Problem], config: Config, device: torch.device) -> list[Solution]:
    """Solve each image; images of one grid, one kind of supervision and like numbers of classes share a stack."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, problem in enumerate(problems):
        key = (problem.grid, tuple(problem.affinity.shape), _padded(problem.channels), bool(problem.boxes))
        groups.setdefault(key, []).append(position)
    found: dict[int, Solution] = {}
    for positions in groups.values():
        for start in range(0, len(positions), config.batch):
            chosen = positions[start : start + config.batch]
            found.update(zip(chosen, Stack([problems[p] for p in chosen], config, device).run(), strict=True))
    return [found[position] for position in range(len(problems))]


def _padded(channels: int) -> int:
    """Classes beyond the first two come in steps, so that images with few classes do not pay for those with many."""
    return 2 if channels <= 2 else -(-channels // CHANNEL_STEP) * CHANNEL_STEP


class Stack:
    """B models over images of one grid: embeddings (B, C, D), attention factors (B, layers), outputs (B, D, K)."""

    def __init__(self, problems: Sequence[Problem], config: Config, device: torch.device) -> None:
        self.problems, self.config, self.device = problems, config, device
        height, width = problems[0].grid
        radius = (int(len(problems[0].affinity) ** 0.5) - 1) // 2
        self.radius, self.cells, self.scale = radius, height * width, 8 // config.loss_stride
        self.channels = _padded(max(p.channels for p in problems))
        self.boxed = bool(problems[0].boxes)
        self.rngs = [torch.Generator().manual_seed(sample_seed(config.seed, p.sample_id, "a2gnn")) for p in problems]

        affinity = torch.stack([p.affinity for p in problems]).to(device)
        if config.attention == "tile":
            self.tiling: Tiling | None = make_tiling(height, width, config.tile, radius).to(device)
            self.bias = self.tiling.bias(affinity)
        else:
            self.tiling, self.bias = None, dense_bias(affinity)
        nodes = torch.stack([_scale(p.nodes, config.features) for p in problems]).to(device)
        self.nodes = self._fold(nodes)  # (B, slots or cells, C)
        self.kernel = colour_kernel(torch.stack([p.rgb for p in problems]).to(device), CRF_RADIUS)
        self.seeds = torch.stack([p.seeds for p in problems]).to(device)  # a copy: the check edits it
        self.absent = torch.zeros(len(problems), self.channels, 1, 1, device=device)
        for b, problem in enumerate(problems):
            self.absent[b, problem.channels :] = ABSENT
        self.boxes = self._box_table()
        self.pixels = self._pixels()
        self._initialise()

    def _fold(self, cells: Tensor) -> Tensor:
        return cells if self.tiling is None else self.tiling.fold(cells)

    def _unfold(self, rows: Tensor) -> Tensor:
        """(B, slots or cells, D) to (B, D, h, w)."""
        cells = rows if self.tiling is None else self.tiling.unfold(rows)
        return cells.transpose(1, 2).reshape(len(rows), -1, *self.problems[0].grid)

    def _box_table(self) -> BoxTable:
        rows = [(b, box) for b, problem in enumerate(self.problems) for box in problem.boxes]
        image = torch.tensor([b for b, _ in rows], dtype=torch.long, device=self.device)
        channel = torch.tensor([box[0] for _, box in rows], dtype=torch.long, device=self.device)
        return BoxTable(image, channel, [(y0, x0, y1, x1) for _, (_, y0, x0, y1, x1) in rows])

    def _pixels(self) -> Pixels:
        return make_pixels(self.seeds, self.boxes)

    def _initialise(self) -> None:
        """Xavier's uniform weights and U(0, 1) attention factors, drawn for each image from its own generator."""
        config, inputs = self.config, self.nodes.shape[2]

        def xavier(rows: int, columns: int) -> Tensor:
            bound = (6 / (rows + columns)) ** 0.5
            return torch.stack([(2 * torch.rand(rows, columns, generator=g) - 1) * bound for g in self.rngs])

        self.embed = xavier(inputs, config.hidden).to(self.device).requires_grad_()
        beta = torch.stack([torch.rand(config.layers, generator=g) for g in self.rngs])
        self.beta = beta.to(self.device).requires_grad_()
        # As many columns are drawn as the image has classes, so that company with more does not move the numbers.
        out = torch.zeros(len(self.rngs), config.hidden, self.channels)
        for b, (problem, g) in enumerate(zip(self.problems, self.rngs, strict=True)):
            bound = (6 / (config.hidden + problem.channels)) ** 0.5
            drawn = torch.rand(config.hidden, problem.channels, generator=g)
            out[b, :, : problem.channels] = (2 * drawn - 1) * bound
        self.out = out.to(self.device).requires_grad_()

    def forward(self, *, train: bool) -> tuple[Tensor, Tensor]:
        """Features (B, slots or cells, D) after the last layer, and logits (B, K, h, w)."""
        h = self._mixed(self.config.layers, train=train)
        return h, self._logits(torch.bmm(h, self.out))

    def logits(self, *, train: bool) -> Tensor:
        """`forward` without features: the last layer of tiles mixes the cells' class scores, which are few, in place of
        their features. All after the softmax is linear, so the numbers are the same.
        """
        if self.tiling is None:
            return self.forward(train=train)[1]
        h = self._mixed(self.config.layers - 1, train=train)
        return self._logits(self._attend(h, self.config.layers - 1, torch.bmm(h, self.out)))

    def _mixed(self, layers: int, *, train: bool) -> Tensor:
        """Features after so many layers."""
        h = F.relu(torch.bmm(self.nodes, self.embed))
        if train and self.config.dropout:
            h = h * self._dropout()
        for layer in range(layers):
            h = self._attend(h, layer)
        return h

    def _attend(self, h: Tensor, layer: int, values: Tensor | None = None) -> Tensor:
        beta = self.beta[:, layer]
        if self.tiling is None:
            return dense_attention(h, beta, self.bias)
        return tile_attention(h, beta, self.bias, self.tiling, values=values, centred=self.config.gate == "centred")

    def _logits(self, scores: Tensor) -> Tensor:
        return self._unfold(scores) + self.absent

    def _dropout(self) -> Tensor:
        """Factors 0 or 1 / (1 - p), from each image's own generator, cell by cell whatever the tiles.

        Four numbers of 16 bits are cut out of each random integer: a tenth of the time of a draw a number.
        """
        keep = 1 - self.config.dropout
        count = self.cells * self.config.hidden
        words = torch.empty(len(self.rngs), -(-count // 4), dtype=torch.int64)
        for row, rng in zip(words, self.rngs, strict=True):
            row.random_(-(2**63), None, generator=rng)
        kept = words.view(torch.int16)[:, :count] < round(keep * 2**16) - 2**15
        masks = kept.view(len(self.rngs), self.cells, self.config.hidden)
        return self._fold(masks.to(self.device, torch.float32) / keep)

    def run(self) -> list[Solution]:
        """Train all models of the stack, then read their answers."""
        config = self.config
        first, second = config.steps if self.boxed else config.other_steps
        lr = config.lr if self.boxed else config.other_lr
        learnt = [self.embed, self.beta, self.out]
        adam = torch.optim.Adam(learnt, lr=lr, weight_decay=config.weight_decay, fused=True)
        weights, before = seed_weights(self.seeds, self.channels), self._count_seeds()
        featured = config.similarity_weight > 0 or config.check != "none"
        for step in range(first + second):
            features, logits = self.forward(train=True) if featured else (None, self.logits(train=True))
            loss, points = self.loss(features, logits, weights, gated=step >= first)
            adam.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if features is not None and points is not None and self._check_due(step):
                self._check(features.detach(), points)
                weights = seed_weights(self.seeds, self.channels)
            adam.step()
        with torch.no_grad():
            logits = self.logits(train=False)
        removed = (before - self._count_seeds()).tolist()
        return [
            Solution(one[: p.channels].cpu(), int(gone))
            for one, p, gone in zip(logits, self.problems, removed, strict=True)
        ]

    def _count_seeds(self) -> Tensor:
        return (self.seeds != IGNORE).sum(dim=(1, 2))

    def loss(
        self, features: Tensor | None, logits: Tensor, weights: Tensor, *, gated: bool
    ) -> tuple[Tensor, Points | None]:
        """The loss of one step and the boxes' points, where there are boxes. Only likeness of points needs features."""
        config = self.config
        fine = F.interpolate(logits, size=self.seeds.shape[1:], mode="bilinear", align_corners=False)
        points = None
        similar = logits.new_zeros(())
        if len(self.boxes) and config.mp_weight:
            with torch.no_grad():
                points = multi_points(fine, self.boxes)
                weights = weights + config.mp_weight * point_weights(points, self.boxes, fine)
            if config.similarity_weight and features is not None:
                chosen = self.sample(features, self.boxes.image[points.box], points.y, points.x)
                similar = similarity_loss(chosen, points, self.boxes, len(self.problems))
        loss = -(weights * fine.log_softmax(dim=1)).sum() + config.mp_weight * config.similarity_weight * similar
        if gated:
            weight = config.gated_weight if self.boxed else config.other_gated_weight
            loss = loss + weight * gated_crf_loss(logits.softmax(dim=1), self.kernel, CRF_RADIUS)
        return loss, points

    def sample(self, features: Tensor, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Features (P, D) at points of the loss grid, as bilinear enlargement would give them."""
        cells, shares = interpolation(y, x, self.scale, self.problems[0].grid)
        slots = cells if self.tiling is None else self.tiling.slots[cells]
        table = features.flatten(0, 1)
        rows = F.embedding(image[:, None] * features.shape[1] + slots, table)
        return (rows * shares[:, :, None]).sum(dim=1)

    def _check_due(self, step: int) -> bool:
        config = self.config
        if config.check == "none" or not len(self.boxes) or step < config.check_start:
            return False
        if config.check == "quantile":
            return step == config.check_start
        return (step - config.check_start) % config.check_every == 0

    @torch.no_grad()
    def _check(self, features: Tensor, points: Points) -> None:
        """Take seeds away that look unlike their box; working variants look at features without dropout."""
        centre = None
        if self.config.check != "released":
            features, logits = self.forward(train=False)
            fine = F.interpolate(logits, size=self.seeds.shape[1:], mode="bilinear", align_corners=False)
            points = multi_points(fine, self.boxes)
            real = self._unfold(features).flatten(2)
            centre = real.mean(dim=2)
        sample = functools.partial(self.sample, features)
        remove_seeds(self.seeds, self.pixels, points, self.boxes, sample, centre, self.config)


def _scale(nodes: Tensor, how: str) -> Tensor:
    """(C, h, w) to (h w, C), each node of sum 1 (`l1`) or mean square 1 (`rms`)."""
    rows = nodes.flatten(1).T
    if how == "l1":
        return rows / rows.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return rows / rows.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
