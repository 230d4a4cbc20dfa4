"""Metrics of a trained artifact on whole volumes: slices are predicted, stacked and compared in three dimensions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from maskmill.data_contracts import SAMPLE, Uint8Array, decode_image, decode_mask, list_shards, read_shard
from maskmill.data_contracts.images import decode_floats
from maskmill.data_contracts.texts import parse_json
from maskmill.trainers.engine import SegmentationPredictor, read_info
from maskmill.trainers.engine.volume_metrics import Convention, Empty, VolumeMetrics
from maskmill.trainers.registry import load_artifact

COLUMNS = ["sample_id", "image", "mask", "group", "index", "spacing", "provenance"]
Row = dict[str, Any]


class VolumesConfig(BaseModel):
    """What to evaluate on. `groups` None = every group that has masks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: str = Field(description="folder of the trained artifact")
    samples: str = Field(description="folder of SAMPLE shards")
    groups: tuple[str, ...] | None = Field(
        default=None, description="groups (patients) to evaluate on; null = every group that has masks"
    )
    convention: Convention = Field(
        default="monai",
        description="monai: distances in mm, the larger of both directed percentiles; medpy: pooled percentile, "
        "one-way mean; published tables are medpy with voxels: true and empty: zero",
    )
    voxels: bool = Field(
        default=False, description="distances in voxels, whatever the spacing, as in published tables of ACDC"
    )
    empty: Empty = Field(
        default="left_out",
        description="a class that is not predicted: left_out of the distances and counted as missed, or zero in all "
        "measures, as in published tables",
    )
    one_organ: bool = Field(
        default=False,
        description="of a scan's foreground, all classes together, only the largest connected blob counts",
    )
    device: str = Field(default="auto", description="auto (cuda where there is one), cpu, cuda or cuda:N")


@dataclass(frozen=True, eq=False)
class VolumeRows:
    """The rows of one scan of a group, slice by slice."""

    name: str
    rows: tuple[Row, ...]

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """mm from slice to slice, row to row, column to column, where every slice says the same."""
        found = {None if row["spacing"] is None else tuple(row["spacing"]) for row in self.rows}
        return found.pop() if len(found) == 1 else None

    @property
    def images(self) -> list[Uint8Array]:
        return [decode_image(row["image"]["bytes"], row["sample_id"]) for row in self.rows]

    @property
    def floats(self) -> list[NDArray[np.float32]]:
        """Images as float32 of 0..255, deep ones with all values."""
        return [decode_floats(row["image"]["bytes"], row["sample_id"]) for row in self.rows]

    @property
    def masks(self) -> Uint8Array:
        """uint8 (D, H, W).

        Raises:
            ValueError: slices of different sizes.
        """
        masks = [decode_mask(row["mask"]["bytes"], row["sample_id"]) for row in self.rows]
        if len(sizes := {mask.shape for mask in masks}) > 1:
            raise ValueError(
                f"{self.name}: expected slices of one size, found {sorted(sizes)}; let `pattern` in the ingest config "
                "name the scan (?P<volume>…), so that scans of one patient stay apart"
            )
        return np.stack(masks)


def read_volumes(samples: str, groups: Sequence[str] | None = None) -> Iterator[VolumeRows]:
    """Scans of the groups that have masks, sorted by name.

    A scan is what provenance calls `volume` (ingest of volumes writes it), else the group. Slices without a mask are
    left out.

    Raises:
        FileNotFoundError: no shards there.
    """
    paths = list_shards(samples)
    if not paths:
        raise FileNotFoundError(f"{samples}: no shards (*.parquet) there; ingest the volumes first")
    found: dict[str, list[Row]] = {}
    for row in (row for path in paths for row in read_shard(path, SAMPLE, COLUMNS).to_pylist()):
        if row["mask"] is not None and row["group"] is not None and (groups is None or row["group"] in groups):
            found.setdefault(volume_name(row), []).append(row)
    for name in sorted(found):
        yield VolumeRows(name, tuple(sorted(found[name], key=lambda row: (row["index"] or 0, row["sample_id"]))))


def volume_name(row: Row) -> str:
    """Name of the scan that a Sample row belongs to."""
    extra = row["provenance"]["extra"]
    said = parse_json(extra) if extra else {}
    name = said.get("volume") if isinstance(said, dict) else None
    return str(name or row["group"])


def evaluate_volumes(config: VolumesConfig) -> dict[str, Any]:
    """The measures of `VolumeMetrics` over all scans; raises what `volume_metrics` does."""
    return volume_metrics(config).compute()


def volume_metrics(config: VolumesConfig) -> VolumeMetrics:
    """All scans compared, one after another.

    Raises:
        FileNotFoundError: no artifact or no shards.
        ValueError: no scan with masks.
    """
    space = read_info(config.artifact).label_space
    predictor = load_artifact(config.artifact, config.device)
    metrics = VolumeMetrics(space, config.convention, config.empty)
    for volume in read_volumes(config.samples, config.groups):
        predicted = predict_volume(predictor, volume, one_organ=config.one_organ)
        metrics.update(predicted, volume.masks, None if config.voxels else volume.spacing)
    if not metrics.volumes:
        raise ValueError(f"{config.samples}: expected scans with masks, found none; ingest masks with the images")
    return metrics


def predict_volume(predictor: SegmentationPredictor, volume: VolumeRows, *, one_organ: bool = False) -> Uint8Array:
    """Labels uint8 (D, H, W) of a scan. With `one_organ` only the largest blob of its foreground is kept."""
    images: Sequence[NDArray[Any]] = volume.floats if predictor.floats else volume.images
    labels = np.stack([prediction.labels for prediction in predictor.predict(images)])
    return keep_organ(labels, predictor.space.background_id) if one_organ else labels


def keep_organ(labels: Uint8Array, background: int | None) -> Uint8Array:
    """Labels (D, H, W) with only the largest 26-connected blob of all foreground classes together, the first of
    equals; the rest becomes background. Parts of one organ touch, stray blobs do not.

    Raises:
        ValueError: no background class.
    """
    if background is None:
        raise ValueError("one_organ: expected a label space with a background id, found none; set background_id")
    blobs, count = ndimage.label(labels != background, np.ones((3, 3, 3)))
    if count < 2:
        return labels
    largest = 1 + int(np.bincount(blobs.ravel())[1:].argmax())
    kept: Uint8Array = np.where(blobs == largest, labels, np.uint8(background))
    return kept
