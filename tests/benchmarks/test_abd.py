"""The benchmark of semi-supervised training: who is labelled, learnt and tested, and a run on drawn hearts."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks import abd
from benchmarks.common import Options, is_train_key, parse_options
from maskmill.data_contracts import load_label_space
from maskmill.pipelines.stages.evaluate_volumes import VolumesConfig, evaluate_volumes, keep_organ, read_volumes

TINY = {
    "architecture": "unet",
    "encoder": "lcnet_035",
    "weights": "random",
    "options": {"encoder_depth": 2, "decoder_channels": [16, 8]},
}
PATIENTS = [f"patient{number:03d}" for number in range(1, 9)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two scans of two slices of eight patients: a bright disc in a ring."""
    for kind in ("images", "masks"):
        (tmp_path / "acdc" / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for patient in PATIENTS:
        for frame, index in ((1, 0), (1, 1), (12, 0), (12, 1)):
            mask = np.zeros((50, 60), np.uint8)
            centre = (int(rng.integers(24, 36)), int(rng.integers(20, 30)))
            for radius, value in ((12, 2), (8, 3)):
                cv2.circle(mask, centre, radius, value, -1)
            mask[5:12, 10:20] = 1
            image = np.clip(60 * mask + rng.integers(0, 40, mask.shape), 0, 255).astype(np.uint8)
            stem = f"{patient}_frame{frame:02d}_slice_{index}"
            Image.fromarray(image).save(tmp_path / "acdc/images" / f"{stem}.png")
            Image.fromarray(mask).save(tmp_path / "acdc/masks" / f"{stem}.png")
    return tmp_path


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abd, "STEPS", {"small": 2})
    hosts: dict[str, dict[str, Any]] = {host: {"partner": TINY} for host in abd.HOSTS}
    monkeypatch.setattr(abd, "HOSTS", hosts)
    augment = {**abd.COMMON["augment"], "size": 32}
    monkeypatch.setattr(abd, "COMMON", {**abd.COMMON, "network": TINY, "augment": augment, "warmup_steps": 0})


def options(data: Path, *more: str) -> Options:
    return parse_options("abd", None, ["--data", str(data), "--json", str(data / "out" / "abd.json"), *more])


def test_labelled_patients_follow_the_seed_and_are_never_tested() -> None:
    learnt = [name for name in PATIENTS if is_train_key(name)]
    draws = [abd.labelled_patients(learnt, seed) for seed in range(6)]
    assert all(len(set(draw)) == abd.LABELLED and set(draw) <= set(learnt) for draw in draws)
    assert len(set(draws)) > 1
    assert abd.labelled_patients(learnt, 0) == draws[0]


def test_arms_differ_in_host_and_switches_alone() -> None:
    names = [f"p{n}" for n in range(8)]
    found = {arm: abd.settings_of(arm, 0, 100, names) for arm in abd.ARMS}
    for arm, settings in found.items():
        assert settings["steps"] == 100
        changed = {key for key in settings if settings[key] != found["supervised"].get(key)}
        assert changed <= {*abd.PLAIN, "host", "partner", "labelled_groups", "lend"} | set(
            abd.HOSTS[settings["host"]]
        ), arm
    assert found["fully_supervised"]["labelled_groups"] == tuple(names)
    on = {arm: [key for key in abd.PLAIN if found[arm].get(key, True)] for arm in abd.ARMS}
    assert on["ct"] == on["bcp"] == []
    assert on["ct+strong"] == on["bcp+two_students"] == ["strong_view"]
    assert on["ct+strong+R"] == on["bcp+abd"] == ["strong_view", "displace_unlabelled"], "the released BCP has no ABD-I"
    assert on["ct+strong+I"] == ["strong_view", "displace_labelled"]
    assert on["ct+abd"] == list(abd.PLAIN)
    assert {arm for arm in found if found[arm].get("lend") == "organs"} == {"ct+strong+R_organs", "ct+abd_organs"}
    assert all(settings["candidates"] == 4 for settings in found.values())


def test_all_arms_are_measured_and_a_second_run_goes_on(
    data: Path, tiny: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = options(data)
    calls: list[str] = []
    train_arm = abd.train_arm

    def counted(arm: str, *rest: Any) -> str:
        if arm == "bcp" and "bcp" not in calls:
            calls.append(arm)
            raise KeyboardInterrupt
        calls.append(arm)
        return train_arm(arm, *rest)

    monkeypatch.setattr(abd, "train_arm", counted)
    with pytest.raises(KeyboardInterrupt):
        abd.run(given)
    abd.run(given)
    cut = abd.TABLE.index("bcp")
    assert calls == [*abd.TABLE[: cut + 1], *abd.TABLE[cut:]]
    said = capsys.readouterr().out
    assert said.count("± is the smallest that can be seen") == len(abd.TABLE) - 2
    assert "differences to ct+strong, paired by unit" in said
    assert "ct+abd: dice " in said
    result = json.loads(given.json_path.read_text())
    assert tuple(result["metrics"]) == abd.TABLE
    for arm, metrics in result["metrics"].items():
        assert 0 <= metrics["dice"]["mean"] <= 1
        assert ("displacement_share" in metrics) == arm.endswith("+abd")
        if (other := abd.WITHOUT.get(arm)) is not None:
            less = result["metrics"][other]["dice"]["mean"]
            assert metrics["gain_dice"]["mean"] == pytest.approx(metrics["dice"]["mean"] - less)
    assert Image.open(given.json_path.with_suffix(".png")).width > 400
    assert not given.json_path.with_name("abd.json.work").exists()


def test_volumes_are_scans_of_a_patient_and_perfect_labels_score_one(data: Path, tmp_path: Path, tiny: None) -> None:
    space = load_label_space("acdc")
    samples = abd.ingest(data, space, tmp_path / "run")
    scans = list(read_volumes(samples, PATIENTS[:2]))
    assert [scan.name for scan in scans] == [f"{p}_frame{f}" for p in PATIENTS[:2] for f in ("01", "12")]
    assert scans[0].masks.shape == (2, 60, 50), "wide slices stand upright"
    assert scans[0].spacing == abd.SPACING
    patients = abd.patients_of(samples)
    artifact = abd.train_arm("supervised", 0, options(data), patients, samples, space, tmp_path)
    found = evaluate_volumes(VolumesConfig(artifact=artifact, samples=samples, groups=tuple(PATIENTS[:2])))
    assert found["volumes"] == 4
    with pytest.raises(ValueError, match="expected scans with masks, found none"):
        evaluate_volumes(VolumesConfig(artifact=artifact, samples=samples, groups=("nobody",)))


def test_of_one_organ_the_largest_blob_stays_whatever_its_classes() -> None:
    labels = np.zeros((4, 12, 12), np.uint8)
    labels[0:2, 2:5, 2:5], labels[1:3, 4:7, 5:8] = 1, 3  # they touch across a corner: 18 + 18 voxels
    organ = labels.copy()
    labels[:, 9:12, 9:12] = 1  # larger than either class of the organ, smaller than both: 36 - 4 voxels
    labels[0, 11, 9:12], labels[1, 11, 11] = 0, 0
    assert np.array_equal(keep_organ(labels, 0), organ)
    assert keep_organ(organ, 0) is organ
    assert not keep_organ(np.zeros_like(labels), 0).any()
    assert np.array_equal(keep_organ(2 - np.minimum(labels, 1), 2), 2 - np.minimum(organ, 1)), "background 2"
    with pytest.raises(ValueError, match="expected a label space with a background id"):
        keep_organ(labels, None)


def test_missing_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="acdc/images"):
        abd.run(options(tmp_path))
