"""From supports to masks with a trained network: one class at a time, images of any size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskmill.data_contracts import LabelSpace, Uint8Array
from maskmill.trainers.engine import Example, Prediction, Remembered, Samples, evaluating
from maskmill.trainers.few_shot.canvas import corner, enlarged
from maskmill.trainers.few_shot.episodes import Episode, binary_mask
from maskmill.trainers.few_shot.features import Featurizer, canvas_target
from maskmill.trainers.few_shot.kept import Features, Shot
from maskmill.trainers.few_shot.metrics import EpisodeMetrics
from maskmill.trainers.few_shot.model import FewShotNet, Vectors
from maskmill.trainers.few_shot.scl import weighted_sum

Fusion = Literal["cross", "mean"]
KEPT_EXAMPLES = 256  # decoded images that an evaluation keeps


@dataclass(frozen=True, eq=False)
class Supports:
    """A class shown by K images. An SCL network adds `scores` (K,), how well each one's vectors segment all of them (1
    without it), and `vectors` (K, width, 1, 1), primary and auxiliary, with which it guides queries.
    """

    class_id: int
    shots: tuple[Shot, ...]
    scores: Tensor
    vectors: Vectors | None = None

    @property
    def stacked(self) -> tuple[Tensor, Tensor]:
        """Features (K, C, h, w) and masks (K, 1, h, w)."""
        return torch.stack([s.features.middle for s in self.shots]), torch.stack([s.grid_mask for s in self.shots])


class FewShotPredictor:
    """Segments one class in images, given supports. A result depends on the image and the supports alone."""

    def __init__(self, net: FewShotNet, featurizer: Featurizer, space: LabelSpace) -> None:
        self.net, self.featurizer, self.space = net.to(featurizer.device), featurizer, space
        net.to(memory_format=torch.channels_last)

    def supports(self, pairs: Sequence[tuple[Uint8Array, Uint8Array]], name: str) -> Supports:
        """`pairs` of an image (H, W, 3) and a mask (H, W): 1 = the object, 0 = not, 255 = ignore; `name` of the class,
        which training need not have shown.

        Raises:
            ValueError: no pair.
        """
        if not pairs:
            raise ValueError(f"supports of {name!r}: expected at least one image with a mask, found none")
        clip = self.featurizer.clip
        class_id = 0 if clip is None else clip.learn(name)
        return self._supports(class_id, [self._seen_shot(image, mask, None) for image, mask in pairs])

    def _supports(self, class_id: int, shots: Sequence[Shot]) -> Supports:
        made = Supports(class_id, tuple(shots), torch.ones(len(shots)))
        if not self.net.config.scl:
            return made
        targets = torch.stack([canvas_target(s.mask, self.featurizer.config.size) for s in shots])
        with evaluating(self.net):
            scores, vectors = self.net.guides(*made.stacked, targets.to(self.featurizer.device))
        return Supports(class_id, made.shots, scores, vectors)

    def predict(self, images: Sequence[Uint8Array], supports: Supports, fusion: Fusion = "cross") -> list[Prediction]:
        """Logits (2, H, W), background and object, of each image (H, W, 3)."""
        return [self.logits(self.see(image), image.shape[:2], supports, fusion) for image in images]

    def see(self, image: Uint8Array, key: str | None = None) -> Features:
        """Features of a query (H, W, 3) as `test_fit` has it; kept under `key`."""
        if self.featurizer.config.test_fit == "squash":
            return self.featurizer.image(image, key)
        return self.featurizer.image(corner(image, self.featurizer.config.size), photo=image.shape[:2])

    def _seen_shot(self, image: Uint8Array, mask: Uint8Array, key: str | None) -> Shot:
        size = self.featurizer.config.size
        if self.featurizer.config.test_fit == "squash":
            return self.featurizer.shot(image, mask, key)
        return self.featurizer.shot(corner(image, size), corner(mask, size, mask=True))

    def logits(
        self,
        query: Features,
        size: tuple[int, ...],
        supports: Supports,
        fusion: Fusion = "cross",
        labels: Sequence[int] | None = None,
    ) -> Prediction:
        """One query. `fusion` of an SCL network's K predictions: weighted by the scores, or their plain mean."""
        return self._enlarged(self._fused(query, supports, (fusion,), labels)[fusion], size)

    def _enlarged(self, logits: Tensor, size: tuple[int, ...]) -> Prediction:
        config = self.featurizer.config
        canvas = config.size if config.canvas_logits else None
        full = enlarged(logits.float(), size[0], size[1], config.test_fit, canvas)
        return Prediction(full[0].cpu().numpy())

    def _fused(
        self, query: Features, supports: Supports, fusions: Sequence[Fusion], labels: Sequence[int] | None
    ) -> dict[Fusion, Tensor]:
        """Logits (1, 2, h, w) by each fusion; a base network knows but one answer."""
        middle, shots = query.middle[None], supports.shots
        with evaluating(self.net):
            if supports.vectors is None:
                maps, masks = supports.stacked
                priors = self._priors(query, shots, supports, labels)[None]
                more = (*self._learnt(query, supports), self._canvases(shots))
                logits = self.net(middle, maps[None], masks[None], priors, *more).answer
                return dict.fromkeys(fusions, logits)
            priors = torch.stack([self._priors(query, (s,), supports, labels) for s in shots])
            apart = self.net.guided(middle, supports.vectors, priors)
        if len(shots) == 1:
            return dict.fromkeys(fusions, apart)
        weights = {"cross": supports.scores.to(apart.device), "mean": torch.ones(len(shots), device=apart.device)}
        return {fusion: weighted_sum(apart, weights[fusion])[None] for fusion in fusions}

    def _canvases(self, shots: Sequence[Shot]) -> Tensor | None:
        """Masks (1, K, 1, H, W) that HDMNet's stages are matched by, where the config wants the canvas'."""
        if not self.featurizer.config.canvas_masks:
            return None
        return torch.stack([shot.object_mask for shot in shots])[None]

    def _learnt(self, query: Features, supports: Supports) -> tuple[Tensor | None, Tensor | None]:
        """The base learner's logits of a query, and the class asked for where it knows that one."""
        known = self.featurizer.known
        if known is None:
            return None, None
        base = self.featurizer.base_logits(query)[None]
        return base, torch.tensor([known.place(supports.class_id)], device=base.device)

    def _priors(
        self, query: Features, shots: Sequence[Shot], supports: Supports, labels: Sequence[int] | None
    ) -> Tensor:
        return self.featurizer.priors(query, shots, supports.class_id, labels)

    def evaluate(self, samples: Samples, episodes: Sequence[Episode]) -> dict[Fusion, EpisodeMetrics]:
        """Run episodes of `samples` and score them at the images' own size, with both fusions of several supports."""
        metrics: dict[Fusion, EpisodeMetrics] = {"cross": EpisodeMetrics(), "mean": EpisodeMetrics()}
        where = {sample_id: position for position, sample_id in enumerate(samples.ids)}
        seen = Remembered(lambda sample_id: samples.example(where[sample_id]), KEPT_EXAMPLES)
        for episode in episodes:
            shots = [self._shot(seen(i), episode.class_id) for i in episode.supports]
            example = seen(episode.query)
            if example.mask is None:
                raise ValueError(f"{episode.query}: expected a mask to score against, found none")
            query = self.see(example.image, episode.query)
            labels = example.info.class_ids if self.featurizer.config.priors.leaks else None
            found = self._fused(query, self._supports(episode.class_id, shots), tuple(metrics), labels)
            target = binary_mask(example.mask, episode.class_id)
            labels_of = {id(logits): self._enlarged(logits, target.shape).labels for logits in found.values()}
            for fusion, logits in found.items():
                metrics[fusion].update(episode.class_id, labels_of[id(logits)], target)
        return metrics

    def _shot(self, example: Example, class_id: int) -> Shot:
        if example.mask is None:
            raise ValueError(f"{example.info.sample_id}: expected a mask to learn from, found none")
        return self._seen_shot(example.image, binary_mask(example.mask, class_id), example.info.sample_id)
