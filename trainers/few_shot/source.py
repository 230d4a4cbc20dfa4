"""Batches of episodes as a pure function of the step: frozen features, masks and targets of queries and supports."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskmill.data_contracts import Uint8Array, sample_seed
from maskmill.trainers.engine import Remembered, Samples, collate, draw_geometry, jitter_colours
from maskmill.trainers.engine.batches import Batch, fill_colour
from maskmill.trainers.few_shot.episodes import Episode, Episodes, binary_mask
from maskmill.trainers.few_shot.features import Featurizer, canvas_target
from maskmill.trainers.few_shot.kept import Shot

KEPT_EXAMPLES = 512  # decoded images that a source keeps
KEPT_VIEWS = 1024  # (image, class) pairs whose masks it keeps, where views are not random


@dataclass(frozen=True, eq=False)
class View:
    """An image (H, W, 3) as an episode shows it: `mask` (H, W) of 0, 1, 255; `target` the same at the target size,
    int64; the image's labels; the key of its features, None for a random view; the size (H, W) of the whole photo.
    """

    image: Uint8Array
    mask: Uint8Array
    target: Tensor
    labels: Sequence[int]
    key: str | None
    photo: tuple[int, ...]


class EpisodeSource:
    """Batches of episodes as a pure function of the step. Pixels of `hidden` classes are neither object nor background.

    Keys: `query` (B, C, h, w), `supports` (B, K, C, h, w), `masks` (B, K, 1, h, w), `priors` (B, P, h, w),
    with `canvas_masks` `canvases` (B, K, 1, S', S'), S' the canvas;
    with a base learner `base` (B, 1 + classes, h', w') and `left_out` int64 (B,), the asked class' channel there;
    `query_target` int64 (B, S, S), `support_target` int64 (B, K, S, S), `sample_id`; S is the config's target size.
    With `encoder_norms: batch` there are no priors yet, and `query` (B, 3, S', S') and `supports` (B, K, 3, S', S') are
    pixels, for `seen_together`.
    """

    def __init__(
        self, samples: Samples, episodes: Episodes, featurizer: Featurizer, hidden: Sequence[int] = ()
    ) -> None:
        self.samples, self.episodes, self.featurizer = samples, episodes, featurizer
        self.config = featurizer.config
        self._where = {sample_id: position for position, sample_id in enumerate(samples.ids)}
        self._hidden = hidden
        self._grid = featurizer.grid if self.config.encoder_norms == "batch" else None
        self._example = Remembered(samples.example, KEPT_EXAMPLES)
        self._whole = Remembered(self._whole_view, KEPT_VIEWS)
        self._whole_shot = Remembered(self._shot_of_whole, KEPT_VIEWS)

    def __call__(self, step: int) -> Batch:
        first = step * self.config.batch
        return collate([self.item(self.episodes.episode(first + i)) for i in range(self.config.batch)])

    def item(self, episode: Episode) -> dict[str, Any]:
        """One episode, each of its images flipped or augmented by itself."""
        rng = np.random.default_rng(sample_seed(self.config.seed, episode.query, f"views {episode.number}"))
        view = self._view(episode.query, episode.class_id, rng)
        if self._grid is not None:
            return self._unseen(episode, view, rng, self._grid)
        query = self.featurizer.image(view.image, view.key, photo=view.photo)
        shown = [self._shot(sample_id, episode.class_id, rng) for sample_id in episode.supports]
        shots = [shot for shot, _ in shown]
        known = view.labels if self.config.priors.leaks else None
        priors = self.featurizer.priors(query, shots, episode.class_id, known)
        # Frozen features of a mirrored image are taken as the mirrored features: exact but for the borders.
        flips = self._flips(rng, 1 + len(shots))
        parts = [(shot, target, flip) for (shot, target), flip in zip(shown, flips[1:], strict=True)]
        learnt = {}
        if self.config.canvas_masks:
            learnt["canvases"] = torch.stack([_flip(shot.object_mask, flip) for shot, _, flip in parts])
        if (learner := self.featurizer.known) is not None:
            base = _flip(self.featurizer.base_logits(query), flips[0])
            learnt |= {"base": base, "left_out": torch.tensor(learner.place(episode.class_id))}
        return {
            **learnt,
            "query": _flip(query.middle, flips[0]),
            "priors": _flip(priors, flips[0]),
            "query_target": _flip(view.target, flips[0]),
            "supports": torch.stack([_flip(s.features.middle, f) for s, _, f in parts]),
            "masks": torch.stack([_flip(s.grid_mask, f) for s, _, f in parts]),
            "support_target": torch.stack([_flip(t, f) for _, t, f in parts]),
            "sample_id": episode.query,
        }

    def _unseen(self, episode: Episode, view: View, rng: np.random.Generator, grid: tuple[int, int]) -> dict[str, Any]:
        """An episode as pixels, which the encoder is to see together with the batch."""
        made, masked = self.featurizer, self.config.mask_support
        shown = [self._view(sample_id, episode.class_id, rng) for sample_id in episode.supports]
        first, *flips = self._flips(rng, 1 + len(shown))
        parts = list(zip(shown, flips, strict=True))
        return {
            "query": _flip(made.pixels(view.image), first),
            "query_target": _flip(view.target, first),
            "supports": torch.stack([_flip(made.pixels(v.image, v.mask if masked else None), f) for v, f in parts]),
            "masks": torch.stack([_flip(made.grid_mask(v.mask, grid), f) for v, f in parts]),
            "support_target": torch.stack([_flip(v.target, f) for v, f in parts]),
            "sample_id": episode.query,
        }

    def _flips(self, rng: np.random.Generator, count: int) -> list[bool]:
        """Which images are mirrored; random views mirror by themselves."""
        flips: list[bool] = (rng.random(count) < (0.5 if self.config.augment is None else 0.0)).tolist()
        return flips

    def _shot(self, sample_id: str, class_id: int, rng: np.random.Generator) -> tuple[Shot, Tensor]:
        """A support and its target."""
        if self.config.augment is None:
            return self._whole_shot(sample_id, class_id)
        return self._made(self._view(sample_id, class_id, rng))

    def _shot_of_whole(self, sample_id: str, class_id: int) -> tuple[Shot, Tensor]:
        return self._made(self._whole(sample_id, class_id))

    def _made(self, view: View) -> tuple[Shot, Tensor]:
        return self.featurizer.shot(view.image, view.mask, view.key), view.target

    def _view(self, sample_id: str, class_id: int, rng: np.random.Generator) -> View:
        """The whole image, or a random view of it."""
        whole = self._whole(sample_id, class_id)
        if self.config.augment is None:
            return whole
        geometry = draw_geometry(rng, whole.mask.shape[0], whole.mask.shape[1], self.config.augment)
        image = geometry.image(whole.image, fill=fill_colour(self.featurizer.mean))
        mask = geometry.label(whole.mask)
        target = canvas_target(mask, self.config.target_size)
        return View(jitter_colours(rng, image, self.config.augment), mask, target, whole.labels, None, whole.photo)

    def _whole_view(self, sample_id: str, class_id: int) -> View:
        example = self._example(self._where[sample_id])
        if example.mask is None:
            raise ValueError(f"{sample_id}: expected a mask, found none")
        mask = binary_mask(example.mask, class_id, self._hidden)
        target = canvas_target(mask, self.config.target_size)
        return View(example.image, mask, target, example.info.class_ids, sample_id, mask.shape)


def _flip(maps: Tensor, flip: bool) -> Tensor:
    return maps.flip(-1) if flip else maps
