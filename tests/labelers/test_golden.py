"""Golden class maps: what the CAM branch gave in fp32 when it was checked against the published steps.

`python -m tests.labelers.test_golden` writes the file anew, after a change that is meant to move the numbers.
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from maskmill.labelers.clip_cam import Config, load
from tests.trainers import shapes

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "golden_clip_cam.json"
TAGS = (1, 3)

torch.set_num_threads(1)


def class_maps(layer: Literal["norm", "output"], affinity: bool) -> list[list[list[float]]]:
    """Maps (2, 6, 6) of one drawn scene by a CLIP with seeded random weights."""
    config = Config(model=str(DATA / "tiny_clip"), image_side=96, temperature=0.05, cam_layer=layer, affinity=affinity)
    labeler = load(config, shapes.SPACE)
    image = labeler.resize(shapes.draw_scene(0, 64, 64)[0])
    maps = labeler.class_maps(image[None], [TAGS])[1][0]
    rounded: list[list[list[float]]] = np.round(maps.astype(np.float64), 5).tolist()
    return rounded


CASES: dict[str, dict[str, Any]] = {
    "cam": {"layer": "norm", "affinity": False},
    "cam+affinity": {"layer": "norm", "affinity": True},
    "output": {"layer": "output", "affinity": False},
    "output+affinity": {"layer": "output", "affinity": True},
}


@pytest.mark.parametrize("case", CASES)
def test_class_maps_are_the_golden_ones(case: str) -> None:
    golden = json.loads(GOLDEN.read_text())[case]
    np.testing.assert_allclose(class_maps(**CASES[case]), golden, atol=2e-3)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({case: class_maps(**options) for case, options in CASES.items()}) + "\n")
