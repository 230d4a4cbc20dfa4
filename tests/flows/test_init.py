"""`maskmill init`: the config runs once a folder is named, the schedule can be deployed from a folder without code."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import Flow, load_flow_from_entrypoint
from typer.testing import CliRunner

from maskmill.pipelines.cli.init import write_files
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.core.settings import load_settings
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.run import plan, run
from maskmill.pipelines.stages.build import BuildConfig
from maskmill.pipelines.stages.label import LabelConfig

DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folder, and the working directory."""
    write_files(tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    return tmp_path / "mine"


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["init", str(tmp_path / "new" / "folder")])
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["maskmill.yaml", "prefect.yaml"]
    for words in (
        "source.root",
        "maskmill plan maskmill.yaml",
        "maskmill run maskmill.yaml",
        "maskmill deploy maskmill.yaml",
    ):
        assert words in done.output


@pytest.mark.parametrize("own", ["maskmill.yaml", "prefect.yaml"])
def test_nothing_is_overwritten_unless_forced(tmp_path: Path, own: str) -> None:
    (tmp_path / own).write_text("mine: all mine\n")
    refused = CliRunner().invoke(app, ["init", str(tmp_path)])
    assert refused.exit_code == 2
    assert own in refused.output
    assert "--force" in refused.output
    assert [p.name for p in tmp_path.iterdir()] == [own]
    assert (tmp_path / own).read_text() == "mine: all mine\n"
    assert CliRunner().invoke(app, ["init", str(tmp_path), "--force"]).exit_code == 0
    assert "mine: all mine" not in (tmp_path / own).read_text()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = CliRunner().invoke(app, ["init", str(tmp_path / "file")])
    assert refused.exit_code == 2
    assert "expected a folder" in refused.output


def test_the_config_runs_once_a_source_is_named(folder: Path) -> None:
    tiny = {"score.model": str(DATA / "tiny_clip_timm"), "score.image_side": 64}
    config = load_run_config("maskmill.yaml", {"source.root": str(DATA / "photos"), **tiny})
    assert plan(config)[0].to_run == 1
    assert run(config).ledger.rows_in == 3
    assert (folder / "runs/mine/report/index.html").is_file()


def test_every_common_key_is_explained(folder: Path) -> None:
    text = Path("maskmill.yaml").read_text()
    for key in RunConfig.model_fields:
        assert re.search(rf"^#?{key}:|`{key}`", text, re.MULTILINE), key


def test_what_is_commented_out_is_a_choice_that_exists(folder: Path) -> None:
    """Each key that is commented out is put in, in place of the one that stands there."""
    text = Path("maskmill.yaml").read_text()
    commented = re.findall(r"^( *)#(?=[a-z-])(.*)$", text, re.MULTILINE)
    assert len(commented) > 12
    everything = re.sub(r"^( *)#(?=[a-z-])", r"\1", text, flags=re.MULTILINE)
    Path("all.yaml").write_text(everything)  # of a key that stands twice, YAML takes the last
    config = load_run_config("all.yaml")
    assert config.space.find("cart").prompt == "a wooden cart"
    assert config.downstream is not None
    assert [e.format for e in config.export] == ["voc", "hf", "coco"]
    assert config.score.model_dump()["preset"] == "faithful"


def deployments() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(Path("prefect.yaml").read_text())["deployments"]
    return found


def test_every_deployment_loads_from_a_folder_without_code(folder: Path) -> None:
    for deployment in deployments():
        flow: Flow[Any, Any] = load_flow_from_entrypoint(deployment["entrypoint"])
        flow.validate_parameters(deployment["parameters"])
        assert deployment["work_pool"]["name"] == "maskmill"
        for schedule in deployment.get("schedules", []):
            CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


def test_the_deployments_speak_of_the_run_that_the_config_makes(folder: Path) -> None:
    run_dir = load_run_config("maskmill.yaml").run_dir
    nightly, labels, segmenter = (d["parameters"]["parameters"] for d in deployments())
    assert load_run_config(nightly["config"], nightly["overrides"]).run_dir == run_dir
    labelled = load_settings(labels["config"], LabelConfig, labels["overrides"])
    assert (labelled.samples, labelled.weak) == (f"{run_dir}/samples", None)
    built = load_settings(segmenter["config"], BuildConfig, segmenter["overrides"])
    assert built.train.data.samples == (f"{run_dir}/samples",)
    assert built.train.data.labels == ()
    assert built.tested is None
