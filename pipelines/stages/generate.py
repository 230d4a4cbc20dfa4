"""Generate: PROMPT shards in, SAMPLE shards and a DECISION shard of what could not be drawn out."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from maskmill.data_contracts import (
    DECISION,
    PROMPT,
    SAMPLE,
    ContractError,
    LabelSpace,
    Problem,
    Reason,
    config_hash,
    iter_rows,
    list_shards,
    sample_seed,
    shard_name,
    write_shard,
)
from maskmill.data_contracts.shards import fingerprint
from maskmill.generators.config import GeneratorConfig, settings_for_hash
from maskmill.generators.records import revision, sample_row
from maskmill.generators.requests import Request, request_from_row
from maskmill.generators.text_to_image import Drawn, TextToImage, text_to_image
from maskmill.pipelines.core.stage import Stage, StageResult, Unit, stands

VERSION = 1
Row = dict[str, Any]


def generate_stage(config: GeneratorConfig, space: LabelSpace, seed: int) -> Stage:
    """The stage for one config. Its hash covers config, files of model and LoRAs, label space and seed."""
    hashed = config_hash(
        {
            "config": settings_for_hash(config.model_dump(mode="json")),
            "model": revision(config),
            "space": space.fingerprint,
            "seed": seed,
        }
    )

    def process(unit: Unit) -> StageResult:
        rows = [row for path in unit.inputs for row in iter_rows(path, PROMPT)]
        samples, decisions = generate_rows(rows, text_to_image(config), space, seed)
        counts = Counter({Reason.KEPT.value: len(samples)}) + Counter(str(d["reason"]) for d in decisions)
        return StageResult((SAMPLE.table(samples), DECISION.table(decisions)), dict(counts))

    return Stage("generate", VERSION, (SAMPLE, DECISION), hashed, process)


def generate_units(run: str, prompts: str | None = None) -> list[Unit]:
    """One unit per shard of `prompts` (default RUN/prompts): to RUN/samples and RUN/rejects, under the same names."""
    found = list_shards(prompts or f"{run}/prompts")
    names = [path.rsplit("/", 1)[-1] for path in found]
    return [
        Unit(inputs=(path,), outputs=(f"{run}/samples/{name}", f"{run}/rejects/{name}"), index=i)
        for i, (path, name) in enumerate(zip(found, names, strict=True))
    ]


def generate_rows(
    rows: Sequence[Row], engine: TextToImage, space: LabelSpace, seed: int
) -> tuple[list[Row], list[Row]]:
    """Draw PROMPT rows: SAMPLE rows of the pairs, and a DECISION row for each prompt that gave none.

    The noise of a row is seeded with hash(`seed`, its id), so another run seed draws other images for the same prompts.
    """
    requests: list[Request] = []
    decisions: list[Row] = []
    for row in rows:
        try:
            request = request_from_row(row, space, sample_seed(seed, str(row["sample_id"]), "noise"))
            engine.prepare(request)
            requests.append(request)
        except ContractError as error:
            decisions.append(_decision(str(row["sample_id"]), str(row["prompt"]), error.problem))
    samples: dict[str, Row] = {}
    for drawn in engine.draw(requests):
        problem = drawn.problem or _empty(drawn)
        sample = sample_row(drawn, engine, space)
        if problem is None and sample["sample_id"] in samples:
            problem = Problem(
                Reason.DUPLICATE_ID, "a new image", "the bytes of another prompt's", "change the prompt's seed"
            )
        if problem is None:
            samples[sample["sample_id"]] = sample
        else:
            decisions.append(_decision(str(drawn.request.prompt_id), drawn.request.prompt, problem))
    return list(samples.values()), decisions


def _empty(drawn: Drawn) -> Problem | None:
    if drawn.class_ids:
        return None
    fix = "look at the peaks and thresholds, raise guidance, or use another prompt"
    return Problem(Reason.EMPTY_FOREGROUND, f"a mask with some of classes {drawn.request.class_ids}", "none", fix)


def _decision(prompt_id: str, prompt: str, problem: Problem) -> Row:
    return {
        "sample_id": prompt_id,
        "stage": "generate",
        "kept": False,
        "reason": problem.reason.value,
        "detail": f"prompt {prompt!r}: {problem}",
    }


def write_prompts(folder: str, rows: Sequence[Row], per_shard: int, first_shard: int = 0) -> list[str]:
    """Store a prompt set as PROMPT shards of `per_shard` rows; returns their paths. Same rows, same shards; one that is
    there already, whole, stays.
    """
    paths = []
    for index, start in enumerate(range(0, len(rows), per_shard), start=first_shard):
        path = f"{folder}/{shard_name(index)}"
        part = list(rows[start : start + per_shard])
        ids = tuple(str(row["sample_id"]) for row in part)
        stamp = fingerprint(PROMPT, "prompts", VERSION, "", ids)
        if not stands(path, stamp, table := PROMPT.table(part)):
            write_shard(path, table, PROMPT, stage="prompts", fingerprint=stamp)
        paths.append(path)
    return paths
