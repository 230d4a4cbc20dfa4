"""First weights that depend on a layer's own name: networks that differ in one part begin alike in all others."""

import torch
from torch import nn

from maskmill.data_contracts import sample_seed


def initialise(module: nn.Module, leave: str = "encoder.") -> None:
    """Kaiming normal (fan in) weights and zero biases of all convolutions whose names do not begin with `leave`.

    Each weight is drawn from the seed that torch was given last and the layer's name, whatever was drawn before.
    """
    seed = torch.initial_seed()
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Conv2d) or name.startswith(leave):
            continue
        generator = None
        if layer.weight.device.type == "cpu":
            generator = torch.Generator("cpu").manual_seed(sample_seed(seed, name, "first weights"))
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu", generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
