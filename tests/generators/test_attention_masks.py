"""From attention maps to label maps: planted maps, thresholds, ties, mat-vecs."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from maskmill.generators.attention_masks import ClassMaps, class_maps, label_map, mask_of, minmax, spread
from maskmill.generators.config import MaskConfig
from maskmill.generators.spans import ClassPrompt


def blob(row, column, size=32, width=4.0):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))


def stochastic(n, seed=0):
    return torch.softmax(3 * torch.randn(n, n, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_matrix_vector_products_equal_the_matrix_power():
    own, maps = stochastic(256), torch.rand(3, 16, 16)
    wanted = (torch.linalg.matrix_power(own.double(), 4) @ maps.flatten(1).T.double()).T.reshape(maps.shape)
    got = spread(own, maps, 4).double()
    assert float(((got - wanted).abs() / wanted).max()) < 1e-5


def test_fourth_power_of_a_stochastic_map_is_stochastic():
    ones = torch.ones(1, 16, 16)
    assert torch.allclose(spread(stochastic(256), ones, 4), ones, atol=1e-5)


def test_two_planted_blobs_give_two_classes_a_band_and_background():
    maps = torch.stack([blob(8, 8), blob(24, 24)])
    labels = label_map(maps, [12, 8], foreground=0.6, uncertain=0.5).numpy()
    assert labels[8, 8] == 12
    assert labels[24, 24] == 8
    assert labels[8, 24] == 0
    best = maps.amax(0).numpy()
    assert np.array_equal(labels == 255, (best >= 0.5) & (best < 0.6))
    assert np.array_equal(labels == 0, best < 0.5)
    assert set(np.unique(labels)) == {0, 8, 12, 255}


def test_ties_go_to_the_lowest_class():
    same = blob(16, 16)
    prompt = ClassPrompt("dog cat", (12, 8), ((1, 2), (2, 3)))
    cross = torch.zeros(32 * 32, 8)
    cross[:, 1] = cross[:, 2] = same.flatten()
    read = ClassMaps(class_maps(cross, prompt, (32, 32), (32, 32)), torch.eye(1024))
    mask, _ = mask_of(read, prompt.class_ids, (32, 32), MaskConfig())
    assert set(mask.unique().tolist()) == {0, 8, 255}
    assert set(label_map(torch.stack([same, same]), [8, 12], 0.6, 0.5).unique().tolist()) == {0, 8, 255}


def test_raising_the_foreground_threshold_never_adds_foreground():
    maps = minmax(torch.rand(3, 40, 40))
    before = label_map(maps, [1, 2, 3], 0.6, 0.3).numpy()
    after = label_map(maps, [1, 2, 3], 0.8, 0.3).numpy()
    changed = before != after
    assert changed.any()
    assert set(np.unique(after[changed])) == {255}
    assert set(np.unique(before[changed])) <= {1, 2, 3}


def test_raising_the_uncertainty_threshold_only_shrinks_the_band():
    maps = minmax(torch.rand(3, 40, 40))
    before = label_map(maps, [1, 2, 3], 0.8, 0.3).numpy()
    after = label_map(maps, [1, 2, 3], 0.8, 0.6).numpy()
    changed = before != after
    assert changed.any()
    assert set(np.unique(before[changed])) == {255}
    assert set(np.unique(after[changed])) == {0}


def test_thresholds_must_be_in_order():
    with pytest.raises(ValidationError, match="must not be above"):
        MaskConfig(foreground=0.4, uncertain=0.5)


def test_a_class_is_the_mean_over_its_pieces_on_the_self_grid():
    cross = torch.rand(64, 10)
    prompt = ClassPrompt("aeroplane dog", (1, 12), ((1, 3), (3, 4)))
    maps = class_maps(cross, prompt, (8, 8), (8, 8))
    assert torch.allclose(maps[0].flatten(), cross[:, 1:3].mean(1))
    assert torch.equal(maps[1].flatten(), cross[:, 3])
    assert class_maps(cross, prompt, (8, 8), (16, 16)).shape == (2, 16, 16)


def test_minmax_keeps_a_constant_map_at_zero():
    maps = minmax(torch.stack([torch.full((4, 4), 0.3), torch.arange(16.0).reshape(4, 4)]))
    assert float(maps[0].abs().max()) == 0
    assert (float(maps[1].min()), float(maps[1].max())) == (0, 1)


def test_peaks_tell_a_weak_map_from_a_strong_one_that_minmax_makes_equal():
    cross = torch.zeros(1024, 4)
    cross[:, 1], cross[:, 2] = 0.9 * blob(8, 8).flatten(), 0.01 * blob(24, 24).flatten()
    prompt = ClassPrompt("dog cat", (12, 8), ((1, 2), (2, 3)))
    read = ClassMaps(class_maps(cross, prompt, (32, 32), (32, 32)), torch.eye(1024))
    mask, peaks = mask_of(read, prompt.class_ids, (64, 64), MaskConfig())
    assert mask.shape == (64, 64)
    assert mask.dtype == torch.uint8
    assert {8, 12} <= set(mask.unique().tolist())
    assert peaks[12] == pytest.approx(0.9, abs=0.01)
    assert peaks[8] == pytest.approx(0.01, abs=0.001)
