"""What CLIP itself says of an image at test time, beside the decoder: which of the classes it shows, by a small head
that is trained along, and where they are, by the class maps that labels are made of. Neither is part of the release.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskmill.trainers.weclip.decoder import Decoded, affinity_logits
from maskmill.trainers.weclip.labels import PseudoLabeler
from maskmill.trainers.weclip.model import Weclip
from maskmill.vision.clip import DenseFeatures, TextBank

GAIN = 10.0  # of what is learnt beside the texts: a step of an adaptive optimiser moves each weight by the rate
SHOWN = 0.3  # a class counts as found from this share of the likeliest one's probability
FLOOR = 1e-3  # of a class's share of a pixel where CLIP's maps give it none


class TagHead(nn.Module):
    """Class probabilities of a whole image: softmax over classes of scale * text . e + GAIN * (W e) + b for the unit
    embedding e. W and b are zero at first, so that it begins as CLIP's own answer.
    """

    texts: Tensor

    def __init__(self, bank: TextBank, scale: float) -> None:
        super().__init__()
        self.register_buffer("texts", scale * bank.matrix[: len(bank.class_ids)].clone())
        self.own = nn.Linear(bank.matrix.shape[1], len(bank.class_ids))
        nn.init.zeros_(self.own.weight)
        nn.init.zeros_(self.own.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """log p of each class (B, K), in the bank's order, of unit embeddings (B, E)."""
        log_p: Tensor = (embeddings @ self.texts.T + GAIN * self.own(embeddings)).log_softmax(dim=1)
        return log_p


def tag_loss(log_p: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
    """Cross-entropy of log p (B, K) against each image's tags, which share its mass evenly (`rows`: places among the
    K); the mean over images that have any, 0 where none has.
    """
    losses = [-log_p[image, list(own)].mean() for image, own in enumerate(rows) if own]
    return torch.stack(losses).mean() if losses else 0 * log_p.sum()


@dataclass(frozen=True)
class Witness:
    """Joins the decoder's logits with what CLIP says, as `test_tags` and `test_maps` want."""

    labeler: PseudoLabeler
    head: TagHead | None

    @property
    def n_attention(self) -> int:
        """Attention maps that `dense` must bring."""
        return self.labeler.n_attention if self.labeler.config.test_maps else 0

    def __call__(self, dense: DenseFeatures, decoded: Decoded, told: Sequence[Sequence[int]] | None) -> Tensor:
        """Logits (B, C, h, w) on the token grid. `told`: each image's classes where they are known."""
        config, bank = self.labeler.config, self.labeler.bank
        logits = decoded.logits.float()
        lead = self.log_p(dense)
        lead = lead - lead.amax(dim=1, keepdim=True)  # the likeliest class keeps its logits
        if told is None:
            logits = logits.clone()
            logits[:, list(bank.class_ids)] += config.test_tags * lead[:, :, None, None]
        if not config.test_maps:
            return logits
        ids = bank.class_ids
        found = [[ids[k] for k in (row >= math.log(SHOWN)).nonzero()[:, 0].tolist()] for row in lead]
        shown = found if told is None else [sorted(own) for own in told]
        shares = self.shares(dense, decoded, shown, affinity_logits(decoded.features, config.affinity))
        return (1 - config.test_maps) * logits.log_softmax(dim=1) + config.test_maps * shares.clamp_min(FLOOR).log()

    def log_p(self, dense: DenseFeatures) -> Tensor:
        """log p of each class (B, K): by the head, or by CLIP's texts alone."""
        embeddings, bank = self.labeler.model.backbone.tail(dense.last_input), self.labeler.bank
        if self.head is not None:
            found: Tensor = self.head(embeddings)
            return found
        return (self.labeler.scale * embeddings @ bank.matrix[: len(bank.class_ids)].T).log_softmax(dim=1)

    def shares(
        self, dense: DenseFeatures, decoded: Decoded, shown: Sequence[Sequence[int]], affinity: Tensor | None
    ) -> Tensor:
        """Shares (B, C, h, w) of CLIP's class maps and of the background. `affinity`: logits (B, n, n) of the decoder's
        own, which spreads them as after the kick-in; None = as before.
        """
        response, _ = self.labeler.maps(dense, shown, affinity)
        stack = torch.zeros_like(decoded.logits, dtype=torch.float32)
        stack[list(response.pair_image), list(response.pair_class)] = response.spread.float()
        power, background = self.labeler.config.background_power, self.labeler.space.background_id or 0
        stack[:, background] = (1 - stack.amax(dim=1)).clamp_min(0) ** power
        return stack / stack.sum(dim=1, keepdim=True).clamp_min(FLOOR)


def call_witness(model: Weclip, labeler: PseudoLabeler) -> None:
    """Give a model the head and the witness that its settings want; one that wants none stays as it is."""
    config = labeler.config
    head = TagHead(labeler.bank, labeler.scale).to(model.backbone.device) if config.tag_weight > 0 else None
    model.tags = head
    if config.test_tags > 0 or config.test_maps > 0:
        model.witness = Witness(labeler, head)
