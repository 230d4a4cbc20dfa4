"""The benchmarks on scribbles from end to end on tiny sets of the real layout; differences paired by unit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import benchmarks.dfr as dfr
import benchmarks.scwssod as scwssod
from benchmarks.common import Options, is_train_key, role_of
from benchmarks.curves import Curves
from benchmarks.paired import Units
from benchmarks.scribble_sets import Scribbled, smaller
from maskmill.data_contracts import decode_image, encode_image, encode_mask
from maskmill.trainers.dfr.config import PRESETS

torch.set_num_threads(1)

LEARNT = [name for name in map("patient{:03d}".format, range(30)) if is_train_key(name)][:2]
TESTED = [name for name in map("patient{:03d}".format, range(30)) if not is_train_key(name)][:2]


def options(root: Path, name: str) -> Options:
    return Options(name, root, None, (0,), "small", root.parent / f"{name}.json")


def acdc(root: Path) -> Path:
    """Two slices of each of four patients, with masks and strokes."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks", "scribbles"):
        (root / "acdc" / folder).mkdir(parents=True)
    for patient in (*LEARNT, *TESTED):
        for number in (1, 2):
            mask = np.zeros((48, 48), np.uint8)
            mask[8:20, 8:20], mask[20:30, 8:30], mask[30:40, 8:20] = 1, 2, 3
            strokes = np.full((48, 48), 4, np.uint8)
            strokes[12, 10:18], strokes[25, 10:28], strokes[35, 10:18], strokes[3, 3:40] = 1, 2, 3, 0
            image = np.clip(60.0 * mask[..., None] + rng.integers(0, 40, (48, 48, 3)), 0, 255).astype(np.uint8)
            stem = f"{patient}_frame01_slice_{number}"
            (root / "acdc/images" / f"{stem}.png").write_bytes(encode_image(image))
            (root / "acdc/masks" / f"{stem}.png").write_bytes(encode_mask(mask))
            (root / "acdc/scribbles" / f"{stem}.png").write_bytes(encode_mask(strokes))
    return root


def test_dfr_has_its_arms_and_says_what_it_could_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(dfr.SIZES, "small", dfr.Size(1, 0, 4, 4, 2))
    monkeypatch.setattr(dfr, "SIDE", 32)
    monkeypatch.setitem(dfr.SHARED, "batch", 2)
    monkeypatch.setitem(dfr.SHARED, "warmup_steps", 0)
    monkeypatch.setitem(dfr.SHARED, "segmenter", {**dfr.SHARED["segmenter"], "weights": "random"})
    dfr.run(options(acdc(tmp_path / "data"), "dfr"))
    metrics = json.loads((tmp_path / "dfr.json").read_text())["metrics"]
    assert list(metrics) == ["partial_ce", "static", "dfr", "dilated", "ours", "fully_supervised"]
    measured = {"dice", "dice_rv", "dice_myo", "dice_lv", "boundary_f", "colour_auc"}
    assert set(metrics["static"]) == measured
    assert set(metrics["dfr"]) == measured | {"affinity_auc"}
    assert set(metrics["ours"]) == measured | {"affinity_auc", "ratio_kernel", "ratio_colour"}
    said = capsys.readouterr().out
    assert "differences to static, paired by unit" in said
    assert "miou over the steps" in said
    assert "ours: 1: 0." in said
    assert (tmp_path / "dfr.png").is_file()
    assert not (tmp_path / "dfr.json.work").exists()


def test_the_arms_are_what_their_names_say() -> None:
    """`dfr` is the preset's method (its kernel is the product), `scwssod` the paper's, `cat` its own control."""
    method = ("kernel", "energy", "fc_weight", "smooth_weight", "reg_delay", "reg_ramp", "target_start", "decay_norms")
    assert {key: dfr.SHARED[key] for key in method} == {key: PRESETS["faithful"][key] for key in method}
    assert scwssod.SETTINGS["preset"] == "faithful"
    assert dfr.ARMS["dfr"] == scwssod.ARMS["scwssod"] == {}
    assert scwssod.ARMS["cat"] == {"fusion": "cat"}
    assert scwssod.ARMS["ours"] == {"preset": "starter"}
    assert scwssod.SETTINGS["ssc_norm"] == "own"
    assert scwssod.SETTINGS["ramp"] == 0.3, "of all arms: the starter has it, too"
    assert not {"gate", "fusion", "pce", "lsc_heads"} & set(scwssod.SETTINGS)


