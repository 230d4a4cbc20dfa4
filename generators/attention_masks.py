"""From averaged attention maps to a label map (Dataset Diffusion, NeurIPS 2023, section 3.2). Pure functions of
tensors.

    M_c = minmax( A_self^tau . A_cross[:, tokens of c] )        tau = 4, by matrix-vector products
    m(x) = max_c M_c(x);  label = argmax_c M_c  if m >= alpha,  255 if beta <= m < alpha,  0 otherwise

Min-max lets every prompted class reach 1, drawn or not; so the peak of the map before min-max is kept as a signal.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maskmill.data_contracts import IGNORE
from maskmill.generators.config import MaskConfig
from maskmill.generators.spans import ClassPrompt


class ClassMaps(NamedTuple):
    """What was read for one image: `maps` (K, rows, columns), one a class in the order of its prompt, and the
    row-stochastic `affinity` (rows * columns, rows * columns) that spreads them, where there is one.
    """

    maps: Tensor
    affinity: Tensor | None
    interpolation: str = "bicubic"  # on the way to pixels
    lineup: Tensor | None = None  # (K + others, rows, columns): the classes read beside others, in one prompt


def resize(maps: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Resize of (K, h, w) maps to (K, *size)."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps[None], size=size, mode=mode, align_corners=False)[0]


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


def mask_of(
    read: ClassMaps, class_ids: Sequence[int], size: tuple[int, int], config: MaskConfig
) -> tuple[Tensor, dict[int, float]]:
    """One image's label map uint8 (H, W) and, per class id, the peak of its map before min-max; `size` = (H, W).

    Maps are rounded to 1/4096 before thresholds, so that last-bit differences between kernels rarely move a pixel.
    """
    maps = read.maps if read.affinity is None else spread(read.affinity, read.maps, config.power)
    peaks = {c: round(float(m.max()), 6) for c, m in zip(class_ids, maps, strict=True)}
    fine = (resize(minmax(maps), size, read.interpolation).clamp(0, 1) * 4096).round() / 4096
    order = sorted(range(len(class_ids)), key=lambda k: class_ids[k])  # ties: lowest class id
    return label_map(fine[order], [class_ids[k] for k in order], config.foreground, config.uncertain), peaks


SIGNS = ("peak", "contrast", "share")


def signs_of(read: ClassMaps, mask: Tensor, class_ids: Sequence[int], power: int) -> dict[int, dict[str, float]]:
    """Signs that a class was drawn at all, which min-max hides: by class id

    - `peak`: of its map before min-max, as in `mask_of`;
    - `contrast`: that peak over the map's mean;
    - `share`: where the mask has the class, the mean of A_c / (A_c + sum of A_r over classes r that nobody asked for),
      read in one prompt; where the mask has lost the class, over the map's highest tenth. Only with a line-up.

    `mask` uint8 (H, W) as `mask_of` gives it.
    """
    maps = read.maps if read.affinity is None else spread(read.affinity, read.maps, power)
    small = F.interpolate(mask[None, None].float(), size=tuple(maps.shape[-2:]), mode="nearest")[0, 0]
    found: dict[int, dict[str, float]] = {}
    for k, class_id in enumerate(class_ids):
        peak, mean = float(maps[k].max()), float(maps[k].mean())
        signs = {"peak": peak, "contrast": peak / max(mean, 1e-12)}
        if read.lineup is not None and len(read.lineup) > len(class_ids):
            where = small == class_id
            if not bool(where.any()):
                where = maps[k] >= maps[k].flatten().quantile(0.9)
            own, others = read.lineup[k], read.lineup[len(class_ids) :].sum(dim=0)
            signs["share"] = float((own / (own + others).clamp_min(1e-12))[where].mean())
        found[class_id] = {name: round(value, 6) for name, value in signs.items()}
    return found
