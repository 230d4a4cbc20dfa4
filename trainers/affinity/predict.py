"""From images to graphs with a trained affinity network."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import LabelSpace, Uint8Array
from maskmill.trainers.affinity.model import STRIDE, AffinityNet, Cells, ImageGraph
from maskmill.trainers.engine import evaluating, normalise
from maskmill.trainers.engine.batches import Rgb


def pad_image(pixels: Tensor, padding: tuple[int, int, int, int], cells: Cells) -> Tensor:
    """Normalised images (B, 3, H, W) with their last pixels repeated, or (`released`) with zeros."""
    return F.pad(pixels, padding) if cells == "released" else F.pad(pixels, padding, mode="replicate")


@dataclass(frozen=True)
class AffinityPredictor:
    """A trained affinity network, ready to make graphs. One image a forward: companions change nothing."""

    model: AffinityNet
    space: LabelSpace
    mean: Rgb
    std: Rgb
    radius: int
    device: torch.device

    def predict(self, images: Sequence[Uint8Array]) -> list[ImageGraph]:
        """Graphs of uint8 (H, W, 3) images of any sizes, on the CPU; cells of 8 pixels, the last ones padded.

        Raises:
            ValueError: an image of another shape or dtype; names its position.
        """
        for position, image in enumerate(images):
            if image.dtype != "uint8" or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"image {position}: expected uint8 (H, W, 3), found {image.dtype} {image.shape}")
        with evaluating(self.model):
            return [self._graph(image) for image in images]

    def _graph(self, image: Uint8Array) -> ImageGraph:
        height, width = image.shape[:2]
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        pixels = pad_image(normalise(image, self.mean, self.std)[None], padding, self.model.cells)
        graph = self.model.graphs(pixels.to(self.device), self.radius)[0]
        return ImageGraph(graph.nodes.cpu(), graph.affinity.cpu(), graph.prior.cpu())
