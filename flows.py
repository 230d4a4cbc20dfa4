"""When and where stages run: Prefect flows over the plain functions in `pipelines/`. Nothing else lives here.

Only paths, step names and small numbers cross a task boundary; a task is one shard; a shard that is done is found
by its fingerprint, so retries and reruns never do it again.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from prefect import flow, task, unmapped
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from maskmill.pipelines.core.deployment import deployed
from maskmill.pipelines.core.lock import lock
from maskmill.pipelines.core.settings import load_settings, save_settings
from maskmill.pipelines.export import export_root
from maskmill.pipelines.export.push import push_export
from maskmill.pipelines.report.alarms import markdown
from maskmill.pipelines.run.config import load_run_config
from maskmill.pipelines.run.limits import ORIGINS, check_limits
from maskmill.pipelines.run.run import alarms, finish, open_run, passes, prepare
from maskmill.pipelines.run.steps import STEPS, open_step
from maskmill.pipelines.stages.build import BuildConfig, evaluate_step, train_step
from maskmill.pipelines.stages.label import LabelConfig, label_shard, label_units

GPU_LIMIT = "maskmill-gpu"  # prefect gcl create maskmill-gpu --limit 1
REPORTS = "http://127.0.0.1:8765"  # where `maskmill serve` shows them


class CurateParameters(BaseModel):
    """Parameters of `curate-synthetic`: a config, and what to change in it for this run."""

    model_config = ConfigDict(extra="forbid")

    config: str = Field(default="demo", description="YAML config, or the name of a preset in configs/")
    run_dir: str | None = Field(default=None, description="folder of the run; empty: as the config says")
    source_root: str | None = Field(default=None, description="where the pairs lie; empty: as the config says")
    rho: float | None = Field(default=None, ge=0, le=1, description="best share of each class to keep")
    near_duplicates: Literal["best", "cluster", "keep"] | None = Field(default=None, description="what becomes of them")
    workers: int | None = Field(default=None, ge=1, description="shards in work at once")
    overrides: dict[str, Any] = Field(default_factory=dict, description='any other key, e.g. {"select.min_score": 0.2}')
    ray_address: str | None = Field(default=None, description="Ray cluster to map shards on; threads where empty")

    @property
    def changes(self) -> dict[str, Any]:
        """All fields as dotted keys; what is empty changes nothing."""
        named: dict[str, Any] = {"run_dir": self.run_dir, "source.root": self.source_root, "workers": self.workers}
        named |= {"select.rho": self.rho, "select.near_duplicates": self.near_duplicates}
        return {**{key: value for key, value in named.items() if value is not None}, **self.overrides}


def slug(*words: str) -> str:
    """Words as the key of an artifact: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


