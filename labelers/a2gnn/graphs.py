"""Graphs without a trained affinity network: an encoder's own features, and how much they differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from maskmill.data_contracts import Uint8Array
from maskmill.labelers.a2gnn.config import Config
from maskmill.trainers.affinity import ImageGraph
from maskmill.trainers.affinity.model import STRIDE, AffinityNet
from maskmill.trainers.affinity.pairs import feature_distance, pairs_inside, to_window
from maskmill.trainers.affinity.predict import pad_image
from maskmill.trainers.engine import normalise
from maskmill.vision.segmenters import encoder_normalisation


@dataclass(frozen=True, eq=False)
class PlainGraphs:
    """Nodes are the encoder's levels at stride 8, edges exp(-sharpness * |difference|)."""

    model: AffinityNet
    config: Config
    device: torch.device

    @classmethod
    def load(cls, config: Config, device: torch.device) -> "PlainGraphs":
        model = AffinityNet(
            config.encoder, config.weights, None, 1, frozen=True, nodes=config.nodes, cells=config.cells
        )
        return cls(model.eval().to(device), config, device)

    @torch.no_grad()
    def predict(self, images: Sequence[Uint8Array]) -> list[ImageGraph]:
        """One graph an image, uint8 (H, W, 3) of any sizes."""
        return [self._graph(image) for image in images]

    def _graph(self, image: Uint8Array) -> ImageGraph:
        mean, std = encoder_normalisation(self.config.encoder)
        padding = (0, -image.shape[1] % STRIDE, 0, -image.shape[0] % STRIDE)
        pixels = pad_image(normalise(image, mean, std)[None], padding, self.config.cells).to(self.device)
        nodes = self.model.plain_nodes(pixels, self.model.encode(pixels))
        distance = self.config.plain_sharpness * feature_distance(nodes, self.config.radius) * nodes.shape[1] ** 0.5
        inside = pairs_inside(torch.ones_like(nodes[:, 0], dtype=torch.bool), self.config.radius)
        window = to_window(torch.exp(-distance) * inside, self.config.radius, 1.0)
        return ImageGraph(nodes[0].cpu(), window[0].cpu(), nodes.new_zeros(0, *nodes.shape[2:]).cpu())
