"""What a promptable model is shown for which prompts: the whole photo, or a cut of it around a box."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskmill.data_contracts import Uint8Array
from maskmill.labelers.promptable.prompts import Prompt
from maskmill.vision.batches import thickened

NOT_HERE = -20.0  # logits outside of a cut


@dataclass(frozen=True, eq=False)
class View:
    """Part of a photo, and the prompts that are asked about it, in its own pixels."""

    image: Uint8Array  # (h, w, 3)
    at: tuple[int, int]  # its top and left in the photo
    positions: tuple[int, ...]  # of the prompts in the photo's list
    prompts: tuple[Prompt, ...]

    @property
    def shown(self) -> Uint8Array:
        """What the model sees: the image, very thin ones thickened."""
        return thickened(self.image)

    def restore(
        self, enlarge: Callable[[Tensor, tuple[int, int]], Tensor], logits: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Logits (h, w) of a mask at the size (H, W) of the photo, float32: "not here" outside of the cut."""
        shown, (height, width) = self.shown.shape, self.image.shape[:2]
        own = enlarge(logits, (shown[0], shown[1]))[:height, :width]
        if (height, width) == size:
            return own
        whole = torch.full(size, NOT_HERE, device=own.device)
        top, left = self.at
        whole[top : top + height, left : left + width] = own
        return whole


def views_of(image: Uint8Array, prompts: Sequence[Prompt], zoom: float | None) -> Iterator[View]:
    """The views of a photo (H, W, 3) that its prompts need: one of all of it; with `zoom`, each box in a cut of its
    own, a square `zoom` times as long as the box's longer side where the photo reaches so far.
    """
    zoomed = [i for i, prompt in enumerate(prompts) if zoom is not None and prompt.box is not None]
    others = [i for i in range(len(prompts)) if i not in zoomed]
    if others:
        yield View(image, (0, 0), tuple(others), tuple(prompts[i] for i in others))
    for position in zoomed:
        assert zoom is not None
        yield _zoomed(image, position, prompts[position], zoom)


def _zoomed(image: Uint8Array, position: int, prompt: Prompt, zoom: float) -> View:
    assert prompt.box is not None
    left, top, right, bottom = prompt.box
    reach = zoom * max(right - left, bottom - top, 1.0) / 2
    across = _span((left + right) / 2, reach, image.shape[1])
    down = _span((top + bottom) / 2, reach, image.shape[0])
    corner = np.array([across[0], down[0]], np.float32)
    far = np.array([across[1], down[1]], np.float32) - corner

    def inside(points: "NDArray[np.float32]") -> "NDArray[np.float32]":
        moved = points - corner
        found: NDArray[np.float32] = moved[((moved >= 0) & (moved < far)).all(axis=1)]
        return found

    x, y = float(corner[0]), float(corner[1])
    box = (left - x, top - y, right - x, bottom - y)
    moved = replace(prompt, box=box, on=inside(prompt.on), off=inside(prompt.off))
    cut = np.ascontiguousarray(image[down[0] : down[1], across[0] : across[1]])
    return View(cut, (down[0], across[0]), (position,), (moved,))


def _span(middle: float, reach: float, length: int) -> tuple[int, int]:
    """First and last-but-one pixel around a middle, inside 0..length; never empty."""
    low = min(max(int(np.floor(middle - reach)), 0), length - 1)
    return low, max(min(int(np.ceil(middle + reach)), length), low + 1)
