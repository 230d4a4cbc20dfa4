"""Threads wait asleep, and there are no more of them than the control group has cores for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maskmill import _cores


def groups(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        path = tmp_path / "fs" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "fs"


@pytest.mark.parametrize(
    ("own", "files", "share"),
    [
        ("0::/", {"cpu_dot_max": "max 100000\n"}, None),
        ("0::/", {"cpu_dot_max": "150000 100000\n"}, 1.5),
        ("0::/pod/box", {"pod__cpu_dot_max": "50000 100000", "pod__box__cpu_dot_max": "max 100000"}, 0.5),
        ("0::/gone", {}, None),
        ("4:cpu,cpuacct:/", {"cpu,cpuacct__cpu_dot_cfs_quota_us": "400000"}, None),
        (
            "4:cpu,cpuacct:/",
            {"cpu,cpuacct__cpu_dot_cfs_quota_us": "400000", "cpu,cpuacct__cpu_dot_cfs_period_us": "100000"},
            4.0,
        ),
        (
            "4:cpu:/",
            {"cpu__cpu_dot_cfs_quota_us": "-1", "cpu__cpu_dot_cfs_period_us": "100000"},
            None,
        ),
        ("what is this", {}, None),
    ],
)
def test_quota(tmp_path: Path, own: str, files: dict[str, str], share: float | None) -> None:
    (tmp_path / "own").write_text(own + "\n")
    assert _cores.quota(groups(tmp_path, **files), tmp_path / "own") == share


def test_a_share_below_the_cores_sets_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cores, "cores", lambda: 8)
    (tmp_path / "own").write_text("0::/\n")
    for allowed, threads in (("250000", "2"), ("50000", "1"), ("1600000", None)):
        environ: dict[str, str] = {}
        _cores.settle(environ, groups(tmp_path, cpu_dot_max=f"{allowed} 100000"), tmp_path / "own")
        assert environ.get("OMP_NUM_THREADS") == threads
        assert environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_what_somebody_set_stays(tmp_path: Path) -> None:
    environ = {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "ACTIVE"}
    _cores.settle(environ, groups(tmp_path, cpu_dot_max="100000 100000"), tmp_path / "none")
    assert environ["OMP_NUM_THREADS"] == "7"
    assert environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_it_is_set_before_any_library_is_loaded() -> None:
    script = "import os, sys; import maskmill; print(os.environ['OPENBLAS_NUM_THREADS'], 'torch' in sys.modules)"
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"], "a pool that spins, whatever it is told, has one thread"
