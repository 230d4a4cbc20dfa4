"""The arms of `clean_and_train`: which photos each keeps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.clean_learn import Cells, KnownFeatures, Segmenter, train
from benchmarks.clean_sets import CleanSet
from benchmarks.common import Budget
from benchmarks.keep_sets import PhotoSet
from benchmarks.sds_keep import Case, Scores, to_row
from maskmill.curation.base import teach
from maskmill.curation.cross_fit import CrossFit, CrossFitConfig, CrossFitOptions, CrossFitScorer
from maskmill.curation.select import SelectConfig, select
from maskmill.curation.select.calibrate import resolve
from maskmill.curation.select.config import Calibrated
from maskmill.data_contracts import NEIGHBOUR, SAMPLE, Uint8Array, sample_seed

ARMS = (
    *("all", "sds_gate", "sds_half", "random_same_size", "oracle"),
    *("small_loss", "confident", "cleanlab", "cross_fit"),
)
STEPS = {"small": 200, "full": 1500}
FOLDS = 3  # of the probabilities of confident learning
EARLY = 3  # small_loss looks at a segmenter of so many times fewer steps: before it has learnt the faults by heart
WRONG = 0.5  # of the cells of a class that must be wrong for a photo to be dropped
CLEANLAB_THRESHOLD = 0.1  # its own default

GATE = SelectConfig(near_duplicates="keep")  # the frames of a clip are wanted
CROSS_FIT_GATE = SelectConfig.model_validate(  # the share was chosen on development parts
    {
        "near_duplicates": "keep",
        "image_score_tau": None,
        "swap": "keep",
        "min_score": {"method": "typical", "share": 0.7},
    }
)
HALF = SelectConfig.model_validate(
    {
        "preset": "faithful",
        "pcs_tau": None,
        "image_score_tau": {"method": "quantile", "keep": 0.75},
        "keep_fraction": 0.5,
        "leaks": "keep",
    }
)


@dataclass(frozen=True)
class Scene:
    """A set under one condition, as the arms see it: photos and the masks that are given for them."""

    one: CleanSet
    cells: Cells
    masks: list[Uint8Array]
    steps: int
    seed: int
    folder: Path

    @classmethod
    def of(
        cls, one: CleanSet, cells: Cells, masks: list[Uint8Array], budget: Budget, seed: int, folder: Path
    ) -> "Scene":
        """The scene whose cells carry the given masks."""
        return cls(one, cells.with_masks(masks), masks, STEPS[budget], seed, folder)

    @staticmethod
    def judge_options() -> CrossFitOptions:
        """Those of the default scorer `cross_fit`: cells of the segmenter and of the scorer are the same."""
        return CrossFitOptions()

    @cached_property
    def rows(self) -> dict[int, dict[str, object]]:
        """By place, the rows that ingest would let through: photos whose mask shows something. Nothing else says what
        they show.
        """
        photos = self.one.trained
        made = (to_row(Case(p, p.image(), m, None), self.one.space) for p, m in zip(photos, self.masks, strict=True))
        return {i: row for i, row in enumerate(made) if row["class_ids"]}

    @cached_property
    def samples(self) -> pa.Table:
        """Their Sample table."""
        return SAMPLE.table(list(self.rows.values()))

    @cached_property
    def places(self) -> dict[str, int]:
        """Place of a photo by the id of its sample."""
        return {str(row["sample_id"]): i for i, row in self.rows.items()}

    @cached_property
    def sds(self) -> pl.DataFrame:
        """Default scores."""
        photos = PhotoSet(self.one.name, self.one.space, self.one.trained)
        return _frame(Scores(self.folder / "scores", photos).of(self.samples))

    @cached_property
    def cross_fit(self) -> pl.DataFrame:
        """Scores of the scorer `cross_fit`."""
        config = CrossFitConfig()
        images = (photo.image() for photo in self.one.trained)
        judge = CrossFit(config, self.one.space, KnownFeatures.of_images(config, images, self.cells.features))
        scorer = teach(CrossFitScorer(config, judge), [self.samples], self.seed)
        return _frame(scorer.score(self.samples, self.seed))

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Of the classes of `CleanSet.ids`, by a segmenter that was not trained on the photo: (N, P, C)."""
        ids = self.one.ids
        fold = np.random.default_rng([self.seed, 29]).permutation(len(self.masks)) % FOLDS
        out = np.zeros((*self.cells.features.shape[:2], len(ids)), np.float32)
        for k in range(FOLDS):
            learner = train(self.cells.of(np.flatnonzero(fold != k).tolist()), ids, self.steps, self.seed)
            for i in np.flatnonzero(fold == k):
                out[i] = learner.logits(self.cells.features[i]).softmax(dim=-1).numpy()
        return out

    def kept(self, scores: pl.DataFrame, config: SelectConfig) -> frozenset[int]:
        """Places of what a selection keeps."""
        found = select(scores, pl.DataFrame(NEIGHBOUR.table([])), config).filter("kept")["sample_id"]
        return frozenset(self.places[i] for i in found)


