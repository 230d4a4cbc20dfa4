"""The part of `dfr` that was released: the Gated CRF loss, which its regularised loss with `kernel: static` is. DFR
itself has no public code; what else there is, is our reading, and held against itself in tests/trainers.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskmill.trainers.dfr import Config
from maskmill.trainers.dfr.train import Grid, Regulariser
from maskmill.trainers.engine import AugmentConfig
from maskmill.vision.segmenters import IMAGENET
from tests.golden import assert_close, golden, picture, uniform

torch.set_num_threads(1)

NUMBERS: dict[str, Any] = golden("dfr", "gated_crf")
GRID = (12, 16)


@cache
def batch() -> dict[str, Tensor]:
    """Two pictures of 48x64 pixels, the first with nine padded rows, the second with six padded columns."""
    rgb = np.stack([picture(f"gated crf {name}", 4 * GRID[0], 4 * GRID[1]) for name in "ab"])
    mean, std = (torch.tensor(values, dtype=torch.float64)[None, :, None, None] for values in IMAGENET)
    valid = torch.ones(2, 4 * GRID[0], 4 * GRID[1], dtype=torch.bool)
    valid[0, :9] = False
    valid[1, :, -6:] = False
    plain = (torch.from_numpy(rgb).permute(0, 3, 1, 2).double() / 255 - mean) / std
    return {"plain": plain, "valid": valid, "labels": torch.full(valid.shape, 255)}


@pytest.mark.parametrize("radius", [5, 2])
@pytest.mark.parametrize("gates", ["both", "wide"])
def test_static_kernel_is_the_gated_crf_loss(gates: str, radius: int) -> None:
    """Value and gradient: `both` gates padding on both sides of a pair, `wide` has none and other widths."""
    widths = {"xy_sigma_cells": 3.0, "colour_sigma_normalised": 0.5} if gates == "wide" else {}
    config = Config.model_validate({"preset": "faithful", "kernel": "static", "radius": radius, **widths})
    given = batch() if gates == "both" else {**batch(), "valid": torch.ones_like(batch()["valid"])}
    grid = Grid.of(given, config)
    assert grid.size == GRID
    logits = torch.from_numpy(3 * uniform("gated crf logits", 2, 4, *GRID)).requires_grad_()
    regulariser = Regulariser(config, 0)
    loss, _ = regulariser.smooth_labels(logits.softmax(dim=1), grid, regulariser.pairs(grid, None))
    torch.autograd.backward(loss)
    assert logits.grad is not None
    name = f"r{radius}/{gates}"
    assert float(loss.detach()) == pytest.approx(float(NUMBERS[f"{name}/loss"]), rel=1e-9)
    scale = float(np.abs(NUMBERS[f"{name}/grad"]).max())
    assert_close(logits.grad / scale, NUMBERS[f"{name}/grad"] / scale, atol=1e-9)


def test_the_release_gates_one_end_alone() -> None:
    """Its own recipe passes the source mask alone; the rest of a pair may lie in the padding. Ours gates both."""
    for radius in (5, 2):
        one, both = (float(NUMBERS[f"r{radius}{part}/loss"]) for part in ("", "/both"))
        assert one != pytest.approx(both, rel=1e-6)


READING = {  # our reading: DFR's own values are not known
    "preset": "faithful",
    "steps": 40_000,
    "epochs": None,
    "batch": 16,
    "optimizer": "adamw",
    "lr": 6e-5,
    "betas": (0.9, 0.999),
    "weight_decay": 0.01,
    "decay_norms": False,
    "encoder_lr_factor": 1.0,
    "schedule": "linear",
    "warmup_steps": 1500,
    "warmup_factor": 1e-6,
    "lr_floor": 0.0,
    "grad_clip": None,
    "precision": "fp32",
    "supervision": "scribbles",
    "segmenter": {
        "architecture": "upernet",
        "encoder": "swin_base_patch4_window7_224",
        "weights": "hub",
        "options": {"img_size": 512, "strict_img_size": False},
    },
    "kernel": "product",
    "energy": "potts",
    "reg_weight": 0.1,
    "reg_delay": 0.005,
    "reg_ramp": 0.05,
    "loss_stride": 4,
    "radius": 5,
    "xy_sigma_cells": 6.0,
    "colour_sigma_normalised": 0.1,
    "gamma": 1.0,
    "mass_normalised": False,
    "detach_kernel": True,
    "fc_weight": 1.0,
    "smooth_weight": 3.0,
    "head_dim": 64,
    "head_widths": (32, 32, 64, 64),
    "pair_radius": 4,
    "long_pairs": 256,
    "target_start": 0.1,
    "target_threshold": 0.9,
    "grid_labels": "drawn",
    "calibrated": False,
    "dilations": (),
}
NOT_USED = {"momentum", "nesterov", "poly_power", "static_share", "deep_share", "mask_dice"}
NO_RESULT = {"eval_every", "processes", "runtime", "seed"}


def test_the_reading_as_a_whole_table() -> None:
    found = Config(preset="faithful").model_dump()
    crop = found.pop("augment")
    assert {key: value for key, value in found.items() if key not in NOT_USED | NO_RESULT} == READING
    assert crop == AugmentConfig(size=512, fit="native", scale=(0.5, 2.0), flip=0.5).model_dump()
    assert Config().kernel == "product", "what is benchmarked is the default"
