"""What ends a run loudly, and what other versions of libraries mean for what is done."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from maskmill.data_contracts import shards, versions
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.limits import LimitError
from maskmill.pipelines.run.run import plan, run
from tests.pipelines.ingest_sets import make_folder, put


def config_at(tmp_path: Path, **changes: Any) -> RunConfig:
    source = {"kind": "folder", "root": str(tmp_path / "set"), "threads": 1}
    settings = {"source": source, "run_dir": str(tmp_path / "run"), "shard_size": 2, "label_space": "voc"}
    return load_run_config("folder", {**settings, **changes})


@pytest.mark.parametrize(("limit", "ends"), [(None, False), (0.5, False), (0.49, True), (0.0, True)])
def test_too_many_rejects_end_the_run(tmp_path: Path, limit: float | None, ends: bool) -> None:
    make_folder(tmp_path / "set", list("abcd"))
    for stem in "ab":
        put(tmp_path / f"set/images/{stem}.jpg", b"no picture")
    config = config_at(tmp_path, **{"limits.rejected": limit})
    if not ends:
        assert run(config, until="ingest").ledger.ingested == 2
        return
    with pytest.raises(LimitError, match=r"2 of 4 samples.*2x undecodable_image.*raise the limit"):
        run(config, until="ingest")
    assert (tmp_path / "run/ledger.json").is_file()
    sets = [f"source={{kind: folder, root: {tmp_path}/set}}", f"run_dir={tmp_path}/run", f"limits.rejected={limit}"]
    pairs = [word for item in [*sets, "label_space=voc"] for word in ("--set", item)]
    assert CliRunner().invoke(app, ["ingest", "folder", *pairs]).exit_code == 3


@pytest.mark.parametrize(
    ("before", "major", "minor"),
    [
        ("2.14.1", False, False),
        ("2.13.0", False, True),
        ("1.13.0", True, True),
        ("3.0", True, True),
    ],
)
def test_major_versions_count_and_others_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, major: bool, minor: bool
) -> None:
    make_folder(tmp_path / "set", ["a"])
    monkeypatch.setattr(shards, "deciding_versions", lambda: {"torch": before})
    run(config_at(tmp_path), until="ingest")
    monkeypatch.setattr(versions, "deciding_versions", lambda: {"torch": "2.14.1"})
    line = plan(config_at(tmp_path))[0]
    assert line.to_run == major
    assert ("made with torch" in line.words) == minor


@pytest.mark.parametrize(("one", "other", "same"), [("0.41.2", "0.42.0", False), ("0.42.1", "0.42.0", True)])
def test_below_1_the_second_part_is_the_major_one(
    monkeypatch: pytest.MonkeyPatch, one: str, other: str, same: bool
) -> None:
    monkeypatch.setattr(versions, "deciding_versions", lambda: {"diffusers": one})
    assert (versions.changes({"diffusers": other}, major=True) == []) == same
    assert versions.changes({}) == []
