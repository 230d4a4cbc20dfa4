"""How good pseudo-labels are: mIoU of PSEUDO_LABEL shards against the true masks of their samples, and average
precision of their objects where both sides tell objects apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import (
    IGNORE,
    PSEUDO_LABEL,
    SAMPLE,
    Contract,
    Instance,
    LabelSpace,
    Uint8Array,
    decode_mask,
    iter_rows,
    list_shards,
    load_label_space,
    read_instances,
)
from maskmill.data_contracts.labels import AnySpace
from maskmill.trainers.engine import class_name

Row = dict[str, Any]


class CompareConfig(BaseModel):
    """Which labels, against which masks. Samples without a mask or without a label are counted, not judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: str = Field(description="folder of SAMPLE shards with masks")
    labels: str = Field(description="folder of PSEUDO_LABEL shards")
    label_space: AnySpace = Field(default="voc", description="built-in name, YAML file, or the space itself")
    undecided: Literal["leave_out", "wrong"] = Field(
        default="leave_out", description="pixels that a label leaves at 255: not judged (CLIP-ES), or missed"
    )

    @property
    def space(self) -> LabelSpace:
        return load_label_space(self.label_space) if isinstance(self.label_space, str) else self.label_space


@dataclass
class _Objects:
    """Objects of the judged samples that have true ones: what is there, what labels show, and the (H, W) of each."""

    truths: list[Sequence[Instance]] = field(default_factory=list)
    found: list[Sequence[Instance]] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def add(self, sample: Row, label: Row) -> None:
        size = sample["height"], sample["width"]
        if (truths := read_instances(sample, *size)) is not None:
            self.truths.append(truths)
            self.found.append(read_instances(label, *size) or ())
            self.sizes.append(size)

    def measured(self, space: LabelSpace) -> dict[str, Any]:
        """`average_precision`; nothing where no label tells objects apart."""
        if not any(self.found):
            return {}
        from maskmill.vision.instances.precision import average_precision

        return average_precision(self.truths, self.found, self.sizes, space)


def _ranked(label: Row) -> Row:
    """A label whose objects without a score have the mean confidence of their pixels. The confidences themselves,
    many times as large as masks, are not kept.
    """
    kept = {name: label[name] for name in ("sample_id", "mask", "instances")}
    if label["confidence"] is None or all(entry["score"] is not None for entry in label["instances"] or ()):
        return kept
    sure = decode_mask(label["confidence"]["bytes"], label["sample_id"])
    objects = [_sure(one, sure) for one in read_instances(label, *sure.shape) or ()]
    return {**kept, "instances": [one.row() for one in objects]}


def _sure(one: Instance, sure: Uint8Array) -> Instance:
    mask = one.mask if one.score is None else None
    return one if mask is None or not mask.any() else replace(one, score=float(sure[mask].mean()) / 255)


def compare_labels(config: CompareConfig) -> dict[str, Any]:
    """miou and pixel_accuracy in [0, 1] over the classes that occur in the masks, `iou` by class name, the share of
    pixels that labels left `undecided`, and how many `images` were judged. Where samples and labels tell objects
    apart also COCO's average precision (`ap`, `ap50`, ... of `average_precision`): objects of labels without a score
    are ranked by the mean confidence of their pixels.

    Raises:
        FileNotFoundError: no shards. ValueError: not one sample with both.
    """
    rows = _rows(config.labels, PSEUDO_LABEL, "confidence", "instances")
    labels = {row["sample_id"]: _ranked(row) for row in rows}
    matrix = np.zeros((256, 256), np.int64)  # rows: truth; columns: label
    images, objects = 0, _Objects()
    for sample in _rows(config.samples, SAMPLE, "height", "width", "instances"):
        sample_id = sample["sample_id"]
        if (label := labels.get(sample_id)) is not None:
            truth, drawn = (decode_mask(row["mask"]["bytes"], sample_id) for row in (sample, label))
            matrix += confusion(truth, drawn)
            images += 1
            objects.add(sample, label)
    if not images:
        raise ValueError(f"{config.labels}: expected labels of samples with masks in {config.samples}, found none")
    return {**_measured(matrix, config), **objects.measured(config.space), "images": images}


def confusion(truth: Uint8Array, label: Uint8Array) -> NDArray[np.int64]:
    """Pixels (256, 256) by true and labelled id; pixels whose truth is 255 do not count."""
    judged = truth != IGNORE
    pairs = truth[judged].astype(np.int64) * 256 + label[judged]
    counts: NDArray[np.int64] = np.bincount(pairs, minlength=65536).reshape(256, 256)
    return counts


def _measured(matrix: NDArray[np.int64], config: CompareConfig) -> dict[str, Any]:
    undecided = float(matrix[:, IGNORE].sum() / max(matrix.sum(), 1))
    if config.undecided == "leave_out":
        matrix = matrix.copy()
        matrix[:, IGNORE] = 0
    hit, target, found = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    present = np.flatnonzero(target)
    iou = hit[present] / (target + found - hit)[present]
    return {
        "miou": float(iou.mean()),
        "pixel_accuracy": float(hit.sum() / matrix.sum()),
        "undecided": undecided,
        "iou": {class_name(config.space, int(i)): float(v) for i, v in zip(present, iou, strict=True)},
    }


def _rows(folder: str, contract: Contract, *columns: str) -> Iterator[Row]:
    """Ids, encoded masks and what else is asked for; rows without a mask (abstentions) are left out."""
    for path in _shards(folder):
        for row in iter_rows(path, contract, ["sample_id", "mask", *columns]):
            if row["mask"] is not None:
                yield dict(row)


def _shards(folder: str) -> list[str]:
    if not (paths := list_shards(folder)):
        raise FileNotFoundError(f"{folder}: expected shards (*.parquet), found none; run the step that writes them")
    return paths
