"""Any open_clip model as a frozen dense encoder: block inputs, attention maps, and image embeddings pooled over
patch tokens.

    >>> backbone = load_clip("ViT-B-16-quickgelu", "openai")
    >>> dense = backbone.encode(images, n_attention=8)  # images (B, 3, H, W), normalised, any grid
    >>> embeddings = backbone.tail(dense.last_input)  # (B, E), unit length
"""

import functools
import hashlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from maskmill.vision.clip.adapters import Grid, Tower, adapt
from maskmill.vision.clip.attention import mean
from maskmill.vision.clip.opening import LOCK, open_model, open_tokenizer
from maskmill.vision.pretrained import Precision


@dataclass(frozen=True)
class DenseFeatures:
    """What the frozen tower gives for B images with n = h*w patches and L = prefix + n tokens of width D.

    `attention` (B, n, n) is the mean over heads and over the last n blocks, patch part, rows not renormalised; None
    when not asked for. `block_outputs` (output of each block but the last) and
    `block_attention` (each of the last n blocks) are filled when asked for.
    """

    last_input: Tensor
    attention: Tensor | None
    grid: Grid
    prefix: int
    block_outputs: tuple[Tensor, ...] = ()
    block_attention: tuple[Tensor, ...] = ()


class ClipBackbone:
    """A frozen CLIP. All methods are safe to call from several threads."""

    def __init__(self, model: Any, tokenizer: Any, name: str, precision: Precision = "fp32") -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.precision = precision
        self.tower: Tower = adapt(model.visual)
        config = model.visual.preprocess_cfg
        self.mean: tuple[float, ...] = tuple(config["mean"])
        self.std: tuple[float, ...] = tuple(config["std"])
        size = config["size"]
        self.image_side = int(size if isinstance(size, int) else min(size))
        self.logit_scale = float(model.logit_scale.detach().exp())

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def patch(self) -> int:
        """Pixels per token side."""
        return self.tower.stride

    @property
    def n_blocks(self) -> int:
        return len(self.tower.blocks)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the weights in memory and of the precision."""
        digest = hashlib.blake2b(self.precision.encode(), digest_size=16)
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def encode(
        self,
        images: Tensor,
        n_attention: int = 8,
        *,
        per_block: bool = False,
        block_outputs: bool = False,
    ) -> DenseFeatures:
        """Run all blocks but the last on images (B, 3, H, W).

        Attention weights are materialised for the last `n_attention` blocks only (the last one included; it is not
        run further). Towers without blocks give the self-similarity of their feature map instead. No gradient.
        """
        with torch.no_grad():
            with self.autocast():
                x, grid = self.tower.tokens(images.to(self.device))
                if not self.tower.blocks:
                    return self._convolutional(x.float(), grid, n_attention)
                outputs, maps = [], []
                first = self.n_blocks - n_attention
                for index, block in enumerate(self.tower.blocks):
                    z, weights = self.tower.norm_in(block, x), None
                    if index == self.n_blocks - 1:
                        weights = self.tower.attention(block, z) if index >= first else None
                    elif index >= first:
                        x, weights = self.tower.from_norm_attended(block, z, x)
                    else:
                        x = self.tower.from_norm(block, z, x)
                    if weights is not None:
                        maps.append(weights[:, self.tower.prefix :, self.tower.prefix :])
                    if index < self.n_blocks - 1 and block_outputs:
                        outputs.append(x)
            return DenseFeatures(
                last_input=x.float(),
                attention=mean(maps),
                grid=grid,
                prefix=self.tower.prefix,
                block_outputs=tuple(o.float() for o in outputs),
                block_attention=tuple(maps) if per_block else (),
            )

    def _convolutional(self, x: Tensor, grid: Grid, n_attention: int) -> DenseFeatures:
        attention = self.tower.attention(torch.nn.Identity(), x) if n_attention else None
        return DenseFeatures(x, attention, grid, 0, (), () if attention is None else (attention,))

    def last_norm(self, x: Tensor) -> Tensor:
        """First LayerNorm of the last block, (B, L, D) -> (B, L, D): the layer on which class maps are taken."""
        return self.tower.norm_in(self.tower.blocks[-1], x) if self.tower.blocks else x

    def last_output(self, z: Tensor, x: Tensor) -> Tensor:
        """Output of the last block (B, L, D) from z = last_norm(x); x feeds the residual path only."""
        return self.tower.from_norm(self.tower.blocks[-1], z, x) if self.tower.blocks else z

    def pool(self, y: Tensor) -> Tensor:
        """Unit embeddings (B, E) from the last block's output: final norm, mean over PATCH tokens, projected."""
        return functional.normalize(self.tower.embed(y).float(), dim=-1)

    def tail_from_norm(self, z: Tensor, x: Tensor) -> Tensor:
        """Unit embeddings (B, E) from z = last_norm(x); x feeds the residual path only. Differentiable, fp32."""
        return self.pool(self.last_output(z, x))

    def tail(self, x: Tensor) -> Tensor:
        """Unit embeddings (B, E) from the last block's input (B, L, D)."""
        return self.tail_from_norm(self.last_norm(x), x)

    def patch_embeddings(self, x: Tensor) -> Tensor:
        """One unit embedding per patch (B, n, E) from the last block's input (B, L, D)."""
        return functional.normalize(self.tower.embed_patches(self.last_output(self.last_norm(x), x)).float(), dim=-1)

    def embed(self, images: Tensor) -> Tensor:
        """Unit embeddings (B, E) of normalised images (B, 3, H, W), with the fused attention kernel throughout. No
        gradient.
        """
        with torch.no_grad():
            return self.tail(self.encode(images, n_attention=0).last_input)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Unit text embeddings (T, E), fp32, one text at a time so that a text's embedding does not depend on its
        companions.
        """
        with torch.no_grad():
            rows = [self.model.encode_text(self.tokenizer([text]).to(self.device)).float() for text in texts]
            return functional.normalize(torch.cat(rows), dim=-1)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 or [0, 255] float images (B, 3, H, W) to the model's input."""
        mean = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1)
        return (images.float() / 255 - mean) / std

    def autocast(self) -> AbstractContextManager[Any]:
        """What the blocks before the last run in."""
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype)


def load_clip(
    model: str, pretrained: str | None = None, device: str = "cpu", precision: Precision = "fp32"
) -> ClipBackbone:
    """A frozen CLIP, loaded once a process per set of arguments.

    Args:
        model: an open_clip name ("ViT-B-16-quickgelu"), `hf-hub:` or `local-dir:` address, a folder that holds
            `open_clip_config.json`, or "starter" for the model that ships with the project.
        pretrained: open_clip tag or weight file for a plain name (OpenAI's `ViT-B-16.pt`, safetensors, a checkpoint);
            None gives seeded random weights.
        precision: of the blocks before the last; the last block and everything after it run in fp32.

    Raises:
        ValueError: an unknown model, tag or tower, or weights on a model with another activation than theirs.
        WeightsError: a file that cannot be read or does not fit.
        UnsafeModelError: a folder that brings code or pickles along.
    """
    with LOCK:
        return _load(model, pretrained, device, precision)


@functools.cache
def _load(model: str, pretrained: str | None, device: str, precision: Precision) -> ClipBackbone:
    clip, address = open_model(model, pretrained, device)
    return ClipBackbone(
        clip, open_tokenizer(address), model if pretrained is None else f"{model}/{pretrained}", precision
    )
