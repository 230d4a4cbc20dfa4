"""The dynamic kernel: position and colour, times or beside the learned affinity. Pair stacks of `vision.windows`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskmill.vision.windows import Window, colour_kernel, gate_pairs, spatial_kernel

Combination = Literal["product", "sum", "static"]


@dataclass(frozen=True)
class KernelRule:
    """How K_ij is made from colours and learned distances.

    S = exp(-|x_i - x_j|^2 / 2 xy_sigma^2 - |I_i - I_j|^2 / 2 colour_sigma^2) (Gated CRF), A = exp(-d_ij) with
    d_ij = mean_c |E_ic - E_jc| (A2GNN), G the spatial factor of S alone.
    product: S A^gamma; sum: static_share S + deep_share G A^gamma; static: S. `affinity` replaces A^gamma by another
    function of d.
    """

    combination: Combination
    window: Window
    xy_sigma: float
    colour_sigma: float
    gamma: float = 1.0
    static_share: float = 0.5
    deep_share: float = 0.5
    mass_normalised: bool = False
    detach: bool = True
    affinity: Callable[[Tensor], Tensor] | None = None

    def __call__(self, static: Tensor, distances: Tensor | None, valid: Tensor) -> Tensor:
        """Pair stack (N, m, h, w) from S, the distances d_ij of the embedding (pair stacks too) and validity bool
        (N, h, w). With `detach` it carries no gradient, and nothing is kept from call to call.

        Raises:
            ValueError: the combination needs distances and there are none.
        """
        kernel = static if self.combination == "static" else self._dynamic(static, distances)
        kernel = gate_pairs(kernel, valid, self.window)
        return kernel / mean_mass(kernel.detach(), valid).clamp(min=1e-3) if self.mass_normalised else kernel

    def static(self, image: Tensor, window: Window | None = None) -> Tensor:
        """S of the normalised image (N, 3, h, w), in another window where one is given."""
        return colour_kernel(image, window or self.window, self.xy_sigma, self.colour_sigma)

    def _dynamic(self, static: Tensor, distances: Tensor | None) -> Tensor:
        if distances is None:
            raise ValueError(f"kernel {self.combination!r}: expected distances of an embedding; switch on the head")
        distances = distances.detach() if self.detach else distances
        learned = torch.exp(-self.gamma * distances) if self.affinity is None else self.affinity(distances)
        if self.combination == "product":
            return self.weigh(static, learned)
        return self.weigh(static, spatial_kernel(static[:, :1], self.window, self.xy_sigma) * learned)

    def weigh(self, static: Tensor, learned: Tensor) -> Tensor:
        """The combination of what colours and what features say; of pairs of one place, without the spatial factor."""
        if self.combination == "product":
            return static * learned
        return self.static_share * static + self.deep_share * learned


def mean_mass(kernel: Tensor, valid: Tensor) -> Tensor:
    """Mean over valid pixels of sum_j K_ij: near 0 where the kernel is dead."""
    return 2 * kernel.sum() / valid.sum().clamp(min=1)
