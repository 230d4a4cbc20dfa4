"""First weights by name: networks that differ in a part begin alike in everything else, so that they can be compared.

Each tensor is drawn by a generator of (seed, its name). Input channels that one network has and another lacks (priors,
a second vector) are drawn by generators of their own, and all are scaled as in the network that lacks them.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from maskmill.data_contracts import sample_seed
from maskmill.trainers.few_shot.base import PyramidDecoder


@torch.no_grad()
def start_by_name(net: nn.Module, seed: int) -> None:
    """Give every convolution and linear layer of `net` weights uniform within 1 / sqrt(fan-in), by name and seed; those
    of an ensemble, which begins by merging nothing, stay.

    A second vector's weights in PFENet's merges: both vectors begin with half of the one's weights, so that a network
    that is shown the same vector twice begins as the one that is shown it once.
    """
    decoder = getattr(net, "decoder", None)
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and not name.startswith("ensemble."):
            if isinstance(decoder, PyramidDecoder) and "_merge." in name:
                layer.weight.copy_(_merge(layer.weight, name, decoder, seed))
            else:
                layer.weight.copy_(_drawn(layer.weight.shape, _fan_in(layer.weight), f"{name}.weight", seed))
            if layer.bias is not None:
                layer.bias.copy_(_drawn(layer.bias.shape, _fan_in(layer.weight), f"{name}.bias", seed))


def _merge(weight: Tensor, name: str, decoder: PyramidDecoder, seed: int) -> Tensor:
    """Features, vectors, priors: (out, (1 + slots) x width + priors, 1, 1)."""
    out, width, fan_in = weight.shape[0], decoder.width, 2 * decoder.width + 1
    priors = weight.shape[1] - (1 + decoder.slots) * width
    features = _drawn((out, width, 1, 1), fan_in, f"{name} features", seed)
    vector = _drawn((out, width, 1, 1), fan_in, f"{name} vector", seed) / decoder.slots
    maps = [_drawn((out, 1, 1, 1), fan_in, f"{name} prior {number}", seed) for number in range(priors)]
    return torch.cat([features, *[vector] * decoder.slots, *maps], dim=1)


def _fan_in(weight: Tensor) -> int:
    return math.prod(weight.shape[1:])


def _drawn(shape: tuple[int, ...], fan_in: int, name: str, seed: int) -> Tensor:
    rng = np.random.default_rng(sample_seed(seed, name, "first weights"))
    return torch.from_numpy(rng.uniform(-1, 1, tuple(shape)).astype(np.float32)) / math.sqrt(fan_in)
