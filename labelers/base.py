"""What every labeler is: a config, and an engine that turns images with weak labels into dense pseudo-labels."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from maskmill.data_contracts import (
    Instance,
    LabelSpace,
    Reason,
    Uint8Array,
    WithPresets,
    check_instances,
    encode_mask,
    foreground_ids,
)
from maskmill.labelers.refiner_options import RefinerConfig


class LabelerConfig(WithPresets):
    """Options that a pseudo-label depends on. A labeler's own config inherits from this."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    later: ClassVar[Mapping[str, Any]] = {"refiner": None}

    refiner: RefinerConfig | None = Field(
        default=None,
        description="goes over every mask of this labeler: crf, par, or {kind: promptable, model: FOLDER}; none = "
        "masks as they are",
    )

    @model_validator(mode="after")
    def _outermost_refiner(self) -> "LabelerConfig":
        for where, inner in _inner_labelers(self):
            if inner.refiner is not None:
                raise ValueError(f"{where}.refiner: only the outer labeler's masks are refined; set `refiner` there")
        return self


def _inner_labelers(config: BaseModel, path: str = "") -> Iterator[tuple[str, LabelerConfig]]:
    """Labelers' options at any depth inside other options, each with where it stands."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, LabelerConfig):
            yield f"{path}{name}", value
        elif isinstance(value, BaseModel):
            yield from _inner_labelers(value, f"{path}{name}.")


@dataclass(frozen=True, eq=False)
class LabelItem:
    """One decoded image and what is known of it. Absent hints are empty or None."""

    sample_id: str
    image: Uint8Array  # (H, W, 3) RGB
    class_ids: tuple[int, ...] = ()  # image tags
    boxes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 5), np.float32))  # class id, x0, y0, x1, y1
    points: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 3), np.float32))  # class id, x, y
    scribble: Uint8Array | None = None  # (H, W) class ids, 255 = not annotated
    group: str | None = None
    index: int | None = None
    box_scores: NDArray[np.float32] | None = None  # (N,) in the order of `boxes`, where a detector found them


@dataclass(frozen=True, eq=False)
class PseudoLabel:
    """A labeler's answer for one image: a mask with its confidence, or none of both and the reason why not."""

    mask: Uint8Array | None = None  # (H, W) class ids, 255 = undecided
    confidence: Uint8Array | None = None  # (H, W), 255 = certain
    reason: Reason | None = None
    detail: str | None = None
    instances: tuple[Instance, ...] = ()  # where the labeler tells objects apart

    @classmethod
    def abstain(cls, reason: Reason, detail: str) -> "PseudoLabel":
        """No label for this image."""
        return cls(reason=reason, detail=detail)

    def row(self, sample_id: str, labeler: str, version: str, space: LabelSpace) -> dict[str, Any]:
        """The PSEUDO_LABEL row. Objects that do not fit their label map are left out, and `detail` says how."""
        mask, confidence = self.mask, self.confidence
        misfit = check_instances(self.instances, mask, space) if self.instances and mask is not None else None
        return {
            "sample_id": sample_id,
            "mask": None if mask is None else {"bytes": encode_mask(mask, space.palette), "path": None},
            "confidence": None if confidence is None else {"bytes": encode_mask(confidence), "path": None},
            "class_ids": [] if mask is None else foreground_ids(mask, space),
            "instances": None if misfit else [instance.row() for instance in self.instances] or None,
            "labeler": labeler,
            "labeler_version": version,
            "reason": None if self.reason is None else str(self.reason),
            "detail": f"instances left out: {misfit}" if misfit else self.detail,
        }


class Labeler(ABC):
    """The engine: models loaded, ready to label. Safe to call from several threads."""

    @abstractmethod
    def label(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        """One answer an item, in their order. All items of one shard come in one call, so that groups, clips and
        volumes in it are seen whole; an image's answer may depend on its group, on nothing else beside it.
        """


def same_size(sizes: Sequence[tuple[int, int]], batch: int) -> Iterator[list[int]]:
    """Positions of equal sizes, at most `batch` at a time."""
    groups: dict[tuple[int, int], list[int]] = {}
    for position, size in enumerate(sizes):
        groups.setdefault(size, []).append(position)
    for positions in groups.values():
        for start in range(0, len(positions), batch):
            yield positions[start : start + batch]


def by_clip(items: Sequence[LabelItem]) -> list[list[int]]:
    """Positions by clip, each in order of frames; an item without a group is a clip of its own."""
    groups: dict[str, list[int]] = {}
    for position, item in enumerate(items):
        key = f"group {item.group}" if item.group is not None else f"sample {item.sample_id}"
        groups.setdefault(key, []).append(position)
    return [sorted(group, key=lambda p: (items[p].index or 0, items[p].sample_id)) for group in groups.values()]
