"""Generate from masks: SAMPLE shards with masks in, SAMPLE shards of new images for those masks and their rejects
out.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    LabelSpace,
    Problem,
    Reason,
    Uint8Array,
    config_hash,
    decode_mask,
    foreground_ids,
    iter_rows,
    list_shards,
    sample_seed,
)
from maskmill.generators.config import settings_for_hash
from maskmill.generators.mask_to_image import (
    LayoutRequest,
    MaskToImage,
    mask_to_image,
    request_from_mask,
)
from maskmill.generators.records import layout_row, revision
from maskmill.pipelines.core.stage import Stage, StageResult, Unit
from maskmill.pipelines.stages.freemask import Judge, Judged, judged_masks, open_judge
from maskmill.pipelines.stages.from_masks import FromMasksConfig, RunFromMasks

VERSION = 1
Row = dict[str, Any]
IMPLAUSIBLE = Problem(
    Reason.EMPTY_FOREGROUND,
    "a drawn image that looks like its mask",
    "none of it: every region's loss is above the tolerance",
    "raise filter.tolerance or conditioning_scale, or look at what is drawn",
)
TWICE = Problem(
    Reason.DUPLICATE_ID, "a new image", "the very bytes of another copy", "change the seed, or draw fewer copies"
)


def generate_from_masks_stage(
    config: FromMasksConfig, space: LabelSpace, seed: int, judged: Judged | None = None
) -> Stage:
    """The stage for one config. Its hash covers the config, both models' files, the label space and the seed, and with
    a filter what its segmenter says of the real pairs (`judged`).
    """
    own = config.model_dump(mode="json", exclude={"filter", "samples"})
    parts: dict[str, Any] = {
        "config": settings_for_hash(own),
        "model": revision(config.control),
        "space": space.fingerprint,
        "seed": seed,
    }
    hashed = config_hash(parts if judged is None else {**parts, "judged": judged.stamp})

    def process(unit: Unit) -> StageResult:
        rows = [row for path in unit.inputs for row in iter_rows(path, SAMPLE, ["sample_id", "mask"])]
        judge = None if config.filter is None else open_judge(config.filter, space)
        engine = mask_to_image(config.control, space)
        samples, decisions = draw_masks(rows, engine, config, seed, judge, judged)
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


def from_masks_stage(config: RunFromMasks, space: LabelSpace, seed: int, run_dir: str) -> Stage:
    """The stage of a run. With a filter, its segmenter looks at all real pairs first, once: RUN/freemask.json.

    Raises:
        ConfigError: the filter's segmenter was trained on another label space.
    """
    if config.filter is None:
        return generate_from_masks_stage(config, space, seed)
    judged = judged_masks(config.filter, config.samples, config.per_mask, space, f"{run_dir}/freemask.json")
    return generate_from_masks_stage(config, space, seed, judged)


def draw_masks(
    rows: Sequence[Row],
    engine: MaskToImage,
    config: FromMasksConfig,
    seed: int,
    judge: Judge | None = None,
    judged: Judged | None = None,
) -> tuple[list[Row], list[Row]]:
    """Draw `per_mask` images of every row's mask, or as many as `judged` says; rows without one, or without foreground,
    are rejected with a reason. What `judge` finds implausible is 255 in the labels; a label of which nothing is left is
    rejected.
    """
    requests: list[LayoutRequest] = []
    decisions: list[Row] = []
    for row in rows:
        mask_id = str(row["sample_id"])
        mask = None if row["mask"] is None else decode_mask(row["mask"]["bytes"], mask_id)
        if mask is None or not foreground_ids(mask, engine.space):
            reason = Reason.MISSING_MASK if mask is None else Reason.EMPTY_FOREGROUND
            fault = Problem(reason, "a mask with foreground", "none", "leave the sample out, or label it first")
            decisions.append(_decision(mask_id, fault))
            continue
        for copy in range(config.per_mask if judged is None else judged.images.get(mask_id, config.per_mask)):
            noise = sample_seed(seed, f"{mask_id}|{copy}", "noise")
            scene = config.scenes[copy % len(config.scenes)]
            requests.append(request_from_mask(mask, engine.space, config.control, noise, scene=scene, mask_id=mask_id))
    samples: dict[str, Row] = {}
    copies: Counter[str] = Counter()
    for drawn in engine.draw(requests):
        name = str(drawn.request.mask_id)
        copy, copies[name] = copies[name], copies[name] + 1
        label: Uint8Array = drawn.mask
        problem: Problem | None = drawn.problem
        if problem is None and judge is not None and judged is not None:
            label = judge.filtered(drawn.image, drawn.mask, judged)
            problem = None if foreground_ids(label, engine.space) else IMPLAUSIBLE
        sample = None if problem is not None else layout_row(drawn, engine, label)
        if sample is not None and sample["sample_id"] in samples:
            problem = TWICE
        if problem is not None or sample is None:
            decisions.append(_decision(f"{name}-{copy}", problem or TWICE))
            continue
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
