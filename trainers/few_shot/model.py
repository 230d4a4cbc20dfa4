"""The trained part: reduced features, a decoder, and the ways from supports to a query's logits."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from maskmill.trainers.few_shot.base import (
    Decoded,
    Ensemble,
    HdmnetDecoder,
    MatchingDecoder,
    PyramidDecoder,
    gram_distance,
    masked_mean,
)
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
    """Frozen features in, logits out. `channels` of the features, the first `finer` of the finer level; `priors` maps.

    Shapes: query (B, C, h, w); supports (B, K, C, h, w); masks (B, K, 1, h, w); priors (B, P, h, w).
    """

    decoder: PyramidDecoder | MatchingDecoder | HdmnetDecoder

    def __init__(self, config: Config, channels: int, priors: int, finer: int = 0) -> None:
        super().__init__()
        self.config, self.finer = config, finer
        self.ensemble = Ensemble(config.shots, config.gram_shots) if config.base_learner is not None else None
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

    def forward(
        self,
        query: Tensor,
        supports: Tensor,
        masks: Tensor,
        priors: Tensor,
        base: Tensor | None = None,
        left_out: Tensor | None = None,
        canvases: Tensor | None = None,
    ) -> Decoded:
        """The base network: prototypes of all supports are averaged. With a base learner also its logits `base`
        (B, 1 + classes, h, w) and the channels `left_out` int64 (B,) of the classes asked for, 0 = it knows none.
        `canvases` (B, K, 1, H, W): masks that HDMNet's stages are matched by, in place of the grid's.
        """
        shots = [self.down_support(s) for s in supports.unbind(1)]
        kept = list(masks.unbind(1))
        prototype = torch.stack([masked_mean(s, m) for s, m in zip(shots, kept, strict=True)]).mean(dim=0)
        if not isinstance(self.decoder, PyramidDecoder):
            given = (self.down_query(query), shots, kept, prototype, priors)
            finest = {} if canvases is None else {"canvases": list(canvases.unbind(1))}
            decoded: Decoded = self.decoder(*given, **finest)
        else:
            decoded = self.decoder(self.down_query(query), (prototype,) * self.decoder.slots, priors)
        if self.ensemble is None or base is None:
            return decoded
        distances = gram_distance(query[:, : self.finer], supports[:, :, : self.finer])
        return replace(decoded, final=self.ensemble(decoded.logits, base, distances, left_out))

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
