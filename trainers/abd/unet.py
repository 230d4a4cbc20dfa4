"""The U-Net of the release of ABD, which is that of SSL4MIS: five levels, 16 to 256 channels, 1.8 million weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RELEASED = "ssl4mis_unet"
WIDTHS = (16, 32, 64, 128, 256)
DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)


def block(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    """Twice 3x3 convolution, batch norm and leaky ReLU, with dropout between."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(),
    )


class Encoder(nn.Module):
    """Grey images (B, 1, H, W) to five maps, finest first; every level but the first after 2x2 maximum pooling."""

    output_stride = 16

    def __init__(self) -> None:
        super().__init__()
        pairs = zip((1, *WIDTHS), WIDTHS, DROPOUT, strict=False)
        self.levels = nn.ModuleList(block(inputs, outputs, dropout) for inputs, outputs, dropout in pairs)

    def forward(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for level in self.levels:
            x = level(F.max_pool2d(x, 2) if found else x)
            found.append(x)
        return found


class Up(nn.Module):
    """A coarse map, 1x1 to the finer one's width and enlarged (align_corners), beside the finer one, then a block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(inputs, outputs, 1)
        self.block = block(2 * outputs, outputs, 0.0)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        up = F.interpolate(self.narrow(coarse), scale_factor=2, mode="bilinear", align_corners=True)
        out: Tensor = self.block(torch.cat([fine, up], dim=1))
        return out


class ReleasedUnet(nn.Module):
    """Images (B, 3, H, W) whose first channel counts, sides multiples of 16, to logits (B, classes, H, W)."""

    requires_divisible_input_shape = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.ups = nn.ModuleList(Up(a, b) for a, b in zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True))
        self.head = nn.Conv2d(WIDTHS[0], classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        *fine, x = self.encoder(images[:, :1])
        for up, level in zip(self.ups, reversed(fine), strict=True):
            x = up(x, level)
        logits: Tensor = self.head(x)
        return logits
