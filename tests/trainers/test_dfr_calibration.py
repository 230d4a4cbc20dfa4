"""The calibrated kernel of `dfr`: fitted on pairs of drawn cells, held against colours, static until it is better; and
windows of dilations.
"""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from maskmill.data_contracts import IGNORE
from maskmill.trainers.dfr import Config
from maskmill.trainers.dfr.calibration import Calibration, DrawnPairs, drawn_pairs
from maskmill.trainers.dfr.kernel import KernelRule, mean_mass
from maskmill.trainers.dfr.train import Grid, Regulariser
from maskmill.vision.windows import colour_kernel, feature_distances, half_offsets, narrowed, potts_energy

torch.set_num_threads(1)

ALIKE, OTHER = [0.1, 0.2, 0.3], [0.7, 0.9, 1.1, 1.3]


def pairs(alike: list[float] = ALIKE, other: list[float] = OTHER, colour: float = 0.02) -> DrawnPairs:
    distances = torch.tensor(alike + other)
    return DrawnPairs(distances, torch.full_like(distances, colour), torch.arange(len(distances)) < len(alike))


def shown(times: int, **given: Any) -> Calibration:
    calibration = Calibration(0.1)
    for _ in range(times):
        calibration.observe(pairs(**given))
    return calibration


def test_gamma_and_threshold_are_a_linear_discriminant() -> None:
    calibration = shown(3)
    first, second = torch.tensor(ALIKE), torch.tensor(OTHER)
    variance = (first.var(unbiased=False) + second.var(unbiased=False)) / 2
    assert float(calibration.threshold) == pytest.approx((0.2 + 1.0) / 2)
    assert float(calibration.gamma) == pytest.approx(0.8 / float(variance), rel=1e-4)
    at = torch.tensor([0.2, 0.6, 1.0])
    found = calibration(at)
    assert float(found[1]) == pytest.approx(0.5, abs=1e-4)
    assert float(found[0]) == pytest.approx(1 / (1 + math.exp(-0.4 * float(calibration.gamma))), rel=1e-5)
    assert float(found[2]) < 0.01


def test_running_means_forget_slowly_and_start_without_bias() -> None:
    calibration = shown(1)
    assert calibration.means[1, 0] == pytest.approx(0.2)
    calibration.observe(pairs(alike=[0.5]))
    assert float(calibration.means[1, 0]) == pytest.approx((0.95 * 0.2 + 0.5) / 1.95)
    kept = calibration.means[1].clone()
    calibration.observe(pairs(alike=[]))
    torch.testing.assert_close(calibration.means[1], kept)


def test_ratios_are_mean_weights_on_alike_and_on_different_pairs() -> None:
    calibration = shown(1)
    calibration.observe(pairs())
    learned, colour = calibration.ratios
    affinity = shown(1)(torch.tensor(ALIKE + OTHER))  # what it was when it saw them; a half at the first time
    alike = (0.95 * 0.5 + float(affinity[:3].mean())) / 1.95
    other = (0.95 * 0.5 + float(affinity[3:].mean())) / 1.95
    assert float(learned) == pytest.approx(alike / other, rel=1e-4)
    assert float(colour) == pytest.approx(1.0)
    assert calibration.ready


@pytest.mark.parametrize("given", [{"alike": []}, {"other": []}, {"alike": OTHER, "other": ALIKE}])
def test_blind_or_reversed_distances_are_never_ready(given: Any) -> None:
    calibration = shown(3, **given)
    assert not calibration.ready
    torch.testing.assert_close(calibration(torch.rand(5)), torch.full((5,), 0.5))
    assert [float(r) for r in calibration.ratios] == pytest.approx([1, 1])


def test_colours_that_tell_classes_better_keep_the_kernel_static() -> None:
    calibration = Calibration(0.1)
    for _ in range(5):
        drawn = DrawnPairs(torch.tensor([0.4, 0.5, 0.45, 0.6]), torch.tensor([0, 0, 0.5, 0.5]), torch.arange(4) < 2)
        calibration.observe(drawn, lambda _, affinity: affinity)
    learned, colour = calibration.ratios
    assert 1 < float(learned) < float(colour)
    assert not calibration.ready


