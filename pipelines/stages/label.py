"""Stage `label`: Sample shards and weak labels in, PseudoLabel shards out, by any registered labeler."""

import functools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from maskmill.data_contracts import (
    DECISION,
    FOR_HASH,
    PSEUDO_LABEL,
    SAMPLE,
    WEAK_LABEL,
    ContractError,
    LabelSpace,
    Problem,
    Reason,
    config_hash,
    decode_image,
    decode_mask,
    list_shards,
    load_label_space,
    read_shard,
    write_bytes,
)
from maskmill.data_contracts.labels import AnySpace
from maskmill.labelers import (
    Labeler,
    LabelerConfig,
    LabelItem,
    PseudoLabel,
    get_labeler,
    labeler_models,
    labeler_stamps,
    load_labeler,
)
from maskmill.pipelines.core.lock import lock
from maskmill.pipelines.core.settings import check_inner
from maskmill.pipelines.core.stage import Stage, StageResult, Unit, UnitReport, map_units, run_unit

NAME = "label"
MODELS = "models.json"
VERSION = 1
PIXELS = ["sample_id", "image", "class_ids", "prompt_class_ids", "group", "index", "instances"]
Row = dict[str, Any]


class LabelConfig(BaseModel):
    """One labelling run: who labels, what, with which options (those of the labeler's own config).

    Image tags come from `weak` where that is given; else from what an image was asked to show, or from the classes in
    its mask. The masks themselves are not read; boxes without an outline, which `boxes: label` keeps at ingest, are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    PRESETS: ClassVar[str] = "label"

    labeler: str = Field(default="clip_cam", description="name of the labeler")
    label_space: AnySpace = Field(default="voc", description="built-in name, YAML file, or the space itself")
    samples: str = Field(description="folder of SAMPLE shards")
    weak: str | None = Field(default=None, description="folder of WEAK_LABEL shards; samples without one are left out")
    decisions: str | None = Field(default=None, description="DECISION file; only samples that it kept are labelled")
    settings: dict[str, Any] = Field(default={}, description="options of the labeler")

    @property
    def space(self) -> LabelSpace:
        return load_label_space(self.label_space) if isinstance(self.label_space, str) else self.label_space

    @field_validator("settings")
    @classmethod
    def _json_values(cls, settings: dict[str, Any]) -> dict[str, Any]:
        json.dumps(settings)
        return settings

    def labeler_config(self) -> LabelerConfig:
        """The settings as the labeler's own config.

        Raises:
            ValueError: unknown labeler; ConfigError: a setting that it does not have, or a value that does not fit.
        """
        return check_inner(self.settings, get_labeler(self.labeler).Config, "settings", f"labeler {self.labeler}")


def label_units(config: LabelConfig, out_dir: str) -> list[Unit]:
    """One unit a Sample shard; `samples/X.parquet` gives `out_dir/X.parquet`.

    A unit depends on the weak shard of the same name where both folders hold the same names, else on all weak shards.

    Raises:
        FileNotFoundError: no shards in a folder that the config names.
    """
    shards = _shards(config.samples)
    weak = [] if config.weak is None else _shards(config.weak)
    paired = [_name(path) for path in shards] == [_name(path) for path in weak]
    decisions = [] if config.decisions is None else [config.decisions]
    units = []
    for index, path in enumerate(shards):
        hints = weak[index : index + 1] if paired else weak
        output = f"{out_dir.rstrip('/')}/{_name(path)}"
        units.append(Unit((path, *hints, *decisions), (output,), index=index))
    return units


def _shards(folder: str) -> list[str]:
    if not (paths := list_shards(folder)):
        raise FileNotFoundError(
            f"{folder}: expected shards (*.parquet), found none; run the stage that writes them first"
        )
    return paths


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def label_stage(config: LabelConfig) -> Stage:
    """The stage; its hash covers the labeler's options, code version and weights, and the label space."""
    module, options = get_labeler(config.labeler), config.labeler_config()
    identity = {
        "labeler": config.labeler,
        "version": module.VERSION,
        "options": options.model_dump(mode="json", context=FOR_HASH),
        "stamps": list(labeler_stamps(config.labeler, options)),
        "space": config.space.fingerprint,
        "weak": config.weak is not None,
        "decisions": config.decisions is not None,
    }
    return Stage(NAME, VERSION, (PSEUDO_LABEL,), config_hash(identity), functools.partial(_process, config))


def open_labeler(name: str, options: LabelerConfig, space: LabelSpace) -> Labeler:
    """The labeler of that name, its models loaded once a process."""
    return _engine(name, options.model_dump_json(), space.model_dump_json())


@functools.cache
def _engine(labeler: str, options: str, space: str) -> Labeler:
    module = get_labeler(labeler)
    options_of = module.Config.model_validate_json(options)
    return load_labeler(labeler, options_of, LabelSpace.model_validate_json(space))


