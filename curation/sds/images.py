"""From a Sample row to model input: decode, check, choose labels, resize. Says why when a row cannot be scored."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskmill.curation.rows import Row, open_pair
from maskmill.curation.sds.config import SdsConfig
from maskmill.data_contracts import IGNORE, ContractError, LabelSpace, Reason, Uint8Array, foreground_ids


@dataclass(frozen=True)
class Prepared:
    """One sample, ready to be scored. `pixels` uint8 (3, h, w) at the model's size; `mask` at its own."""

    sample_id: str
    labels: tuple[int, ...]
    mask_classes: tuple[int, ...]
    image: Uint8Array
    mask: Uint8Array | None
    pixels: Tensor
    group: str | None = None


@dataclass(frozen=True)
class Unscored:
    """A sample that cannot be scored, and why."""

    sample_id: str
    labels: tuple[int, ...]
    reason: Reason
    detail: str
    n_classes: int | None = None  # 0: its mask says that nothing is there


def prepare(row: Row, config: SdsConfig, space: LabelSpace, multiple: int) -> Prepared | Unscored:
    """Decode one Sample row. `multiple`: sides of the model's input divide by it (tile grid x patch). Never raises
    for bad data.
    """
    sample_id = str(row["sample_id"])
    try:
        return _prepare(row, config, space, multiple)
    except ContractError as error:
        return Unscored(sample_id, (), Reason.SCORE_FAILED, str(error.problem))


def _prepare(row: Row, config: SdsConfig, space: LabelSpace, multiple: int) -> Prepared | Unscored:
    sample_id = str(row["sample_id"])
    image, mask = open_pair(row)
    in_mask = tuple(foreground_ids(mask, space)) if mask is not None else ()
    labels = choose_labels(row, in_mask, config, space)
    if not labels:
        n_classes = 0 if mask is not None and (mask != IGNORE).any() else None
        detail = "neither prompt nor mask names a class of the label space"
        return Unscored(sample_id, (), Reason.NO_CLASSES, detail, n_classes)
    pixels = resize(image, config.image_side, multiple)
    return Prepared(sample_id, labels, in_mask, image, mask, pixels, row.get("group"))


def choose_labels(row: Row, in_mask: tuple[int, ...], config: SdsConfig, space: LabelSpace) -> tuple[int, ...]:
    """Classes that compete for an image, ascending: the prompt's where wanted and given, else those in the mask (or
    stated for it).
    """
    stated = row.get("prompt_class_ids") if config.labels == "prompt" else None
    wanted = stated or in_mask or row.get("class_ids") or ()
    return tuple(sorted({int(i) for i in wanted if int(i) in space.by_id}))


def resize(image: Uint8Array, side: int | None, multiple: int) -> Tensor:
    """Bicubic to a square of `side`, or to the native size rounded UP to a multiple; uint8 (3, h, w)."""
    height, width = (side, side) if side else (-(-s // multiple) * multiple for s in image.shape[:2])
    if (height, width) != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
