"""One face for the image towers that open_clip knows: tokens, blocks, attention maps and the way from tokens to an
embedding.

Shapes: B images, L = prefix + n tokens (class and register tokens first), n = h*w patches, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

Grid = tuple[int, int]


def resize_positions(positions: Tensor, old: Grid, new: Grid) -> Tensor:
    """Position embeddings (old_h*old_w, D) for another grid: bilinear, align_corners=False, no antialias (as SDS and
    WeCLIP do).
    """
    if old == new:
        return positions
    grid = positions.reshape(1, old[0], old[1], -1).permute(0, 3, 1, 2).float()
    grid = functional.interpolate(grid, size=new, mode="bilinear", align_corners=False)
    return grid.permute(0, 2, 3, 1).reshape(new[0] * new[1], -1).to(positions.dtype)


class Tower(ABC):
    """An image tower as blocks over tokens. `stride` is pixels per token."""

    stride: int
    width: int
    prefix: int
    blocks: Sequence[nn.Module]

    @abstractmethod
    def tokens(self, images: Tensor) -> tuple[Tensor, Grid]:
        """Images (B, 3, H, W), normalised, to the input of the first block (B, L, D) and the patch grid."""

    @abstractmethod
    def norm_in(self, block: nn.Module, x: Tensor) -> Tensor:
        """The block's first LayerNorm."""

    @abstractmethod
    def from_norm(self, block: nn.Module, z: Tensor, x: Tensor) -> Tensor:
        """The block from z = norm_in(x) on; the residual path takes x."""

    @abstractmethod
    def attention(self, block: nn.Module, z: Tensor) -> Tensor:
        """Head-mean attention weights (B, L, L) of a block whose normalised input is z; rows sum to 1."""

    def from_norm_attended(self, block: nn.Module, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`from_norm`, and `attention`; where the tower can, both by the same products."""
        return self.from_norm(block, z, x), self.attention(block, z)

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Output of the last block (B, L, D) to (B, E): final norm, mean over PATCH tokens, projection. Not
        normalised.
        """

    @abstractmethod
    def embed_patches(self, x: Tensor) -> Tensor:
        """Output of the last block (B, L, D) to one embedding per patch (B, n, E). Not normalised."""
