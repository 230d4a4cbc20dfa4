"""From averaged attention maps to a label map (Dataset Diffusion, NeurIPS 2023, section 3.2). Pure functions of
tensors.

    M_c = minmax( A_self^tau . A_cross[:, tokens of c] )        tau = 4, by matrix-vector products
    m(x) = max_c M_c(x);  label = argmax_c M_c  if m >= alpha,  255 if beta <= m < alpha,  0 otherwise

Min-max lets every prompted class reach 1, drawn or not; so the peak of the map before min-max is kept as a signal.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.data_contracts import IGNORE
from maskmill.generators.config import MaskConfig
from maskmill.generators.spans import ClassPrompt


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic resize of (K, h, w) maps to (K, *size)."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps[None], size=size, mode="bicubic", align_corners=False)[0]


def class_maps(cross: Tensor, prompt: ClassPrompt, cross_grid: tuple[int, int], self_grid: tuple[int, int]) -> Tensor:
    """Mean attention to each class's tokens, brought to the self grid: (positions, T) to (K, rows, columns)."""
    columns = [cross[:, first:end].mean(dim=1) for first, end in prompt.spans]
    return resize(torch.stack(columns).reshape(-1, *cross_grid), self_grid)


def spread(self_map: Tensor, maps: Tensor, power: int) -> Tensor:
    """A_self^power applied to (K, rows, columns) maps: `power` products with K vectors, never a matrix power."""
    vectors = maps.flatten(1).T
    for _ in range(power):
        vectors = self_map @ vectors
    return vectors.T.reshape(maps.shape)


def minmax(maps: Tensor) -> Tensor:
    """Each map of (K, h, w) stretched to 0..1; a constant map becomes 0."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low).clamp_min(1e-12), torch.zeros_like(maps))


def label_map(maps: Tensor, class_ids: Sequence[int], foreground: float, uncertain: float) -> Tensor:
    """Maps (K, H, W) in 0..1 to uint8 (H, W): class id, 255 in the uncertainty band, 0. Ties go to the first class."""
    best = maps.amax(dim=0)
    # argmax alone does not promise the first of equal values
    order = torch.arange(maps.shape[0], 0, -1, device=maps.device)[:, None, None]
    winner = ((maps == best) * order).argmax(dim=0)
    labels = torch.tensor(list(class_ids), dtype=torch.uint8, device=maps.device)[winner]
    labels = torch.where(best >= uncertain, torch.where(best >= foreground, labels, IGNORE), 0)
    return labels.to(torch.uint8)


def attention_mask(
    self_map: Tensor,
    cross: Tensor,
    prompt: ClassPrompt,
    grids: tuple[tuple[int, int], tuple[int, int]],
    size: tuple[int, int],
    config: MaskConfig,
) -> tuple[Tensor, dict[int, float]]:
    """One image's label map uint8 (H, W) and, per class id, the peak of its map before min-max.

    `self_map` (n, n) and `cross` (m, T) are averaged attention; `grids` = (cross grid, self grid); `size` = (H, W).
    Maps are rounded to 1/4096 before thresholds, so that last-bit differences between kernels rarely move a pixel.
    """
    maps = spread(self_map, class_maps(cross, prompt, *grids), config.power)
    peaks = {c: round(float(m.max()), 6) for c, m in zip(prompt.class_ids, maps, strict=True)}
    fine = (resize(minmax(maps), size).clamp(0, 1) * 4096).round() / 4096
    order = sorted(range(len(prompt.class_ids)), key=lambda k: prompt.class_ids[k])  # ties: lowest class id
    ids = [prompt.class_ids[k] for k in order]
    return label_map(fine[order], ids, config.foreground, config.uncertain), peaks
