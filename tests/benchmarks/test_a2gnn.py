"""The benchmark of box labels on a tiny folder of the promised layout: every arm, every metric, resumed."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import a2gnn, box_labels
from benchmarks.box_sets import Parts, Photo, object_boxes, photos
from maskmill.data_contracts import encode_image, encode_mask
from maskmill.labelers import PseudoLabel
from maskmill.labelers.a2gnn.config import RELEASED_CRF, Config
from tests.trainers import shapes


def write_sets(root: Path) -> None:
    """Two of the three sets; ccp is missing."""
    for number in range(16):
        image, mask = shapes.draw_scene(number)
        binary = ((mask > 0) & (mask < 255)).astype(np.uint8)
        for image_path, mask_path in (
            (root / "weizmann_horses/images" / f"h{number}.jpg", root / "weizmann_horses/masks" / f"h{number}.png"),
            (
                root / f"davis/JPEGImages/clip{number % 6}/{number:05d}.jpg",
                root / f"davis/Annotations/clip{number % 6}/{number:05d}.png",
            ),
        ):
            image_path.parent.mkdir(parents=True, exist_ok=True)
            mask_path.parent.mkdir(parents=True, exist_ok=True)
            image_path.write_bytes(encode_image(image))
            mask_path.write_bytes(encode_mask(binary))


def test_every_arm_is_measured_and_a_second_run_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sets(tmp_path / "data")
    size = a2gnn.Size(trained=2, tested=1, affinity_steps=1, segmenter_steps=1, timed=1)
    monkeypatch.setitem(a2gnn.SIZES, "small", size)
    fast = {"steps": (2, 1), "hidden": 4, "radius": 2, "tile": 4, "crf": {"iterations": 1}}
    monkeypatch.setattr(a2gnn, "SETTINGS", fast)
    small = {"batch": 2, "augment": {"size": 32}}
    monkeypatch.setattr(a2gnn, "TRAINING", {"affinity": {**small, "radius": 2}, "supervised": small})
    options = a2gnn.parse_options("a2gnn", None, ["--data", str(tmp_path / "data"), "--json", str(tmp_path / "a.json")])
    a2gnn.run(options)
    found = json.loads((tmp_path / "a.json").read_text())["metrics"]
    assert set(found) == {*a2gnn.LABEL_ARMS, *a2gnn.SEGMENTER_ARMS}
    for arm in a2gnn.LABEL_ARMS:
        names = {"miou", "miou@davis", "miou@weizmann_horses", "box_violation_px", "empty_boxes", "seconds_per_image"}
        assert names <= set(found[arm])
        assert found[arm]["empty_boxes"]["mean"] == 0 or arm == "promptable+crf"
        assert found[arm]["box_violation_px"]["mean"] == 0
        assert 0 < found[arm]["miou"]["mean"] <= 1
        assert 0 < found[arm]["dev_miou"]["mean"] <= 1, "one table for both parts"
    gain = found["a2gnn+crf"]["miou"]["mean"] - found["grabcut"]["miou"]["mean"]
    assert found["a2gnn+crf"]["over_grabcut"]["mean"] == pytest.approx(gain)
    assert found["a2gnn_cuts+crf"]["miou"] != found["a2gnn+crf"]["miou"]
    assert {"over_grabcut@davis", "dev_over_grabcut"} <= set(found["a2gnn"])
    assert found["a2gnn"]["speedup_vs_dense"]["mean"] > 0
    assert found["a2gnn"]["dense_agreement"]["mean"] > 0.99
    assert 0 <= found["seeds+crf"]["seed_precision"]["mean"] <= 1
    assert 0 <= found["a2gnn+crf"]["errors_in_doubt"]["mean"] <= 1
    assert found["segmenter_on_truth"]["miou"]["mean"] >= 0
    assert not list(tmp_path.glob("*.work"))


def test_parts_share_no_sequence(tmp_path: Path) -> None:
    write_sets(tmp_path)
    options = a2gnn.parse_options("a2gnn", None, ["--data", str(tmp_path), "--json", str(tmp_path / "a.json")])
    parts = photos(options, (99, 99), 0)
    keys = [{(p.source, p.key) for p in part} for part in (parts.train, parts.dev, parts.test)]
    assert all(keys)
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]
    other = a2gnn.parse_options(
        "a2gnn",
        None,
        ["--data", str(tmp_path), "--test-data", str(tmp_path), "--json", str(tmp_path / "a.json")],
    )
    whole = photos(other, (99, 99), 0)
    assert {(p.source, p.key) for p in whole.test} == keys[0] | keys[1] | keys[2], "all that is given to test"
    assert not {(p.source, p.key) for p in whole.train} & keys[1]


def test_boxes_of_objects_ignore_crumbs_and_join_what_nearly_touches() -> None:
    mask = np.zeros((80, 80), np.uint8)
    mask[10:30, 10:20] = 1
    mask[33:40, 10:20] = 1  # three pixels apart: the same object
    mask[10:30, 50:60] = 1
    mask[70, 70] = 1
    mask[60:63, 5:8] = 2
    boxes = object_boxes(mask)
    assert boxes.tolist() == [[1, 10, 10, 20, 40], [1, 50, 10, 60, 30], [2, 5, 60, 8, 63]]


def test_default_settings_are_the_labelers_own(tmp_path: Path) -> None:
    assert Config(**a2gnn.SETTINGS) == Config()
    parts, size = Parts([], [], [], shapes.SPACE), a2gnn.SIZES["small"]
    bench, cuts = (a2gnn.Bench(parts, size, 0, tmp_path, own) for own in a2gnn.OWN.values())
    assert bench.config() == Config()
    assert (cuts.config().seeds.fusion, cuts.config().prompted_weight, cuts.config().crf) == (
        "grabcut",
        0,
        RELEASED_CRF,
    )
    assert cuts.config(seed=3).seed == 3


def test_errors_where_confidence_is_low_are_told_from_those_elsewhere() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    image = np.zeros((20, 20, 3), np.uint8)
    label, sure = truth.copy(), np.full((20, 20), 255, np.uint8)
    label[5, 5:15] = 0  # ten of a hundred pixels in the box
    photo = Photo("davis", "clip", image, truth)
    doubtful = sure.copy()
    doubtful[5:7] = 100
    assert box_labels.errors_in_doubt([PseudoLabel(label, doubtful)], [photo]) == 1
    mistaken = sure.copy()
    mistaken[8:10] = 100
    assert box_labels.errors_in_doubt([PseudoLabel(label, mistaken)], [photo]) == 0
