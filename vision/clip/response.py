"""CLIP response: where in an image CLIP sees each of its classes (CLIP-ES, Lin et al., CVPR 2023; used by SDS and
WeCLIP).

Grad-CAM of the class probability on the last block's first LayerNorm, spread along attention turned into a symmetric
transition matrix, inside the boxes of the class map. Every function works on all (image, class) pairs of a batch at
once; no result of a pair depends on the other pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from maskmill.vision.clip.backbone import ClipBackbone, DenseFeatures
from maskmill.vision.clip.options import CamLayer
from maskmill.vision.clip.text import TextBank

SINKHORN_ROUNDS = 3
EPSILON = 1e-7


@dataclass(frozen=True)
class ClassResponse:
    """Maps of N (image, class) pairs on the patch grid in [0, 1], before (`cams`) and after (`spread`) the affinity."""

    pair_image: tuple[int, ...]
    pair_class: tuple[int, ...]
    cams: Tensor
    spread: Tensor

    def of(self, image: int) -> Tensor:
        """Spread maps (K, h, w) of one image, in the order of its labels."""
        rows = [row for row, owner in enumerate(self.pair_image) if owner == image]
        return self.spread[rows]


@dataclass(frozen=True)
class Tail:
    """The last block of B images, run once for embeddings and class maps: the tokens (B, L, D) that maps are taken
    from, as a `leaf` of the graph, and the unit embeddings (B, E) that came of them. `way`: the embeddings at the end
    of a graph that starts at `leaf`.
    """

    leaf: Tensor
    embeddings: Tensor
    way: Callable[[], Tensor]

    def back(self, gradient: Tensor) -> Tensor:
        """The gradient at the leaf (B, L, D), from that at the embeddings (B, E)."""
        (found,) = torch.autograd.grad(self.way(), self.leaf, gradient, retain_graph=True)
        return found


def run_tail(backbone: ClipBackbone, x: Tensor, layer: CamLayer = "norm") -> Tail:
    """The last block from its input x (B, L, D). `layer` as in `clip_response`.

    Embeddings are fp32. In bf16 gradients go back through a run of the block in bf16, once they are wanted: class maps
    are made of their means over patches.
    """
    with torch.no_grad():
        z = backbone.last_norm(x)
        tokens = z if layer == "norm" else backbone.last_output(z, x)
    leaf = tokens.detach().requires_grad_(True)

    def forward() -> Tensor:
        with torch.enable_grad():
            return backbone.tail_from_norm(leaf, x) if layer == "norm" else backbone.pool(leaf)

    if backbone.precision != "bf16" or layer == "output":
        embeddings = forward()
        return Tail(leaf, embeddings.detach(), lambda: embeddings)

    @cache
    def forward_in_half() -> Tensor:
        with backbone.autocast():
            return forward()

    with torch.no_grad():
        exact = backbone.tail_from_norm(tokens, x)
    return Tail(leaf, exact, forward_in_half)


def clip_response(
    backbone: ClipBackbone,
    dense: DenseFeatures,
    bank: TextBank,
    labels: Sequence[Sequence[int]],
    *,
    scale: float | None = None,
    box_threshold: float | None = 0.4,
    edge_fix: bool = False,
    affinity: Tensor | None = None,
    whole: bool = False,
    layer: CamLayer = "norm",
    tail: Tail | None = None,
    contrast: float = 0.0,
) -> ClassResponse:
    """Class maps of every label of every image.

    Args:
        labels: class ids of each image; an image without any gets no map.
        scale: softmax scale (inverse temperature); None = the model's own.
        box_threshold: share of a map's maximum above which its boxes are drawn; None = no box mask.
        edge_fix: let boxes reach the last row and column, which the authors' clipping never does.
        affinity: (B, n, n) as `attention_affinity` gives; None = from `dense.attention`.
        whole: run the last block for all images, also for those without labels, so that shapes stay fixed.
        layer: where maps are taken: "norm", the first LayerNorm of the last block, as published (its gradient passes
            through attention only), or "output", the last block's tokens (the plain class map of a mean-pooled tower).
        tail: of all images, at that layer, where it has been run already; None = run it.
        contrast: share of `patch_maps` in the class maps; `cams` are then the mixture.

    Raises:
        ValueError: no attention in `dense` and no `affinity` given.
    """
    pairs = [(image, class_id) for image, ids in enumerate(labels) for class_id in ids]
    height, width = dense.grid
    if not pairs:
        empty = torch.zeros(0, height, width, device=dense.last_input.device)
        return ClassResponse((), (), empty, empty)
    images, classes = [p[0] for p in pairs], [p[1] for p in pairs]
    if affinity is None:
        if dense.attention is None:
            raise ValueError("clip_response: expected attention; encode with n_attention > 0, or pass `affinity`")
        affinity = attention_affinity(dense.attention)
    cams = class_cams(
        backbone, dense, images, bank.rows(classes), bank, bank.allowed(labels), scale, whole, layer, tail
    )
    if contrast:
        patches = patch_maps(backbone, dense, images, bank.rows(classes), bank, bank.allowed(labels), scale)
        cams = (1 - contrast) * cams + contrast * patches
    boxes = torch.ones_like(cams) if box_threshold is None else box_masks(cams, box_threshold, edge_fix)
    return ClassResponse(tuple(images), tuple(classes), cams, spread(affinity, cams * boxes, images))


def class_cams(
    backbone: ClipBackbone,
    dense: DenseFeatures,
    pair_image: Sequence[int],
    pair_row: Sequence[int],
    bank: TextBank,
    allowed: Tensor,
    scale: float | None = None,
    whole: bool = False,
    layer: CamLayer = "norm",
    tail: Tail | None = None,
) -> Tensor:
    """Softmax Grad-CAM of N (image, text row) pairs: (N, h, w) in [0, 1]. One forward of the last block for all images,
    or none where `tail` is that of all images of `dense`; one backward for the first class of every image, one for the
    second, and so on.

    The gradient is that of log p: d log p = d p / p, and the positive factor 1/p goes with the min-max, so these are
    the maps of p itself without its underflow.
    """
    images = sorted(set(pair_image)) if tail is None and not whole else list(range(len(dense.last_input)))
    if tail is None:
        x = dense.last_input if len(images) == len(dense.last_input) else dense.last_input[images]
        tail = run_tail(backbone, x, layer)
    tokens = tail.leaf.detach()
    with torch.enable_grad():
        embeddings = tail.embeddings.detach().requires_grad_(True)
        log_p = bank.log_probabilities(embeddings, allowed[images], backbone.logit_scale if scale is None else scale)
    maps = torch.empty(len(pair_row), *dense.grid, device=tokens.device)
    for pairs in _rounds(pair_image):
        places = [images.index(pair_image[pair]) for pair in pairs]
        wanted = torch.zeros_like(log_p)
        wanted[places, [pair_row[pair] for pair in pairs]] = 1
        (towards,) = torch.autograd.grad(log_p, embeddings, wanted, retain_graph=True)
        weights = tail.back(towards)[:, dense.prefix :].mean(dim=1, keepdim=True)
        # Sum the products explicitly: a matrix product may choose its kernel by the number of pairs.
        found = (tokens[:, dense.prefix :] * weights).sum(dim=-1).relu().reshape(-1, *dense.grid)
        maps[pairs] = min_max(found)[places]
    return maps


def patch_maps(
    backbone: ClipBackbone,
    dense: DenseFeatures,
    pair_image: Sequence[int],
    pair_row: Sequence[int],
    bank: TextBank,
    allowed: Tensor,
    scale: float | None = None,
) -> Tensor:
    """How each patch by itself answers to N (image, text row) pairs: softmax over the image's texts of scale * cosine
    with the patch's own embedding, min-max, (N, h, w). No gradient.

    That patches are held against texts, not the pooled image, is an idea of ExCEL (Yang et al., CVPR 2025); its
    attributes, its attention among values and its training are not here.
    """
    factor = backbone.logit_scale if scale is None else scale
    maps = []
    with torch.no_grad():
        for image in sorted(set(pair_image)):
            embeddings = backbone.patch_embeddings(dense.last_input[image : image + 1])[0]
            p = bank.log_probabilities(embeddings, allowed[image].expand(len(embeddings), -1), factor).exp()
            rows = [row for owner, row in zip(pair_image, pair_row, strict=True) if owner == image]
            maps.append(p[:, rows].T.reshape(-1, *dense.grid))
    order = [pair for image in sorted(set(pair_image)) for pair, owner in enumerate(pair_image) if owner == image]
    found = torch.empty(len(pair_row), *dense.grid, device=dense.last_input.device)
    found[order] = torch.cat(maps)
    return min_max(found)


def _rounds(pair_image: Sequence[int]) -> list[list[int]]:
    """Pairs by whether they are the first, the second, … of their image."""
    seen: dict[int, int] = {}
    rounds: list[list[int]] = []
    for pair, image in enumerate(pair_image):
        turn = seen[image] = seen.get(image, -1) + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(pair)
    return rounds


def min_max(maps: Tensor) -> Tensor:
    """(N, h, w) to [0, 1] each, with an epsilon relative to the map: an all-equal map becomes zero, however small
    values stay resolved.
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)
    spread_ = maps.amax(dim=(-2, -1), keepdim=True) - low
    return torch.where(spread_ > 0, (maps - low) / spread_.clamp_min(torch.finfo(maps.dtype).tiny), 0.0)


