"""The benchmarks of large sets, on little: their flags, arms and metrics."""

import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import dedup_scale, selection_scale
from benchmarks.common import Options, parse_options


def options_of(module: ModuleType, tmp_path: Path) -> Options:
    flags = ["--json", str(tmp_path / "result.json"), "--seeds", "3"]
    return parse_options(module.__name__.rsplit(".", 1)[-1], None, flags, needs_data=False)


def test_selection_of_few_rows_counts_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection_scale, "SHARD", 700)
    selection_scale.write_run(str(tmp_path / "run"), 2000, 3)
    found = selection_scale.measure(str(tmp_path / "run"))
    assert found["rows"] == 2000
    assert 0.7 < found["kept"] < 0.9  # a fifth has a spoilt image; 50 of each of 80 classes stay in any case
    assert found["peak_gb"] > 0  # of this process, which has run other tests before
    assert set(found) == {"rows", "seconds", "cpu_s", "peak_gb", "kept"}


def test_search_of_few_rows_finds_the_planted_pairs(tmp_path: Path) -> None:
    found = dedup_scale.measure(2000, 3)
    assert found["rows"] == 2000
    assert found["recall"] > 0.95
    assert 95 <= found["pairs"] <= 120  # a twentieth is like another; the least alike fall below the threshold
    assert found["speed"] == pytest.approx(found["exact_cpu_s"] / found["cpu_s"])
    assert found["on_disk"] == 0


def test_arms_are_called_by_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        stdout = 'noise\n{"rows": 5.0}\n'

    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: Done)
    monkeypatch.setattr(selection_scale, "write_run", lambda *args: None)
    for rows, arm in ((1_000_000, "rows_1m"), (10_000_000, "rows_10m"), (5, "rows_5")):
        selection_scale.run(options_of(selection_scale, tmp_path), rows)
        assert list(json.loads((tmp_path / "result.json").read_text())["metrics"]) == [arm]
