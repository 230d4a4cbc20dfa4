"""SDS as a scorer: model and texts loaded once a process."""

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from maskmill.curation.base import Scorer, Show
from maskmill.curation.cross_fit.judge import CrossFit, fold_of
from maskmill.curation.sds.asf import AsfScore
from maskmill.curation.sds.bare import bare_rate
from maskmill.curation.sds.by_boxes import agreement, boxed
from maskmill.curation.sds.by_words import named
from maskmill.curation.sds.config import SdsConfig
from maskmill.curation.sds.fit import shown_at_all
from maskmill.curation.sds.images import Prepared
from maskmill.curation.sds.model import Engine, Overlap, make_engine
from maskmill.curation.sds.score import score_rows
from maskmill.data_contracts import FOR_HASH, IGNORE, LabelSpace
from maskmill.vision.batches import Batches
from maskmill.vision.clip import clip_fingerprint
from maskmill.vision.concepts import Concepts
from maskmill.vision.device import pick_device
from maskmill.vision.pretrained import model_fingerprint, model_folder
from maskmill.vision.promptable import Family, load_family
from maskmill.vision.promptable.ask import batches_of
from maskmill.vision.segmenters import weights_stamp

VERSION = 5


class SdsScorer(Scorer):
    """`batch_size` and `workers` (processes for the CRF) change speed, never a score."""

    def __init__(
        self, config: SdsConfig, space: LabelSpace, *, batch_size: int = 16, workers: int | None = None
    ) -> None:
        self._config = config
        self._batch_size = batch_size
        self.workers = workers
        self._judge = CrossFit(config.cross_fit, space)
        self._overlap: Overlap | None = None

    @cached_property
    def _clip(self) -> Engine:
        return make_engine(self._config, self._judge.space)

    @property
    def _engine(self) -> Engine:
        if self._config.judge == "promptable":
            return replace(self._clip, overlap=self._drawn)
        return replace(self._clip, overlap=self._overlap)

    @cached_property
    def _promptable(self) -> Family:
        options = self._config.by_boxes
        return load_family(model_folder(str(options.model)), pick_device(), options.precision)

    @cached_property
    def _concepts(self) -> Concepts:
        options = self._config.by_boxes
        return Concepts.load(model_folder(str(options.model)), pick_device(), options.precision)

    @cached_property
    def _batches(self) -> Batches:
        return batches_of(self._promptable)

    def _drawn(self, samples: Sequence[Prepared], seed: int) -> list[AsfScore]:
        options, space, policy = self._config.by_boxes, self._judge.space, self._config.ignore_policy
        background = IGNORE if space.background_id is None else space.background_id
        if options.prompts == "names":
            maps = [named(self._concepts, sample, space, background, options.threshold) for sample in samples]
        else:
            maps = boxed(self._promptable, samples, background, self._batches)
        return [agreement(sample, pseudo, policy) for sample, pseudo in zip(samples, maps, strict=True)]

    def study(self, samples: pa.Table, seed: int) -> pa.Table:
        return self._judge.study(samples, seed)

    def conclude(self, studies: Iterable[pa.Table]) -> pa.Table:
        return self._judge.conclude(studies)

    def taught(self, learnt: pa.Table) -> "SdsScorer":
        """A scorer whose masks are judged by the segmenters that `learnt` holds; it shares the loaded models."""
        judge, known = self._judge, self._judge.learnt(learnt)

        def one(sample: Prepared, seed: int) -> AsfScore:
            assert sample.mask is not None
            fold = fold_of(sample.sample_id, sample.group, judge.options, seed)
            found = judge.agreement(sample.mask, judge.opinion(sample.image, fold, known), sample.mask_classes)
            return AsfScore(found.pooled, found.per_class, 0.0)

        taught = copy(self)
        taught._overlap = lambda samples, seed: [one(sample, seed) for sample in samples]
        return taught

    def score(self, samples: pa.Table, seed: int) -> pa.Table:
        """Score table of a Sample table.

        Raises:
            ValueError: the judge is to be cross_fit, and nobody taught the scorer.
        """
        return self.score_and_show(samples, seed, None)

    def score_and_show(self, samples: pa.Table, seed: int, show: Show | None) -> pa.Table:
        if self._config.learns and self._overlap is None:
            raise ValueError("sds, judge cross_fit: expected a scorer that was taught: see Scorer.study")
        return score_rows(samples, self._engine, seed, self._batch_size, self.workers, show)

    def bare_rate(self, samples: pa.Table) -> float | None:
        """Images a second that CLIP embeds."""
        return bare_rate(samples, self._engine)

    @property
    def device(self) -> str:
        return str(self._engine.backbone.device.type)

    def fits(self, scores: pa.Table) -> list[bool]:
        """Whether the best of the row's own classes ranks above VOC's 25 background words, by the stored embeddings."""
        return shown_at_all(scores, self._engine)


def identity(config: SdsConfig) -> dict[str, Any]:
    """The options, the model's weights, and the CRF that is installed."""
    model = clip_fingerprint(config.model, config.pretrained, config.precision)
    backend = config.crf_in_use.backend if config.refine in ("crf", "mean_field") else config.refine
    found = {"sds": config.model_dump(mode="json", context=FOR_HASH), "model": model, "refine": backend}
    if config.perturbation == "tiles" and config.grid == 2:  # one permutation of four tiles in 24 was the identity
        found["orders"] = "no identity"
    if config.judge == "cross_fit":
        found["judge weights"] = weights_stamp(config.cross_fit.encoder, config.cross_fit.weights)
    if config.judge == "promptable":
        found["judge weights"] = model_fingerprint(str(config.by_boxes.model))
        if config.by_boxes.prompts != "names":
            found["judge asked"] = "in batches"  # on a GPU, where the last bits differ from those of one photo alone
    return found


def load(config: SdsConfig, space: LabelSpace) -> SdsScorer:
    """The engine."""
    return SdsScorer(config, space)
