"""When and where stages run: Prefect flows over the plain functions in `pipelines/`. Nothing else lives here.

Only paths, step names and small numbers cross a task boundary; a task is one shard, or in large runs a few; a shard
that is done is found by its fingerprint, so retries and reruns never do it again.
"""

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

from prefect import flow, task, unmapped
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from maskmill.pipelines.core.beat import ALIVE, EVERY_S, beating
from maskmill.pipelines.core.deployment import Given, Result, deployed, discreet, redact, reference, slug
from maskmill.pipelines.core.lock import fence, fenced, lock
from maskmill.pipelines.core.settings import load_settings, save_settings
from maskmill.pipelines.core.step import Step, groups_of
from maskmill.pipelines.export import export_root
from maskmill.pipelines.export.push import push_export
from maskmill.pipelines.report.alarms import markdown
from maskmill.pipelines.run.bare import MODEL, model_alone, time_of
from maskmill.pipelines.run.cluster import RayConfig, demands, joined
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.limits import ORIGINS, check_limits
from maskmill.pipelines.run.parameters import BuildParameters, CurateParameters, ExportParameters, LabelParameters
from maskmill.pipelines.run.run import alarms, finish, open_run, passes, prepare
from maskmill.pipelines.run.steps import STEPS, open_step
from maskmill.pipelines.run.timings import note_times
from maskmill.pipelines.stages.build import BuildConfig, evaluate_step, train_step
from maskmill.pipelines.stages.label import LabelConfig, label_shard, label_units

GPU_LIMIT = "maskmill-gpu"  # prefect gcl create maskmill-gpu --limit 1
GPU_LEASE_S = 60.0  # a turn of a process that died is free again after this long; the least that Prefect takes
REPORTS = "http://127.0.0.1:8765"  # where `maskmill serve` shows them


@contextmanager
def gpu_turn(wanted: bool = True) -> Iterator[None]:
    """Wait for a turn on the GPU where the server has the limit; where it has none, or where somebody else gives GPUs
    out, there is nothing to wait for.
    """
    limited = False
    if wanted:
        with get_client(sync_client=True) as client, suppress(ObjectNotFound):
            limited = client.read_global_concurrency_limit_by_name(GPU_LIMIT) is not None
    with concurrency(GPU_LIMIT, occupy=1, lease_duration=GPU_LEASE_S) if limited else nullcontext():
        yield


def signs_of_life(body: Callable[Given, Result]) -> Callable[Given, Result]:
    """The body of a flow that says every few seconds that its run lives, however long a shard takes: the automation of
    `maskmill deploy` marks a run that falls silent as crashed. Outside of a flow run nothing is said.
    """

    @wraps(body)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        context = FlowRunContext.get()
        if context is None or (run := context.flow_run) is None:
            return body(*args, **kwargs)
        who = {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name}
        emit_event(ALIVE, who)
        with beating(lambda: emit_event(ALIVE, who), EVERY_S):
            return body(*args, **kwargs)

    return wrapped


@task(task_run_name="{step}-{index:05d}", retries=2, retry_delay_seconds=[2, 10], persist_result=False)
@discreet
def run_shards(config_path: str, step: str, index: int, count: int, opening: str, held: str | None = None) -> Any:
    """`count` shards of one step from shard `index` on; gives samples by reason. Where all are there it says so. Model
    steps wait for the GPU limit where the server has one; Ray gives its GPUs out itself. `held`: the flow's lock.
    """
    opened = opened_step(config_path, step, opening)
    found: Counter[str] = Counter()
    indices = range(index, index + count)
    done = all(opened.why(one) is None for one in indices)
    config = _config(config_path)
    with fenced(config.run_dir, held), gpu_turn(STEPS[step].model and not done and config.ray is None):
        for one in indices:
            found.update(opened.run(one).counts)
    return Completed(message="already done", data=dict(found)) if done else dict(found)


@task(task_run_name="{step}-model-alone", persist_result=False)
@discreet
def measure_model(config_path: str, step: str) -> tuple[str, float | None]:
    """Device and images a second of a step's model with nothing else to do, where the shards were done."""
    config = _config(config_path)
    with gpu_turn(config.ray is None):
        return model_alone(config, step)


@lru_cache(maxsize=8)
def opened_step(config_path: str, name: str, opening: str) -> Step:
    """A step of a run, opened once a process for all tasks of one pass: its source is listed once, not once a shard."""
    return open_step(_config(config_path), name)


