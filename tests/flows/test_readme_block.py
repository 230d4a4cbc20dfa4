"""README's block on schedules, pasted into a fresh shell with a terminal; without one: tests/first_hour."""

from pathlib import Path

import pytest
import yaml

from tests.first_hour.schedule import ROOT, fresh_shell, run_block

pytestmark = pytest.mark.slow

TINY = ROOT / "tests" / "data" / "tiny_clip_timm"


def test_the_block_of_the_readme_works_on_a_terminal(tmp_path: Path) -> None:
    config = {"extends": "planted-faults", "name": "tiny", "run_dir": "runs/tiny", "shard_size": 6}
    source = {"count": 12, "scene": {"size": 64}}
    score = {"model": str(TINY), "image_side": 64, "refine": "none"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**config, "source": source, "score": score, "export": []}))
    env = fresh_shell(tmp_path)
    assert "PREFECT_API_URL" not in env
    said = run_block(env, tmp_path, "tiny", terminal=True)
    assert (tmp_path / "runs" / "tiny" / "report" / "index.html").is_file(), said[-4000:]
    assert "curate-synthetic/tiny" in said.replace("\n", "")
    assert yaml.safe_load((tmp_path / "prefect.yaml").read_text())["deployments"][0]["name"] == "tiny"
    assert "do not exist" not in said