def _process(config: LabelConfig, unit: Unit) -> StageResult:
    options, space = config.labeler_config(), config.space
    rows = read_shard(unit.inputs[0], SAMPLE, PIXELS).to_pylist()
    hints = unit.inputs[1:] if config.decisions is None else unit.inputs[1:-1]
    if config.decisions is not None:
        kept = _kept(unit.inputs[-1])
        rows = [row for row in rows if row["sample_id"] in kept]
    weak = _weak(hints, {row["sample_id"] for row in rows}) if config.weak is not None else None
    if weak is not None:
        rows = [row for row in rows if row["sample_id"] in weak]
    labels: dict[str, PseudoLabel] = {}
    items = []
    for row in rows:
        try:
            items.append(_item(row, {} if weak is None else weak[row["sample_id"]], weak is None))
        except ContractError as error:
            labels[row["sample_id"]] = PseudoLabel.abstain(error.problem.reason, str(error.problem))
    if items:
        engine = open_labeler(config.labeler, options, space)
        labels.update(zip([item.sample_id for item in items], engine.label(items), strict=True))
    version = str(get_labeler(config.labeler).VERSION)
    table = [labels[row["sample_id"]].row(row["sample_id"], config.labeler, version, space) for row in rows]
    counts = Counter(row["reason"] or str(Reason.KEPT) for row in table)
    return StageResult((PSEUDO_LABEL.table(table),), dict(counts))


def _kept(path: str) -> set[str]:
    return {r["sample_id"] for r in read_shard(path, DECISION, ["sample_id", "kept"]).to_pylist() if r["kept"]}


def _weak(paths: Sequence[str], wanted: set[str]) -> dict[str, Row]:
    rows = (row for path in paths for row in read_shard(path, WEAK_LABEL).to_pylist())
    return {row["sample_id"]: row for row in rows if row["sample_id"] in wanted}


def _item(row: Row, hints: Row, own_tags: bool) -> LabelItem:
    """Decode a Sample row and its weak label.

    Raises:
        ContractError: a missing or broken image, or a broken scribble.
    """
    sample_id = row["sample_id"]
    if row["image"]["bytes"] is None:
        problem = Problem(Reason.MISSING_IMAGE, "embedded image bytes", "none", "ingest with embedded bytes")
        raise ContractError(sample_id, problem)
    tags = (row["prompt_class_ids"] or row["class_ids"]) if own_tags else hints.get("class_ids")
    scribble = hints.get("scribble")
    return LabelItem(
        sample_id=sample_id,
        image=decode_image(row["image"]["bytes"], sample_id),
        class_ids=tuple(tags or ()),
        boxes=_numbers(_own_boxes(row) if own_tags else hints.get("boxes"), ("class_id", "x0", "y0", "x1", "y1")),
        points=_numbers(hints.get("points"), ("class_id", "x", "y")),
        scribble=None if scribble is None else decode_mask(scribble["bytes"], sample_id),
        group=row["group"],
        index=row["index"],
        box_scores=None if hints.get("box_scores") is None else np.array(hints["box_scores"], np.float32),
    )


def _own_boxes(row: Row) -> list[Row] | None:
    """Boxes of a sample's own objects, where ingest kept some that have a box and no outline (`boxes: label`)."""
    objects = [one for one in row["instances"] or () if not one["crowd"]]
    if all(one["rle"] is not None for one in objects):
        return None
    return [{"class_id": one["class_id"], **one["box"]} for one in objects]


def _numbers(rows: list[Row] | None, names: tuple[str, ...]) -> "np.ndarray[Any, np.dtype[np.float32]]":
    return np.array([[row[name] for name in names] for row in rows or []], np.float32).reshape(-1, len(names))


def write_models(config: LabelConfig, out_dir: str) -> None:
    """Leave OUT/models.json: of each model from elsewhere name, family, licence and bytes of its weights. Nothing where
    none is used.
    """
    found = [asdict(facts) for facts in labeler_models(config.labeler, config.labeler_config())]
    if found:
        write_bytes(f"{out_dir.rstrip('/')}/{MODELS}", (json.dumps(found, indent=2) + "\n").encode())


def label_shard(config: LabelConfig, out_dir: str, index: int) -> dict[str, int]:
    """Label the shard of unit `index` unless it is labelled; returns images by reason."""
    return run_unit(label_stage(config), label_units(config, out_dir)[index]).counts


def label(
    config: LabelConfig, out_dir: str, *, workers: int = 1, progress: Callable[[UnitReport], None] | None = None
) -> dict[str, int]:
    """Label every shard that is not labelled yet; returns images by reason (`kept` = labelled).

    Raises:
        RunLockedError: another process labels into this folder.
    """
    counts: Counter[str] = Counter()
    with lock(out_dir, mark=False):
        write_models(config, out_dir)
        for report in map_units(label_stage(config), label_units(config, out_dir), workers=workers, progress=progress):
            counts.update(report.counts)
    return dict(counts)
