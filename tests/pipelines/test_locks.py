"""One process at a time in a folder, on disk and on S3, whatever dies or is deleted; and folders nobody may write."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from maskmill.data_contracts import storage, write_bytes
from maskmill.pipelines.core import lease
from maskmill.pipelines.core.lock import RunLockedError, lock
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.run import plan, run
from tests.pipelines.ingest_sets import make_folder

HOLD = """
import os, sys, time
from maskmill.pipelines.core.lock import lock
with lock(sys.argv[1]):
    if sys.argv[2] == "fork" and os.fork():
        time.sleep(1)
        print("held", flush=True)
    elif sys.argv[2] != "fork":
        print("held", flush=True)
    time.sleep(20)
"""


def holder(folder: str, how: str = "alone") -> "subprocess.Popen[str]":
    """Another process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder, how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def check_one_at_a_time(folder: str) -> None:
    with lock(folder), pytest.raises(RunLockedError, match="working here"), lock(folder):
        pass
    with lock(folder):
        pass


def check_freed_by_death(folder: str, how: str = "alone") -> None:
    process = holder(folder, how)
    with pytest.raises(RunLockedError), lock(folder):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with lock(folder):
        pass


def test_a_local_folder(tmp_path: Path) -> None:
    check_one_at_a_time(str(tmp_path / "run"))
    check_freed_by_death(str(tmp_path / "run"))


def test_deleting_the_lock_file_frees_nothing(tmp_path: Path) -> None:
    with lock(str(tmp_path)):
        (tmp_path / ".lock").unlink()
        with pytest.raises(RunLockedError), lock(str(tmp_path)):
            pass


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path: Path) -> None:
    check_freed_by_death(str(tmp_path), "fork")


def test_a_folder_of_an_object_store(s3_bucket: str) -> None:
    folder = f"s3://{s3_bucket}/run"
    check_one_at_a_time(folder)
    check_freed_by_death(folder)
    assert not fsspec.core.url_to_fs(folder)[0].exists(f"{folder}/.lock")


def test_a_lease_of_another_machine_ends_when_it_gives_no_sign(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = f"s3://{s3_bucket}/run"
    other = {"machine": "another", "host": "elsewhere", "pid": 1, "nonce": "x"}
    write_bytes(f"{folder}/.lock", json.dumps(other).encode())
    with pytest.raises(RunLockedError, match="process 1 on elsewhere"), lock(folder):
        pass
    monkeypatch.setattr(lease, "STALE", -60.0)
    with lock(folder):
        held = json.loads(fsspec.core.url_to_fs(folder)[0].cat_file(f"{folder}/.lock"))
        assert held["pid"] == os.getpid()


# Folders that nobody may write, and disks that are full


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    make_folder(tmp_path / "set", list("abcd"))
    source = {"kind": "folder", "root": str(tmp_path / "set"), "threads": 1}
    settings = {"source": source, "run_dir": str(tmp_path / "run"), "shard_size": 2, "label_space": "voc"}
    return load_run_config("folder", settings)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Makes the run folder visible at another place, read-only."""
    place = tmp_path / "read_only"

    def mount() -> str:
        place.mkdir()
        for options in (["--bind", str(tmp_path / "run")], ["-o", "remount,ro,bind"]):
            if subprocess.run(["mount", *options, str(place)], capture_output=True, check=False).returncode:
                pytest.skip("no right to mount here")
        return str(place)

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


def test_a_finished_run_can_be_looked_at_where_nobody_may_write(
    config: RunConfig, read_only: Callable[[], str]
) -> None:
    run(config, until="ingest")
    seen = config.model_copy(update={"run_dir": read_only()})
    assert run(seen, until="ingest").idle
    assert plan(seen)[0].to_run == 0
    with pytest.raises(OSError, match="cannot write it"):
        run(seen.model_copy(update={"shard_size": 3}), until="ingest")


def test_a_full_disk_is_named_and_leaves_nothing_half(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen, full = os.fsync, [0], [0]

    def fsync(handle: Any) -> None:
        seen[0] += 1
        if seen[0] == full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    run(config.model_copy(update={"run_dir": str(tmp_path / "whole")}), until="ingest")
    writes = seen[0] // 2
    assert writes >= 6
    for number in range(writes):
        seen[0], full[0] = 0, 1 + (number % 3)
        with pytest.raises(OSError, match=r"No space left on device.*run/"):
            run(config, until="ingest")
        assert not list((tmp_path / "run").rglob(f"{storage.TEMPORARY}*"))
        if number % 3 == 2:
            break
    full[0] = 0
    run(config, until="ingest")
    for path in (tmp_path / "whole").rglob("*.parquet"):
        assert (tmp_path / "run" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
