"""The model's part of SDS: embeddings, entropies and class maps of a few samples of one size.

Every forward has exactly the shape (micro_batch, 3, h, w), padded with blanks: a matrix kernel may round differently
for another shape, but not for another place in the same shape. So a sample's numbers do not depend on its companions,
to the bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskmill.curation.sds.asf import AsfScore
from maskmill.curation.sds.config import SdsConfig
from maskmill.curation.sds.images import Prepared
from maskmill.curation.sds.pcs import Readings, draw_orders, entropy, image_scores, perturb
from maskmill.data_contracts import LabelSpace
from maskmill.vision.batches import Batches
from maskmill.vision.clip import (
    ClipBackbone,
    DenseFeatures,
    Tail,
    TextBank,
    build_text_bank,
    clip_response,
    load_clip,
    run_tail,
)
from maskmill.vision.device import pick_device

GPU_MICRO_BATCH = 16
Overlap = Callable[[Sequence[Prepared], int], list[AsfScore]]


@dataclass(frozen=True)
class Engine:
    """What scoring needs besides the samples, loaded once. `micro_batch`: images per forward; `batches` halves it where
    the device's memory runs out. `overlap`: who judges masks in CLIP's place, by samples with masks and the seed;
    None = CLIP.
    """

    backbone: ClipBackbone
    bank: TextBank
    config: SdsConfig
    space: LabelSpace
    micro_batch: int
    overlap: Overlap | None = None

    @cached_property
    def batches(self) -> Batches:
        """The batches that fit, as far as is known by now."""
        return Batches(self.micro_batch, self.config.model, "a lower image_side, or take a smaller model")

    @property
    def scale(self) -> float:
        """Factor from cosine to logit."""
        return 1 / self.config.temperature if self.config.temperature else self.backbone.logit_scale

    @property
    def multiple(self) -> int:
        """What the sides of a model input must divide by: patches, and with tiles, tiles of whole patches."""
        return _multiple(self.config, self.backbone)

    @property
    def box_threshold(self) -> float:
        return self.config.box_threshold or self.space.cam_box_threshold


@dataclass(frozen=True)
class Reading:
    """What CLIP says of one sample. `maps` float32 (K, h, w): class maps, None where the mask is not to be scored."""

    h_orig: float
    h_mix: float
    pcs: float
    image_score: float
    embedding: NDArray[np.float32]
    maps: NDArray[np.float32] | None
    swap_class_id: int | None = None


def make_engine(
    config: SdsConfig, space: LabelSpace, backbone: ClipBackbone | None = None, micro_batch: int | None = None
) -> Engine:
    """Load model and texts. On the CPU images go one by one (as fast as in batches there), on a GPU in batches of 16.

    Raises:
        ValueError: an `image_side` that does not divide into (tiles of) whole patches.
    """
    backbone = backbone or load_clip(config.model, config.pretrained, str(pick_device()), config.precision)
    side, multiple = config.image_side, _multiple(config, backbone)
    if side is not None and side % multiple:
        raise ValueError(
            f"image_side: expected a multiple of {multiple} (grid {config.grid} x patch {backbone.patch}), found {side}"
        )
    bank = build_text_bank(space, backbone, config.templates, synonyms=config.synonyms)
    default = GPU_MICRO_BATCH if backbone.device.type == "cuda" else 1
    return Engine(backbone, bank, config, space, micro_batch or default)


def _multiple(config: SdsConfig, backbone: ClipBackbone) -> int:
    return backbone.patch * (config.grid if config.perturbation == "tiles" else 1)


def read_samples(samples: Sequence[Prepared], engine: Engine, seed: int) -> list[Reading]:
    """Read at most `micro_batch` samples of one model input size: a forward of them and of each of their shuffles, and
    a backward of the last block for each class of the sample that has most.

    Raises:
        ValueError: more samples than fit.
    """
    if not 0 < len(samples) <= engine.micro_batch:
        raise ValueError(f"read_samples: expected 1 to {engine.micro_batch} samples, found {len(samples)}")
    config, backbone = engine.config, engine.backbone
    allowed = engine.bank.allowed([s.labels for s in samples] + [()] * (engine.micro_batch - len(samples)))
    images = batch_of([s.pixels for s in samples], engine)
    dense = backbone.encode(images, config.n_attention)
    tail = run_tail(backbone, dense.last_input, config.cam_layer)
    embeddings = tail.embeddings
    mixed = _mixed_embeddings(samples, images, embeddings, engine, seed)
    readings = Readings(
        embeddings=embeddings,
        log_p=engine.bank.log_probabilities(embeddings, allowed, engine.scale),
        mixed_embeddings=mixed,
        mixed_log_p=torch.stack([engine.bank.log_probabilities(e, allowed, engine.scale) for e in mixed]),
        own=allowed & engine.bank.is_class,
    )
    scores, gaps = image_scores(config.image_score, readings).tolist(), readings.gaps.tolist()  # one wait for a GPU
    wanted = [s.mask is not None and _passes(scores[i], config.asf_gate) for i, s in enumerate(samples)]
    maps = _no_maps(wanted)
    if engine.overlap is None:
        maps = _class_maps(samples, wanted, dense, tail, engine)
    swaps = swapped_classes(samples, dense, engine) if config.swap_check else [None] * len(samples)
    h_orig, h_mix = entropy(readings.log_p).tolist(), entropy(readings.mixed_log_p).mean(dim=0).tolist()
    vectors = embeddings.cpu().numpy()
    return [
        Reading(
            h_orig=h_orig[i],
            h_mix=h_mix[i],
            pcs=gaps[i],
            image_score=scores[i],
            embedding=vectors[i],
            maps=maps[i],
            swap_class_id=swaps[i],
        )
        for i in range(len(samples))
    ]


def batch_of(pixels: Sequence[Tensor], engine: Engine) -> Tensor:
    """Stack, pad with black images to `micro_batch`, normalise."""
    stack = torch.zeros(engine.micro_batch, *pixels[0].shape, dtype=torch.uint8)
    stack[: len(pixels)] = torch.stack(list(pixels))
    device = engine.backbone.device
    pinned = stack.pin_memory() if device.type == "cuda" else stack
    return engine.backbone.normalise(pinned.to(device, non_blocking=True))


def _mixed_embeddings(
    samples: Sequence[Prepared], images: Tensor, embeddings: Tensor, engine: Engine, seed: int
) -> Tensor:
    """Embeddings (R, micro_batch, E) after R shuffles, each sample with permutations of its own. A copy that equals its
    image has its image's of `embeddings`, to the bit: whose attention is wanted goes another way through the tower.
    """
    config, backbone = engine.config, engine.backbone
    orders = [draw_orders(config.perturbation, seed, s.sample_id, config.permutations, config.grid) for s in samples]
    found = []
    for turn in range(config.permutations):
        shuffled = images.clone()
        for place, order in enumerate(orders):
            shuffled[place] = perturb(config.perturbation, images[place], order[turn])
        same = (shuffled == images).flatten(1).all(dim=1, keepdim=True)
        found.append(torch.where(same, embeddings, backbone.embed(shuffled)))
    return torch.stack(found)


def _passes(score: float, gate: float | None) -> bool:
    return gate is None or score > gate


def _no_maps(wanted: Sequence[bool]) -> list[NDArray[np.float32] | None]:
    """Maps of no class, where masks are scored and CLIP is not asked for its own."""
    return [np.empty((0, 1, 1), np.float32) if wants else None for wants in wanted]


def _class_maps(
    samples: Sequence[Prepared], wanted: Sequence[bool], dense: DenseFeatures, tail: Tail, engine: Engine
) -> list[NDArray[np.float32] | None]:
    labels = [s.labels if wants else () for s, wants in zip(samples, wanted, strict=True)]
    blanks = [()] * (engine.micro_batch - len(samples))
    response = clip_response(
        engine.backbone,
        dense,
        engine.bank,
        [*labels, *blanks],
        scale=engine.scale,
        box_threshold=engine.box_threshold,
        edge_fix=engine.config.edge_fix,
        layer=engine.config.cam_layer,
        tail=tail,
    )
    maps = response.spread.cpu().numpy()
    owners = np.array(response.pair_image, int)
    return [maps[np.flatnonzero(owners == i)] if wants else None for i, wants in enumerate(wanted)]


def swapped_classes(samples: Sequence[Prepared], dense: DenseFeatures, engine: Engine) -> list[int | None]:
    """For each sample the absent class that fits one of its annotated regions better than the region's own class, or
    None.

    A region's embedding is the mean of its patch embeddings, weighted by how much of a patch it covers. An absent
    class (not among the sample's labels) wins when its cosine leads by more than `swap_margin`; the largest lead
    decides.
    """
    with torch.no_grad():
        patches = engine.backbone.patch_embeddings(dense.last_input).cpu().numpy()
    texts = engine.bank.matrix[: len(engine.bank.class_ids)].cpu().numpy()
    return [_swapped_class(s, patches[i], texts, dense.grid, engine) for i, s in enumerate(samples)]


def _swapped_class(
    sample: Prepared, patches: NDArray[np.float32], texts: NDArray[np.float32], grid: tuple[int, int], engine: Engine
) -> int | None:
    absent = np.array([i not in sample.labels for i in engine.bank.class_ids])
    if sample.mask is None or not absent.any():
        return None
    best: tuple[float, int | None] = (engine.config.swap_margin, None)
    for class_id in sample.mask_classes:
        region = (sample.mask == class_id).astype(np.float32)
        cover = cv2.resize(region, grid[::-1], interpolation=cv2.INTER_AREA).ravel()
        embedding = (patches * cover[:, None]).sum(axis=0)
        cosines = (texts * embedding).sum(axis=1) / max(float(np.linalg.norm(embedding)), 1e-12)
        rival = int(np.where(absent, cosines, -np.inf).argmax())
        lead = float(cosines[rival] - cosines[engine.bank.row_of[class_id]])
        best = max(best, (lead, engine.bank.class_ids[rival]), key=lambda found: found[0])
    return best[1]