def scene() -> tuple[Grid, Tensor]:
    """Two images of 8x8 cells: halves of two classes whose embedding differs and whose colours do not."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.full((2, 8, 8), IGNORE)
    labels[:, 1:7, 1], labels[:, 1:7, 6] = 0, 1
    embedding = 0.05 * torch.randn(2, 4, 8, 8, generator=generator)
    embedding[..., 4:] += 1
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[:, 0] = False
    return Grid(0.1 * torch.randn(2, 3, 8, 8, generator=generator), labels, valid), embedding


def test_drawn_pairs_are_of_drawn_cells_with_both_distances() -> None:
    grid, embedding = scene()
    found = drawn_pairs(embedding, grid.image, grid.labels, 8)
    assert found.distances.shape == found.colours.shape == found.alike.shape == (2 * 8 * 7 // 2,)
    assert int(found.alike.sum()) == 2 * 2 * (4 * 3 // 2), "four of each class and image"
    assert float(found.distances[found.alike].max()) < 0.5 < float(found.distances[~found.alike].min())
    assert not found.distances.requires_grad
    none = drawn_pairs(embedding, grid.image, torch.full_like(grid.labels, IGNORE), 8)
    assert len(none.alike) == 0
    line = torch.arange(64.0).reshape(1, 1, 8, 8).expand(1, 3, 8, 8)
    ids = torch.full((1, 8, 8), IGNORE)
    ids[0, 0, 0], ids[0, 0, 2] = 0, 1
    pair = drawn_pairs(line, line, ids, 4)
    assert (pair.distances.tolist(), pair.colours.tolist(), pair.alike.tolist()) == ([2.0], [12.0], [False])


def test_the_kernel_s_weights_are_what_is_compared() -> None:
    fresh = Calibration(0.1)
    fresh.observe(pairs(), lambda colour, _: 2 * colour * torch.tensor([1.0, 1, 1, 0.5, 0.5, 0.5, 0.5]))
    assert float(fresh.ratios[0]) == pytest.approx(2)
    affinity = shown(2)(torch.tensor(ALIKE + OTHER))
    rule = KernelRule("sum", 2, 3.0, 0.1, static_share=0.25, deep_share=2.0)
    torch.testing.assert_close(rule.weigh(torch.ones(7), affinity), 0.25 + 2 * affinity)
    torch.testing.assert_close(KernelRule("product", 2, 3.0, 0.1).weigh(affinity, affinity), affinity**2)


WIDTHS = {"radius": 2, "pair_radius": 2, "xy_sigma_cells": 3.0, "colour_sigma_normalised": 0.8}


def test_the_kernel_is_static_until_the_calibration_is_ready() -> None:
    grid, embedding = scene()
    config = Config.model_validate({**WIDTHS, "calibrated": True, "kernel": "sum"})
    calibration = Calibration(0.8)
    regulariser = Regulariser(config, 0, calibration)
    p = torch.full((2, 2, 8, 8), 0.1)
    p[:, 0, :, :4] = p[:, 1, :, 4:] = 0.9
    made = regulariser.pairs(grid, embedding)
    colour, distances = made.within(2)
    norm = grid.valid.sum()

    def energy(rule: KernelRule) -> Tensor:
        return potts_energy(p, rule(colour, distances, grid.valid), 2, norm)

    static = KernelRule("static", 2, 3.0, 0.8)
    torch.testing.assert_close(regulariser.smooth_labels(p, grid, made)[0], energy(static))
    torch.manual_seed(0)
    for _ in range(2):
        notes = regulariser.calibrate(embedding, grid)
    assert calibration.ready
    assert float(notes["ratio_kernel"]) > 1.3 > float(notes["ratio_colour"]) > 0.9
    learned = KernelRule("sum", 2, 3.0, 0.8, affinity=calibration)
    masses = [mean_mass(rule(colour, distances, grid.valid), grid.valid) for rule in (static, learned)]
    found, mass = regulariser.smooth_labels(p, grid, made)
    torch.testing.assert_close(found, energy(learned) * masses[0] / masses[1])
    torch.testing.assert_close(mass, masses[0])
    assert float(found) < 0.98 * float(energy(static)), "less weight across the border"
    raw = Regulariser(Config.model_validate({**WIDTHS, "kernel": "sum"}), 0)
    assert raw.calibrate(embedding, grid) == {}
    torch.testing.assert_close(raw.smooth_labels(p, grid, made)[0], energy(KernelRule("sum", 2, 3.0, 0.8)))


def test_strokes_in_padding_teach_nothing() -> None:
    grid, embedding = scene()
    labels = torch.full_like(grid.labels, IGNORE)
    labels[:, 0, :4], labels[:, 0, 4:] = 0, 1  # in the padded row alone
    calibration = Calibration(0.8)
    regulariser = Regulariser(Config.model_validate({**WIDTHS, "calibrated": True}), 0, calibration)
    regulariser.calibrate(embedding, Grid(grid.image, labels, grid.valid))
    assert not calibration.seen.any()


def test_a_checkpoint_keeps_the_calibration() -> None:
    first, second = shown(4), Calibration(0.1)
    second.load_state_dict(first.state_dict())
    assert float(second.gamma) == float(first.gamma) > 0
    assert not list(first.parameters())


@pytest.mark.parametrize("settings", [{"kernel": "static"}, {"fc_weight": 0.0, "reg_weight": 0.0}])
def test_a_calibration_needs_a_head_and_a_kernel_that_follows_it(settings: Any) -> None:
    with pytest.raises(ValidationError, match="calibrated: expected a kernel that follows the head"):
        Config.model_validate({"calibrated": True, **settings})


def test_windows_of_dilations() -> None:
    assert half_offsets((1, 4)) == ((0, 1), (1, -1), (1, 0), (1, 1), (0, 4), (4, -4), (4, 0), (4, 4))
    for wrong in ((), (0, 1), (2, 2)):
        with pytest.raises(ValueError, match="dilations: expected different numbers of 1 or more"):
            half_offsets(wrong)
    image = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    wide, sparse = colour_kernel(image, 4, 3.0, 1.0), colour_kernel(image, (1, 4), 3.0, 1.0)
    torch.testing.assert_close(narrowed(wide, 4, (1, 4)), sparse)
    torch.testing.assert_close(narrowed(feature_distances(image, (1, 2)), (1, 2), 1), feature_distances(image, 1))
    with pytest.raises(ValueError, match="expected a window within"):
        narrowed(sparse, (1, 4), 2)
    p = torch.rand(1, 2, 9, 9, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    by_hand = 0.0
    for (dy, dx), position in zip(half_offsets((1, 4)), range(8), strict=True):
        for y in range(9):
            for x in range(9):
                if 0 <= y + dy < 9 and 0 <= x + dx < 9:
                    alike = float(p[0, :, y, x] @ p[0, :, y + dy, x + dx])
                    by_hand += 2 * float(sparse[0, position, y, x]) * (1 - alike)
    assert float(potts_energy(p, sparse, (1, 4), 1.0)) == pytest.approx(by_hand, rel=1e-5)


def test_dilations_replace_the_regulariser_s_window_and_leave_the_head_s() -> None:
    grid, embedding = scene()
    config = Config.model_validate({**WIDTHS, "dilations": (1, 4), "kernel": "product"})
    assert (config.window, Config().window) == ((1, 4), 5)
    with pytest.raises(ValidationError, match="dilations"):
        Config(dilations=(1, 1))
    regulariser = Regulariser(config, 0)
    made = regulariser.pairs(grid, embedding)
    colour, distances = made.within((1, 4))
    assert colour.shape[1] == 8
    torch.testing.assert_close(colour, colour_kernel(grid.image, (1, 4), 3.0, 0.8))
    assert distances is not None
    torch.testing.assert_close(distances, feature_distances(embedding, (1, 4)))
    head, own = made.within(2)
    assert head.shape[1] == 12
    assert own is not None
    p = torch.rand(2, 2, 8, 8, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    kernel = regulariser.kernel(colour, distances, grid.valid)
    torch.testing.assert_close(
        regulariser.smooth_labels(p, grid, made)[0], potts_energy(p, kernel, (1, 4), grid.valid.sum())
    )
