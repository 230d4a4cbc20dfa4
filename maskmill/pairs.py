"""Scores and pseudo-labels of images in memory or on disk, by the code that the stages `score` and `label` run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import PrivateAttr

from maskmill.curation.base import Scorer, ScorerConfig, teach
from maskmill.data_contracts import (
    SAMPLE,
    SCORE,
    ContractError,
    LabelSpace,
    Problem,
    content_id,
    decode_image,
    pair_id,
)
from maskmill.given import Classes, ImageLike, as_space, ids_of, image_file, mask_file, name_of, several
from maskmill.labelers import LabelerConfig, LabelItem, PseudoLabel, get_labeler
from maskmill.pipelines.core.settings import check_settings
from maskmill.pipelines.ingest import Entry, RawSample, Source, ingest_entry
from maskmill.pipelines.stages.label import open_labeler
from maskmill.pipelines.stages.score import SCORER_KINDS, open_scorer

TOGETHER = 32  # images in memory at once, where no group asks for more
Row = dict[str, Any]


def score_pairs(
    images: Sequence[ImageLike],
    masks: Sequence[ImageLike],
    classes: Classes,
    *,
    score: ScorerConfig | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Score image–mask pairs as stage `score` does; a pair's numbers depend on that pair, `score` and `seed` alone
    (of a scorer that learns, such as `cross_fit`, on all the pairs that are given).

    Args:
        images: paths (or fsspec URLs), Pillow images, or arrays uint8 (H, W, 3) RGB; also mixed.
        masks: one an image, of its size: paths, Pillow images (palette index or grey value), or integer arrays
            (H, W). Values are class ids, 0 = background, 255 = ignore.
        classes: names (ids 1, 2, … in their order), a `LabelSpace`, or the name or YAML file of one ("voc").
        score: the `score` block of a run config, e.g. {"preset": "faithful"}; None = the starter preset.

    Returns:
        One row a pair, in their order: `position`, `name` (the path, or "image 3"), and the columns of the SCORE
        contract: `image_score` and `asf` (higher = better), `pcs`, `h_orig` and `h_mix` (nats), `per_class`,
        `embedding` (unit vector) … A pair that cannot be scored has null scores, a `reason`, and a `detail` that says
        what was expected, what was found and how to mend it.

    Raises:
        ValueError: not as many masks as images, no class, or an option that the scorer does not have.
        TypeError: one image in place of a list.
    """
    images, masks = several(images, "images"), several(masks, "masks")
    if len(images) != len(masks):
        raise ValueError(f"expected one mask an image, found {len(images)} images and {len(masks)} masks")
    space = as_space(classes)
    config = _scorer_config(score)
    scorer = open_scorer(config, space)
    source = _Pairs.of(images, masks)
    entries = list(source.entries())
    together = [entries[start : start + TOGETHER] for start in range(0, max(len(entries), 1), TOGETHER)]
    if config.learns:
        scorer = teach(scorer, (_readable(part, source, space) for part in together), seed)
    return pl.concat(_scored(part, source, space, scorer, seed) for part in together)


def _readable(entries: list[Entry], source: Source, space: LabelSpace) -> pa.Table:
    """Sample rows of those pairs that can be read."""
    made = [ingest_entry(entry, source, space) for entry in entries]
    return SAMPLE.table([row for row in made if not isinstance(row, Problem)])


class _Pairs(Source):
    """Pairs at hand as a source, so that they are checked as ingest checks them."""

    kind: str = "pairs"
    root: str = ""
    _pairs: list[tuple[ImageLike, ImageLike]] = PrivateAttr(default_factory=list)

    @classmethod
    def of(cls, images: list[ImageLike], masks: list[ImageLike]) -> "_Pairs":
        source = cls()
        source._pairs.extend(zip(images, masks, strict=True))
        return source

    def entries(self) -> Iterator[Entry]:
        for position, (image, _) in enumerate(self._pairs):
            yield Entry(name_of(image, position), "", {"position": position})

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        image, mask = self._pairs[entry.fields["position"]]
        return RawSample(image=image_file(image, entry.key), mask=mask_file(mask, entry.key))


def _scorer_config(score: ScorerConfig | Mapping[str, Any] | None) -> ScorerConfig:
    if isinstance(score, ScorerConfig):
        return score
    given = dict(score or {})
    return check_settings(given, SCORER_KINDS.load(str(given.get("kind", SCORER_KINDS.default))), "score")


def _scored(entries: list[Entry], source: Source, space: LabelSpace, scorer: Scorer, seed: int) -> pl.DataFrame:
    """Score rows of some pairs, in their order."""
    made = [ingest_entry(entry, source, space) for entry in entries]
    good = [row for row in made if not isinstance(row, Problem)]
    scores: Iterator[Row] = iter(scorer.score(SAMPLE.table(good), seed).to_pylist() if good else [])
    rows = [
        _unscored(entry, row) if isinstance(row, Problem) else next(scores)
        for entry, row in zip(entries, made, strict=True)
    ]
    frame = pl.DataFrame(SCORE.table(rows).replace_schema_metadata(None))
    return frame.select(
        pl.Series("position", [entry.fields["position"] for entry in entries], pl.Int64),
        pl.Series("name", [entry.key for entry in entries], pl.String),
        pl.all(),
    )


