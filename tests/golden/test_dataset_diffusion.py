"""Dataset Diffusion against masks of its release: averages, bicubic, power 4, min-max, thresholds, ids."""

import numpy as np
import pytest
import torch
from torch import Tensor

from maskmill.generators.attention_masks import ClassMaps, class_maps, mask_of
from maskmill.generators.config import MaskConfig
from maskmill.generators.spans import ClassPrompt
from tests.golden import golden, uniform

RELEASED = MaskConfig(cross_resolution=16, self_resolution=32, power=4, foreground=0.6, uncertain=0.5)
CASES = {  # image: its number, and the classes of its class prompt with the places of their tokens
    "a": (0, ClassPrompt("cat sofa", (8, 18), ((1, 2), (2, 3)))),
    "b": (1, ClassPrompt("dog", (12,), ((1, 2),))),
    "c": (2, ClassPrompt("person dining table bottle", (15, 11, 5), ((1, 2), (2, 4), (4, 5)))),
}


def self_map(number: int) -> Tensor:
    """Rows that keep near places together, (1024, 1024)."""
    y, x = np.mgrid[:32, :32] / 32
    places = torch.from_numpy(np.stack([y.ravel(), x.ravel()], 1))
    distance = ((places[:, None] - places[None]) ** 2).sum(-1)
    return (-(distance * 60) + torch.from_numpy(uniform(f"self {number}", 1024, 1024))).softmax(-1).float()


def cross_map(number: int) -> Tensor:
    """The average over three layers of two heads, (256, 77): noise, and a blob for each of five tokens."""
    y, x = np.mgrid[:16, :16] / 16
    layers = []
    for layer in range(3):
        logits = torch.from_numpy(uniform(f"cross {number} {layer}", 1, 2, 16, 16, 77)) * 4
        maps = logits.softmax(-1).float()
        for token in range(1, 6):
            blob = np.exp(-((y - 0.2 * token) ** 2 + (x - 0.17 * token) ** 2) * 12)
            maps[..., token] += torch.from_numpy(blob).float()
        layers.append(maps[0])
    return torch.cat(layers).mean(dim=0).reshape(256, 77)


@pytest.mark.parametrize("name", list(CASES))
def test_masks(name: str) -> None:
    number, prompt = CASES[name]
    released = golden("dataset_diffusion", "masks")[name]
    grids = ((16, 16), (32, 32))
    read = ClassMaps(class_maps(cross_map(number), prompt, *grids), self_map(number))
    mask, peaks = mask_of(read, prompt.class_ids, (128, 160), RELEASED)
    assert set(peaks) == set(prompt.class_ids)
    assert set(np.unique(released).tolist()) == {0, 255, *prompt.class_ids}
    assert (mask.numpy() == released).mean() > 0.9995  # ours rounds maps to 1/4096 before the thresholds
