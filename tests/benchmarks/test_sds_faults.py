"""The benchmark of planted faults: its arithmetic, what it plants, and a run on three drawn photos."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks import sds_faults
from benchmarks.common import Options
from benchmarks.sds_faults import ARMS, Photo, PhotoSet, auroc, draw, load_sets, plant, to_table
from maskmill.curation.faults import Fault
from maskmill.curation.sds import SdsConfig
from maskmill.data_contracts import load_label_space


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six "horses": bright ellipses on dark ground."""
    for kind in ("images", "masks"):
        (tmp_path / "weizmann_horses" / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(6):
        mask = np.zeros((64, 96), np.uint8)
        cv2.ellipse(mask, (20 + 10 * index, 30), (15, 10), 0, 0, 360, 1, -1)
        image = rng.integers(0, 60, (64, 96, 3)).astype(np.uint8)
        image[mask > 0] = (220, 180, 40)
        Image.fromarray(image).save(tmp_path / "weizmann_horses" / "images" / f"horse{index}.jpg")
        Image.fromarray(mask).save(tmp_path / "weizmann_horses" / "masks" / f"horse{index}.png")
    return tmp_path


def horses(data: Path, tested: bool = True) -> PhotoSet:
    options = Options("sds_faults", data, data if tested else None, (0,), "small", data / "out.json")
    (found,) = load_sets(options)
    return found


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert auroc(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0.5
    assert auroc(np.array([1.0]), np.array([1.0, 2.0])) == 0.25


def test_halves_are_disjoint_and_test_data_is_taken_whole(data: Path) -> None:
    everything, half = horses(data).photos, horses(data, tested=False).photos
    assert len(everything) == 6
    assert set(half) < set(everything)


@pytest.mark.parametrize("fault", sds_faults.FAULTS)
def test_faults_spoil_what_they_say_and_nothing_else(data: Path, fault: Fault) -> None:
    photos = horses(data)
    drawn = draw(photos, 3, 0)
    clean = [sds_faults._case(p) for p in drawn]
    faulty = plant(fault, photos, drawn, 0)
    assert len(faulty) == len(drawn) == 3
    for before, after in zip(clean, faulty, strict=True):
        assert (before.image != after.image).any() == (fault in sds_faults.IMAGE_FAULTS)
        assert before.mask is not None
        assert after.mask is not None
        assert (before.mask != after.mask).any() == (fault not in sds_faults.IMAGE_FAULTS)
        assert before.class_id == after.class_id
        swapped = fault is Fault.SWAPPED_LABEL
        assert (before.class_id in after.mask) != swapped
    assert to_table(faulty).num_rows == 3


def test_draw_spreads_over_classes() -> None:
    photos = tuple(Photo(Path(f"{c}{i}"), f"{c}{i}", c) for c in (1, 2) for i in range(5 * c))
    drawn = draw(PhotoSet("x", load_label_space("voc"), photos), 4, 0)
    assert sorted(p.class_id for p in drawn) == [1, 1, 2, 2]


def test_nothing_to_test_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found none"):
        horses(tmp_path)


def test_a_run_writes_every_arm_and_metric(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = str(Path(__file__).parents[1] / "data" / "tiny_clip")
    small = {"model": tiny, "refine": "none", "confidence": 0.0}
    arms = {name: replace(arm, score=arm.score.model_copy(update=small)) for name, arm in ARMS.items()}
    monkeypatch.setattr(sds_faults, "ARMS", arms)
    out = data / "out.json"
    flags = ["sds_faults", "--data", str(data), "--test-data", str(data), "--seeds", "0", "--json", str(out)]
    monkeypatch.setattr("sys.argv", flags)
    sds_faults.main()
    metrics = json.loads(out.read_text())["metrics"]
    assert set(metrics) == {"release", "mended", "ours"}
    for arm, found in metrics.items():
        expected = {f"auroc_{fault}" for fault in sds_faults.FAULTS} | {"auroc_image", "auroc_annotation"}
        assert set(found) == expected | {"kept@horses", "kept_worst_class"}, arm
        assert found["auroc_swapped_label"]["mean"] == 1.0, arm
    assert metrics["ours"]["auroc_shifted_mask"]["mean"] > 0.9


def test_the_arms_are_the_presets() -> None:
    assert ARMS["release"].score.perturbation == "channels"
    assert ARMS["release"].score.crf.image == "wrapped_bgr"
    assert ARMS["release"].select.pcs_tau == 0.1
    assert ARMS["mended"].score.perturbation == "tiles"
    assert ARMS["ours"].score == SdsConfig(labels="prompt")
