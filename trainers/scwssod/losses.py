"""Local saliency coherence (LSC) and saliency structure consistency (SSC), and the release's own form of the first."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.vision.windows import colour_kernel, l1_energy

C1, C2 = 0.01**2, 0.03**2


def shrink(x: Tensor, scale: float) -> Tensor:
    """Bilinear with align_corners, as both losses of the release resize."""
    size = [max(1, round(side * scale)) for side in x.shape[2:]]
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def coherence(maps: Tensor, kernel: Tensor, radius: int, weights: Sequence[float] = (1.0,)) -> Tensor:
    """sum_k w_k (1 / N h w) sum_i sum_{j in window of i} K_ij |p_ki - p_kj| for maps (N, heads, h, w).

    All heads go through the window together: L1 is linear, so a head's weight may scale its map.
    """
    scaled = maps * torch.tensor(weights, dtype=maps.dtype, device=maps.device)[:, None, None]
    return l1_energy(scaled, kernel, radius, maps.numel() / maps.shape[1])


def coherence_kernel(image: Tensor, radius: int, xy_sigma: float, colour_sigma: float) -> Tensor:
    """K of the coherence, built once a step for all heads: image (N, 3, h, w), normalised."""
    return colour_kernel(image, radius, xy_sigma, colour_sigma)


def repository_coherence(
    p: Tensor, image: Tensor, radius: int, xy_sigma: float, colour_sigma: float, divisions: int
) -> Tensor:
    """LSC as the release computes it for head number `divisions` (1 = main head): unfolded with zero padding, which
    pairs border pixels with black ones at (0, 0), and with colours divided once more at each head.
    """
    batch, _, height, width = p.shape
    side = 2 * radius + 1
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([xs, ys]).to(p).expand(batch, 2, height, width) / xy_sigma
    features = torch.cat([place, image / colour_sigma**divisions], dim=1)

    def unfolded(x: Tensor) -> Tensor:
        return F.unfold(x, side, padding=radius).view(batch, x.shape[1], side * side, height, width)

    gaps = ((unfolded(features) - features.unsqueeze(2)) ** 2).sum(dim=1, keepdim=True)
    return (torch.exp(-0.5 * gaps) * (unfolded(p) - p.unsqueeze(2)).abs()).sum() / p.numel()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM map with a uniform 3x3 window, zero padding counted, data range 1."""

    def mean(z: Tensor) -> Tensor:
        return F.avg_pool2d(z, 3, 1, 1)

    mu_x, mu_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mu_x**2, mean(y * y) - mu_y**2
    covariance = mean(x * y) - mu_x * mu_y
    return ((2 * mu_x * mu_y + C1) * (2 * covariance + C2)) / ((mu_x**2 + mu_y**2 + C1) * (var_x + var_y + C2))


def structure_consistency(x: Tensor, y: Tensor, alpha: float = 0.85) -> Tensor:
    """alpha mean(clamp((1 - SSIM) / 2, 0, 1)) + (1 - alpha) mean|x - y|; gradients flow into both maps."""
    unlike = ((1 - ssim(x, y)) / 2).clamp(0, 1).mean()
    return alpha * unlike + (1 - alpha) * (x - y).abs().mean()
