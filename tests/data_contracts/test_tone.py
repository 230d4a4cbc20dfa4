"""Deep photos to eight bits: which range becomes black to white, and each value in it."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from maskmill.data_contracts.tone import Tone, to_eight_bits, tone_range


@pytest.mark.parametrize(
    ("values", "between"),
    [
        ([0, 255], (0, 255)),
        ([0, 256], (0, 1023)),
        ([3, 1023], (0, 1023)),
        ([0, 1024], (0, 4095)),
        ([0, 4096], (0, 16383)),
        ([0, 16384], (0, 65535)),
        ([7, 65536], (7, 65536)),  # deeper than any camera: its own range
        ([-5, 100], (-5, 100)),
        ([0.0, 1.0], (0, 1)),
        ([0.5, 1.5], (0, 255)),
        ([0.5, 255.0], (0, 255)),
        ([0.5, 255.5], (0.5, 255.5)),
        ([0.0, 300.0], (0, 1023)),  # floats that are whole count as whole numbers
        ([-0.5, 0.5], (-0.5, 0.5)),
    ],
)
def test_auto_takes_the_range_that_the_values_fit(values: list[float], between: tuple[float, float]) -> None:
    assert tone_range(np.array(values), "auto") == between


def test_a_range_that_is_asked_for_is_taken() -> None:
    values = np.array([3, 200])
    assert tone_range(values, "stretch") == (3, 200)
    assert tone_range(values, (10.0, 20.0)) == (10, 20)
    for spoilt in (np.nan, np.inf):
        with pytest.raises(ValueError, match="values from"):
            tone_range(np.array([0.0, spoilt]), (0.0, 1.0))


@pytest.mark.parametrize(
    ("values", "between", "found"),
    [
        (np.array([0, 1, 256, 257, 65534, 65535]), (0, 65535), [0, 0, 0, 1, 254, 255]),  # value // 257
        (np.array([-1, 0, 2047, 4095, 9000]), (0, 4095), [0, 0, 127, 255, 255]),
        (np.array([0, 0]), (0, 0), [0, 0]),
        (np.array([10, 15, 20, 30, 0]), (10, 20), [0, 128, 255, 255, 0]),  # halves go to the even neighbour
        (np.array([0.0, 0.25, 1.0, 2.0]), (0, 1), [0, 64, 255, 255]),
        (np.array([4, 5]), (4, 4), [0, 255]),
        (np.array([0, 1, 2]), (0, 2.5), [0, 102, 204]),
    ],
)
def test_values_become_bytes(values: NDArray[np.generic], between: tuple[float, float], found: list[int]) -> None:
    assert to_eight_bits(values, between).tolist() == found


def test_a_config_may_name_a_range_whose_ends_differ() -> None:
    tone = TypeAdapter(Tone)
    assert tone.validate_python("stretch") == "stretch"
    assert tone.validate_python([1, 2]) == (1, 2)
    for wrong in ([2, 2], [3, 1], "bright"):
        with pytest.raises(ValidationError):
            tone.validate_python(wrong)
