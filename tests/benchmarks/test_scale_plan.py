"""The arithmetic of large runs, and scoring beside busy loops, on figures that can be told."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import busy_machine, scale_plan
from benchmarks.common import parse_options

MEASURED = {
    "ingest": {"per_s": 100.0},
    "score": {"per_s": 10.0},
    "rows_1m": {"rows": 1e6, "cpu_s": 9.0, "peak_gb": 1.0},
    "rows_10m": {"rows": 1e7, "cpu_s": 36.0, "peak_gb": 5.0},
    "ivf": {"rows": 1e4, "cpu_s": 3.6},
}


def test_a_million_samples() -> None:
    found = scale_plan.plan(10**6, MEASURED, 400.0)
    assert found == pytest.approx(
        {
            "shards of 2,000": 500,
            "tasks of a step": 250,
            "storage, TB": 0.085324,
            "ingest, core hours": 10**6 / 100 / 3600,
            "score, core hours": 10**6 / 10 / 3600,
            "score by a large model, GPU hours": 2 * 10**6 / 400 / 3600,
            "select, core hours": 3.6 / 3600,  # by the larger of the two that were measured
            "select, GB of memory": 0.5,
            "near-duplicates, core hours": 1.0,  # a hundred times the samples, a thousand times the work
            "near-duplicates, GB of memory or disk": 2.048,
        }
    )


def test_what_was_not_measured_is_left_out() -> None:
    assert list(scale_plan.plan(4001, {}, 1.0)) == [
        "shards of 2,000",
        "tasks of a step",
        "storage, TB",
        "score by a large model, GPU hours",
    ]
    assert scale_plan.plan(4001, {}, 1.0)["shards of 2,000"] == 3


def test_the_table_reads_what_benchmarks_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"metrics": {"ingest": {"per_s": {"mean": 50.0, "sd": 0.0, "per_seed": [50.0]}}}}))
    scale_plan.main([str(path), "--images-per-gpu-s", "100"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| what | 1,000,000 | 100,000,000 | 1,000,000,000 |"
    assert "| ingest, core hours | 5.6 | 556 | 5,556 |" in lines
    assert "| score by a large model, GPU hours | 5.6 | 556 | 5,556 |" in lines


def test_both_ways_of_waiting_are_measured_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    class Done:
        stdout = '{"cpu_ratio": 1.0, "over_fair": 2.0}\n'

    def note(command: list[str], **options: object) -> type[Done]:
        env = options["env"]
        assert isinstance(env, dict)
        told.append((command[-2:], {k: v for k, v in env.items() if "OMP" in k}))
        return Done

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(subprocess, "run", note)
    busy_machine.run(
        parse_options("busy", None, ["--json", str(tmp_path / "r.json"), "--seeds", "4"], needs_data=False)
    )
    sleep = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "30000"}
    spin = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "infinity"}
    assert told == [(["8", "4"], sleep), (["8", "4"], spin)]
    metrics = json.loads((tmp_path / "r.json").read_text())["metrics"]
    assert metrics["passive"]["over_fair"]["mean"] == metrics["active"]["over_fair"]["mean"] == 2.0


def test_busy_loops_end_with_the_work_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []
    really: Any = subprocess.Popen

    def noted(*args: Any, **options: Any) -> Any:
        begun.append(really(*args, **options))
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    with busy_machine.busy(2):
        assert [loop.poll() for loop in begun] == [None, None]
    assert [loop.poll() for loop in begun] == [-signal.SIGKILL] * 2
