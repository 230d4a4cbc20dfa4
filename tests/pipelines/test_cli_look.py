"""Looking at a run: explain, diff, list, config; and what a trained artifact does on photos."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from maskmill.data_contracts import SAMPLE
from maskmill.pipelines.cli.lists import What
from maskmill.pipelines.cli.main import app
from tests.pipelines.test_cli import TINY
from tests.pipelines.test_scan import write_pairs
from tests.trainers import shapes


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def sets(**values: object) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over the same pets: `a` keeps what it can, `b` has a floor that none reaches."""
    home = tmp_path_factory.mktemp("runs")
    root = write_pairs(home / "pets", 1, count=3)
    tiny = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    common = ["run", "folder", *sets(source__root=root, label_space="[cat]"), *tiny]
    assert call(*common, *sets(run_dir=home / "a", select__near_duplicates="keep")).exit_code == 0
    assert call(*common, *sets(run_dir=home / "b", select__min_score=2)).exit_code == 3
    return home


def test_explain_takes_a_file_or_an_id_and_says_all(runs: Path) -> None:
    kept = call("explain", runs / "a", "1.png", "--json")
    assert kept.exit_code == 0, kept.output
    found = json.loads(kept.stdout)
    assert found["decision"]["reason"] == "kept"
    assert any(place.startswith("export/voc") for place in found["places"])
    assert "images/1.png" in kept.stderr
    assert "cat" in kept.stderr
    by_id = call("explain", runs / "a", found["sample_id"][:12])
    assert found["sample_id"] in by_id.stdout
    decided = pl.read_parquet(runs / "a" / "decisions.parquet")
    assert sorted(decided["source_path"].to_list()) == [f"images/{n}.png" for n in range(3)]
    assert all("class cat" in detail for detail in decided["detail"].to_list())
    lost = call("explain", runs / "b", "1.png").stdout
    assert "rejected by select: low ASF" in lost
    assert "--set select.min_score=" in lost
    missing = call("explain", runs / "a", "nobody.png")
    assert (missing.exit_code, "no sample" in missing.stderr) == (2, True)


def test_what_explain_says_would_change_it_does(runs: Path, tmp_path: Path) -> None:
    said = call("explain", runs / "b", "1.png").stdout
    line = next(word for word in said.split() if word.startswith("select.min_score="))
    tiny = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    common = ["run", "folder", *sets(source__root=runs / "pets", label_space="[cat]", run_dir=tmp_path / "c"), *tiny]
    call(*common, "--set", line, "--set", "select.near_duplicates=keep")
    assert "1.png" in call("explain", tmp_path / "c", "1.png").stdout
    found = json.loads(call("explain", tmp_path / "c", "1.png", "--json").stdout)
    assert found["decision"]["reason"] == "kept"


def test_diff_names_keys_and_samples(runs: Path) -> None:
    same = call("diff", runs / "a", runs / "a")
    assert same.exit_code == 0
    assert "the same" in same.stdout
    other = call("diff", runs / "a", runs / "b", "--json")
    assert other.exit_code == 1
    found = json.loads(other.stdout)
    changed = {change["key"]: (change["before"], change["after"]) for change in found["keys"]}
    assert changed["select.near_duplicates"] == ("keep", "best")
    assert changed["select.min_score"][1] == 2
    assert "check" not in changed, "a hash over the others says nothing"
    assert found["counts"]["kept"] == [3, 0]
    assert "config select.near_duplicates" in other.stderr
    assert call("diff", runs / "a", runs / "nowhere").exit_code == 2


@pytest.mark.parametrize("what", What)
def test_everything_can_be_listed(what: What) -> None:
    listed = json.loads(call("list", what.value, "--json").stdout)
    assert listed
    assert all(words.strip() for words in listed.values()), "each has a line about it"


@pytest.mark.parametrize("config", ["folder", "train/abd", "label/demo", "build/demo", "scribbles/simulated"])
def test_configs_are_shown_and_checked_whatever_their_kind(config: str) -> None:
    shown = call("config", "show", config)
    assert shown.exit_code == 0, shown.output
    assert yaml.safe_load(shown.stdout)
    assert call("config", "check", config).exit_code == 0


def test_a_config_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("trainer: supervised\ndata: {samples: x}\nsettings: {stps: 3}\n")
    wrong = call("config", "check", tmp_path / "t.yaml")
    assert wrong.exit_code == 2
    assert "stps" in wrong.stderr
    schema = json.loads(call("config", "schema", "train").stdout)
    assert "trainer" in schema["properties"]
    assert call("config", "schema", "nothing").exit_code == 2


def test_an_artifact_is_built_measured_and_used_on_photos(tmp_path: Path) -> None:
    samples = shapes.write_rows(tmp_path / "samples", [shapes.sample_row(n) for n in range(3)], SAMPLE)
    settings = {"segmenter": {"architecture": "fpn", "weights": "random"}, "augment": {"size": 32}, "steps": 1}
    runtime = {"threads": 1, "progress": False}
    train = {
        "label_space": shapes.SPACE.model_dump(mode="json"),
        "data": {"samples": samples},
        "settings": {**settings, "batch": 2, "runtime": runtime},
    }
    (tmp_path / "build.yaml").write_text(yaml.safe_dump({"train": train, "test": {"samples": samples}}))
    built = call("build", tmp_path / "build.yaml", "--out", tmp_path / "run", "--json")
    assert built.exit_code == 0, built.output
    artifact = json.loads(built.stdout)["artifact"]
    measured = call("evaluate", artifact, "--samples", samples, "--out", tmp_path / "eval", "--json")
    assert 0 <= json.loads(measured.stdout)["metrics"]["miou"] <= 1
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    Image.fromarray(shapes.draw_scene(1)[0]).save(tmp_path / "photos" / "deep" / "one.jpg")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")
    used = call("predict", artifact, "--images", tmp_path / "photos", "--out", tmp_path / "out", "--json")
    assert used.exit_code == 0, used.output
    assert [bool(photo["problem"]) for photo in json.loads(used.stdout)["photos"]] == [True, False]
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "deep" / "one.png"))
    assert mask.shape == shapes.draw_scene(1)[0].shape[:2]
    assert "broken.jpg" in used.stderr
    assert call("predict", tmp_path / "nowhere", "--images", tmp_path / "photos").exit_code == 2
    assert f"name {artifact}" in call("predict", tmp_path / "run", "--images", tmp_path / "photos").stderr
    one = call("predict", artifact, "--images", tmp_path / "photos" / "deep" / "one.jpg")
    assert (one.exit_code, "found a file; name the folder that holds it" in one.stderr) == (2, True)
    for device in ("cuda:99", "qpu"):
        none = call("predict", artifact, "--images", tmp_path / "photos", "--device", device)
        assert (none.exit_code, f"device '{device}'" in none.stderr) == (2, True)
