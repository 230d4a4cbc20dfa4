"""Weak labels to pseudo-labels to a segmenter, and a run with its export, as the flows do it (without a worker)."""

import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

import flows
from maskmill.data_contracts import SAMPLE, list_shards, secrets
from maskmill.pipelines.core.deployment import FOLDER
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.run.parameters import BuildParameters, CurateParameters, ExportParameters, LabelParameters
from tests.pipelines.ingest_sets import make_folder
from tests.trainers import shapes

TINY = str(Path(__file__).parents[1] / "data" / "tiny_clip")


@pytest.fixture(scope="module", autouse=True)
def harness() -> Any:
    with prefect_test_harness(server_startup_timeout=120):
        yield


def test_tags_to_pseudo_labels_to_a_segmenter(tmp_path: Path) -> None:
    rows = [shapes.sample_row(number) for number in range(4)]
    samples = shapes.write_rows(tmp_path / "samples", rows, SAMPLE, shards=2)
    weak = shapes.write_weak(tmp_path / "weak", rows)
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump(shapes.SPACE.model_dump(mode="json")))
    options = {"model": TINY, "image_side": 64, "par_iterations": 1, "min_decided": 0.0}
    plan = tmp_path / "label.yaml"
    plan.write_text(yaml.safe_dump({"label_space": str(space), "samples": samples, "weak": weak, "settings": options}))
    labels = str(tmp_path / "labels")
    counts = flows.pseudo_label(LabelParameters(config=str(plan), out_dir=labels, workers=2))
    assert counts == {"kept": 4}
    assert len(list_shards(labels)) == 2

    settings = {"segmenter": {"architecture": "fpn", "weights": "random"}, "augment": {"size": 32}, "batch": 2}
    runtime = {"threads": 1, "progress": False}
    recipe = {
        "label_space": str(space),
        "data": {"samples": samples, "labels": labels},
        "settings": {**settings, "steps": 50, "runtime": runtime},
    }
    build = tmp_path / "build.yaml"
    build.write_text(yaml.safe_dump({"train": recipe, "test": {"samples": samples}}))
    parameters = BuildParameters(config=str(build), out_dir=str(tmp_path / "run"), overrides=["train.settings.steps=1"])
    metrics = flows.build_segmenter(parameters)
    assert 0 <= metrics["miou"] <= 1
    assert (tmp_path / "run" / "artifact" / "config.json").is_file()


def test_form_fields_are_keys_of_the_config() -> None:
    asked = CurateParameters(source_root="pets", classes=["dog"], rho=0.5, min_score=0.1, overrides={"seed": 3})
    wanted = {"source.root": "pets", "label_space": ["dog"], "select.rho": 0.5, "select.min_score": 0.1, "seed": 3}
    assert asked.changes == wanted
    assert CurateParameters().changes == {}, "an empty field changes nothing"


def test_a_run_and_what_it_kept_in_another_format(tmp_path: Path) -> None:
    tiny = {"score.model": f"{TINY}_timm", "score.image_side": 64, "score.refine": "none", "source.scene.size": 64}
    run_dir = str(tmp_path / "run")
    more = {**tiny, "source.count": 4, "export": []}
    counts = flows.curate_synthetic(CurateParameters(config="planted-faults", run_dir=run_dir, overrides=more))
    assert sum(counts.values()) == 4
    target = tmp_path / "there"
    written = flows.export_dataset(ExportParameters(run_dir=run_dir, formats=["coco"], push_to=str(target)))
    assert written["coco"] > 0
    assert len(list((target / "coco" / "images").rglob("*.png"))) == counts["kept"]


SECRET = "s3kret-Zx91"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A secret in the environment, a folder of configs that name it, and the log level at which most is said."""
    monkeypatch.setenv("TOKEN", SECRET)
    monkeypatch.setattr(secrets, "_references", {})
    monkeypatch.setattr(secrets, "_values", {})
    (tmp_path / "configs").mkdir()
    monkeypatch.setenv(FOLDER, str(tmp_path / "configs"))
    make_folder(tmp_path / f"data-{SECRET}", ["a", "b"])
    return tmp_path


def config_of(folder: Path, name: str, root: str, **more: Any) -> str:
    score = {"model": TINY, "image_side": 64, "refine": "none"}
    source = {"kind": "folder", "root": f"{folder}/{root}-$TOKEN", "licence": "$TOKEN"}
    config = {"name": name, "run_dir": f"{folder}/run-$TOKEN-{name}", "label_space": "voc", "source": source}
    path = folder / "configs" / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**config, "score": score, **more}))
    return str(path)


def what_prefect_keeps() -> str:
    """Everything that the server holds, as text."""
    with get_client(sync_client=True) as client:
        kept: list[Any] = [*client.read_logs(), *client.read_flow_runs(), *client.read_task_runs()]
        kept += client.read_artifacts()
    return "\n".join(one.model_dump_json() for one in kept)


def test_a_planted_secret_is_in_nothing_that_prefect_keeps(planted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    counts = flows.curate_synthetic(flows.CurateParameters(config=config_of(planted, "good", "data")))
    assert sum(counts.values()) == 2
    with pytest.raises(Exception, match="no such folder") as error:
        flows.curate_synthetic(flows.CurateParameters(config=config_of(planted, "bad", "none")))
    assert SECRET not in "".join(traceback.format_exception(error.value))
    for key, value in (("source.root", "$TOKEN"), ("run_dir", "s3://mine/${TOKEN}")):
        parameters = flows.CurateParameters(config=config_of(planted, "asked", "data"), overrides={key: value})
        with pytest.raises(ConfigError, match="environment variable"):
            flows.curate_synthetic(parameters)
    kept = what_prefect_keeps()
    assert "no such folder" in kept
    assert SECRET not in kept
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
