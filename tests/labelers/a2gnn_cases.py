"""Small problems for the tests of `a2gnn`: grids, edges and images with known answers."""

from typing import Any

import torch
from torch import Tensor

from maskmill.labelers.a2gnn.config import Config
from maskmill.labelers.a2gnn.solver import Problem, Stack

CPU = torch.device("cpu")


def window_affinity(height: int, width: int, radius: int, seed: int = 0) -> Tensor:
    """Random symmetric affinity (1, (2r + 1)^2, h, w), 0 outside the grid, 1 in the middle."""
    from maskmill.trainers.affinity.pairs import half_offsets, pairs_inside, to_window

    torch.manual_seed(seed)
    pairs = torch.rand(1, len(half_offsets(radius)), height, width).clamp(min=0.05)
    inside = pairs_inside(torch.ones(1, height, width, dtype=torch.bool), radius)
    return to_window(pairs * inside, radius, 1.0)


def disc_problem(number: int, *, edges: bool, wrong: float = 0.0, share: float = 0.03) -> tuple[Problem, Tensor]:
    """A disc in a 20 x 20 grid: weak features, a clear border in the edges, few seeds. Returns it and the truth."""
    generator = torch.Generator().manual_seed(number)
    y, x = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    truth = ((y - 9.5) ** 2 + (x - 9.5) ** 2 < 36).long()
    signal = torch.stack([truth.float(), 1 - truth.float()])
    noise = torch.rand(16, 20, 20, generator=generator) * 2.2
    nodes = torch.cat([signal + noise[:2], noise[2:]])
    seeds = torch.full((20, 20), 255)
    for value in (0, 1):
        places = torch.nonzero(truth == value)
        count = max(3, round(share * len(places)))
        for place in places[torch.randperm(len(places), generator=generator)[:count]]:
            flipped = bool(torch.rand(1, generator=generator) < wrong)
            seeds[place[0], place[1]] = 1 - value if flipped else value
    affinity = border_affinity(truth, 2) if edges else (window_affinity(20, 20, 2) > 0) * 1e-6
    rgb = torch.zeros(3, 20, 20)
    return Problem(f"disc {number}", nodes, affinity[0], rgb, seeds, (), 2), truth


def border_affinity(labels: Tensor, radius: int, across: float = 0.05) -> Tensor:
    """Affinity 0.9 inside a region, `across` between two: (1, (2r + 1)^2, h, w)."""
    from maskmill.trainers.affinity.pairs import pair_values, pairs_inside, to_window

    values = labels[None, None].float()
    same = pair_values(values, radius, lambda a, b: (a == b)[:, 0].float())
    inside = pairs_inside(torch.ones_like(values[:, 0], dtype=torch.bool), radius)
    return to_window(torch.where(same > 0, 0.9, across) * inside, radius, 1.0)


def options(**changes: Any) -> Config:
    """Fast settings at the resolution of the cells."""
    given = {"loss_stride": 8, "hidden": 16, "steps": (20, 10), "other_steps": (60, 0), "tile": 4, "check": "none"}
    return Config.model_validate({**given, **changes})


def box_problem(number: int, height: int = 8, width: int = 10, channels: int = 2) -> Problem:
    """A bright rectangle with its tight box, seeds in its middle and outside the box."""
    generator = torch.Generator().manual_seed(number)
    y0, x0 = int(torch.randint(1, 3, (1,), generator=generator)), int(torch.randint(1, 4, (1,), generator=generator))
    y1, x1 = y0 + 4, x0 + 5
    truth = torch.zeros(height, width)
    truth[y0:y1, x0:x1] = 1
    nodes = torch.rand(6, height, width, generator=generator)
    nodes[0] += truth
    seeds = torch.zeros(height, width, dtype=torch.long)
    seeds[y0:y1, x0:x1] = 255
    seeds[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = 1
    rgb = torch.rand(3, height, width, generator=generator) / 5
    affinity = window_affinity(height, width, 2, number)[0]
    return Problem(f"box {number}", nodes, affinity, rgb, seeds, ((1, y0, x0, y1, x1),), channels)


def stack(problems: list[Problem], **changes: Any) -> Stack:
    return Stack(problems, options(**changes), CPU)
