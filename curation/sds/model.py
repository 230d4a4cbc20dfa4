"""The model's part of SDS: embeddings, entropies and class maps of a few samples of one size.

Every forward has exactly the shape (micro_batch, 3, h, w), padded with blanks: a matrix kernel may round differently
for another shape,
but not for another place in the same shape. So a sample's numbers do not depend on its companions, to the bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curation.sds.config import SdsConfig
from curation.sds.images import Prepared
from curation.sds.pcs import entropy, shuffle_tiles, tile_permutations
from data_contracts import LabelSpace
from vision.clip import ClipBackbone, DenseFeatures, TextBank, build_text_bank, clip_response, load_clip

GPU_MICRO_BATCH = 16


@dataclass(frozen=True)
class Engine:
    """What scoring needs besides the samples, loaded once. `micro_batch`: images per forward."""

    backbone: ClipBackbone
    bank: TextBank
    config: SdsConfig
    space: LabelSpace
    micro_batch: int

    @property
    def scale(self) -> float:
        """Factor from cosine to logit."""
        return 1 / self.config.temperature if self.config.temperature else self.backbone.logit_scale

    @property
    def multiple(self) -> int:
        """What the sides of a model input must divide by, so that tile edges are patch edges."""
        return self.backbone.patch * self.config.grid

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


def make_engine(
    config: SdsConfig, space: LabelSpace, backbone: ClipBackbone | None = None, micro_batch: int | None = None
) -> Engine:
    """Load model and texts. On the CPU images go one by one (as fast as in batches there), on a GPU in batches of 16.

    Raises:
        ValueError: an `image_side` that does not divide into tiles of whole patches.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = backbone or load_clip(config.model, config.pretrained, device, config.precision)
    side, multiple = config.image_side, backbone.patch * config.grid
    if side is not None and side % multiple:
        raise ValueError(
            f"image_side: expected a multiple of {multiple} (grid {config.grid} x patch {backbone.patch}), found {side}"
        )
    bank = build_text_bank(space, backbone, config.templates, synonyms=config.synonyms)
    default = GPU_MICRO_BATCH if backbone.device.type == "cuda" else 1
    return Engine(backbone, bank, config, space, micro_batch or default)


def read_samples(samples: Sequence[Prepared], engine: Engine, seed: int) -> list[Reading]:
    """Read at most `micro_batch` samples of one model input size: two forwards (more with more permutations), one
    backward.

    Raises:
        ValueError: more samples than fit.
    """
    if not 0 < len(samples) <= engine.micro_batch:
        raise ValueError(f"read_samples: expected 1 to {engine.micro_batch} samples, found {len(samples)}")
    config, backbone = engine.config, engine.backbone
    allowed = engine.bank.allowed([s.labels for s in samples] + [()] * (engine.micro_batch - len(samples)))
    dense = backbone.encode(_batch([s.pixels for s in samples], engine), config.n_attention)
    with torch.no_grad():
        embeddings = backbone.tail(dense.last_input)
    h_orig = entropy(engine.bank.log_probabilities(embeddings, allowed, engine.scale))
    mixed = _mixed_entropies(samples, allowed, engine, seed)
    gaps = (h_orig - mixed).abs().mean(dim=0)
    wanted = [s.mask is not None and _passes(float(gaps[i]), config.asf_gate) for i, s in enumerate(samples)]
    maps = _class_maps(samples, wanted, dense, engine)
    return [
        Reading(
            h_orig=float(h_orig[i]),
            h_mix=float(mixed[:, i].mean()),
            pcs=float(gaps[i]),
            image_score=float(gaps[i]),
            embedding=embeddings[i].cpu().numpy(),
            maps=maps[i],
        )
        for i in range(len(samples))
    ]


def _batch(pixels: Sequence[Tensor], engine: Engine) -> Tensor:
    """Stack, pad with black images to `micro_batch`, normalise."""
    stack = torch.zeros(engine.micro_batch, *pixels[0].shape, dtype=torch.uint8)
    stack[: len(pixels)] = torch.stack(list(pixels))
    return engine.backbone.normalise(stack.to(engine.backbone.device))


def _mixed_entropies(samples: Sequence[Prepared], allowed: Tensor, engine: Engine, seed: int) -> Tensor:
    """Entropies (R, micro_batch) after R shuffles, each sample with permutations of its own."""
    config = engine.config
    orders = [tile_permutations(seed, s.sample_id, config.permutations, config.grid) for s in samples]
    rows = []
    for turn in range(config.permutations):
        shuffled = [shuffle_tiles(s.pixels, order[turn]) for s, order in zip(samples, orders, strict=True)]
        mixed = engine.backbone.embed(_batch(shuffled, engine))
        rows.append(entropy(engine.bank.log_probabilities(mixed, allowed, engine.scale)))
    return torch.stack(rows)


def _passes(score: float, gate: float | None) -> bool:
    return gate is None or score > gate


def _class_maps(
    samples: Sequence[Prepared], wanted: Sequence[bool], dense: DenseFeatures, engine: Engine
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
        chunk=None if engine.micro_batch == 1 else engine.micro_batch,
    )
    return [response.of(i).cpu().numpy() if wants else None for i, wants in enumerate(wanted)]