def attention_affinity(attention: Tensor) -> Tensor:
    """Attention (B, n, n) to a symmetric, nearly doubly stochastic matrix: three rounds of column then row sums,
    then (D + D^T) / 2.

    CLIP-ES squares it; `spread` applies it twice instead.
    """
    d = attention
    for _ in range(SINKHORN_ROUNDS):
        d = d / d.sum(dim=-2, keepdim=True).clamp_min(EPSILON)
        d = d / d.sum(dim=-1, keepdim=True).clamp_min(EPSILON)
    return (d + d.transpose(-2, -1)) / 2


def spread(affinity: Tensor, masked: Tensor, pair_image: Sequence[int]) -> Tensor:
    """D (D m), min-max, for maps m (N, h, w) already multiplied by their box masks; D (B, n, n). No n x n product is
    formed.
    """
    vectors = masked.flatten(1)
    rows = [affinity[image] @ (affinity[image] @ vectors[row]) for row, image in enumerate(pair_image)]
    return min_max(torch.stack(rows).view_as(masked))


def box_masks(cams: Tensor, threshold: float, edge_fix: bool = False) -> Tensor:
    """Union of the bounding boxes of each map's blobs above `threshold` x maximum: (N, h, w) of 0 and 1.

    As CLIP-ES: the map is quantised to 8 bits, the comparison is strict, blobs are 8-connected, and box ends are
    clipped to side - 1 and used exclusively, so the last row and column are never covered unless `edge_fix`.
    """
    quantised = (cams * 255).to(torch.uint8).cpu().numpy()
    masks = np.stack([_box_mask(map_, threshold, edge_fix) for map_ in quantised])
    return torch.from_numpy(masks).to(cams)


def _box_mask(map_: NDArray[np.uint8], threshold: float, edge_fix: bool) -> NDArray[np.float32]:
    blobs, _ = ndimage.label(map_ > int(threshold * int(map_.max())), structure=np.ones((3, 3)))
    mask = np.zeros(map_.shape, np.float32)
    height, width = map_.shape if edge_fix else (map_.shape[0] - 1, map_.shape[1] - 1)
    for rows, columns in ndimage.find_objects(blobs):
        mask[rows.start : min(rows.stop, height), columns.start : min(columns.stop, width)] = 1
    return mask


def with_background(maps: Tensor, power: float = 1.0) -> Tensor:
    """Prepend the background channel (1 - max over classes)^power: (..., K, H, W) -> (..., K + 1, H, W). K = 0 is
    not allowed.
    """
    background = (1 - maps.amax(dim=-3, keepdim=True)) ** power
    return torch.cat([background, maps], dim=-3)
