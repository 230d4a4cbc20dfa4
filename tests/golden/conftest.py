"""The releases round position embeddings to half precision, whatever the rest runs in; so does our CLIP in these tests,
so that everything else can be compared closely.
"""

import pytest
from torch import Tensor

from maskmill.vision.clip import adapters

_exact = adapters.resize_positions


@pytest.fixture(autouse=True)
def half_precision_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
        return _exact(positions, old, new).half().float()

    monkeypatch.setattr(adapters, "resize_positions", rounded)
