"""A Ray cluster for the tasks of a flow: joined once a run, so that a process that has loaded a model keeps it."""

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field

from maskmill.pipelines.core.settings import ConfigError

NEEDS = "`ray` needs Ray: install maskmill with its extra `ray`, on every node of the cluster"
NAMESPACE = "prefect"  # that of prefect-ray
logger = logging.getLogger("maskmill")


class RayConfig(BaseModel):
    """A cluster, and what one task takes of it. Changes no result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field(
        default="auto", description="of the cluster: auto (RAY_ADDRESS, or this machine is a node of it) or HOST:PORT"
    )
    cpus: float = Field(default=1, gt=0, description="cores of a task; Ray gives its libraries as many threads")
    gpus: float = Field(
        default=1, ge=0, description="GPUs of a task that loads a model, where the cluster has any; 0.5: two share one"
    )
    retries: int = Field(
        default=3, ge=0, description="times that a task whose process or node died is done again, on any node"
    )


@contextmanager
def joined(ray_config: RayConfig | None, run_dir: str) -> Iterator[None]:
    """Inside, this process is a driver of the cluster; nothing where there is none. Workers that are idle between two
    steps stay, with what they have imported and loaded.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers at that address.
    """
    if ray_config is None:
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(ray_config.address, namespace=NAMESPACE, log_to_driver=False)
    except ConnectionError as error:
        fix = "start one with `ray start --head`, or name its HOST:PORT"
        raise ConfigError(f"ray.address {ray_config.address}: no cluster answers there; {fix}") from error
    try:
        _check_reach(run_dir, {str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]})
        yield
    finally:
        ray.shutdown()


def demands(ray_config: RayConfig | None, model: bool) -> dict[str, Any]:
    """Ray's options of one task: at most one a GPU where it loads a model and the cluster has GPUs. Its process is kept
    for the next task, which Ray would not do with GPUs.
    """
    if ray_config is None:
        return {}
    gpus = ray_config.gpus if model and _ray().cluster_resources().get("GPU") else 0
    return {"num_cpus": ray_config.cpus, "num_gpus": gpus, "max_calls": 0, "max_retries": ray_config.retries}


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(NEEDS) from error


def _check_reach(run_dir: str, machines: set[str]) -> None:
    """Say so where a folder of this machine's disk is to be written by others."""
    if len(machines) > 1 and isinstance(fsspec.core.url_to_fs(run_dir)[0], LocalFileSystem):
        logger.warning(
            "%s lies on a disk, and the cluster has %d machines: each must see it under this path, as one file system; "
            "else let run_dir be s3://…",
            run_dir,
            len(machines),
        )
