"""Numbers that released code gave on inputs and weights made by formula, and the formulas themselves.

`<method>/<name>.npz` holds the numbers, `<method>/HOW.md` says which code gave them, what was mended so that it runs,
and what went in. Formulas use integer arithmetic alone, so that they give the same numbers on every machine.
"""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskmill.data_contracts import Uint8Array

FOLDER = Path(__file__).parent


def golden(method: str, name: str) -> dict[str, NDArray[np.generic]]:
    """The recorded arrays of one file."""
    with np.load(FOLDER / method / f"{name}.npz", allow_pickle=False) as found:
        return dict(found)


def assert_close(found: Any, released: Any, *, rtol: float = 1e-7, atol: float = 0.0, err_msg: str = "") -> None:
    """`found`, a tensor or an array, against numbers of a release."""
    values = found.detach().numpy() if isinstance(found, torch.Tensor) else found
    np.testing.assert_allclose(values, released, rtol=rtol, atol=atol, err_msg=err_msg)


def uniform(name: str, *shape: int) -> NDArray[np.float64]:
    """Numbers in [-1, 1) that look random: a hash (splitmix64) of the place in the array and of `name`."""
    state = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    with np.errstate(over="ignore"):
        state *= np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return ((state >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1).reshape(shape)


def picture(name: str, height: int, width: int) -> Uint8Array:
    """An image uint8 (H, W, 3) of soft blobs with a little grain."""
    coarse = uniform(name, 6, 8, 3)
    rows, columns = np.linspace(0, 4.999, height), np.linspace(0, 6.999, width)
    r, c = rows.astype(int), columns.astype(int)
    fr, fc = (rows - r)[:, None, None], (columns - c)[None, :, None]
    top = coarse[r][:, c] * (1 - fc) + coarse[r][:, c + 1] * fc
    low = coarse[r + 1][:, c] * (1 - fc) + coarse[r + 1][:, c + 1] * fc
    smooth = top * (1 - fr) + low * fr
    grain = uniform(f"{name} grain", height, width, 3)
    return np.clip(128 + 110 * smooth + 12 * grain, 0, 255).astype(np.uint8)


def bars(class_ids: tuple[int, ...], height: int, width: int) -> Uint8Array:
    """A mask with one upright bar a class between background, and a border of 255 around each."""
    mask = np.zeros((height, width), np.uint8)
    step = width // (2 * len(class_ids) + 1)
    for place, class_id in enumerate(class_ids):
        left, right = (2 * place + 1) * step, (2 * place + 2) * step
        mask[height // 8 : -height // 8, left - 2 : right + 2] = 255
        mask[height // 8 + 2 : -height // 8 - 2, left:right] = class_id
    return mask


def fill(state: Mapping[str, torch.Tensor], gain: float = 1.0) -> dict[str, torch.Tensor]:
    """Weights by formula for a state dict: matrices and kernels uniform with deviation gain / sqrt(fan-in), vectors
    that scale (named `weight`) around 1, others around 0. Whole numbers and scalars stay as they are.
    """
    return {key: _weight(key, value, gain) if value.is_floating_point() else value for key, value in state.items()}


def fill_large(state: Mapping[str, torch.Tensor], gain: float = 1.0) -> dict[str, torch.Tensor]:
    """`fill` for networks of tens of millions of weights, quickly: each weight repeats its first 65,537 numbers (a
    prime, so that no two kernels are alike). Running means are around 0, running variances around 1.
    """

    def numbers(name: str, *shape: int) -> NDArray[np.float64]:
        return np.resize(uniform(name, min(65_537, int(np.prod(shape)))), shape)

    return {key: _weight(key, v, gain, numbers) if v.is_floating_point() else v for key, v in state.items()}


def _weight(
    key: str,
    like: torch.Tensor,
    gain: float,
    numbers: Callable[..., NDArray[np.float64]] = uniform,
) -> torch.Tensor:
    if like.ndim == 0:
        return like
    values = numbers(key, *like.shape)
    if like.ndim == 1:
        values = 1 + 0.1 * values if key.endswith(("weight", "running_var")) else 0.1 * values
    else:
        values *= gain * np.sqrt(3 / np.prod(like.shape[1:]))
    return torch.from_numpy(values).to(like.dtype)
