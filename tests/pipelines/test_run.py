"""A whole run, on a small random CLIP: what is skipped, what is made again, what stays the same, and what is said
about it.
"""

import fcntl
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from maskmill.data_contracts import SCORE, list_shards, read_shard
from maskmill.pipelines.cli.demo import fault_outcomes
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.core.lock import RunLockedError
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.regenerate import regenerate_sample
from maskmill.pipelines.run.run import RunReport, plan, run

DATA = Path(__file__).resolve().parent.parent / "data"
TINY = {"score.model": str(DATA / "tiny_clip_timm"), "score.image_side": 64, "score.refine": "none"}


def config_at(run_dir: Path, **changes: Any) -> RunConfig:
    """The demo's config on twelve small scenes and a random CLIP; `a__b` in a keyword stands for the key a.b."""
    small = {"run_dir": str(run_dir), "source.count": 12, "shard_size": 5, "source.scene.size": 64, **TINY}
    return load_run_config(
        "planted-faults", {**small, **{key.replace("__", "."): value for key, value in changes.items()}}
    )


def work(report: RunReport) -> dict[str, int]:
    """Units written, by step."""
    return {step.name: step.written for step in report.steps}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    config = config_at(tmp_path_factory.mktemp("run"))
    run(config)
    return config


def decisions(config: RunConfig) -> pl.DataFrame:
    return pl.read_parquet(f"{config.run_dir}/decisions.parquet").drop("shard").sort("sample_id")


def scores(config: RunConfig) -> list[dict[str, Any]]:
    rows = [row for path in list_shards(f"{config.run_dir}/scores") for row in read_shard(path, SCORE).to_pylist()]
    return sorted(rows, key=lambda row: str(row["sample_id"]))


def test_every_sample_is_accounted_for(finished: RunConfig) -> None:
    ledger = json.loads(Path(finished.run_dir, "ledger.json").read_text())
    assert sum(shard["rows_in"] for shard in ledger["shards"]) == 12
    for shard in ledger["shards"]:
        assert shard["rows_in"] == shard["kept"] + sum(r["rows"] for r in shard["rejections"])
    manifest = json.loads(Path(finished.run_dir, "manifest.json").read_text())
    assert manifest["rows"] == 12
    assert sum(manifest["counts"].values()) == 12
    assert [line.split("@")[0] for line in manifest["lineage"]] == ["ingest", "score", "dedup", "select"]


def test_a_second_run_does_nothing(finished: RunConfig) -> None:
    assert run(finished).idle
    assert all(line.to_run == 0 for line in plan(finished))


def test_a_changed_threshold_leaves_scores_alone(finished: RunConfig, tmp_path: Path) -> None:
    config = config_at(tmp_path)
    run(config)
    before = {p: Path(p).stat().st_ino for p in list_shards(f"{tmp_path}/scores")}
    done = work(run(config_at(tmp_path, select__rho=0.5, select__min_score=None)))
    assert done["ingest"] == done["score"] == done["dedup"] == 0
    assert done["select"] == 1
    assert before == {p: Path(p).stat().st_ino for p in list_shards(f"{tmp_path}/scores")}


def test_a_changed_sds_option_makes_scores_again_but_ingests_nothing(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    run(config)
    changed = config_at(tmp_path, score__temperature=0.7)
    lines = {line.step: line for line in plan(changed)}
    assert lines["ingest"].to_run == 0
    assert lines["score"].why == {"its config or model changed": 3}
    done = work(run(changed))
    assert done["ingest"] == 0
    assert done["score"] == 3


def test_scores_and_decisions_do_not_depend_on_shards_or_workers(finished: RunConfig, tmp_path: Path) -> None:
    other = config_at(tmp_path, shard_size=3, workers=2)
    run(other)
    assert scores(other) == scores(finished)
    assert decisions(other).equals(decisions(finished))


def test_two_runs_decide_with_the_same_bytes(finished: RunConfig, tmp_path: Path) -> None:
    again = config_at(tmp_path)
    run(again)
    files = ("decisions.parquet", "ledger.json", "manifest.json")
    for name in files:
        assert Path(again.run_dir, name).read_bytes() == Path(finished.run_dir, name).read_bytes(), name


def test_a_smaller_source_leaves_no_shard_behind(tmp_path: Path) -> None:
    run(config_at(tmp_path))
    run(config_at(tmp_path, source__count=6))
    for folder in ("samples", "rejects", "scores"):
        assert len(list_shards(f"{tmp_path}/{folder}")) == 2, folder


def test_two_processes_may_not_share_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunLockedError, match="another process"):
            run(config_at(tmp_path))


def test_planted_faults_are_told_apart_in_the_account(finished: RunConfig) -> None:
    outcomes = fault_outcomes(finished.run_dir)
    assert sum(sum(reasons.values()) for reasons in outcomes.values()) == 12
    assert "none" in outcomes


def test_a_sample_is_made_again_with_the_same_bytes(finished: RunConfig, tmp_path: Path) -> None:
    sample_id = decisions(finished)["sample_id"][0]
    result = regenerate_sample(finished, sample_id[:12], tmp_path)
    assert result.same, result.message
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(KeyError, match="0 samples"):
        regenerate_sample(finished, "zz", tmp_path)


def test_real_photos_from_a_folder_go_through(tmp_path: Path) -> None:
    root = str(DATA / "photos")
    config = load_run_config(
        "folder", {"source.root": root, "label_space": "voc", "run_dir": str(tmp_path), "select": {"rho": 1.0}, **TINY}
    )
    report = run(config)
    assert report.ledger.rows_in == 3
    assert report.ledger.ingested == 3
    html = Path(tmp_path, "report", "index.html").read_text()
    assert "<td>score</td>" in html, "times of the steps before the report"


def test_the_command_line_runs_plans_and_explains(tmp_path: Path) -> None:
    sets = {"run_dir": tmp_path, "source.count": 4, "source.scene.size": 64, **TINY}
    options = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    runner = CliRunner()
    done = runner.invoke(app, ["select", "planted-faults", *options])
    assert done.exit_code == 0, done.output
    assert "Ledger" in done.output
    assert not Path(tmp_path, "export").exists()
    planned = runner.invoke(app, ["plan", "planted-faults", *options])
    assert planned.exit_code == 0
    assert "all done" in planned.output
    wrong = runner.invoke(app, ["run", "planted-faults", "--set", "selekt.rho=1"])
    assert wrong.exit_code == 2
    assert "selekt" in wrong.output
    assert "Traceback" not in wrong.output
