"""The benchmarks of promptable models on tiny folders: every arm, every metric."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import a2gnn, promptable, promptable_cost
from benchmarks.box_sets import Photo
from tests.benchmarks.test_a2gnn import write_sets
from tests.labelers.model_folders import owlv2, sam2
from tests.trainers import shapes


def test_every_arm_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sets(tmp_path / "data")
    size = a2gnn.Size(trained=2, tested=1, affinity_steps=1, segmenter_steps=1, timed=1)
    monkeypatch.setitem(a2gnn.SIZES, "small", size)
    fast = {"steps": (2, 1), "hidden": 4, "radius": 2, "tile": 4, "crf": {"iterations": 1}}
    monkeypatch.setattr(a2gnn, "SETTINGS", fast)
    monkeypatch.setattr(a2gnn, "TRAINING", {"affinity": {"batch": 2, "augment": {"size": 32}, "radius": 2}})
    words = ["--data", str(tmp_path / "data"), "--json", str(tmp_path / "p.json")]
    promptable.main([*words, "--model", str(sam2(tmp_path / "sam2"))])
    found = json.loads((tmp_path / "p.json").read_text())["metrics"]
    assert set(found) == {*promptable.PLAIN_ARMS, *promptable.MODEL_ARMS}
    for arm in found.values():
        assert {"miou", "miou@davis", "boundary_f", "seconds_per_image", "empty_boxes"} <= set(arm)
        assert 0 <= arm["boundary_f"]["mean"] <= 1
    assert found["promptable+zoom"]["box_violation_px"]["mean"] == 0


def test_dev_measures_development_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(promptable, "measured", lambda bench, arm, model, part: asked.append(part) or {"miou": 1.0})
    write_sets(tmp_path / "data")
    words = ["--data", str(tmp_path / "data"), "--json", str(tmp_path / "p.json")]
    promptable.main([*words, "--dev"])
    assert set(asked) == {"dev"}


def test_outlines_are_met_within_three_pixels() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 1
    assert promptable.outline_f(truth, truth) == 1
    assert promptable.outline_f(np.roll(truth, 3, axis=1), truth) == 1
    assert promptable.outline_f(np.roll(truth, 6, axis=1), truth) < 0.8
    assert promptable.outline_f(np.zeros_like(truth), truth) == 0


def test_points_lie_in_their_objects() -> None:
    image, mask = shapes.draw_scene(3)
    photo = Photo("drawn", "3", image, np.where(mask == 255, 0, mask).astype(np.uint8))
    item = promptable.points_in(photo, 3)
    assert len(item.points) == 3 * len(photo.item.boxes)
    assert all(photo.mask[int(y), int(x)] == class_id for class_id, x, y in item.points)
    np.testing.assert_array_equal(item.points, promptable.points_in(photo, 3).points)


@pytest.mark.parametrize("arm", promptable_cost.ARMS)
def test_cost_is_measured_for_both_kinds(arm: str, tmp_path: Path) -> None:
    for model, make in (("sam2-tiny", sam2), ("owlv2-base", owlv2)):
        found = promptable_cost.measure(model, str(make(tmp_path / model)), arm, 2)
        assert found["seconds_per_image"] > 0
        assert found["peak_mb"] > 0


def test_the_model_that_ships_is_measured_as_the_others(tmp_path: Path) -> None:
    promptable_cost.build("starter", tmp_path / "starter")
    found = promptable_cost.measure("starter", str(tmp_path / "starter"), "single", 1)
    assert found["seconds_per_image"] > 0
    assert set(promptable_cost.HUGE) < set(promptable_cost.MODELS)
