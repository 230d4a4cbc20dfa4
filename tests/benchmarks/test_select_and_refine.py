"""The benchmarks of selection and of the refiners, on little: their flags, arms and metrics."""

import json
from pathlib import Path

import cv2
import numpy as np

from benchmarks import refine, select_million
from benchmarks.common import parse_options
from maskmill.vision.refine import crf_backend


def test_select_million_on_few_rows(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    options = parse_options("select_million", None, ["--json", str(result), "--seeds", "0,1"], needs_data=False)
    select_million.run(options, rows=3000)
    metrics = json.loads(result.read_text())["metrics"]
    assert set(metrics) == {"n_classes", "class", "calibrated"}
    for arm in metrics.values():
        assert set(arm) == {"decide_s", "stage_s", "kept"}
        assert len(arm["kept"]["per_seed"]) == 2
    assert abs(metrics["n_classes"]["kept"]["mean"] - 0.5) < 0.01
    assert 0.5 < metrics["calibrated"]["kept"]["mean"] < 0.7  # a fifth has a spoilt image, another a spoilt mask
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_refine_on_drawn_photos(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(2):
        clip = tmp_path / "data/davis/JPEGImages" / f"clip{i}"
        masks = tmp_path / "data/davis/Annotations" / f"clip{i}"
        clip.mkdir(parents=True)
        masks.mkdir(parents=True)
        mask = np.zeros((96, 128), np.uint8)
        cv2.circle(mask, (50 + 20 * i, 48), 25, 1, -1)
        image = np.where(mask[..., None] > 0, (40, 60, 200), (90, 160, 70)) + rng.integers(-3, 4, (96, 128, 3))
        cv2.imwrite(str(clip / "00000.jpg"), image.astype(np.uint8))
        cv2.imwrite(str(masks / "00000.png"), mask)
    result, data = tmp_path / "result.json", str(tmp_path / "data")
    refine.run(parse_options("refine", None, ["--data", data, "--test-data", data, "--json", str(result)]))
    metrics = json.loads(result.read_text())["metrics"]
    assert set(metrics) - {"pydensecrf"} == {"coarse", "mean_field", "par"}
    assert ("pydensecrf" in metrics) == (crf_backend("auto") == "pydensecrf")
    assert metrics["mean_field"]["miou_davis"]["mean"] > metrics["coarse"]["miou_davis"]["mean"]
    assert metrics["mean_field"]["agreement"]["mean"] == 1