def photos(root: Path) -> Path:
    names = [f"weizmann_horses {n}" for n in range(40)]
    learnt = [n.split()[1] for n in names if is_train_key(n)][:2]
    tested = [n.split()[1] for n in names if not is_train_key(n)][:3]
    for folder in ("images", "masks"):
        (root / "weizmann_horses" / folder).mkdir(parents=True)
    rng = np.random.default_rng(1)
    for stem in (*learnt, *tested):
        mask = np.zeros((40, 48), np.uint8)
        mask[10:30, 12:36] = 1
        image = np.clip(120.0 * mask[..., None] + rng.integers(0, 60, (40, 48, 3)), 0, 255).astype(np.uint8)
        (root / "weizmann_horses/images" / f"{stem}.png").write_bytes(encode_image(image))
        (root / "weizmann_horses/masks" / f"{stem}.png").write_bytes(encode_mask(mask))
    return root


def test_scwssod_has_its_arms_and_says_what_it_could_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(scwssod.SIZES, "small", scwssod.Size(1, 1, 3, 2))
    monkeypatch.setitem(scwssod.SETTINGS, "batch", 2)
    monkeypatch.setitem(scwssod.SETTINGS, "width", 8)
    monkeypatch.setitem(scwssod.SETTINGS, "encoder_weights", "random")
    monkeypatch.setitem(scwssod.SETTINGS, "augment", {"size": 32, "fit": "squash"})
    scwssod.run(options(photos(tmp_path / "data"), "scwssod"))
    metrics = json.loads((tmp_path / "scwssod.json").read_text())["metrics"]
    assert list(metrics) == ["partial_ce", "lsc", "lsc+ssc", "cat", "scwssod", "ours", "fully_supervised"]
    assert set(metrics["scwssod"]) == {"max_f", "mean_e", "s", "mae"}
    said = capsys.readouterr().out
    assert "differences to lsc+ssc, paired by unit" in said
    assert "scwssod: s " in said
    assert "mae over the steps" in said
    assert (tmp_path / "scwssod.png").is_file()


def test_pictures_are_shrunk_once_and_strokes_stay() -> None:
    scribble = np.full((100, 200), 255, np.uint8)
    scribble[50, 20:180] = 1
    mask = np.zeros((100, 200), np.uint8)
    mask[40:60] = 1
    picture = Scribbled("a", np.zeros((100, 200, 3), np.uint8), mask, scribble, "v")
    small = smaller(picture, 50)
    assert small.image.shape == (25, 50, 3)
    assert small.mask.shape == small.scribble.shape == (25, 50)
    assert int((small.scribble == 1).sum()) == 40
    assert set(np.unique(small.mask)) == {0, 1}
    assert (small.key, small.volume) == ("a", "v")
    assert smaller(picture, 200) is picture


def test_development_parts_hold_nothing_that_is_tested() -> None:
    keys = [f"key {n}" for n in range(300)]
    roles = {key: (role_of(key), role_of(key, dev=True)) for key in keys}
    assert set(roles.values()) == {("learn", "learn"), ("learn", "tested"), ("tested", "left")}
    assert 0.4 < np.mean([dev == "learn" for _, dev in roles.values()]) < 0.6


def test_curves_are_means_over_seeds(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "curves")
    for seed, last in ((0, 0.4), (1, 0.6)):
        folder = tmp_path / f"artifact {seed}"
        folder.mkdir()
        history = [{"step": 9, "mae": 0.8, "classes": ["a"]}, {"step": 19, "mae": last}]
        (folder / "metrics.json").write_text(json.dumps({"history": history}))
        curves.add("a/b", seed, str(folder))
    assert curves.mean("a/b", "mae", (0, 1)) == [(10, 0.8), (20, 0.5)]
    assert curves.mean("a/b", "mae", (1,)) == [(10, 0.8), (20, 0.6)]
    assert curves.table(["a/b", "gone"], "mae", (0, 1)).splitlines()[1:] == ["a/b: 10: 0.800, 20: 0.500"]
    curves.draw(["a/b"], {"mae": "MAE"}, (0, 1), tmp_path / "curve.png")
    assert decode_image((tmp_path / "curve.png").read_bytes(), "curve").shape[0] > 200


def test_differences_are_paired(tmp_path: Path) -> None:
    """Units differ much, arms little: paired, a difference of 0.02 is seen; of 0, none is."""
    units, rng = Units(tmp_path / "units"), np.random.default_rng(0)
    base = rng.random(200)
    for seed in (0, 1):
        units.add("a", seed, {"dice": list(base)})
        units.add("b", seed, {"dice": list(base + 0.02 + 0.01 * rng.standard_normal(200))})
        units.add("c/d", seed, {"dice": list(base + 0.05 * rng.standard_normal(200))})
    found = units.difference("b", "a", "dice", (0, 1))
    assert found is not None
    assert found.mean == pytest.approx(0.02, abs=0.003)
    assert found.half < 0.005
    assert found.told
    none = units.difference("c/d", "a", "dice", (0, 1))
    assert none is not None
    assert not none.told
    assert units.difference("gone", "a", "dice", (0,)) is None
    text = Units(tmp_path / "units").table(["a", "b", "c/d"], "a", ["dice"], (0, 1))
    assert text.count("\n") == 2
    assert "c/d: dice" in text
    assert "(none seen)" in text
