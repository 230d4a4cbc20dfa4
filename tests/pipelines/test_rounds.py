"""Generation rounds on a small random-weight diffusion pipeline: quotas, budget, resume, and samples drawn again."""

from pathlib import Path
from typing import Any

import pytest

from maskmill.data_contracts import PROMPT, list_shards, read_shard
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.regenerate import regenerate_sample
from maskmill.pipelines.run.rounds import Rounds
from maskmill.pipelines.run.run import passes, rounds_of, run, run_step
from tests.generators.small_pipelines import save_pipeline

TINY_CLIP = str(Path(__file__).resolve().parent.parent / "data" / "tiny_clip_timm")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model"))


def config_at(run_dir: Path, model: Path, **generate: Any) -> RunConfig:
    """Two classes, tiny images, a selection that keeps all that has a mask."""
    return load_run_config(
        "starter-generator",
        {
            "run_dir": str(run_dir),
            "downstream": None,
            "shard_size": 8,
            "generate": {
                "generator": {"model": str(model), "steps": 2, "height": 32, "width": 32, "batch_size": 4},
                "prompts": {"classes": ["dog", "cat"]},
                **generate,
            },
            "score": {"model": TINY_CLIP, "image_side": 64, "refine": "none"},
            "select": {
                "min_score": None,
                "image_score_tau": None,
                "rho": 1.0,
                "near_duplicates": "keep",
                "swap": "keep",
            },
            "export": [],
        },
    )


def prompts(config: RunConfig) -> list[str]:
    shards = list_shards(f"{config.run_dir}/prompts")
    return [i for path in shards for i in read_shard(path, PROMPT, ["sample_id"]).column(0).to_pylist()]


def test_a_budget_is_kept_to_and_the_account_is_whole(model: Path, tmp_path: Path) -> None:
    config = config_at(tmp_path, model, quota=500, budget=48)
    report = run(config)
    assert len(prompts(config)) == 48
    assert report.ledger.rows_in == 48
    hard = rounds_of(config).hard_classes()
    assert {h.name for h in hard} <= {"dog", "cat"}
    assert hard
    assert all(h.name in h.why for h in hard)
    before = prompts(config)
    assert run(config).idle
    assert prompts(config) == before


def test_rounds_stop_when_the_quota_is_met(model: Path, tmp_path: Path) -> None:
    config = config_at(tmp_path, model, quota=1, budget=1000)
    run(config)
    assert len(prompts(config)) < 100
    assert not rounds_of(config).hard_classes()


def test_a_round_that_was_cut_off_comes_again_with_the_same_prompts(model: Path, tmp_path: Path) -> None:
    whole, cut = (
        config_at(tmp_path / "a", model, quota=500, budget=48),
        config_at(tmp_path / "b", model, quota=500, budget=48),
    )
    run(whole)
    for steps in passes(cut):  # leave in the middle of the first round
        assert steps == ("generate", "score", "dedup", "select")
        run_step(cut, "generate")
        break
    run(cut)
    assert prompts(cut) == prompts(whole)
    names = ("decisions.parquet", "ledger.json")
    assert all(Path(cut.run_dir, n).read_bytes() == Path(whole.run_dir, n).read_bytes() for n in names)


def test_prompts_of_a_round_that_comes_again_are_not_written_again(model: Path, tmp_path: Path) -> None:
    config = config_at(tmp_path, model, per_class=5)
    assert rounds_of(config).open()
    before = {path: Path(path).stat().st_ino for path in list_shards(f"{tmp_path}/prompts")}
    damaged = Path(min(before))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-9])
    assert rounds_of(config).open()
    after = {path: Path(path).stat().st_ino for path in list_shards(f"{tmp_path}/prompts")}
    assert {path for path in before if before[path] != after[path]} == {str(damaged)}
    assert damaged.read_bytes() == whole


def test_records_of_other_settings_do_not_count(model: Path, tmp_path: Path) -> None:
    config = config_at(tmp_path, model, per_class=4)
    run(config)
    rounds = rounds_of(config)
    assert not rounds.open()
    other = config_at(tmp_path, model, per_class=6)
    assert rounds_of(other).open()
    assert isinstance(rounds, Rounds)
    assert len(prompts(other)) == 12


def test_a_generated_sample_is_drawn_again_from_its_row(model: Path, tmp_path: Path) -> None:
    config = config_at(tmp_path / "run", model, per_class=4)
    run(config)
    shard = list_shards(f"{config.run_dir}/samples")[0]
    from maskmill.data_contracts import SAMPLE

    sample_id = read_shard(shard, SAMPLE, ["sample_id"]).column(0).to_pylist()[0]
    result = regenerate_sample(config, sample_id, tmp_path / "again")
    assert result.same, result.message


def test_a_run_either_ingests_or_generates() -> None:
    with pytest.raises(ConfigError, match="one of the two"):
        load_run_config("planted-faults", {"generate": {}})
    with pytest.raises(ConfigError, match="one of the two"):
        load_run_config("planted-faults", {"source": None})
