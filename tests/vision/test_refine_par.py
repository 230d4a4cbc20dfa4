"""PAR: the properties that the published recipe has."""

import math

import pytest
import torch
from torch.nn import functional as F

from maskmill.vision.refine import par


def slow_par(image: torch.Tensor, maps: torch.Tensor, iterations: int, dilations: tuple[int, ...]) -> torch.Tensor:
    """Pixel by pixel, from the formula; image (3, H, W), maps (K, H, W), float64."""
    height, width = image.shape[1:]
    offsets = [(dy * d, dx * d) for d in dilations for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    far = torch.tensor([math.hypot(dy, dx) for dy, dx in offsets], dtype=torch.float64)
    position = torch.softmax(-((far / (far.std() * 0.3)) ** 2), dim=0)
    for _ in range(iterations):
        out = torch.zeros_like(maps)
        for y in range(height):
            for x in range(width):
                ys = [min(max(y + dy, 0), height - 1) for dy, _ in offsets]
                xs = [min(max(x + dx, 0), width - 1) for _, dx in offsets]
                values = image[:, ys, xs]
                scale = (values.std(dim=1, keepdim=True) + 1e-8) * 0.3
                colour = torch.softmax(-(((image[:, y, x, None] - values) / scale) ** 2).mean(dim=0), dim=0)
                out[:, y, x] = maps[:, ys, xs] @ (colour + 0.01 * position)
        maps = out
    return maps


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_equals_the_formula_pixel_by_pixel() -> None:
    image, maps = noise(1, 3, 9, 11).double(), noise(1, 2, 9, 11, seed=1).double()
    fast = par(image, maps, iterations=2, dilations=(1, 3))
    assert torch.allclose(fast[0], slow_par(image[0], maps[0], 2, (1, 3)), atol=1e-9)


@pytest.mark.parametrize("iterations", [1, 10, 20])
def test_a_constant_map_grows_by_one_percent_a_step(iterations: int) -> None:
    out = par(noise(1, 3, 32, 40), torch.full((1, 2, 32, 40), 0.5), iterations=iterations)
    assert torch.allclose(out, torch.full_like(out, 0.5 * 1.01**iterations), rtol=1e-4)


def test_scale_and_offset_of_each_channel_do_not_matter() -> None:
    image, maps = noise(2, 3, 40, 30), noise(2, 3, 40, 30, seed=1)
    scale, offset = torch.tensor([58.4, 0.3, 7.0]).view(1, 3, 1, 1), torch.tensor([123.7, -4.0, 0.5]).view(1, 3, 1, 1)
    assert (par(image, maps) - par(image * scale + offset, maps)).abs().max() < 1e-4


def test_a_step_edge_stops_the_flow() -> None:
    image = torch.zeros(1, 3, 48, 48)
    image[..., 24:] = 1
    image += 0.01 * noise(1, 3, 48, 48)
    maps = torch.zeros(1, 1, 48, 48)
    maps[..., :24] = 1
    out = par(image, maps)[0, 0] / 1.01**10
    across = par(noise(1, 3, 48, 48) * 0.01, maps)[0, 0] / 1.01**10
    assert out[:, :24].mean() - out[:, 24:].mean() > 0.85
    assert out[:, :24].mean() - out[:, 24:].mean() > across[:, :24].mean() - across[:, 24:].mean() + 0.2


def test_batch_equals_image_by_image() -> None:
    image, maps = noise(3, 3, 26, 33), noise(3, 2, 26, 33, seed=1)
    batch = par(image, maps)
    single = torch.cat([par(image[i : i + 1], maps[i : i + 1]) for i in range(3)])
    assert torch.allclose(batch, single, atol=1e-6)


def test_image_is_resized_to_the_maps_with_aligned_corners() -> None:
    image, maps = noise(1, 3, 50, 64), noise(1, 2, 25, 32, seed=1)
    resized = F.interpolate(image, size=(25, 32), mode="bilinear", align_corners=True)
    assert torch.equal(par(image, maps), par(resized, maps))


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\) and \(1, 2, 8, 8\)"):
        par(torch.zeros(2, 3, 8, 8), torch.zeros(1, 2, 8, 8))