def _frame(scores: pa.Table) -> pl.DataFrame:
    columns = scores.replace_schema_metadata(None).drop_columns("embedding")
    return pl.DataFrame(columns).with_columns(shard=pl.lit("0"))


def choose(arm: str, scene: Scene, faulty: frozenset[int]) -> frozenset[int]:
    """Places of the photos that an arm keeps."""
    everything = frozenset(range(len(scene.masks)))
    chosen: dict[str, Callable[[], frozenset[int]]] = {
        "all": lambda: everything,
        "sds_gate": lambda: scene.kept(scene.sds, GATE),
        "sds_half": lambda: scene.kept(scene.sds, HALF),
        "random_same_size": lambda: at_random(len(everything), len(scene.kept(scene.sds, GATE)), scene.seed),
        "oracle": lambda: everything - faulty,
        "small_loss": lambda: small_loss(scene),
        "confident": lambda: confident(scene.probabilities, labels_of(scene)),
        "cleanlab": lambda: by_cleanlab(scene.probabilities, labels_of(scene), scene.cells.grid),
        "cross_fit": lambda: scene.kept(scene.cross_fit, CROSS_FIT_GATE),
    }
    return chosen[arm]()


def at_random(count: int, size: int, seed: int) -> frozenset[int]:
    """`size` of `count` places."""
    order = sorted(range(count), key=lambda i: sample_seed(seed, str(i), "random_same_size"))
    return frozenset(order[:size])


def labels_of(scene: Scene) -> NDArray[np.int64]:
    """Labels of all cells as places in `CleanSet.ids`, -1 = none: (N, P)."""
    place = np.full(256, -1, np.int64)
    place[list(scene.one.ids)] = np.arange(len(scene.one.ids))
    return place[scene.cells.labels()]


def losses(learner: Segmenter, cells: Cells, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over the labelled classes of the mean cross-entropy of their cells, one a photo."""
    found = []
    for features, own in zip(cells.features, labels, strict=True):
        loss = F.cross_entropy(
            learner.logits(features), torch.from_numpy(own), ignore_index=-1, reduction="none"
        ).numpy()
        found.append(np.mean([loss[own == c].mean() for c in np.unique(own[own >= 0])]) if (own >= 0).any() else 0.0)
    return np.asarray(found)


def small_loss(scene: Scene) -> frozenset[int]:
    """Photos that an early segmenter does not find hard."""
    learner = train(scene.cells, scene.one.ids, scene.steps // EARLY, scene.seed)
    easy = -losses(learner, scene.cells, labels_of(scene))
    cut = resolve(Calibrated(method="mixture"), easy)
    return frozenset(range(len(easy)) if cut is None else np.flatnonzero(easy >= cut).tolist())


def confident(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> frozenset[int]:
    """Photos in which no class is mostly wrong, by thresholds of each class: (N, P, C) and labels (N, P), -1 = none.

    A cell of label i is wrong if some j ≠ i with p_j ≥ t_j has the largest p among all classes that reach theirs; t_j
    is the mean of p_j over cells labelled j.
    """
    classes = probabilities.shape[-1]
    at = [probabilities[..., j][labels == j] for j in range(classes)]
    thresholds = np.array([own.mean() if own.size else np.inf for own in at])
    reach = np.where(probabilities >= thresholds, probabilities, -1.0)
    guess = np.where(reach.max(axis=-1) >= 0, reach.argmax(axis=-1), labels)
    kept = []
    for i, (own, said) in enumerate(zip(labels, guess, strict=True)):
        shares = [(said[own == c] != c).mean() for c in np.unique(own[own >= 0])]
        if shares and max(shares) <= WRONG:
            kept.append(i)
    return frozenset(kept)


def by_cleanlab(probabilities: NDArray[np.float32], labels: NDArray[np.int64], grid: int) -> frozenset[int]:
    """Photos that the library does not call issues, cells of no label counted as what the segmenter says of them."""
    rank: Any = __import__("cleanlab.segmentation.rank", fromlist=["rank"])
    said = np.where(labels < 0, probabilities.argmax(axis=-1), labels).reshape(-1, grid, grid)
    maps = probabilities.reshape(-1, grid, grid, probabilities.shape[-1]).transpose(0, 3, 1, 2)
    scores, _ = rank.get_label_quality_scores(said, maps, verbose=False)
    issues = {int(i) for i in rank.issues_from_scores(scores, threshold=CLEANLAB_THRESHOLD)}
    return frozenset(i for i in range(len(said)) if i not in issues)