@contextmanager
def gpu_turn() -> Iterator[None]:
    """Wait for a turn on the GPU where the server has the limit; where it has none there is nothing to wait for."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(GPU_LIMIT)
        except ObjectNotFound:
            limited = False
        else:
            limited = True
    with concurrency(GPU_LIMIT, occupy=1) if limited else nullcontext():
        yield


@task(task_run_name="{step}-{index:05d}", retries=2, retry_delay_seconds=[2, 10], persist_result=False)
def run_shard(config_path: str, step: str, index: int) -> Any:
    """One shard of one step; gives samples by reason. A shard that is there says so. Model steps wait for the GPU limit
    where the server has one.
    """
    opened = open_step(load_run_config(config_path), step)
    if opened.why(index) is None:
        return Completed(message="already done", data=opened.run(index).counts)
    if not STEPS[step].model:
        return opened.run(index).counts
    with gpu_turn():
        return opened.run(index).counts


@task(task_run_name="ledger", persist_result=False)
def close_run(config_path: str) -> dict[str, int]:
    """Check in = kept + rejected, write ledger and manifest, and leave them as artifacts where people will look."""
    config = load_run_config(config_path)
    ledger = finish(config)
    about = f"{config.name}: where every sample went"
    found = alarms(config, ledger)
    head = f"### Look at this first\n\n{markdown(found)}\n" if found else ""
    create_markdown_artifact(key=slug("ledger", config.name), markdown=head + ledger.markdown(), description=about)
    place = f"{REPORTS}/{Path(config.run_dir).name}/report/index.html"
    words = f"{config.name}: report, while `maskmill serve {Path(config.run_dir).parent}` runs"
    create_link_artifact(key=slug("report", config.name), link=place, link_text=words)
    return ledger.counts


@flow(name="curate-step", flow_run_name="{name}", persist_result=False)
def run_step(config_path: str, name: str) -> int:
    """All shards of one step, one task a shard, with a progress artifact. Returns the number of shards."""
    config = load_run_config(config_path)
    step = open_step(config, name)
    prepare(config, step)
    total = step.count()
    key, about = slug("progress", config.name, name), f"{config.name}: {name}"
    bar: Any = create_progress_artifact(progress=0.0, key=key, description=about)
    futures = run_shard.map(unmapped(config_path), unmapped(name), list(range(total)))
    for done, future in enumerate(futures, start=1):
        future.result()
        update_progress_artifact(artifact_id=bar, progress=100.0 * done / total)
    return total


@flow(name="curate-synthetic", persist_result=False)
def curate_synthetic(parameters: CurateParameters = CurateParameters()) -> dict[str, int]:  # noqa: B008 - Prefect reads it
    """Source or generator → score → deduplicate → select → (train on what was kept) → export → report. Returns
    samples by reason.
    """
    with deployed():
        config = load_run_config(parameters.config, parameters.changes)
    runner = task_runner(parameters.ray_address, config.workers)
    with lock(config.run_dir):
        path = open_run(config)
        for name in (name for steps in passes(config) for name in steps):
            run_step.with_options(task_runner=runner.duplicate())(path, name)
            if name in ORIGINS:
                check_limits(config.limits, config.run_dir)
        return close_run(path)


class ExportParameters(BaseModel):
    """Parameters of `export-dataset`: a run that is done, in which formats, and where to bring them."""

    model_config = ConfigDict(extra="forbid")

    run_dir: str = Field(description="run folder with decisions")
    formats: list[Literal["voc", "coco", "yolo", "webdataset", "hf"]] = Field(
        default_factory=list, description="empty: as the run's config says"
    )
    push_to: str | None = Field(default=None, description="folder or s3://…; each format goes to a folder of its name")


@task(task_run_name="push-{name}", retries=2, retry_delay_seconds=[2, 10], persist_result=False)
def push_one(export: str, target: str, name: str) -> int:
    """Bring one export to its target. Returns the files that travelled."""
    return push_export(export, target).written


@flow(name="export-dataset", persist_result=False)
def export_dataset(parameters: ExportParameters) -> dict[str, int]:
    """The kept samples of a finished run in other formats, pushed to where others are. Returns files by format."""
    chosen = {"export": [{"format": name} for name in parameters.formats]} if parameters.formats else {}
    config = load_run_config(f"{parameters.run_dir}/config.json", {"run_dir": parameters.run_dir, **chosen})
    with lock(config.run_dir):
        path = open_run(config)
        run_step.with_options(task_runner=task_runner(None, config.workers))(path, "export")
        finish(config)
    if parameters.push_to is None:
        return {one.format: 0 for one in config.export}
    target = parameters.push_to.rstrip("/")
    folders = {one.format: export_root(config.run_dir, one) for one in config.export}
    return {name: push_one(folder, f"{target}/{name}", name) for name, folder in folders.items()}


class LabelParameters(BaseModel):
    """Parameters of `pseudo-label`: a labelling config (labeler, label_space, samples, weak, settings) and a folder."""

    model_config = ConfigDict(extra="forbid")

    config: str = Field(description="YAML file of a labelling run")
    out_dir: str = Field(description="folder for the PseudoLabel shards")
    overrides: list[str] = Field(default_factory=list, description='e.g. ["settings.refine=crf"]')
    workers: int = Field(default=1, ge=1, description="shards in work at once")
    ray_address: str | None = Field(default=None, description="Ray cluster to map shards on; threads where empty")


@task(task_run_name="label-{index:05d}", retries=2, retry_delay_seconds=[2, 10], persist_result=False)
def label_one(config_path: str, out_dir: str, index: int) -> dict[str, int]:
    """Pseudo-labels of one shard. Returns images by reason."""
    with gpu_turn():
        return label_shard(load_settings(config_path, LabelConfig), out_dir, index)


@flow(name="pseudo-label", persist_result=False)
def pseudo_label(parameters: LabelParameters) -> dict[str, int]:
    """Weak labels → PseudoLabel shards by any labeler, one task a shard. Returns images by reason."""
    with deployed():
        config = load_settings(parameters.config, LabelConfig, parameters.overrides)
    path = save_settings(config, parameters.out_dir)
    total = len(label_units(config, parameters.out_dir))
    runner = task_runner(parameters.ray_address, parameters.workers)
    with lock(parameters.out_dir, mark=False):
        counts = label_all.with_options(task_runner=runner)(path, parameters.out_dir, total)
    lines = [f"| {reason} | {number} |" for reason, number in sorted(counts.items())]
    create_markdown_artifact(
        key=slug("pseudo-labels", Path(parameters.config).stem),
        markdown="\n".join(["| reason | images |", "|---|---|", *lines]),
    )
    return counts


@flow(name="label-shards", persist_result=False)
def label_all(config_path: str, out_dir: str, total: int) -> dict[str, int]:
    """All shards, one task each. Returns images by reason."""
    futures = label_one.map(unmapped(config_path), unmapped(out_dir), list(range(total)))
    counts: Counter[str] = Counter()
    for future in futures:
        counts.update(future.result())
    return dict(counts)


class BuildParameters(BaseModel):
    """Parameters of `build-segmenter`: a config (train: trainer, label_space, data, settings; test) and a folder."""

    model_config = ConfigDict(extra="forbid")

    config: str = Field(description="YAML file: `train` as for `maskmill train`, and `test` data with true masks")
    out_dir: str = Field(description="folder for run, artefact and evaluation")
    overrides: list[str] = Field(default_factory=list, description='e.g. ["train.settings.steps=2000"]')


@task(task_run_name="train", retries=2, retry_delay_seconds=[2, 10], persist_result=False)
def train_one(config_path: str, out_dir: str) -> str:
    """Train, or go on with a run that was killed. Returns the artefact's folder."""
    with gpu_turn():
        return train_step(load_settings(config_path, BuildConfig), out_dir)


