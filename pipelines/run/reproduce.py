"""Published tables, one a recipe: data to (labels to) training to the test protocol, figures beside the published ones.

A recipe is one YAML file in configs/reproduce. Its steps are configs of the ordinary commands, so that all of them can
be overridden and every step that is done is skipped when the same command comes again.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from maskmill.data_contracts import write_if_changed
from maskmill.pipelines.core.settings import ConfigError, check_settings, load_settings, presets
from maskmill.pipelines.run.config import RunConfig

Metrics = dict[str, Any]
MISSING = "–"


class Needs(BaseModel):
    """What must be there before a recipe is worth starting; hours are by arithmetic, from the step counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(description="the layout of the folder that `data` names")
    weights: str = Field(description="which weight file `weights` names")
    gpu_gb: float = Field(ge=0, description="GPU memory")
    hours: float = Field(ge=0, description="on that GPU")


class RecipeStep(BaseModel):
    """One step: what it does, and the config of the command that does it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    does: Literal["run", "scribbles", "hints", "label", "compare", "train", "evaluate", "volumes", "track"]
    config: dict[str, Any] = Field(
        description="of `maskmill run`, `label read-scribbles`, `label shards`, `train`, `evaluate`, of boxes and seed "
        "maps (hints), of the evaluation of whole volumes, or of tracking on DAVIS"
    )
    until: str | None = Field(default=None, description="run: the last step of it")
    checkpoint: str | None = Field(default=None, description="train: a release's checkpoint, taken in its place")
    out: str = Field(default="", description="folder of what comes out; runs name their own")


class TableRow(BaseModel):
    """A row of the table as it is printed in the paper. `metric` is STEP.NAME of what the steps found (NAME may lead
    into a mapping, `iou.cat`), or several of which the mean is taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str
    metric: str | tuple[str, ...]
    unit: Literal["per cent", "as it is"] = Field(
        default="per cent", description="shares are printed in per cent, distances as they are"
    )
    published: float | None = Field(default=None, description="in that unit; none = not known to us")
    source: str = Field(default="", description="where the published figure stands")

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that the row is a mean of."""
        return (self.metric,) if isinstance(self.metric, str) else self.metric


class Recipe(BaseModel):
    """One published table. `{NAME}` in a step stands for the parameter of that name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    PRESETS: ClassVar[str] = "reproduce"

    name: str
    paper: str
    table: str = Field(description="which table, and its measure")
    needs: Needs
    parameters: dict[str, str | None] = Field(description="what --set NAME=VALUE gives; none = must be given")
    deviations: tuple[str, ...] = Field(description="what is not as in the release, each with its reason")
    steps: dict[str, RecipeStep]
    rows: tuple[TableRow, ...]

    @model_validator(mode="after")
    def _rows_name_steps(self) -> "Recipe":
        for metric in (metric for row in self.rows for metric in row.metrics):
            if metric.partition(".")[0] not in self.steps:
                raise ValueError(f"rows: {metric!r} names no step; steps: {', '.join(self.steps)}")
        return self

    def filled(self) -> dict[str, RecipeStep]:
        """The steps with parameters put in; a parameter may name others, as in "{data}/Annotations".

        Raises:
            ConfigError: a parameter that must be given is not.
        """
        if missing := [name for name, value in self.parameters.items() if value is None]:
            words = " ".join(f"--set {name}=…" for name in missing)
            raise ConfigError(f"{self.name}: say {words}; it needs {self.needs.data}; weights: {self.needs.weights}")
        given = {f"{{{name}}}": str(value) for name, value in self.parameters.items()}
        values = {name: _put_in(value, {n: v for n, v in given.items() if n != name}) for name, value in given.items()}
        return {
            name: RecipeStep.model_validate(_put_in(step.model_dump(), values)) for name, step in self.steps.items()
        }


def _put_in(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _put_in(inner, values) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_put_in(inner, values) for inner in value]
    if isinstance(value, str):
        for name, given in values.items():
            value = value.replace(name, given)
    return value


def load_recipe(name: str, pairs: Mapping[str, Any], out: str) -> Recipe:
    """A recipe by name or file; `pairs` are parameters by their bare name ({"data": DIR}), or any key of the recipe.

    Raises:
        ConfigError: no such recipe, key or parameter.
    """
    known = load_settings(name, Recipe).parameters
    given = {f"parameters.{key}" if key in known else key: value for key, value in pairs.items()}
    return load_settings(name, Recipe, {**given, "parameters.out": out})


def reproduce(recipe: Recipe, tell: Callable[[str], None] = lambda words: None) -> dict[str, Metrics]:
    """Do all steps and write OUT/table.json and OUT/table.md; returns what each step found. `tell` hears each step.

    Raises:
        ConfigError: a parameter that is not given, or a step's config that cannot be used.
    """
    found: dict[str, Metrics] = {}
    for name, step in recipe.filled().items():
        tell(f"{name}: {step.does}")
        found[name] = DOERS[step.does](step, f"{recipe.name}, step {name}")
    out = str(recipe.parameters["out"])
    rows = [{**row.model_dump(), "ours": ours(row, found)} for row in recipe.rows]
    text = json.dumps({"name": recipe.name, "rows": rows, "found": found}, indent=1, sort_keys=True, default=str)
    write_if_changed(f"{out}/table.json", text.encode())
    write_if_changed(f"{out}/table.md", markdown(recipe, found).encode())
    return found


