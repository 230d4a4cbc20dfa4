"""Planted faults: what each does to the pixels, and that nothing else is touched."""

import numpy as np
import pytest

from maskmill.curation.faults import blur_heavily, nearly_repeat, noise_like, scramble_tiles, shift_mask, swap_labels


def picture(height: int = 18, width: int = 26) -> np.ndarray:
    return np.arange(height * width * 3, dtype=np.uint16).reshape(height, width, 3).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_tiles_move_as_wholes_and_the_remainder_stays(seed: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (18, 26, 3)).astype(np.uint8)
    before = image.copy()
    found = scramble_tiles(image, seed)
    assert np.array_equal(image, before)
    assert np.array_equal(found[16:], image[16:])
    assert np.array_equal(found[:, 24:], image[:, 24:])

    def tiles(x: np.ndarray) -> list[bytes]:
        return [x[4 * i : 4 * i + 4, 6 * j : 6 * j + 6].tobytes() for i in range(4) for j in range(4)]

    assert sorted(tiles(found)) == sorted(tiles(image))
    assert sum(a != b for a, b in zip(tiles(found), tiles(image), strict=True)) > 8


def test_a_shuffle_is_never_the_identity() -> None:
    image = picture(2, 2)
    assert not any(np.array_equal(scramble_tiles(image, seed, grid=2), image) for seed in range(60))
    assert len({scramble_tiles(image, seed, grid=2).tobytes() for seed in range(60)}) > 10


def test_noise_has_the_mean_and_spread_of_each_channel() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[..., 1], image[:50, :, 2] = 100, 200
    found = noise_like(image, 0)
    assert found[..., 1].mean() == pytest.approx(100, abs=0.6)
    assert found[..., 1].std() == pytest.approx(1, abs=0.1)  # a flat channel gets a spread of one
    assert found[..., 0].max() <= 5
    assert found[..., 2].std() > 60


def test_blur_goes_by_the_longer_side() -> None:
    step = np.zeros((40, 200, 3), np.uint8)
    step[:, 100:] = 255
    found = blur_heavily(step)[20, :, 0].astype(int)
    assert found[100 - 12] == pytest.approx(255 * 0.159, abs=6)  # one standard deviation of 0.06 * 200 pixels
    assert found[100 + 12] == pytest.approx(255 * 0.841, abs=6)


def test_masks_are_shifted_diagonally_by_a_fifth() -> None:
    mask = np.arange(1, 201, dtype=np.uint8).reshape(10, 20)
    directions = set()
    for seed in range(20):
        found = shift_mask(mask, seed, fill=255)
        dy, dx = ((int(np.argwhere(found == 105)[0][i]) - int(np.argwhere(mask == 105)[0][i])) for i in (0, 1))
        assert (abs(dy), abs(dx)) == (2, 4)
        directions.add((dy > 0, dx > 0))
        rows, columns = np.nonzero(found != 255)
        assert np.array_equal(found[rows, columns], mask[rows - dy, columns - dx])
        assert len(rows) == 8 * 16
    assert len(directions) == 4
    assert (shift_mask(np.ones((2, 2), np.uint8), 0) == 0).sum() == 3  # at least one pixel, and zeros come in


def test_labels_are_swapped_for_absent_ones() -> None:
    mask = np.array([[0, 1, 2, 255]], np.uint8)
    for seed in range(5):
        found = swap_labels(mask, [1, 2], [1, 2, 3, 4], seed)[0].tolist()
        assert (found[0], found[3]) == (0, 255)
        assert sorted(found[1:3]) == [3, 4]
    with pytest.raises(ValueError, match="2 classes to swap, only 1 absent ones"):
        swap_labels(mask, [1, 2], [1, 2, 3], 0)


def test_a_repeat_is_nearly_the_same() -> None:
    image = np.full((60, 60, 3), 120, np.uint8)
    image[:30] = 255
    gains = []
    for seed in range(12):
        found = nearly_repeat(image, seed)
        gains.append(found[30:].mean() / 120)
        assert found[30:].std() == pytest.approx(2, abs=0.15)
        assert found[:30].min() > 200  # nothing wraps around
    assert 0.945 < min(gains) < 0.98
    assert 1.01 < max(gains) < 1.055
