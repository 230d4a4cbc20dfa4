"""How good pseudo-labels are: mIoU of PSEUDO_LABEL shards against the true masks of their samples."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import (
    IGNORE,
    PSEUDO_LABEL,
    SAMPLE,
    Contract,
    LabelSpace,
    Uint8Array,
    decode_mask,
    iter_rows,
    list_shards,
    load_label_space,
)
from maskmill.data_contracts.labels import AnySpace
from maskmill.trainers.engine import class_name


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


def compare_labels(config: CompareConfig) -> dict[str, Any]:
    """miou and pixel_accuracy in [0, 1] over the classes that occur in the masks, `iou` by class name, the share of
    pixels that labels left `undecided`, and how many `images` were judged.

    Raises:
        FileNotFoundError: no shards. ValueError: not one sample with both.
    """
    labels = _labels(config.labels)
    matrix = np.zeros((256, 256), np.int64)  # rows: truth; columns: label
    images = 0
    for path in _shards(config.samples):
        for sample_id, mask in _masks(path, SAMPLE):
            if (label := labels.get(sample_id)) is not None:
                matrix += confusion(decode_mask(mask, sample_id), decode_mask(label, sample_id))
                images += 1
    if not images:
        raise ValueError(f"{config.labels}: expected labels of samples with masks in {config.samples}, found none")
    return {**_measured(matrix, config), "images": images}


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


def _labels(folder: str) -> dict[str, bytes]:
    """Encoded masks by sample id; abstentions are left out."""
    return {sample_id: mask for path in _shards(folder) for sample_id, mask in _masks(path, PSEUDO_LABEL)}


def _masks(path: str, contract: Contract) -> Iterator[tuple[str, bytes]]:
    """Ids and encoded masks of a shard; rows without a mask are left out."""
    for row in iter_rows(path, contract, ["sample_id", "mask"]):
        mask: Any = row["mask"]
        if mask is not None:
            yield str(row["sample_id"]), mask["bytes"]


def _shards(folder: str) -> list[str]:
    if not (paths := list_shards(folder)):
        raise FileNotFoundError(f"{folder}: expected shards (*.parquet), found none; run the step that writes them")
    return paths