def ours(row: TableRow, found: Mapping[str, Metrics]) -> float | None:
    """Our figure of a row in its unit; None where a step found no such metric."""
    values = [_value(metric, found) for metric in row.metrics]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return sum(known) / len(known) * (100 if row.unit == "per cent" else 1)


def _value(metric: str, found: Mapping[str, Metrics]) -> float | None:
    step, _, name = metric.partition(".")
    place: Any = found.get(step, {})
    if name in place:  # a name with dots of its own
        return float(place[name]) if isinstance(place[name], int | float) else None
    for key in name.split("."):
        place = place.get(key) if isinstance(place, Mapping) else None
    return float(place) if isinstance(place, int | float) else None


def markdown(recipe: Recipe, found: Mapping[str, Metrics]) -> str:
    """The table as the paper prints it, ours beside, and what differs from the release."""
    lines = [f"# {recipe.name}: {recipe.paper}", "", recipe.table, "", "| | published | ours |", "|---|---|---|"]
    for row in recipe.rows:
        value = ours(row, found)
        digits = 1 if row.unit == "per cent" else 2
        published = MISSING if row.published is None else f"{row.published:.{digits}f}"
        source = f" ({row.source})" if row.source else ""
        lines.append(f"| {row.row} | {published}{source} | {MISSING if value is None else f'{value:.{digits}f}'} |")
    lines += ["", "Not as in the release:", "", *(f"- {deviation}" for deviation in recipe.deviations)]
    return "\n".join(lines) + "\n"


def _run(step: RecipeStep, where: str) -> Metrics:
    """A run; what its subsets' segmenters reached, as SUBSET.METRIC, where it trains any."""
    from maskmill.pipelines.run.run import run
    from maskmill.pipelines.stages.downstream import SUBSETS, subset_metrics

    config = check_settings(step.config, RunConfig, where)
    run(config, until=step.until)
    each = {subset: subset_metrics(config.run_dir, subset) for subset in SUBSETS}
    return {f"{subset}.{name}": value for subset, metrics in each.items() for name, value in metrics.items()}


def _scribbles(step: RecipeStep, where: str) -> Metrics:
    """Counts of samples by reason."""
    from maskmill.pipelines.weak.scribbles import ScribbleConfig, read_scribbles

    return dict(read_scribbles(check_settings(step.config, ScribbleConfig, where), step.out))


def _label(step: RecipeStep, where: str) -> Metrics:
    from maskmill.pipelines.core.stage import map_units
    from maskmill.pipelines.stages.label import LabelConfig, label_stage, label_units

    config = check_settings(step.config, LabelConfig, where)
    map_units(label_stage(config), label_units(config, step.out))
    return {}


def _hints(step: RecipeStep, where: str) -> Metrics:
    from maskmill.pipelines.weak.hints import HintConfig, write_hints

    return dict(write_hints(check_settings(step.config, HintConfig, where), step.out))


def _track(step: RecipeStep, where: str) -> Metrics:
    from maskmill.pipelines.weak.track_davis import TrackDavisConfig, track_davis

    return track_davis(check_settings(step.config, TrackDavisConfig, where), step.out)


def _compare(step: RecipeStep, where: str) -> Metrics:
    from maskmill.pipelines.stages.compare import CompareConfig, compare_labels

    return compare_labels(check_settings(step.config, CompareConfig, where))


def _train(step: RecipeStep, where: str) -> Metrics:
    from maskmill.pipelines.stages.import_checkpoint import import_checkpoint
    from maskmill.pipelines.stages.train import TrainConfig, train

    config = check_settings(step.config, TrainConfig, where)
    if step.checkpoint:
        import_checkpoint(config.trainer, step.checkpoint, f"{step.out}/artifact", config.space, config.settings)
        return {}
    train(config, f"{step.out}/run", f"{step.out}/artifact")
    return {}


def _evaluate(step: RecipeStep, where: str) -> Metrics:
    from maskmill.pipelines.stages.evaluate import EvaluateConfig, evaluate_artifact

    return dict(evaluate_artifact(check_settings(step.config, EvaluateConfig, where), step.out))


def _volumes(step: RecipeStep, where: str) -> Metrics:
    from maskmill.pipelines.stages.evaluate_volumes import VolumesConfig, evaluate_volumes

    return evaluate_volumes(check_settings(step.config, VolumesConfig, where))


DOERS: dict[str, Callable[[RecipeStep, str], Metrics]] = {
    "run": _run,
    "scribbles": _scribbles,
    "hints": _hints,
    "track": _track,
    "label": _label,
    "compare": _compare,
    "train": _train,
    "evaluate": _evaluate,
    "volumes": _volumes,
}


def recipe_names() -> list[str]:
    """All recipes, sorted."""
    return presets(Recipe.PRESETS)
