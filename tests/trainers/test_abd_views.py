"""abd: what the networks are shown: one geometry for image and label, holes, colours, kept slices."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from maskmill.data_contracts import IGNORE
from maskmill.trainers.abd import Config
from maskmill.trainers.abd.views import DecodedSource, TwoViews, draw_hole, released_geometry, warp
from maskmill.trainers.engine import AugmentConfig, DataConfig, Samples, SampleSource, draw_geometry
from tests.trainers import shapes

torch.set_num_threads(1)


def options(**changes: Any) -> Config:
    return Config.model_validate(changes)


# --- views


def example(tmp_path: Path, number: int = 0) -> Any:
    samples = Samples.open(DataConfig(samples=(shapes.write_scenes(tmp_path / "s", 3),)), str(tmp_path))
    return samples.example(number)


MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def test_views_share_their_geometry_and_differ_in_hole_and_colour(tmp_path: Path) -> None:
    one = example(tmp_path)
    plain = TwoViews(options(augment={"size": 32}, cutout=1.0, jitter=0.0), MEAN, STD, 0, with_mask=True)
    item = plain(one, np.random.default_rng(1))
    hole = item["hole"]
    assert 0 < hole.float().mean() <= 0.45
    same = (item["weak"] == item["strong"]).all(0)
    assert same[~hole].all()
    assert set(item["strong"][:, hole].unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(item["mask"][~hole], item["mask_strong"][~hole])
    assert (item["mask_strong"][hole] == IGNORE).all()
    released = options(augment={"size": 32}, cutout=1.0, hole_label="background", cutout_image=False, jitter=0.0)
    item = TwoViews(released, MEAN, STD, 0, with_mask=True)(one, np.random.default_rng(1))
    assert torch.equal(item["weak"], item["strong"]), "PROMISE12 as released: a hole in the label alone"
    assert (item["mask_strong"][hole] == 0).all()
    off = TwoViews(options(augment={"size": 32}, strong_view=False), MEAN, STD, 0, with_mask=False)
    item = off(one, np.random.default_rng(1))
    assert torch.equal(item["weak"], item["strong"])
    assert (item["mask"] == IGNORE).sum() > 0.9 * 32 * 32


def test_kept_slices_give_the_same_batches(tmp_path: Path) -> None:
    samples = Samples.open(DataConfig(samples=(shapes.write_scenes(tmp_path / "s", 3),)), str(tmp_path))
    view = TwoViews(options(augment={"size": 32}), MEAN, STD, 0, with_mask=True)
    plain, kept = SampleSource(samples, view, 2, 7), DecodedSource(samples, view, 2, 7)
    for step in (0, 1, 5, 1):
        a, b = plain(step), kept(step)
        assert a["sample_id"] == b["sample_id"]
        assert all(torch.equal(a[key], b[key]) for key in ("weak", "strong", "mask", "mask_strong", "hole"))


@pytest.mark.parametrize("changes", [{}, {"rotate": 25, "scale": (0.6, 1.8)}, {"quarter_turns": True, "flip": 1.0}])
def test_one_resampling_lands_where_resize_turn_and_crop_land(changes: dict[str, Any]) -> None:
    config = AugmentConfig.model_validate({"size": 48, "flip": 0.5, **changes})
    rows, columns = np.mgrid[:90, :70]
    image = np.stack([rows, columns, rows + columns], -1).astype(np.uint8)  # smooth: every place has its own colour
    for seed in range(8):
        geometry = draw_geometry(np.random.default_rng(seed), 90, 70, config)
        found, wanted = warp(geometry, image, (0, 0, 0), cv2.INTER_LINEAR), geometry.image(image, fill=(0, 0, 0))
        inside = geometry.label(np.ones((90, 70), np.uint8), fill=0) > 0
        inside = cv2.erode(np.pad(inside, 1).astype(np.uint8), np.ones((5, 5)))[1:-1, 1:-1] > 0
        difference = np.abs(found.astype(int) - wanted.astype(int))[inside]
        assert found.shape == (48, 48, 3)
        assert inside.any()
        assert difference.max() <= 3
        half = cv2.resize(image, (35, 45), interpolation=cv2.INTER_AREA)
        coarse = warp(geometry, half, (0, 0, 0), cv2.INTER_LINEAR)
        assert np.abs(coarse.astype(int) - found.astype(int))[inside].mean() < 1.5, "the same place at any resolution"


def test_released_geometry_is_half_turns_a_quarter_angles_and_nearest(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    mask = image[..., 0]
    kinds = {"same": 0, "turned": 0, "angled": 0}
    for seed in range(200):
        found, label = released_geometry(image, mask, 24, 0, np.random.default_rng(seed))
        assert np.array_equal(found[..., 0], label), "image and label move together"
        if np.array_equal(found, image):
            kinds["same"] += 1
        elif sorted(found.ravel().tolist()) == sorted(image.ravel().tolist()):
            kinds["turned"] += 1
        else:
            kinds["angled"] += 1
    assert 75 <= kinds["turned"] <= 125
    assert 30 <= kinds["angled"] <= 75
    assert set(np.unique(found)) <= {0, *np.unique(image)}, "no interpolated value"


def test_holes_come_with_their_chance_and_size() -> None:
    rng = np.random.default_rng(0)
    areas = [draw_hole(rng, 64, 64, 0.5).mean() for _ in range(300)]
    drawn = [area for area in areas if area]
    assert 0.4 < len(drawn) / 300 < 0.6
    assert 0.015 < min(drawn) < max(drawn) <= 0.4
