"""Weak labels to pseudo-labels to a segmenter, as the two flows run them (their bodies, without a server)."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.testing.utilities import prefect_test_harness

import flows
from maskmill.data_contracts import SAMPLE, list_shards
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
    counts = flows.pseudo_label(flows.LabelParameters(config=str(plan), out_dir=labels, workers=2))
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
    parameters = flows.BuildParameters(
        config=str(build), out_dir=str(tmp_path / "run"), overrides=["train.settings.steps=1"]
    )
    metrics = flows.build_segmenter(parameters)
    assert 0 <= metrics["miou"] <= 1
    assert (tmp_path / "run" / "artefact" / "config.json").is_file()
