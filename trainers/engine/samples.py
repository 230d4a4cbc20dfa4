"""What a trainer trains on: Sample shards, joined on sample_id with pseudo-labels, weak labels and the ids that
selection kept.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from maskmill.data_contracts import (
    DECISION,
    PSEUDO_LABEL,
    SAMPLE,
    WEAK_LABEL,
    Contract,
    Instance,
    Relabel,
    Uint8Array,
    content_id,
    decode_image,
    decode_mask,
    list_shards,
    read_footer,
    read_instances,
    read_shard,
)
from maskmill.data_contracts.images import decode_floats
from maskmill.data_contracts.relabel import remapped
from maskmill.trainers.engine.rows import Row, RowStore

_INFO = ["sample_id", "height", "width", "class_ids", "group", "index", "mask"]
_PIXELS = ["sample_id", "image", "mask", "spacing"]


class DataConfig(BaseModel):
    """Where the samples and their labels lie. Each entry is a folder of shards or one shard file (local path or
    fsspec URL).

    Masks come from `labels` where that is given, from the samples where neither `labels` nor `weak` is, and are absent
    otherwise: a run on weak or pseudo-labels never sees the true masks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: tuple[str, ...] = Field(min_length=1, description="folders of SAMPLE shards, or shard files")
    labels: tuple[str, ...] = Field(
        default=(), description="folders of PSEUDO_LABEL shards: masks to train on in place of the samples' own"
    )
    weak: tuple[str, ...] = Field(
        default=(), description="folders of WEAK_LABEL shards: tags, boxes, scribbles or points to train on"
    )
    decisions: str | None = Field(default=None, description="DECISION file; only samples that it kept are used")
    ids: tuple[str, ...] | None = Field(default=None, description="only these sample ids; null = all")

    @field_validator("samples", "labels", "weak", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


@dataclass(frozen=True)
class Info:
    """What is known of a sample without its pixels."""

    sample_id: str
    height: int
    width: int
    class_ids: tuple[int, ...]  # image tags: of the weak label where one is joined, else of the sample
    group: str | None
    index: int | None
    has_mask: bool
    mended: tuple[tuple[int, int], ...] = ()  # ids of the sample's own mask that people said are others


@dataclass(frozen=True)
class Example:
    """One decoded sample. Absent labels are None."""

    info: Info
    image: NDArray[Any]  # (H, W, 3) RGB, uint8; of `Samples.floats` float32 of 0..255
    mask: Uint8Array | None  # (H, W) class ids, 255 = ignore
    confidence: Uint8Array | None  # (H, W), 255 = certain; pseudo-labels only
    scribble: Uint8Array | None  # (H, W) class ids, 255 = not annotated
    boxes: NDArray[np.float32]  # (N, 5): class id, x0, y0, x1, y1
    points: NDArray[np.float32]  # (N, 3): class id, x, y
    spacing: tuple[float, ...] | None  # mm


@dataclass(frozen=True)
class Samples:
    """An ordered set of samples (by sample_id). Opening reads no pixels; the first `example` does. With `floats` images
    are float32 of 0..255, so that deep ones keep all values.
    """

    config: DataConfig
    infos: tuple[Info, ...]
    lineage: tuple[str, ...]  # content hashes of the shards behind it
    counts: dict[str, int]  # samples found, and dropped by reason
    cache: str
    memory_mb: int
    floats: bool = False

    @classmethod
    def open(cls, config: DataConfig, cache: str, memory_mb: int = 1024) -> "Samples":
        """Join the tables' ids.

        Raises:
            FileNotFoundError: no shard at one of the places named.
            ContractError: a shard of another contract or version.
        """
        rows = _table(config.samples, SAMPLE, _INFO)
        kept = None if config.decisions is None else _kept(config.decisions)
        labelled = {
            str(r["sample_id"]) for r in _table(config.labels, PSEUDO_LABEL, ["sample_id", "mask"]) if r["mask"]
        }
        tags = {
            str(r["sample_id"]): r["class_ids"] for r in _table(config.weak, WEAK_LABEL, ["sample_id", "class_ids"])
        }
        wanted = None if config.ids is None else set(config.ids)
        found: dict[str, Info] = {}
        counts = {"samples": 0, "not_kept": 0, "not_wanted": 0, "duplicate_id": 0, "no_weak_label": 0}
        for row in rows:
            counts["samples"] += 1
            sample_id = str(row["sample_id"])
            reason = _why_not(sample_id, found, kept, wanted, tags if config.weak else None)
            if reason is not None:
                counts[reason] += 1
                continue
            truth = row["mask"] and not config.weak
            has_mask = sample_id in labelled if config.labels else truth
            found[sample_id] = _info(row, tags.get(sample_id), has_mask, (kept or {}).get(sample_id))
        paths = [path for place in (*config.samples, *config.labels, *config.weak) for path in _shards(place)]
        lineage = [footer.content for path in paths if (footer := read_footer(path)) is not None]
        return cls(config, tuple(found[i] for i in sorted(found)), tuple(lineage), counts, cache, memory_mb)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without the rows that it may hold: a data process opens its own."""
        return Samples, tuple(getattr(self, field.name) for field in fields(self))

    def __len__(self) -> int:
        return len(self.infos)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(info.sample_id for info in self.infos)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of which samples these are and of their labels; a sample_id already stands for image and mask as they
        were ingested.
        """
        labels = [
            footer.content
            for place in (*self.config.labels, *self.config.weak)
            for path in _shards(place)
            if (footer := read_footer(path)) is not None
        ]
        mended = [f"{info.sample_id}: {info.mended}" for info in self.infos if info.mended]
        return content_id(*self.ids, None, *sorted(labels), *([None, *mended] if mended else []))

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """Positions by group, each in order of `index`; groups sorted by name. Samples without a group are left out."""
        found: dict[str, list[int]] = {}
        for position, info in enumerate(self.infos):
            if info.group is not None:
                found.setdefault(info.group, []).append(position)
        return {
            name: sorted(found[name], key=lambda p: (self.infos[p].index or 0, self.infos[p].sample_id))
            for name in sorted(found)
        }

    def subset(self, positions: Sequence[int]) -> "Samples":
        """The samples at these positions, as a set of their own."""
        return replace(self, infos=tuple(self.infos[p] for p in sorted(set(positions))))

    def with_masks(self) -> "Samples":
        """Those that have a mask.

        Raises:
            ValueError: none has.
        """
        positions = [p for p, info in enumerate(self.infos) if info.has_mask]
        if not positions:
            raise ValueError(
                f"{', '.join(self.config.samples)}: expected samples with masks, found {len(self)} samples and no mask "
                f"({self.counts}); name pseudo-labels in `labels`, or ingest masks with the images"
            )
        return self.subset(positions)

    def without_masks(self) -> "Samples":
        """Those that have none."""
        return self.subset([p for p, info in enumerate(self.infos) if not info.has_mask])

    @cached_property
    def _stores(self) -> tuple[RowStore, RowStore, RowStore]:
        def store(places: Sequence[str], contract: Contract, columns: list[str]) -> RowStore:
            paths = [path for place in places for path in _shards(place)]
            return RowStore(paths, contract, columns, self.ids, self.cache, self.memory_mb)

        return (
            store(self.config.samples, SAMPLE, _PIXELS),
            store(self.config.labels, PSEUDO_LABEL, ["sample_id", "mask", "confidence"]),
            store(self.config.weak, WEAK_LABEL, ["sample_id", "boxes", "scribble", "points"]),
        )

    @cached_property
    def _objects(self) -> RowStore:
        places, contract = (self.config.labels, PSEUDO_LABEL) if self.config.labels else (self.config.samples, SAMPLE)
        paths = [path for place in places for path in _shards(place)]
        return RowStore(paths, contract, ["sample_id", "instances"], self.ids, self.cache, self.memory_mb)

    def instances(self, position: int) -> tuple[Instance, ...] | None:
        """The objects of the sample at `position`, of its label where one is joined; None where nobody told them
        apart. People's other classes for ids of the mask hold for its objects.

        Raises:
            ValueError: run lengths of no mask of the sample's size.
        """
        info = self.infos[position]
        row = self._objects.row(info.sample_id) if info.sample_id in self._objects else {}
        found = read_instances(row, info.height, info.width)
        mended = {} if self.config.labels else dict(info.mended)
        return None if found is None else tuple(replace(o, class_id=mended.get(o.class_id, o.class_id)) for o in found)

    def example(self, position: int) -> Example:
        """Decode the sample at `position`.

        Raises:
            ContractError: an undecodable image or label; names the sample.
            ValueError: image and label differ in size.
        """
        info = self.infos[position]
        samples, labels, weak = self._stores
        row = samples.row(info.sample_id)
        label: Row = labels.row(info.sample_id) if info.sample_id in labels else {}
        hints: Row = weak.row(info.sample_id) if info.sample_id in weak else {}
        mask = (label if self.config.labels else row).get("mask") if info.has_mask else None
        example = Example(
            info=info,
            image=(decode_floats if self.floats else decode_image)(row["image"]["bytes"], info.sample_id),
            mask=_label(mask, info, () if self.config.labels else info.mended),
            confidence=_label(label.get("confidence"), info),
            scribble=_label(hints.get("scribble"), info),
            boxes=_numbers(hints.get("boxes"), ("class_id", "x0", "y0", "x1", "y1")),
            points=_numbers(hints.get("points"), ("class_id", "x", "y")),
            spacing=None if row["spacing"] is None else tuple(row["spacing"]),
        )
        _check_sizes(example)
        return example


def _shards(place: str) -> list[str]:
    paths = [place] if place.endswith(".parquet") else list_shards(place)
    if not paths:
        raise FileNotFoundError(f"{place}: no shards (*.parquet) there; run the stage that writes them first")
    return paths


def _table(places: Sequence[str], contract: Contract, columns: list[str]) -> list[Row]:
    """The columns named, of all shards at `places`; of a mask only whether there is one."""
    rows: list[Row] = []
    for path in (path for place in places for path in _shards(place)):
        table = read_shard(path, contract, columns)
        if "mask" in columns:
            position = table.column_names.index("mask")
            table = table.set_column(position, "mask", pc.is_valid(table.column("mask")))
        rows.extend(table.to_pylist())
    return rows


def _kept(place: str) -> dict[str, Relabel | None]:
    """The kept samples, each with what people said of its label."""
    rows = _table((place,), DECISION, ["sample_id", "kept", "relabel_from", "relabel_to"])
    return {str(row["sample_id"]): Relabel.of(row) for row in rows if row["kept"]}


def _why_not(
    sample_id: str,
    found: dict[str, Info],
    kept: Collection[str] | None,
    wanted: set[str] | None,
    tags: dict[str, Any] | None,
) -> str | None:
    if sample_id in found:
        return "duplicate_id"
    if kept is not None and sample_id not in kept:
        return "not_kept"
    if wanted is not None and sample_id not in wanted:
        return "not_wanted"
    return "no_weak_label" if tags is not None and sample_id not in tags else None


def _info(row: Row, tags: list[int] | None, has_mask: bool, relabel: Relabel | None) -> Info:
    own = relabel.ids(row["class_ids"]) if relabel else row["class_ids"]
    return Info(
        sample_id=str(row["sample_id"]),
        height=int(row["height"]),
        width=int(row["width"]),
        class_ids=tuple(own if tags is None else tags),
        group=row["group"],
        index=row["index"],
        has_mask=has_mask,
        mended=relabel.pairs(row["class_ids"]) if relabel else (),
    )


def _label(file: Row | None, info: Info, mended: Iterable[tuple[int, int]] = ()) -> Uint8Array | None:
    return None if file is None else remapped(decode_mask(file["bytes"], info.sample_id), mended)


def _numbers(rows: list[Row] | None, names: tuple[str, ...]) -> NDArray[np.float32]:
    return np.array([[row[name] for name in names] for row in rows or []], np.float32).reshape(-1, len(names))


def _check_sizes(example: Example) -> None:
    for name, label in (("mask", example.mask), ("confidence", example.confidence), ("scribble", example.scribble)):
        if label is not None and label.shape != example.image.shape[:2]:
            raise ValueError(
                f"{example.info.sample_id}: expected a {name} of (H, W) = {example.image.shape[:2]}, "
                f"found {label.shape}; make the label again from this image, or resize it by nearest neighbour"
            )
