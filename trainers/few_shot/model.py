"""The trained part: reduced features, a decoder, and the ways from supports to a query's logits."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskmill.trainers.few_shot.base import Decoded, HdmnetDecoder, MatchingDecoder, PyramidDecoder, masked_mean
from maskmill.trainers.few_shot.config import Config
from maskmill.trainers.few_shot.scl import guide, own_merge_alone, second_look, support_scores

Vectors = tuple[Tensor, Tensor]  # primary and auxiliary


@dataclass(frozen=True)
class SelfGuided:
    """What training SCL needs: the query, and the support's first and second segmentation."""

    query: Decoded
    first: Decoded
    second: Decoded


class FewShotNet(nn.Module):
    """Frozen features in, logits out. `channels` of the features, `priors` maps.

    Shapes: query (B, C, h, w); supports (B, K, C, h, w); masks (B, K, 1, h, w); priors (B, P, h, w).
    """

    decoder: PyramidDecoder | MatchingDecoder | HdmnetDecoder

    def __init__(self, config: Config, channels: int, priors: int) -> None:
        super().__init__()
        self.config = config
        self.down_query = self._reduce(channels)
        self.down_support = self._reduce(channels)
        if config.base == "pfenet":
            slots = 2 if config.scl else 1
            self.decoder = PyramidDecoder(
                config.width,
                slots,
                priors,
                config.scales,
                support_path=config.scl,
                prior_gain=config.prior_gain,
                through_grid=config.through_grid,
            )
        elif config.base == "hdmnet_released":
            self.decoder = HdmnetDecoder(config.width, priors)
        else:
            self.decoder = MatchingDecoder(config.width, priors)

    def _reduce(self, channels: int) -> nn.Sequential:
        conv = nn.Conv2d(channels, self.config.width, 1, bias=False)
        return nn.Sequential(conv, nn.ReLU(inplace=True), nn.Dropout2d(self.config.dropout))

    def forward(self, query: Tensor, supports: Tensor, masks: Tensor, priors: Tensor) -> Decoded:
        """The base network: prototypes of all supports are averaged."""
        shots = [self.down_support(s) for s in supports.unbind(1)]
        kept = list(masks.unbind(1))
        prototype = torch.stack([masked_mean(s, m) for s, m in zip(shots, kept, strict=True)]).mean(dim=0)
        if not isinstance(self.decoder, PyramidDecoder):
            decoded: Decoded = self.decoder(self.down_query(query), shots, kept, prototype, priors)
        else:
            decoded = self.decoder(self.down_query(query), (prototype,) * self.decoder.slots, priors)
        return decoded

    def self_guided(self, query: Tensor, supports: Tensor, masks: Tensor, priors: Tensor) -> SelfGuided:
        """SCL with one support, for training."""
        decoder, config = self._pyramid(), self.config
        support = self.down_support(supports[:, 0])
        look = own_merge_alone(decoder) if config.support_detached else decoder
        guided = guide(look, support, masks[:, 0], config.split)
        second = second_look(look, support, guided, config.inter_scale_source)
        return SelfGuided(decoder(self.down_query(query), guided.vectors, priors), guided.first, second)

    @torch.no_grad()
    def guides(self, supports: Tensor, masks: Tensor, targets: Tensor) -> tuple[Tensor, Vectors]:
        """U (K,) of one support set, 1 for a lone support, and the two vectors (K, width, 1, 1) of each: supports
        (K, C, h, w), masks (K, 1, h, w), targets (K, H, W).
        """
        config, features = self.config, self.down_support(supports)
        if len(supports) == 1:
            alone = guide(self._pyramid(), features, masks, config.split)
            return torch.ones(1, device=supports.device), alone.vectors
        scores, guides = support_scores(
            self._pyramid(), features, masks, targets, config.cross_iou, config.inter_scale_source, config.split
        )
        return scores, guides.vectors

    @torch.no_grad()
    def guided(self, query: Tensor, vectors: Vectors, priors: Tensor) -> Tensor:
        """1-shot logits (K, 2, h, w) of one query (1, C, h, w) by the vectors of K supports, priors (K, P, h, w)."""
        reduced = self.down_query(query).expand(len(priors), -1, -1, -1)
        logits: Tensor = self._pyramid()(reduced, vectors, priors).logits
        return logits

    def _pyramid(self) -> PyramidDecoder:
        if not isinstance(self.decoder, PyramidDecoder) or self.decoder.slots != 2:
            raise ValueError("expected a network trained with scl: true, found a base network")
        return self.decoder
