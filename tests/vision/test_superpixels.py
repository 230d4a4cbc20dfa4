"""Superpixels keep to colours, hang together, and pass strokes of one class on."""

import numpy as np
import pytest

from maskmill.data_contracts import IGNORE
from maskmill.vision.superpixels import expand_strokes, superpixels


def two_halves(height: int = 40, width: int = 60) -> np.ndarray:
    """Red on the left, blue on the right; the border lies between the cells of the first grid."""
    image = np.full((height, width, 3), (200, 40, 40), np.uint8)
    image[:, 27:] = (40, 40, 200)
    return image


@pytest.mark.parametrize("area", [36, 100, 400])
def test_patches_have_one_colour_and_about_their_area(area: int) -> None:
    image = two_halves()
    patches = superpixels(image, area)
    assert patches.shape == image.shape[:2]
    left, right = set(np.unique(patches[:, :27])), set(np.unique(patches[:, 27:]))
    assert not left & right, "none lies on both sides of the border"
    count = len(left | right)
    assert sorted(left | right) == list(range(count))
    assert 0.5 * image[..., 0].size / area <= count <= 2.5 * image[..., 0].size / area + 2


def test_every_patch_hangs_together() -> None:
    from scipy import ndimage

    image = np.random.default_rng(0).integers(0, 256, (24, 30, 3)).astype(np.uint8)
    patches = superpixels(image, 40)
    for number in np.unique(patches):
        assert ndimage.label(patches == number)[1] == 1
    np.testing.assert_array_equal(patches, superpixels(image, 40))


def test_strokes_fill_the_patches_that_they_alone_touch() -> None:
    image = two_halves()
    strokes = np.full(image.shape[:2], IGNORE, np.uint8)
    strokes[20, 4:20] = 3
    strokes[10, 34:56] = 0
    grown = expand_strokes(strokes, image, 64)
    drawn = strokes != IGNORE
    np.testing.assert_array_equal(grown[drawn], strokes[drawn])
    assert (grown == 3).sum() > 3 * (strokes == 3).sum()
    assert (grown == 0).sum() > 3 * (strokes == 0).sum()
    assert not (grown[:, 27:] == 3).any()
    assert not (grown[:, :27] == 0).any()
    assert (grown == IGNORE).any(), "patches without a stroke stay open"


def test_a_patch_with_strokes_of_two_classes_stays_as_drawn() -> None:
    image = np.full((20, 20, 3), 90, np.uint8)
    strokes = np.full((20, 20), IGNORE, np.uint8)
    strokes[4, 4], strokes[15, 15] = 1, 2
    np.testing.assert_array_equal(expand_strokes(strokes, image, 400), strokes)
    strokes[15, 15] = 1
    assert (expand_strokes(strokes, image, 400) == 1).all()
