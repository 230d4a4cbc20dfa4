"""`config show`: everything filled in, and behind each value who says it."""

from pathlib import Path

import yaml
from typer.testing import CliRunner

from maskmill.pipelines.cli.main import app


def show(*args: str) -> str:
    done = CliRunner().invoke(app, ["config", "show", *args])
    assert done.exit_code == 0, done.output
    return done.stdout


def line(text: str, key: str) -> str:
    return next(row.strip() for row in text.splitlines() if row.strip().startswith(f"{key}:"))


def test_values_of_a_run_say_where_they_come_from(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("source: {kind: folder, root: photos}\nlabel_space: voc\nseed: 3\n")
    own = tmp_path / "own.yaml"
    own.write_text("extends: base.yaml\nscore: {preset: faithful, crf: {backend: mean_field}}\n")
    text = show(str(own), "--set", "select.rho=0.7")
    assert line(text, "seed") == "seed: 3  # base.yaml"
    assert line(text, "rho") == "rho: 0.7  # --set"
    assert line(text, "perturbation") == "perturbation: channels  # preset faithful"
    assert line(text, "backend").endswith("mean_field  # own.yaml")
    assert line(text, "image") == "image: wrapped_bgr  # preset faithful"
    assert line(text, "n_attention") == "n_attention: 8"
    assert yaml.safe_load(text)["score"]["crf"]["image"] == "wrapped_bgr"


def test_settings_of_a_trainer_are_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("trainer: weclip\ndata: {samples: x}\nsettings: {preset: faithful, steps: 5, warmup_steps: 1}\n")
    text = show(str(path))
    assert line(text, "rfm_start") == "rfm_start: 9144  # preset faithful"
    assert line(text, "steps") == "steps: 5  # train.yaml"
    assert line(text, "second") == "second: null"
    assert yaml.safe_load(text)["settings"]["augment"]["size"] == 320
