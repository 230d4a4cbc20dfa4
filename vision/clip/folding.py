"""A frozen convolutional trunk as it runs fastest: batch norms folded into convolutions, channels last."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def folded(net: nn.Module) -> nn.Module:
    """A frozen copy of `net` whose batch norms, with their stored statistics, are part of the convolution that stands
    before them among their module's children (as in timm's EfficientNets); activations stay. Equal to rounding.

    Raises:
        ValueError: a batch norm without a convolution of as many channels before it.
    """
    net = copy.deepcopy(net).eval().requires_grad_(False)
    for module in list(net.modules()):
        before: nn.Conv2d | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                before = child
            elif isinstance(child, nn.BatchNorm2d):
                if before is None or before.out_channels != child.num_features:
                    raise ValueError(f"{type(module).__name__}.{name}: no convolution of its size stands before it")
                _fold(before, child)
                setattr(module, name, getattr(child, "act", nn.Identity()))
                before = None
    return net.to(memory_format=torch.channels_last)


def _fold(convolution: nn.Conv2d, norm: Any) -> None:
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    convolution.requires_grad_(False)


class Frozen:
    """The folded copy of a net, made when it is first asked for and anew when the net's weights have changed."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[int, ...], nn.Module] | None = None

    def of(self, net: nn.Module) -> nn.Module:
        """The copy to run in the place of `net`; `net` itself while a weight learns, or where a compiler looks on."""
        if torch.compiler.is_compiling():
            return net
        tensors = [*net.parameters(), *net.buffers()]
        if any(one.requires_grad or one.is_inference() for one in tensors):
            return net
        state = (id(net), *(part for one in tensors for part in (one.data_ptr(), one._version)))
        if self._kept is None or self._kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = state, folded(net)
        return self._kept[1]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Frozen":
        return Frozen()

    def __reduce__(self) -> tuple[type["Frozen"], tuple[()]]:
        return Frozen, ()
