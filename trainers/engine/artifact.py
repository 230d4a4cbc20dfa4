"""The folder that a trainer leaves behind: config.json, model.safetensors, metrics.json, curves.png."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from maskmill.data_contracts import LabelSpace, bytes_hash, content_id, package_versions, read_bytes, write_bytes
from maskmill.data_contracts.secrets import published
from maskmill.data_contracts.sums import checked_json, json_fault, read_json, sum_fault
from maskmill.data_contracts.texts import parse_json
from maskmill.trainers.engine.batches import IMAGENET_MEAN, IMAGENET_STD, Rgb
from maskmill.trainers.engine.checkpoint import load_modules, module_tensors, pack_tensors
from maskmill.trainers.engine.config import PredictConfig, TrainerConfig
from maskmill.trainers.engine.job import Job
from maskmill.trainers.engine.team import Team

EARLIER = "artefact"  # what the folder was called before it was `artifact`; such folders are still found
VERSIONED = ("maskmill", "torch", "timm", "segmentation_models_pytorch", "open_clip_torch", "numpy")


class ArtifactInfo(BaseModel):
    """config.json: all that is needed to build the model again, and where it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trainer: str
    fingerprint: str
    config: dict[str, Any]  # the trainer's settings
    label_space: LabelSpace
    model: dict[str, Any]  # arguments of the trainer's own build function
    mean: Rgb
    std: Rgb
    predict: PredictConfig
    lineage: tuple[str, ...]  # content hashes of the shards that it was trained on
    data_counts: dict[str, int]
    versions: dict[str, str]
    weights: str  # content hash of model.safetensors
    sums: dict[str, str] = {}  # hashes of metrics.json and curves.png; none in earlier versions


@dataclass(frozen=True)
class Artifact:
    """An artifact folder as read: `tensors` are named `module/NAME/KEY`."""

    path: str
    info: ArtifactInfo
    metrics: dict[str, Any]
    tensors: dict[str, Tensor]

    def load(self, **modules: nn.Module) -> None:
        """Put the weights into modules by the names under which they were saved; strict."""
        load_modules(modules, self.tensors)


def save_artifact(
    job: Job,
    config: TrainerConfig,
    *,
    modules: Mapping[str, nn.Module],
    model: dict[str, Any],
    metrics: dict[str, Any],
    curves: bytes,
    mean: Rgb = IMAGENET_MEAN,
    std: Rgb = IMAGENET_STD,
    predict: PredictConfig | None = None,
) -> str:
    """Write the folder, config.json last: it names the hash of the weights, so a folder cut off half way is never
    taken for finished. Of several processes that train as one, the first writes it.
    """
    if not Team.here().writes:
        return job.out_dir
    weights = pack_tensors(module_tensors(modules))
    info = ArtifactInfo(
        trainer=job.trainer,
        fingerprint=job.fingerprint,
        config=published(config),
        label_space=job.space,
        model=model,
        mean=mean,
        std=std,
        predict=predict or PredictConfig(),
        lineage=job.data.lineage,
        data_counts=job.data.counts,
        versions=package_versions(VERSIONED),
        weights=content_id(weights),
    )
    found = [] if job.look is None else job.look(Artifact(job.out_dir, info, metrics, load_tensors(weights)))
    if found:
        metrics = {**metrics, "alarms": [*metrics.get("alarms", []), *found]}
    sums = {"metrics.json": bytes_hash(_json(metrics)), "curves.png": bytes_hash(curves)}
    info = info.model_copy(update={"sums": sums})
    write_bytes(os.path.join(job.out_dir, "model.safetensors"), weights)
    write_bytes(os.path.join(job.out_dir, "metrics.json"), _json(metrics))
    write_bytes(os.path.join(job.out_dir, "curves.png"), curves)
    write_bytes(os.path.join(job.out_dir, "config.json"), checked_json(json.loads(_json(info.model_dump(mode="json")))))
    return job.out_dir


def found_at(path: str) -> str:
    """Where the artifact of `path` lies: there, or where an earlier version left it (OUT/artefact for OUT/artifact)."""
    folder, name = os.path.split(path.rstrip("/"))
    earlier = os.path.join(folder, EARLIER)
    return earlier if name == "artifact" and not _is_there(path) and _is_there(earlier) else path


def _is_there(path: str) -> bool:
    try:
        read_bytes(os.path.join(path, "config.json"))
    except FileNotFoundError:
        return False
    return True


def read_info(path: str) -> ArtifactInfo:
    """config.json of an artifact folder.

    Raises:
        FileNotFoundError: no finished artifact there.
    """
    path = found_at(path)
    try:
        return ArtifactInfo.model_validate(read_json(os.path.join(path, "config.json")))
    except FileNotFoundError as error:
        inside = os.path.join(found_at(os.path.join(path, "artifact")), "config.json")
        fix = f"name {os.path.dirname(inside)}" if os.path.isfile(inside) else "train it first"
        message = f"{path}: expected a trained artifact (config.json), found none; {fix}"
        raise FileNotFoundError(message) from error


def read_artifact(path: str) -> Artifact:
    """Read and verify an artifact folder.

    Raises:
        FileNotFoundError: no finished artifact there.
        ValueError: the weights are not the ones that config.json names.
    """
    path = found_at(path)
    info = read_info(path)
    weights = read_bytes(os.path.join(path, "model.safetensors"))
    if (found := content_id(weights)) != info.weights:
        raise ValueError(
            f"{path}/model.safetensors: expected content {info.weights}, found {found}; train or copy it again"
        )
    metrics = parse_json(read_bytes(os.path.join(path, "metrics.json")))
    return Artifact(path, info, metrics, load_tensors(weights))


def is_finished(path: str, fingerprint: str) -> bool:
    """True when a complete artifact of exactly this run lies at `path`."""
    try:
        return read_info(path).fingerprint == fingerprint and artifact_fault(path) is None
    except (FileNotFoundError, ValueError):
        return False


def artifact_fault(path: str) -> str | None:
    """What is wrong with a finished artifact's files, in words; None where nothing is.

    Raises:
        FileNotFoundError: no finished artifact there.
    """
    path = found_at(path)
    try:
        info = read_info(path)
    except ValueError as error:
        return f"config.json: {str(error).splitlines()[0]}"
    if info.sums and (fault := json_fault(read_bytes(os.path.join(path, "config.json")))):
        return f"config.json: {fault}"
    for name, wanted in info.sums.items():
        if fault := sum_fault(os.path.join(path, name), wanted):
            return f"{name}: {fault}"
    try:
        weights = read_bytes(os.path.join(path, "model.safetensors"))
    except FileNotFoundError:
        return "model.safetensors: gone"
    same = content_id(weights) == info.weights
    return None if same else "model.safetensors: another content than was written"


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
