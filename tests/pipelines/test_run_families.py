"""`maskmill run` with a folder of each newer family ends with a whole ledger, an export and a report."""

from pathlib import Path

import pytest

from maskmill.data_contracts import SAMPLE, list_shards, read_shard
from maskmill.pipelines.run.config import load_run_config
from maskmill.pipelines.run.regenerate import regenerate_sample
from maskmill.pipelines.run.run import run
from tests.generators.small_families import SAVE

TINY_CLIP = str(Path(__file__).resolve().parent.parent / "data" / "tiny_clip_timm")
KEEP = {"min_score": None, "image_score_tau": None, "rho": 1.0, "near_duplicates": "keep", "swap": "keep"}


@pytest.mark.parametrize("family", sorted(SAVE))
def test_a_run_goes_from_prompts_to_an_export_and_a_report(family: str, tmp_path: Path) -> None:
    generator = {"model": str(SAVE[family](tmp_path)), "steps": 1, "height": 32, "width": 32, "batch_size": 2}
    config = load_run_config(
        "starter-generator",
        {
            "run_dir": str(tmp_path / "run"),
            "downstream": None,
            "generate": {"generator": generator, "prompts": {"classes": ["dog", "cat"]}, "per_class": 1},
            "score": {"model": TINY_CLIP, "image_side": 64, "refine": "none"},
            "select": KEEP,
            "export": [{"format": "voc"}],
        },
    )
    report = run(config)
    assert report.ledger.rows_in == 2
    assert list((tmp_path / "run").rglob("*.html"))
    assert list((tmp_path / "run").rglob("ImageSets/Segmentation/*.txt"))
    assert run(config).idle
    rows = [row for shard in list_shards(f"{tmp_path}/run/samples") for row in read_shard(shard, SAMPLE).to_pylist()]
    assert rows
    again = regenerate_sample(config, rows[0]["sample_id"], tmp_path / "again")
    assert again.same, again.message
