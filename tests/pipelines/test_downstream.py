"""The downstream step of a run: equal subsets, a test set of its own, nothing done twice, and what the report says."""

from pathlib import Path
from typing import Any

import pytest

from maskmill.data_contracts import DECISION, read_shard
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.run import plan, run
from maskmill.pipelines.stages.downstream import downstream_results, subset_ids

TINY_CLIP = str(Path(__file__).resolve().parent.parent / "data" / "tiny_clip_timm")


def config_at(run_dir: Path, **changes: Any) -> RunConfig:
    settings = {
        "steps": 2,
        "batch": 2,
        "augment": {"size": 32},
        "segmenter": {"architecture": "fpn", "weights": "random"},
        "runtime": {"progress": False, "threads": 1},
    }
    test = {"kind": "drawn", "count": 3, "scene": {"size": 48, "seed": 5}}
    return load_run_config(
        "planted-faults",
        {
            "run_dir": str(run_dir),
            "source.count": 12,
            "shard_size": 5,
            "source.scene.size": 64,
            "score": {"model": TINY_CLIP, "image_side": 64, "refine": "none"},
            "select.swap": "drop",
            "select.rho": 0.5,
            "select.min_score": None,
            "select.image_score_tau": None,
            "export": [],
            "downstream": {"settings": settings, "test": test, "overlays": 2, **changes},
        },
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    config = config_at(tmp_path_factory.mktemp("run"))
    run(config)
    return config


def kept_ids(run_dir: str, subset: str) -> set[str]:
    rows = read_shard(f"{run_dir}/downstream/{subset}/decisions.parquet", DECISION).to_pylist()
    return {row["sample_id"] for row in rows if row["kept"]}


def test_subsets_are_of_equal_size_and_tested_alike(finished: RunConfig) -> None:
    kept, chance = downstream_results(finished.run_dir)
    assert kept.samples == chance.samples == len(kept_ids(finished.run_dir, "random"))
    assert 0 < kept.samples < 12
    decisions = read_shard(f"{finished.run_dir}/decisions.parquet", DECISION).to_pylist()
    assert kept_ids(finished.run_dir, "kept") == {row["sample_id"] for row in decisions if row["kept"]}
    for result in (kept, chance):
        assert result.metrics["images"] == 3
        assert 0 <= result.metrics["miou"] <= 1
        assert result.overlays is not None


def test_a_second_run_trains_nothing(finished: RunConfig) -> None:
    assert all(line.to_run == 0 for line in plan(finished))
    assert run(finished).idle


def test_another_setting_trains_again_and_nothing_else(finished: RunConfig) -> None:
    other = config_at(Path(finished.run_dir), overlays=3)
    todo = {line.step: line.to_run for line in plan(other)}
    assert todo["score"] == todo["select"] == todo["downstream-data"] == 0
    assert todo["downstream"] == 2


def test_the_report_shows_what_each_subset_taught(finished: RunConfig) -> None:
    page = Path(finished.run_dir, "report/index.html").read_text()
    assert "Does selection pay?" in page
    assert "as many at random" in page


def test_a_random_subset_depends_on_ids_and_seed_alone() -> None:
    kept = {f"{i:02d}": i % 3 == 0 for i in range(60)}
    chosen = subset_ids("random", kept, 0)
    assert len(chosen) == 20
    assert chosen == subset_ids("random", dict(reversed(kept.items())), 0)
    assert chosen != subset_ids("random", kept, 1)
    assert subset_ids("all", kept, 0) == set(kept)
