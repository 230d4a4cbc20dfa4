"""One process at a time in a folder, on disk and on S3, whatever dies or is deleted; and folders nobody may write."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner

from maskmill.data_contracts import storage, write_bytes
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.cli.serve import open_server
from maskmill.pipelines.core import lease
from maskmill.pipelines.core.lock import LockLostError, RunLockedError, lock
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.run import plan, run
from maskmill.trainers.engine.history import MetricsLog
from tests.pipelines.ingest_sets import make_folder

TINY = {"model": str(Path(__file__).parents[1] / "data/tiny_clip_timm"), "image_side": 64, "refine": "none"}

CLOCK = re.compile(rb'<section id="speed">.*?</section>|<!-- maskmill-check \w+ -->', re.DOTALL)  # a report's times
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


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_folder_that_was_removed_or_replaced_is_not_written_any_more(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "run"
    with lock(str(folder)):
        write_bytes(f"{folder}/a", b"1")
        folder.rename(tmp_path / "away")
        if how == "replaced":
            folder.mkdir()
        with pytest.raises(LockLostError, match=f"{how}.*run the same command again"):
            write_bytes(f"{folder}/b", b"1")
    assert not (folder / "b").exists()
    write_bytes(f"{folder}/b", b"1")


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


def test_a_lock_file_that_was_copied_along_with_a_folder_holds_nothing(s3_bucket: str) -> None:
    write_bytes(f"s3://{s3_bucket}/run/.lock", b"")
    check_one_at_a_time(f"s3://{s3_bucket}/run")


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


def whole_run(config: RunConfig, run_dir: Path) -> RunConfig:
    """The config with every step of a run, at another place."""
    more = {"score": TINY, "select": {"preset": "starter", "min_score": None}, "export": [{"format": "voc"}]}
    settings = {**config.model_dump(mode="json", include={"source", "shard_size", "label_space"}), **more}
    return load_run_config("folder", {**settings, "run_dir": str(run_dir)})


def test_every_command_that_only_reads_works_where_nobody_may_write(
    config: RunConfig, tmp_path: Path, read_only: Callable[[], str]
) -> None:
    run(whole := whole_run(config, tmp_path / "run"))
    path = tmp_path / "config.json"
    path.write_text(whole.model_dump_json())
    place = read_only()
    here = [str(path), "--set", f"run_dir={place}"]
    for words in (
        ["plan", *here],
        ["explain", place, "a.jpg"],
        ["diff", place, whole.run_dir],
        ["verify", place],
        ["report", *here],
        ["export", *here],
        ["run", *here],
        ["list", "presets"],
        ["config", "show", *here],
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (words, result.output)
    with open_server(place, 0) as server:
        assert server.server_address[1]


def words_of_error(config: RunConfig) -> str:
    try:
        run(config)
    except OSError as error:
        return str(error)
    return ""


def same_files(one: Path, other: Path) -> None:
    left_out = {"config.json", "timings.json"}
    for path in (p for p in one.rglob("*") if p.is_file() and p.name not in left_out and p.parent.name != "cache"):
        found, wanted = ((home / path.relative_to(one)).read_bytes() for home in (other, one))
        assert CLOCK.sub(b"", found) == CLOCK.sub(b"", wanted), path


def test_a_disk_that_is_full_at_any_write_is_named_and_leaves_nothing_half(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write is a temporary that is fsynced, a rename, and the folder fsynced: two calls."""
    run(whole_run(config, tmp_path / "whole"))
    wanted = whole_run(config, tmp_path / "run")
    real, seen, full = os.fsync, [0], [0]

    def fsync(handle: Any) -> None:
        seen[0] += 1
        if seen[0] == full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    for attempt in range(100):
        seen[0], full[0] = 0, 1 + attempt  # the file itself, or its folder's entry
        if not (found := words_of_error(wanted)):
            break
        assert re.search(rf"cannot write it: No space left on device.*{tmp_path}/run/", found)
        assert not list((tmp_path / "run").rglob(f"{storage.TEMPORARY}*"))
    assert 10 < attempt < 99
    same_files(tmp_path / "whole", tmp_path / "run")
    same_files(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("kilobytes", [32, 200])
def test_a_disk_that_is_really_full(config: RunConfig, tmp_path: Path, kilobytes: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "x", disk], check=False).returncode:
        pytest.skip("no right to mount here")
    try:
        wanted = whole_run(config, disk / "run")
        with pytest.raises(OSError, match=rf"No space left on device.*{disk}"):
            run(wanted)
        assert not list(disk.rglob(f"{storage.TEMPORARY}*"))
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert run(wanted).ledger.kept
        run(whole_run(config, tmp_path / "whole"))
        same_files(tmp_path / "whole", disk / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_log_on_a_full_disk_is_named(tmp_path: Path) -> None:
    log = MetricsLog(str(tmp_path / "metrics.jsonl"), 0)
    log.path = "/dev/full"
    with pytest.raises(OSError, match=r"No space left on device.*/dev/full"):
        log.write({"step": 0})
