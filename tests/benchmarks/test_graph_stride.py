"""A finer graph beside the coarse one: its cells, what counts as thin, and a run on a tiny folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import graph_stride
from benchmarks.common import parse_options
from maskmill.labelers.a2gnn import Config
from maskmill.trainers.affinity import ImageGraph
from tests.benchmarks.test_a2gnn import write_sets

FAST = {"steps": (2, 1), "hidden": 4, "radius": 2, "tile": 4, "crf": {"iterations": 1}}


def test_a_finer_graph_has_the_levels_between_cells_and_colours_of_its_own() -> None:
    """A level that rises by 1 a cell, in a photo of 40 x 44 pixels whose left is red."""
    config = Config.model_validate(FAST)
    image = np.full((40, 44, 3), 40, np.uint8)
    image[:, :20] = (220, 30, 30)
    ramp = torch.arange(6.0).expand(1, 5, 6)
    coarse = ImageGraph(torch.cat([ramp, torch.zeros(graph_stride.COLOURS, 5, 6)]), torch.ones(25, 5, 6), ramp[:0])
    fine, rgb = graph_stride.finer(coarse, image, config)
    assert (fine.grid, fine.radius, tuple(rgb.shape)) == ((10, 12), 2, (3, 10, 12))
    assert fine.nodes.shape[0] == coarse.nodes.shape[0]
    torch.testing.assert_close(fine.nodes[0, 3, 1:-1], (torch.arange(1, 11) + 0.5) / 2 - 0.5)
    reds = rgb[0, 3]
    assert reds[:5].min() > reds[5:].max() + 1, "the border lies between cells of 4 pixels, not of 8"
    window = fine.affinity.view(5, 5, 10, 12)
    assert (window[2, 2] == 1).all()
    assert window[2, 3, 3, 4] < 0.5 * window[2, 3, 3, 2], "across the border to the right, and before it"


def test_thin_is_what_an_opening_takes_away() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 10:50] = 1  # 40 x 40, opened by a disc of 4
    mask[28:30, 50:70] = 1  # a tail of 2
    thin = graph_stride.thin_parts(mask)
    assert thin[28:30, 52:70].all()
    assert not thin[12:48, 12:48].any()
    assert not graph_stride.thin_parts(np.zeros((5, 5), np.uint8)).any()


def test_both_strides_are_measured_on_the_development_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sets(tmp_path / "data")
    monkeypatch.setattr(graph_stride, "COUNTS", {"small": 1})
    monkeypatch.setattr(graph_stride, "SETTINGS", FAST)
    words = ["--data", str(tmp_path / "data"), "--json", str(tmp_path / "g.json")]
    graph_stride.run(parse_options("graph_stride", None, words))
    found = json.loads((tmp_path / "g.json").read_text())["metrics"]
    assert set(found) == {"stride8", "stride8+crf", "stride4", "stride4+crf"}
    for arm in found.values():
        assert {"miou", "thin", "miou@davis", "thin@weizmann_horses", "seconds_per_image"} <= set(arm)
        assert 0 <= arm["thin"]["mean"] <= 1
