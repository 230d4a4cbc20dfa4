"""Generate from masks: SAMPLE shards with masks in, SAMPLE shards of new images for those masks and their rejects
out.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    LabelSpace,
    Problem,
    Reason,
    config_hash,
    decode_mask,
    foreground_ids,
    iter_rows,
    list_shards,
    sample_seed,
)
from maskmill.generators.mask_to_image import (
    ControlConfig,
    LayoutRequest,
    MaskToImage,
    mask_to_image,
    request_from_mask,
)
from maskmill.generators.records import layout_row, revision
from maskmill.pipelines.core.stage import Stage, StageResult, Unit

VERSION = 1
Row = dict[str, Any]


class FromMasksConfig(BaseModel):
    """How many images each mask gets, and which scenes they are set in (taken in turn)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    control: ControlConfig
    per_mask: int = Field(default=4, ge=1)
    scenes: tuple[str, ...] = ("",)


def generate_from_masks_stage(config: FromMasksConfig, space: LabelSpace, seed: int) -> Stage:
    """The stage for one config. Its hash covers the config, both models' files, the label space and the seed."""
    hashed = config_hash(
        {
            "config": config.model_dump(mode="json"),
            "model": revision(config.control),
            "space": space.fingerprint,
            "seed": seed,
        }
    )

    def process(unit: Unit) -> StageResult:
        rows = [row for path in unit.inputs for row in iter_rows(path, SAMPLE, ["sample_id", "mask"])]
        samples, decisions = draw_masks(rows, mask_to_image(config.control, space), config, seed)
        counts = Counter({Reason.KEPT.value: len(samples)}) + Counter(str(d["reason"]) for d in decisions)
        return StageResult((SAMPLE.table(samples), DECISION.table(decisions)), dict(counts))

    return Stage("generate_from_masks", VERSION, (SAMPLE, DECISION), hashed, process)


def generate_from_masks_units(run: str, masks: str) -> list[Unit]:
    """One unit per SAMPLE shard in the folder `masks`: to RUN/samples and RUN/rejects, under the same names."""
    units = []
    for index, path in enumerate(list_shards(masks)):
        name = path.rsplit("/", 1)[-1]
        units.append(Unit((path,), (f"{run}/samples/{name}", f"{run}/rejects/{name}"), index=index))
    return units


def draw_masks(
    rows: Sequence[Row], engine: MaskToImage, config: FromMasksConfig, seed: int
) -> tuple[list[Row], list[Row]]:
    """Draw `per_mask` images of every row's mask; rows without one, or without foreground, are rejected with a
    reason.
    """
    requests: list[LayoutRequest] = []
    decisions: list[Row] = []
    for row in rows:
        mask_id = str(row["sample_id"])
        mask = None if row["mask"] is None else decode_mask(row["mask"]["bytes"], mask_id)
        if mask is None or not foreground_ids(mask, engine.space):
            reason = Reason.MISSING_MASK if mask is None else Reason.EMPTY_FOREGROUND
            problem = Problem(reason, "a mask with foreground", "none", "leave the sample out, or label it first")
            decisions.append(_decision(mask_id, problem))
            continue
        for copy in range(config.per_mask):
            noise = sample_seed(seed, f"{mask_id}|{copy}", "noise")
            scene = config.scenes[copy % len(config.scenes)]
            requests.append(request_from_mask(mask, engine.space, config.control, noise, scene=scene, mask_id=mask_id))
    samples: dict[str, Row] = {}
    for number, drawn in enumerate(engine.draw(requests)):
        if drawn.problem is not None:
            decisions.append(_decision(f"{drawn.request.mask_id}-{number % config.per_mask}", drawn.problem))
            continue
        sample = layout_row(drawn, engine)
        samples[sample["sample_id"]] = sample
    return list(samples.values()), decisions


def _decision(name: str, problem: Problem) -> Row:
    return {
        "sample_id": name,
        "stage": "generate_from_masks",
        "kept": False,
        "reason": problem.reason.value,
        "detail": str(problem),
    }