@task(task_run_name="ledger", persist_result=False)
@discreet
def close_run(config_path: str) -> dict[str, int]:
    """Check in = kept + rejected, write ledger and manifest, and leave them as artifacts where people will look."""
    config = _config(config_path)
    ledger = finish(config)
    about = f"{config.name}: where every sample went"
    found = alarms(config, ledger)
    head = f"### Look at this first\n\n{markdown(found)}\n" if found else ""
    text = redact(head + ledger.markdown())
    create_markdown_artifact(key=slug("ledger", config.name), markdown=text, description=about)
    place = f"{REPORTS}/{Path(config.run_dir).name}/report/index.html"
    words = f"{config.name}: report, while `maskmill serve {Path(config.run_dir).parent}` runs"
    create_link_artifact(key=slug("report", config.name), link=redact(place), link_text=redact(words))
    return ledger.counts


@flow(name="curate-step", flow_run_name="{name}", persist_result=False)
@signs_of_life
@discreet
def run_step(config_path: str, name: str) -> int:
    """All shards of one step, a task for each or for some neighbours, with a progress artifact; gives their number."""
    config, opening = _config(config_path), uuid.uuid4().hex
    step = opened_step(config_path, name, opening)
    prepare(config, step)
    total = step.count()
    starts, counts = groups_of(total)
    key, about = slug("progress", config.name, name), f"{config.name}: {name}"
    bar: Any = create_progress_artifact(progress=0.0, key=key, description=about)
    due, started, rows = sum(step.why(index) is not None for index in range(total)), time.perf_counter(), 0
    same = [unmapped(one) for one in (opening, fence(config.run_dir) if config.ray else None)]
    with on_ray(config.ray, STEPS[name].model):
        futures = run_shards.map(unmapped(config_path), unmapped(name), starts, counts, *same)
        for start, count, future in zip(starts, counts, futures, strict=True):
            done = future.result()
            rows += sum(done.values()) if isinstance(done, dict) else 0
            update_progress_artifact(artifact_id=bar, progress=100.0 * (start + count) / total)
        seconds = time.perf_counter() - started
        measured = measure_model.submit(config_path, name) if due and name == MODEL else None
        alone = measured.result(raise_on_failure=False) if measured else None
    note_times(config.run_dir, [time_of(name, seconds, due, rows, alone)])
    return total


@flow(name="curate-synthetic", persist_result=False)
@signs_of_life
@discreet
def curate_synthetic(parameters: CurateParameters = CurateParameters()) -> dict[str, int]:  # noqa: B008 - Prefect reads it
    """Source or generator → score → deduplicate → select → (train on what was kept) → export → report, by reason."""
    with deployed():
        config = load_run_config(parameters.config, parameters.changes)
    runner = task_runner(config.ray, config.workers)
    with lock(config.run_dir), joined(config.ray, config.run_dir):
        path = reference(open_run(config))
        for name in (name for steps in passes(config) for name in steps):
            run_step.with_options(task_runner=runner.duplicate())(path, name)
            if name in ORIGINS:
                check_limits(config.limits, config.run_dir)
        return close_run(path)


@task(task_run_name="push-{name}", retries=2, retry_delay_seconds=[2, 10], persist_result=False)
@discreet
def push_one(export: str, target: str, name: str) -> int:
    """Bring one export to its target. Returns the files that travelled."""
    return push_export(export, target).written


@flow(name="export-dataset", persist_result=False)
@signs_of_life
@discreet
def export_dataset(parameters: ExportParameters) -> dict[str, int]:
    """The kept samples of a finished run in other formats, pushed to where others are. Returns files by format."""
    chosen = {"export": [{"format": name} for name in parameters.formats]} if parameters.formats else {}
    config = load_run_config(f"{parameters.run_dir}/config.json", {"run_dir": parameters.run_dir, **chosen})
    with lock(config.run_dir), joined(config.ray, config.run_dir):
        path = reference(open_run(config))
        run_step.with_options(task_runner=task_runner(config.ray, config.workers))(path, "export")
        finish(config)
    if parameters.push_to is None:
        return {one.format: 0 for one in config.export}
    target = parameters.push_to.rstrip("/")
    folders = {one.format: export_root(config.run_dir, one) for one in config.export}
    return {name: push_one(folder, f"{target}/{name}", name) for name, folder in folders.items()}


