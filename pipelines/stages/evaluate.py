"""Metrics of a trained artefact on contract shards, and a sheet of overlays to look at."""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

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
    sweep_temporaries,
    write_bytes,
)
from maskmill.data_contracts.sums import carries_check, checked_json, json_fault, read_json, sum_fault
from maskmill.pipelines.core.working import working_folder
from maskmill.trainers.engine import DataConfig, PredictConfig, Samples
from maskmill.trainers.registry import load_artifact

if TYPE_CHECKING:
    from maskmill.trainers.engine import ArtifactInfo  # with torch: what needs it imports it where it runs

VERSION = 1


class EvaluateConfig(BaseModel):
    """What to evaluate on. `predict` replaces the artefact's own way of feeding images (scales, flips, windows)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: str
    data: DataConfig
    predict: PredictConfig | None = None
    overlays: int = Field(default=8, ge=0)  # samples on the sheet: the first by id
    batch: int = Field(default=8, ge=1)
    device: str = "auto"


def evaluate_artifact(config: EvaluateConfig, out_dir: str) -> dict[str, object]:
    """Write metrics.json and overlays.png to `out_dir` and return the metrics; read them back where they are there
    already.

    Raises:
        FileNotFoundError: no artefact or no shards.
        ValueError: no sample with a mask.
    """
    from maskmill.trainers.engine import evaluate, read_info

    sweep_temporaries(out_dir)
    info = read_info(config.artifact)
    samples = Samples.open(config.data, os.path.join(working_folder(out_dir), "cache")).with_masks()
    fingerprint = _fingerprint(config, info, samples)
    if (found := _finished(out_dir, fingerprint)) is not None:
        return found

    predictor = load_artifact(config.artifact, config.device)

    def labels_of(images: Sequence[Uint8Array]) -> list[Uint8Array]:
        return [prediction.labels for prediction in predictor.predict(images, config.predict)]

    metrics = evaluate(labels_of, samples, info.label_space, config.batch)
    sums: dict[str, str] = {}
    if config.overlays:
        examples = [samples.example(i) for i in range(min(config.overlays, len(samples)))]
        predicted = labels_of([example.image for example in examples])
        truths = [example.mask for example in examples if example.mask is not None]
        sheet = overlay_sheet([example.image for example in examples], truths, predicted, info.label_space)
        picture = encode_image(sheet)
        write_bytes(os.path.join(out_dir, "overlays.png"), picture)
        sums["overlays.png"] = bytes_hash(picture)
    result = {**metrics, "artifact": info.fingerprint, "fingerprint": fingerprint}
    stored = json.loads(json.dumps({**result, "sums": sums}, sort_keys=True))
    write_bytes(os.path.join(out_dir, "metrics.json"), checked_json(stored))
    return result


def is_evaluated(config: EvaluateConfig, out_dir: str) -> bool:
    """Whether `out_dir` holds the metrics of exactly this artefact on exactly these samples. Reads no pixels."""
    from maskmill.trainers.engine import read_info

    samples = Samples.open(config.data, os.path.join(working_folder(out_dir), "cache")).with_masks()
    return _finished(out_dir, _fingerprint(config, read_info(config.artifact), samples)) is not None


def _fingerprint(config: EvaluateConfig, info: "ArtifactInfo", samples: Samples) -> str:
    settings = config_hash(config.model_dump(mode="json", exclude={"artifact", "data", "device"}))
    return content_id("evaluate", str(VERSION), info.fingerprint, info.weights, samples.fingerprint, settings)


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
    if (fault := json_fault(data)) and (carries_check(data) or fault.startswith("no JSON")):
        return f"metrics.json: {fault}"
    sums = json.loads(data).get("sums", {})
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