def _unscored(entry: Entry, problem: Problem) -> Row:
    sample_id = content_id("pairs", entry.key)
    return {"sample_id": sample_id, "label_ids": [], "reason": str(problem.reason), "detail": str(problem)}


def label(
    images: Sequence[ImageLike],
    *,
    classes: Classes,
    labeler: str = "clip_cam",
    settings: Mapping[str, Any] | None = None,
    tags: Sequence[Sequence[str | int]] | None = None,
    boxes: Sequence[Sequence[Sequence[float]]] | None = None,
    scribbles: Sequence[ImageLike | None] | None = None,
    groups: Sequence[str | None] | None = None,
) -> list[PseudoLabel]:
    """Pseudo-labels of images, as stage `label` makes them. Hints have one entry an image.

    Args:
        images: paths (or fsspec URLs), Pillow images, or arrays uint8 (H, W, 3) RGB; also mixed.
        classes: names (ids 1, 2, … in their order), a `LabelSpace`, or the name or YAML file of one ("voc").
        labeler: name in the registry of labelers; `clip_cam` needs nothing beside the classes.
        settings: options of the labeler, e.g. {"refine": "crf"}, or {"artifact": DIR} for those that were trained.
        tags: names or ids of the classes that each image shows; without them `clip_cam` asks CLIP.
        boxes: of each image (class id, x0, y0, x1, y1) in pixels, x0 <= x < x1.
        scribbles: of each image a mask of class ids, 255 = not annotated.
        groups: images of one clip, volume or co-saliency group bear one name; they are numbered in their order.

    Returns:
        One `PseudoLabel` an image: `mask` uint8 (H, W) of class ids, 255 = undecided; `confidence` uint8 (H, W), 255 =
        certain. Both are None where the labeler abstains or the image is broken; `reason` and `detail` say why.

    Raises:
        ValueError: unknown labeler or setting, no class, or hints that do not fit the images.
        KeyError: a tag that is no class; lists the classes. TypeError: one image in place of a list.
    """
    images, space = several(images, "images"), as_space(classes)
    hints = {"tags": tags, "boxes": boxes, "scribbles": scribbles, "groups": groups}
    for name, given in hints.items():
        if given is not None and len(given) != len(images):
            raise ValueError(f"{name}: expected one entry an image ({len(images)}), found {len(given)}")
    options = check_settings(dict(settings or {}), get_labeler(labeler).Config, labeler)
    ids = [_tag_ids(tags[p] if tags else (), space) for p in range(len(images))]
    answers: list[PseudoLabel] = []
    step = TOGETHER if groups is None else max(len(images), 1)
    for start in range(0, len(images), step):
        places = range(start, min(start + step, len(images)))
        answers += _labelled([_Item(p, images[p], ids[p], hints) for p in places], labeler, options, space)
    return answers


def _tag_ids(tags: Sequence[str | int], space: LabelSpace) -> tuple[int, ...]:
    if isinstance(tags, str):
        raise ValueError(f"tags: expected a list of tags for each image, found {tags!r}; put brackets around it")
    return tuple(space.find(tag).id if isinstance(tag, str) else int(tag) for tag in tags)


class _Item:
    """One image and its hints, decoded when asked."""

    def __init__(self, position: int, image: ImageLike, class_ids: tuple[int, ...], hints: Mapping[str, Any]) -> None:
        self.position, self.image, self.class_ids = position, image, class_ids
        self.hints = {name: None if given is None else given[position] for name, given in hints.items()}

    def open(self) -> LabelItem:
        """Decode.

        Raises:
            ContractError: a broken image or scribble.
        """
        where = name_of(self.image, self.position)
        data = image_file(self.image, where)
        scribble, boxes = self.hints["scribbles"], self.hints["boxes"]
        return LabelItem(
            sample_id=pair_id(data, None, self.hints["groups"], self.position if self.hints["groups"] else None),
            image=decode_image(data, where),
            class_ids=self.class_ids or tuple(sorted({int(box[0]) for box in boxes or ()})),
            boxes=np.array(boxes or [], np.float32).reshape(-1, 5),
            scribble=None if scribble is None else ids_of(scribble, where),
            group=self.hints["groups"],
            index=self.position if self.hints["groups"] else None,
        )


def _labelled(given: list[_Item], labeler: str, options: LabelerConfig, space: LabelSpace) -> list[PseudoLabel]:
    """One answer an image, in their order; all that can be opened go to the labeler in one call."""
    answers: dict[int, PseudoLabel] = {}
    items: dict[int, LabelItem] = {}
    for one in given:
        try:
            items[one.position] = one.open()
        except ContractError as error:
            answers[one.position] = PseudoLabel.abstain(error.problem.reason, str(error.problem))
    if items:
        engine = open_labeler(labeler, options, space)
        answers.update(zip(items, engine.label(list(items.values())), strict=True))
    return [answers[one.position] for one in given]