@task(task_run_name="label-{index:05d}", retries=2, retry_delay_seconds=[2, 10], persist_result=False)
@discreet
def label_one(config_path: str, out_dir: str, index: int, turn: bool = True, held: str | None = None) -> dict[str, int]:
    """Pseudo-labels of one shard. Returns images by reason. `turn`: wait for the GPU's; `held`: the flow's lock."""
    with fenced(out_dir, held), gpu_turn(turn):
        return label_shard(load_settings(config_path, LabelConfig), out_dir, index)


@flow(name="pseudo-label", persist_result=False)
@signs_of_life
@discreet
def pseudo_label(parameters: LabelParameters) -> dict[str, int]:
    """Weak labels → PseudoLabel shards by any labeler, one task a shard. Returns images by reason."""
    with deployed():
        config = load_settings(parameters.config, LabelConfig, parameters.overrides)
    path = save_settings(config, parameters.out_dir)
    total = len(label_units(config, parameters.out_dir))
    ray = RayConfig(address=parameters.ray_address) if parameters.ray_address else None
    runner = task_runner(ray, parameters.workers)
    with lock(parameters.out_dir, mark=False), joined(ray, parameters.out_dir):
        counts = label_all.with_options(task_runner=runner)(path, parameters.out_dir, total, ray)
    lines = [f"| {reason} | {number} |" for reason, number in sorted(counts.items())]
    table = "\n".join(["| reason | images |", "|---|---|", *lines])
    create_markdown_artifact(key=slug("pseudo-labels", Path(parameters.config).stem), markdown=table)
    return counts


@flow(name="label-shards", persist_result=False)
@signs_of_life
@discreet
def label_all(config_path: str, out_dir: str, total: int, ray: RayConfig | None = None) -> dict[str, int]:
    """All shards, one task each. Returns images by reason."""
    counts: Counter[str] = Counter()
    with on_ray(ray, model=True):
        for future in label_one.map(
            unmapped(config_path), unmapped(out_dir), list(range(total)), unmapped(ray is None)
        ):
            counts.update(future.result())
    return dict(counts)


@task(task_run_name="train", retries=2, retry_delay_seconds=[2, 10], persist_result=False)
@discreet
def train_one(config_path: str, out_dir: str) -> str:
    """Train, or go on with a run that was killed. Returns the artifact's folder."""
    with gpu_turn():
        return train_step(load_settings(config_path, BuildConfig), out_dir)


@task(task_run_name="evaluate", persist_result=False)
@discreet
def evaluate_one(config_path: str, out_dir: str) -> dict[str, float]:
    """Metrics of the artifact on the test data; only the numbers."""
    found = evaluate_step(load_settings(config_path, BuildConfig), out_dir)
    return {name: value for name, value in found.items() if isinstance(value, float)}


@flow(name="build-segmenter", persist_result=False)
@signs_of_life
@discreet
def build_segmenter(parameters: BuildParameters) -> dict[str, float]:
    """Pseudo-labels → trained segmenter → metrics. Returns the metrics."""
    with deployed():
        config = load_settings(parameters.config, BuildConfig, parameters.overrides)
    path = save_settings(config, parameters.out_dir)
    artifact = train_one(path, parameters.out_dir)
    metrics = evaluate_one(path, parameters.out_dir)
    lines = [f"| {name} | {value:.4f} |" for name, value in metrics.items()]
    table = "\n".join(["| metric | value |", "|---|---|", *lines])
    create_markdown_artifact(key=slug("segmenter", Path(parameters.config).stem), markdown=table, description=artifact)
    return metrics


def _config(path: str) -> RunConfig:
    """The config at a path that crossed a task boundary: Prefect stores those, so $NAMES stand for what is secret."""
    return load_run_config(os.path.expandvars(path))


def task_runner(ray: RayConfig | None, workers: int) -> TaskRunner[Any]:
    """Threads in this process, or the Ray cluster that it has joined (extra `ray`; give it a real Prefect server)."""
    if ray is None:
        return ThreadPoolTaskRunner(max_workers=workers)
    from prefect_ray import RayTaskRunner

    runner: TaskRunner[Any] = RayTaskRunner(address=ray.address)
    return runner


def on_ray(ray: RayConfig | None, model: bool) -> AbstractContextManager[Any]:
    """Inside, tasks ask Ray for what they need; nothing where there is no cluster."""
    if ray is None:
        return nullcontext()
    from prefect_ray.context import remote_options

    asked: AbstractContextManager[Any] = remote_options(**demands(ray, model))
    return asked