@task(task_run_name="evaluate", persist_result=False)
def evaluate_one(config_path: str, out_dir: str) -> dict[str, float]:
    """Metrics of the artefact on the test data; only the numbers."""
    found = evaluate_step(load_settings(config_path, BuildConfig), out_dir)
    return {name: value for name, value in found.items() if isinstance(value, float)}


@flow(name="build-segmenter", persist_result=False)
def build_segmenter(parameters: BuildParameters) -> dict[str, float]:
    """Pseudo-labels → trained segmenter → metrics. Returns the metrics."""
    with deployed():
        config = load_settings(parameters.config, BuildConfig, parameters.overrides)
    path = save_settings(config, parameters.out_dir)
    artefact = train_one(path, parameters.out_dir)
    metrics = evaluate_one(path, parameters.out_dir)
    lines = [f"| {name} | {value:.4f} |" for name, value in metrics.items()]
    table = "\n".join(["| metric | value |", "|---|---|", *lines])
    create_markdown_artifact(key=slug("segmenter", Path(parameters.config).stem), markdown=table, description=artefact)
    return metrics


def task_runner(ray_address: str | None, workers: int) -> TaskRunner[Any]:
    """Threads in this process, or a Ray cluster (extra `ray`; give it a real Prefect server)."""
    if ray_address is None:
        return ThreadPoolTaskRunner(max_workers=workers)
    from prefect_ray import RayTaskRunner

    runner: TaskRunner[Any] = RayTaskRunner(address=ray_address)
    return runner
