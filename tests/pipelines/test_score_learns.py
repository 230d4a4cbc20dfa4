"""A scorer that learns as stages of a run: study, learn, score; resumed, and made again where the set changed."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

import maskmill as mm
from maskmill.curation.base import teach
from maskmill.curation.registry import get_scorer
from maskmill.curation.sds import SdsConfig
from maskmill.curation.sds.scorer import SdsScorer
from maskmill.data_contracts import FOR_HASH, SAMPLE, SCORE, list_shards, read_shard, shard_name, write_shard
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.run.plan import plan
from maskmill.pipelines.run.run import run
from maskmill.pipelines.run.steps import steps_of
from maskmill.pipelines.stages.score import (
    learn_stage,
    learn_units,
    score_stage,
    score_units,
    study_stage,
    study_units,
)
from tests.curation.coloured_scenes import SPACE, row, rows, scene, table
from tests.curation.sds_samples import TINY

SMALL: dict[str, Any] = {"kind": "cross_fit", "side": 64, "folds": 3}
JUDGED: dict[str, Any] = {
    "preset": "mended",
    "model": TINY,
    "refine": "none",
    "judge": "cross_fit",
    "cross_fit": {"side": 64, "folds": 3},
}


def config_of(folder: Path, score: dict[str, Any]) -> RunConfig:
    for i in range(6):
        image, mask = scene(i, 1 + i % 2)
        for name, pixels in (("images", image), ("masks", mask)):
            (folder / "set" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "set" / name / f"{i}.png")
    settings = {
        "name": "learns",
        "run_dir": str(folder / "run"),
        "label_space": {"name": "few", "classes": [{"id": c.id, "name": c.name} for c in SPACE.classes]},
        "source": {"kind": "folder", "root": str(folder / "set")},
        "shard_size": 4,
        "score": score,
        "select": {"image_score_tau": None, "swap": "keep", "near_duplicates": "keep"},
    }
    return RunConfig.model_validate(settings)


def scored(folder: Path) -> pl.DataFrame:
    shards = list_shards(f"{folder}/run/scores")
    return pl.concat(pl.read_parquet(path) for path in shards).sort("sample_id")


def test_a_run_studies_learns_scores_and_is_idle_then(tmp_path: Path) -> None:
    config = config_of(tmp_path, SMALL)
    assert steps_of(config)[:4] == ("ingest", "study", "learn", "score")
    assert RunConfig.model_validate_json(config.model_dump_json()).score == config.score
    first = run(config)
    assert [(s.name, s.written) for s in first.steps[:4]] == [("ingest", 2), ("study", 2), ("learn", 1), ("score", 2)]
    assert first.ledger.counts["kept"] == 6
    found = scored(tmp_path)
    assert found["asf"].null_count() == 0
    assert run(config).idle
    assert all(line.to_run == 0 for line in plan(config))
    other = config.model_copy(update={"score": config.score.model_copy(update={"ridge": 1.0})})
    assert {line.step for line in plan(other) if line.to_run} >= {"study"}


def test_scores_do_not_depend_on_shards_and_do_on_the_set(tmp_path: Path) -> None:
    score = config_of(tmp_path, SMALL).score
    found = rows(7)
    cuts = {"one": [found], "three": [found[:2], found[2:3], found[3:]], "more": [found, rows(9)[7:]]}
    tables = {}
    for name, parts in cuts.items():
        folder = str(tmp_path / name)
        for i, part in enumerate(parts):
            path = f"{folder}/samples/{shard_name(i)}"
            write_shard(path, table(part), SAMPLE, stage="ingest", fingerprint="0")
        for stage, units in (
            (study_stage(score, SPACE, 0), study_units),
            (learn_stage(score, SPACE, 0), learn_units),
            (score_stage(score, SPACE, 0), lambda run_dir: score_units(run_dir, learns=True)),
        ):
            assert {r.status for r in map_units(stage, units(folder))} == {"written"}
            assert {r.status for r in map_units(stage, units(folder))} == {"skipped"}
        shards = [read_shard(path, SCORE) for path in list_shards(f"{folder}/scores")]
        tables[name] = pl.concat(pl.DataFrame(t.replace_schema_metadata(None)) for t in shards)
    assert tables["one"].equals(tables["three"])
    assert not tables["one"].equals(tables["more"].head(7))
    assert learn_units(str(tmp_path / "nowhere")) == []


def test_sds_takes_the_same_judge(tmp_path: Path) -> None:
    found = rows(9)
    config = SdsConfig.model_validate(JUDGED)
    scorer = SdsScorer(config, SPACE)
    with pytest.raises(ValueError, match="expected a scorer that was taught"):
        scorer.score(table(found), 0)
    taught = scorer.taught(scorer.conclude([scorer.study(table(found), 0)]))
    own = taught.score(table(found), 0)
    plain = SdsScorer(SdsConfig.model_validate({**JUDGED, "judge": "clip"}), SPACE).score(table(found), 0)
    cross = config_of(tmp_path, SMALL).score
    judge = teach(get_scorer("cross_fit").load(cross, SPACE), [table(found)], 0).score(table(found), 0)
    assert own.column("pcs").equals(plain.column("pcs"))
    assert own.column("embedding").equals(plain.column("embedding"))
    assert own.column("asf").equals(judge.column("asf"))
    assert own.column("per_class").equals(judge.column("per_class"))
    assert not own.column("asf").equals(plain.column("asf"))


def test_options_that_came_later_leave_old_hashes_alone() -> None:
    dumped = SdsConfig().model_dump(mode="json", context=FOR_HASH)
    assert not {"judge", "cross_fit"} & set(dumped)
    assert SdsConfig().learns is False
    assert SdsConfig(judge="cross_fit").learns


def test_pairs_in_memory_teach_each_other() -> None:
    images, masks = zip(*(scene(i, 1 + i % 2) for i in range(9)), strict=True)
    wrong = [np.where(masks[0] > 0, 2, 0).astype(np.uint8), *masks[1:]]
    found = mm.score_pairs(list(images), wrong, SPACE, score=SMALL)
    assert found["asf"].arg_min() == 0
    assert row("s0", images[0], masks[0])["class_ids"] == [1]
