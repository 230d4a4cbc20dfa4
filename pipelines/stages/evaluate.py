"""Metrics of a trained artifact on contract shards, and a sheet of overlays to look at."""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import (
    IGNORE,
    LabelSpace,
    Uint8Array,
    bytes_hash,
    config_hash,
    content_id,
    encode_image,
    read_bytes,
    write_bytes,
)
from maskmill.data_contracts.presets import merge
from maskmill.data_contracts.sums import carries_check, checked_json, json_fault, read_json, sum_fault
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.core.lock import working
from maskmill.pipelines.core.working import working_folder
from maskmill.trainers.engine import DataConfig, PredictConfig, Samples
from maskmill.trainers.registry import is_measured, load_artifact, makes_masks, own_measures
from maskmill.vision.crf_options import CrfOptions, crf_stamp

if TYPE_CHECKING:
    from maskmill.trainers.engine import ArtifactInfo  # with torch: what needs it imports it where it runs

VERSION = 1


class EvaluateConfig(BaseModel):
    """What to evaluate on. `predict` replaces the artifact's own way of feeding images (scales, flips, windows)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: str = Field(description="folder of the trained artifact")
    data: DataConfig = Field(description="samples with true masks")
    predict: PredictConfig | None = Field(
        default=None, description="how images reach the network; null = the artifact's own way"
    )
    crf: CrfOptions | None = Field(
        default=None, description="a dense CRF after the segmenter: metrics of both, the CRF's by the name `miou_crf`"
    )
    settings: dict[str, Any] = Field(
        default={},
        description="of the trainer, in place of those of the training, for measures of its own: "
        "{test_shots: 5, test_episodes: 1000}",
    )
    overlays: int = Field(
        default=8, ge=0, description="samples on the sheet of overlays: the first by id; 0 = no sheet"
    )
    batch: int = Field(default=8, ge=1, description="images a forward pass")
    device: str = Field(default="auto", description="auto (cuda where there is one), cpu, cuda or cuda:N")


def evaluate_artifact(config: EvaluateConfig, out_dir: str) -> dict[str, object]:
    """Write metrics.json and overlays.png to `out_dir` and return the metrics; read them back where they are there
    already.

    Raises:
        FileNotFoundError: no artifact or no shards.
        ValueError: no sample with a mask, or an artifact that gives no masks.
        RunLockedError: another process evaluates into this folder.
    """
    with working(out_dir):
        return _evaluated(config, out_dir)


def _evaluated(config: EvaluateConfig, out_dir: str) -> dict[str, object]:
    from maskmill.trainers.engine import evaluate, read_info, with_crf

    info = read_info(config.artifact)
    samples = Samples.open(config.data, os.path.join(working_folder(out_dir), "cache")).with_masks()
    fingerprint = _fingerprint(config, info, samples)
    if (found := _finished(out_dir, fingerprint)) is not None:
        return found

    if not is_measured(info.trainer):
        raise ValueError(
            f"{config.artifact}: an artifact of {info.trainer} gives no masks, so there is nothing to measure here; "
            "name the artifact of a segmenter, or label with this one and measure those labels"
        )
    predictor = load_artifact(config.artifact, config.device)

    def labels_of(images: Sequence[Uint8Array]) -> list[Uint8Array]:
        return [prediction.labels for prediction in predictor.predict(images, config.predict)]

    masks, own = makes_masks(info.trainer), own_measures(info.trainer)
    metrics = evaluate(labels_of, samples, info.label_space, config.batch) if masks else {}
    if masks and (crf := config.crf) is not None:

        def refined(images: Sequence[Uint8Array]) -> list[Uint8Array]:
            return [one.labels for one in with_crf(predictor.predict(images, config.predict), images, crf)]

        again = evaluate(refined, samples, info.label_space, config.batch)
        metrics |= {f"{name}_crf": again[name] for name in ("miou", "dice", "pixel_accuracy", "iou")}
    if own is not None:
        given = merge(info.config, config.settings)
        metrics |= own(predictor, samples, info.model_copy(update={"config": given}))
    sums: dict[str, str] = {}
    if config.overlays and masks:
        examples = [samples.example(i) for i in range(min(config.overlays, len(samples)))]
        predicted = labels_of([example.image for example in examples])
        truths = [example.mask for example in examples if example.mask is not None]
        sheet = overlay_sheet([example.image for example in examples], truths, predicted, info.label_space)
        picture = encode_image(sheet)
        write_bytes(os.path.join(out_dir, "overlays.png"), picture)
        sums["overlays.png"] = bytes_hash(picture)
    return _stored({**metrics, "artifact": info.fingerprint}, fingerprint, sums, out_dir)


def _stored(metrics: dict[str, object], fingerprint: str, sums: dict[str, str], out_dir: str) -> dict[str, object]:
    result = {**metrics, "fingerprint": fingerprint}
    stored = json.loads(json.dumps({**result, "sums": sums}, sort_keys=True))
    write_bytes(os.path.join(out_dir, "metrics.json"), checked_json(stored))
    return result


def is_evaluated(config: EvaluateConfig, out_dir: str) -> bool:
    """Whether `out_dir` holds the metrics of exactly this artifact on exactly these samples. Reads no pixels."""
    from maskmill.trainers.engine import read_info

    samples = Samples.open(config.data, os.path.join(working_folder(out_dir), "cache")).with_masks()
    return _finished(out_dir, _fingerprint(config, read_info(config.artifact), samples)) is not None


def _fingerprint(config: EvaluateConfig, info: "ArtifactInfo", samples: Samples) -> str:
    left_out = {"artifact", "data", "device", *(() if config.crf else ("crf",))}
    left_out |= set() if config.settings else {"settings"}
    settings = config_hash(config.model_dump(mode="json", exclude=left_out))
    own = () if own_measures(info.trainer) is None else ("own measures",)
    crf = () if config.crf is None else crf_stamp(config.crf)
    parts = (info.fingerprint, info.weights, samples.fingerprint, settings)
    return content_id("evaluate", str(VERSION), *parts, *own, *crf)


def _finished(out_dir: str, fingerprint: str) -> dict[str, object] | None:
    try:
        if evaluation_fault(out_dir):
            return None
    except FileNotFoundError:
        return None
    stored = read_json(os.path.join(out_dir, "metrics.json"))
    found = {key: value for key, value in stored.items() if key != "sums"}
    return found if found.get("fingerprint") == fingerprint else None


def evaluation_fault(out_dir: str) -> str | None:
    """What is wrong with the files of a finished evaluation, in words; None where nothing is, or where they carry no
    hashes, as those of earlier versions.
    """
    data = read_bytes(os.path.join(out_dir, "metrics.json"))
    if (fault := json_fault(data)) and carries_check(data):
        return f"metrics.json: {fault}"
    sums = parse_json(data).get("sums", {})
    faults = (f"{name}: {fault}" for name in sums if (fault := sum_fault(os.path.join(out_dir, name), sums[name])))
    return next(faults, None)


def overlay_sheet(
    images: list[Uint8Array], truths: list[Uint8Array], predicted: list[Uint8Array], space: LabelSpace, side: int = 192
) -> Uint8Array:
    """Uint8 (rows, 3 columns, 3): image, truth, prediction a row, each in a square of `side` pixels."""
    rows = []
    for image, truth, labels in zip(images, truths, predicted, strict=True):
        panels = [image, overlay(image, truth, space), overlay(image, labels, space)]
        rows.append(np.concatenate([_square(panel, side) for panel in panels], axis=1))
    return np.concatenate(rows, axis=0)


def overlay(image: Uint8Array, labels: Uint8Array, space: LabelSpace, opacity: float = 0.6) -> Uint8Array:
    """The image (H, W, 3) with labels (H, W) laid over it in the space's colours; background shows the image, 255
    shows white.
    """
    palette = np.array(space.palette, np.float32).reshape(256, 3)
    palette[IGNORE] = 255
    covered = (labels != space.background_id)[..., None] * np.float32(opacity)
    mixed = image * (1 - covered) + palette[labels] * covered
    blended: Uint8Array = np.rint(mixed).astype(np.uint8)
    return blended


def _square(panel: Uint8Array, side: int) -> Uint8Array:
    from maskmill.trainers.engine import fitted_size, resize_image

    height, width = fitted_size(panel.shape[0], panel.shape[1], "long", side)
    canvas = np.zeros((side, side, 3), np.uint8)
    canvas[:height, :width] = resize_image(panel, height, width)
    return canvas
