"""Pseudo-labels of a batch of crops, made on the fly from the frozen CLIP and the decoder's affinity."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskmill.data_contracts import LabelSpace
from maskmill.trainers.weclip.config import Config
from maskmill.trainers.weclip.model import Weclip
from maskmill.trainers.weclip.refine import PLAIN_MAPS, plain_attention, pseudo_labels, refined_attention
from maskmill.vision.clip import ClassResponse, DenseFeatures, TextBank, attention_affinity, clip_response


@dataclass(frozen=True)
class PseudoLabeler:
    """Pseudo-labels of a batch of crops from the frozen CLIP and, after the kick-in, from the decoder's affinity."""

    model: Weclip
    bank: TextBank
    space: LabelSpace
    config: Config

    @property
    def n_attention(self) -> int:
        return max(PLAIN_MAPS, self.config.candidates)

    def __call__(
        self, dense: DenseFeatures, rgb: Tensor, tags: Sequence[Sequence[int]], affinity: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Labels int64 (B, H, W) for crops `rgb` (B, 3, H, W), and the maps that RFM kept, bool (B, m).

        `affinity`: logits (B, n, n) of A_f; None = before the kick-in.
        """
        config = self.config
        response, kept = self.maps(dense, self._present(dense, tags), affinity)
        labels = pseudo_labels(
            response.spread,
            response.pair_image,
            response.pair_class,
            rgb.float(),
            self.space.background_id or 0,
            iterations=config.par_iterations,
            dilations=config.par_dilations,
            stride=config.par_stride,
            ignore_below=config.ignore_below,
            background_power=config.background_power,
        )
        return labels, kept

    def maps(
        self, dense: DenseFeatures, shown: Sequence[Sequence[int]], affinity: Tensor | None
    ) -> tuple[ClassResponse, Tensor | None]:
        """Class maps of the classes of each image before PAR, and the maps that RFM kept. `affinity` as above."""
        config = self.config
        kept = None
        if affinity is None:
            attention = plain_attention(dense.block_attention)
        else:
            attention, kept = refined_attention(dense.block_attention, affinity, config.candidates, config.filter)
        response = clip_response(
            self.model.backbone,
            dense,
            self.bank,
            shown,
            scale=self.scale,
            box_threshold=config.box_threshold or self.space.cam_box_threshold,
            edge_fix=config.edge_fix,
            affinity=attention_affinity(attention),
            layer=config.cam_layer,
            contrast=config.contrast,
        )
        return response, kept

    @property
    def scale(self) -> float:
        """Factor from cosine to logit."""
        temperature = self.config.temperature
        return self.model.backbone.logit_scale if temperature is None else 1 / temperature

    def _present(self, dense: DenseFeatures, tags: Sequence[Sequence[int]]) -> list[list[int]]:
        """The tags that pass the gate: a crop need not show all that its image shows."""
        if self.config.presence_gate is None:
            return [list(ids) for ids in tags]
        with torch.no_grad():
            scores = self.model.backbone.tail(dense.last_input)
            p = self.bank.log_probabilities(scores, self.bank.allowed(tags), self.scale).exp()
        rows = [self.bank.rows(ids) for ids in tags]
        gate = self.config.presence_gate
        return [
            [class_id for class_id, row in zip(ids, own, strict=True) if float(p[image, row]) >= gate]
            for image, (ids, own) in enumerate(zip(tags, rows, strict=True))
        ]
