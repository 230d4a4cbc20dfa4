"""The image towers that open_clip knows, each behind the one face of `tower.Tower`.

Every tower that is not known to keep the face's meanings is refused when it is loaded, not discovered in wrong numbers
later.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from maskmill.vision.clip.attention import attend, head_mean, is_plain
from maskmill.vision.clip.tower import Grid, Tower, resize_positions

__all__ = ["ConvTower", "Grid", "NativeVit", "TimmVit", "Tower", "adapt", "resize_positions"]

PROBE_SIDE = 128
CONV_AFFINITY_TEMPERATURE = 0.1  # cosine / temperature, softmax over patches, for towers without attention


class NativeVit(Tower):
    """open_clip's own VisionTransformer."""

    def __init__(self, visual: Any) -> None:
        if visual.attn_pool is not None or visual.final_ln_after_pool:
            raise ValueError(
                "open_clip VisionTransformer with attentional pooling: expected class-token or mean pooling over "
                "ln_post; choose a model without `attentional_pool` and `final_ln_after_pool`"
            )
        self.visual = visual
        self.blocks = visual.transformer.resblocks
        for block in self.blocks:
            if type(block).__name__ != "ResidualAttentionBlock" or not isinstance(block.attn, nn.MultiheadAttention):
                raise ValueError(f"unknown block {type(block).__name__}: expected open_clip's ResidualAttentionBlock")
        self.stride = _square(visual.patch_size)
        self.width = visual.conv1.out_channels
        self.prefix = 1

    def tokens(self, images: Tensor) -> tuple[Tensor, Grid]:
        v = self.visual
        maps = v.conv1(images)
        grid = (maps.shape[2], maps.shape[3])
        patches = maps.flatten(2).transpose(1, 2)
        classes = v.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        positions = v.positional_embedding.to(patches.dtype)
        positions = torch.cat([positions[:1], resize_positions(positions[1:], v.grid_size, grid)])
        return v.ln_pre(torch.cat([classes, patches], dim=1) + positions), grid

    def norm_in(self, block: Any, x: Tensor) -> Tensor:
        z: Tensor = block.ln_1(x)
        return z

    def from_norm(self, block: Any, z: Tensor, x: Tensor) -> Tensor:
        x = x + block.ls_1(block.attention(q_x=z))
        out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
        return out

    def from_norm_attended(self, block: Any, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        attn = block.attn
        heads, width = attn.num_heads, z.shape[-1]
        qkv = functional.linear(z, attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = qkv.reshape(*z.shape[:2], 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mixed, weights = attend(q * (width // heads) ** -0.5, k, v)
        x = x + block.ls_1(functional.linear(mixed, attn.out_proj.weight, attn.out_proj.bias))
        return x + block.ls_2(block.mlp(block.ln_2(x))), weights

    def attention(self, block: Any, z: Tensor) -> Tensor:
        heads, width = block.attn.num_heads, z.shape[-1]
        weight, bias = block.attn.in_proj_weight[: 2 * width], block.attn.in_proj_bias[: 2 * width]
        qk = functional.linear(z, weight, bias).reshape(*z.shape[:2], 2, heads, width // heads)
        q, k = qk.permute(2, 0, 3, 1, 4)
        return head_mean(q * (width // heads) ** -0.5, k)

    def embed(self, x: Tensor) -> Tensor:
        out: Tensor = self.visual.ln_post(x)[:, 1:].mean(dim=1) @ self.visual.proj
        return out

    def embed_patches(self, x: Tensor) -> Tensor:
        out: Tensor = self.visual.ln_post(x)[:, 1:] @ self.visual.proj
        return out


class TimmVit(Tower):
    """A timm VisionTransformer, plain or hybrid (convolutional stem), inside open_clip's TimmModel."""

    def __init__(self, visual: Any) -> None:
        trunk = visual.trunk
        self.trunk, self.head = trunk, visual.head
        if hasattr(visual.head, "pool"):
            raise ValueError("timm tower with open_clip's attention pooling: expected `timm_pool` avg, token or map")
        self.blocks = trunk.blocks
        for block in self.blocks:
            missing = [name for name in ("norm1", "attn", "norm2", "mlp") if not hasattr(block, name)]
            if missing or not hasattr(block.attn, "qkv"):
                raise ValueError(
                    f"unknown timm block {type(block).__name__}: expected norm1, attn.qkv, norm2, mlp; lacks {missing}"
                )
        if getattr(trunk, "rope", None) is not None:
            raise ValueError("timm tower with rotary positions: choose one with absolute or no positions")
        if hasattr(trunk.patch_embed, "strict_img_size"):
            trunk.patch_embed.strict_img_size = False  # any grid: positions are resized per call
        self.stride = _square(trunk.patch_embed.feat_ratio())
        self.width = int(trunk.embed_dim)
        self.prefix = int(getattr(trunk, "num_prefix_tokens", 0))

    def tokens(self, images: Tensor) -> tuple[Tensor, Grid]:
        trunk = self.trunk
        grid = (images.shape[2] // self.stride, images.shape[3] // self.stride)
        patches = trunk.patch_embed(images[:, :, : grid[0] * self.stride, : grid[1] * self.stride])
        if patches.ndim == 4:
            grid = (patches.shape[1], patches.shape[2])
            patches = patches.flatten(1, 2)
        if patches.shape[1] != grid[0] * grid[1]:
            raise ValueError(f"{patches.shape[1]} tokens for a grid of {grid}: sides must divide by {self.stride}")
        x = self._with_positions(patches, grid)
        out: Tensor = trunk.norm_pre(x) if hasattr(trunk, "norm_pre") else x
        return out, grid

    def _with_positions(self, patches: Tensor, grid: Grid) -> Tensor:
        trunk = self.trunk
        names = ("cls_token", "reg_token")
        prefix = [getattr(trunk, name) for name in names if getattr(trunk, name, None) is not None]
        prefix = [token.to(patches.dtype).expand(len(patches), -1, -1) for token in prefix]
        if getattr(trunk, "pos_embed", None) is None:
            return torch.cat([*prefix, patches], dim=1)
        positions = trunk.pos_embed[0].to(patches.dtype)
        own = 0 if getattr(trunk, "no_embed_class", False) else self.prefix
        old = trunk.patch_embed.grid_size
        spatial = resize_positions(positions[own:], (int(old[0]), int(old[1])), grid)
        if own == 0:
            return torch.cat([*prefix, patches + spatial], dim=1)
        return torch.cat([*prefix, patches], dim=1) + torch.cat([positions[:own], spatial])

    def norm_in(self, block: Any, x: Tensor) -> Tensor:
        z: Tensor = block.norm1(x)
        return z

    def from_norm(self, block: Any, z: Tensor, x: Tensor) -> Tensor:
        x = x + _optional(block, "ls1", block.attn(z))
        return x + _optional(block, "ls2", block.mlp(block.norm2(x)))

    def from_norm_attended(self, block: Any, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        attn = block.attn
        if not is_plain(attn):
            return super().from_norm_attended(block, z, x)
        q, k, v = attn.qkv(z).reshape(*z.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed, weights = attend(attn.q_norm(q) * attn.scale, attn.k_norm(k), v)
        x = x + _optional(block, "ls1", attn.proj(attn.norm(mixed)))
        return x + _optional(block, "ls2", block.mlp(block.norm2(x))), weights

    def attention(self, block: Any, z: Tensor) -> Tensor:
        attn = block.attn
        q, k, _ = attn.qkv(z).reshape(*z.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = _optional(attn, "q_norm", q), _optional(attn, "k_norm", k)
        return head_mean(q * attn.scale, k)

    def embed(self, x: Tensor) -> Tensor:
        x = self.trunk.norm(x)
        if getattr(self.trunk, "attn_pool", None) is not None:  # SigLIP: its own pooling, over the patch tokens
            pooled = self.trunk.attn_pool(x[:, self.prefix :])
        else:
            pooled = x[:, self.prefix :].mean(dim=1)
        return self._project(pooled)

    def embed_patches(self, x: Tensor) -> Tensor:
        return self._project(self.trunk.norm(x)[:, self.prefix :])

    def _project(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.trunk.head(_optional(self.trunk, "fc_norm", x)))
        return out


class ConvTower(Tower):
    """A convolutional timm tower with mean pooling: the last feature map serves as tokens, its self-similarity as
    attention.
    """

    def __init__(self, visual: Any) -> None:
        self.trunk, self.head = visual.trunk, visual.head
        self.blocks = ()
        self.prefix = 0
        self.width = int(visual.trunk.num_features)
        shape = _probe(visual.trunk)
        if len(shape) != 4 or shape[1] != self.width or hasattr(visual.head, "pool"):
            raise ValueError(
                f"unknown tower {type(visual.trunk).__name__}: expected transformer blocks, or a feature map "
                f"(B, {self.width}, h, w) with mean pooling, found {shape}"
            )
        self.stride = PROBE_SIDE // shape[2]

    def tokens(self, images: Tensor) -> tuple[Tensor, Grid]:
        maps = self.trunk.forward_features(images)
        return maps.flatten(2).transpose(1, 2), (maps.shape[2], maps.shape[3])

    def norm_in(self, block: Any, x: Tensor) -> Tensor:
        raise NotImplementedError("a convolutional tower has no blocks")

    def from_norm(self, block: Any, z: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError("a convolutional tower has no blocks")

    def attention(self, block: Any, z: Tensor) -> Tensor:
        unit = functional.normalize(z - z.mean(dim=1, keepdim=True), dim=-1)
        return (unit @ unit.transpose(1, 2) / CONV_AFFINITY_TEMPERATURE).softmax(dim=-1)

    def embed(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.trunk.forward_head(x.transpose(1, 2).unsqueeze(-1)))
        return out

    def embed_patches(self, x: Tensor) -> Tensor:
        batch, n, width = x.shape
        return self.embed(x.reshape(batch * n, 1, width)).reshape(batch, n, -1)


def adapt(visual: nn.Module) -> Tower:
    """The adapter for an open_clip image tower.

    Raises:
        ValueError: the tower is neither an open_clip ViT, a timm ViT or hybrid, nor a mean-pooled convolutional timm
        model.
    """
    kind = type(visual).__name__
    if kind == "VisionTransformer":
        return NativeVit(visual)
    if kind == "TimmModel":
        return TimmVit(visual) if _is_vit(visual.trunk) else ConvTower(visual)
    raise ValueError(f"unknown image tower {kind}: expected open_clip's VisionTransformer or TimmModel")


def _probe(trunk: Any) -> tuple[int, ...]:
    """Shape of a trunk's last feature map for a square image of side PROBE_SIDE; () when it takes no such image."""
    try:
        with torch.inference_mode():
            return tuple(trunk.forward_features(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE)).shape)
    except (AssertionError, RuntimeError):
        return ()


def _is_vit(trunk: Any) -> bool:
    blocks = getattr(trunk, "blocks", None)
    return blocks is not None and hasattr(trunk, "patch_embed") and hasattr(blocks[0], "attn")


def _optional(module: Any, name: str, x: Tensor) -> Tensor:
    out: Tensor = getattr(module, name)(x) if hasattr(module, name) else x
    return out


def _square(value: Any) -> int:
    sides = value if isinstance(value, tuple) else (value, value)
    if sides[0] != sides[1]:
        raise ValueError(f"expected square patches, found {sides}")
    return int(sides[0])
