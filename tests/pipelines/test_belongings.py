"""What a run may remove, and what stops it: files of others in its folders, a source inside them, damage."""

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskmill.data_contracts import SAMPLE, DamagedError, list_shards, read_shard, shard_fault
from maskmill.pipelines.core.belongings import ForeignFileError
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.core.step import Again
from maskmill.pipelines.ingest import stamps
from maskmill.pipelines.ingest.files import Root
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.run import RunReport, plan, run
from tests.pipelines.ingest_sets import make_folder, photo, put


def config_at(tmp_path: Path, run_dir: str = "run", **changes: Any) -> RunConfig:
    source = {"kind": "folder", "root": str(tmp_path / "set"), "threads": 1}
    return load_run_config(
        "folder",
        {"source": source, "run_dir": str(tmp_path / run_dir), "shard_size": 2, "label_space": "voc", **changes},
    )


def ingest(config: RunConfig, again: Again | None = None) -> RunReport:
    return run(config, until="ingest", again=again or Again())


@pytest.fixture
def finished(tmp_path: Path) -> RunConfig:
    make_folder(tmp_path / "set", list("abcd"))
    config = config_at(tmp_path)
    ingest(config)
    return config


def foreign(path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), path)


@pytest.mark.parametrize("name", ["mine.parquet", "shard-00001.parquet", "shard-00009.parquet"])
@pytest.mark.parametrize("kind", ["parquet", "bytes", "another run's"])
def test_a_file_of_others_stops_the_run_and_stays(tmp_path: Path, name: str, kind: str) -> None:
    make_folder(tmp_path / "set", ["a", "b"])
    place = tmp_path / "run/samples" / name
    place.parent.mkdir(parents=True)
    if kind == "another run's":
        make_folder(tmp_path / "other/set", ["x"])
        ingest(config_at(tmp_path / "other", **{"source.licence": "MIT"}))
        shutil.copy(tmp_path / "other/run/samples/shard-00000.parquet", place)
    elif kind == "bytes":
        place.write_bytes(b"mine")
    else:
        foreign(place)
    before = place.read_bytes()
    with pytest.raises(ForeignFileError, match=f"{name}.*move it"):
        ingest(config_at(tmp_path))
    assert place.read_bytes() == before


def test_a_parquet_file_under_a_name_of_ours_is_not_overwritten(finished: RunConfig) -> None:
    path = Path(list_shards(f"{finished.run_dir}/samples")[0])
    foreign(path)
    with pytest.raises(ForeignFileError):
        ingest(finished)


def test_shards_of_an_earlier_longer_run_go(finished: RunConfig, tmp_path: Path) -> None:
    for stem in "cd":
        (tmp_path / f"set/images/{stem}.jpg").unlink()
        (tmp_path / f"set/masks/{stem}.png").unlink()
    changed = config_at(tmp_path, **{"source.licence": "MIT"})  # and under another config, which worked here too
    ingest(changed)
    assert len(list_shards(f"{finished.run_dir}/samples")) == 1


@pytest.mark.parametrize("place", ["run", "run/samples", "run/export/x", "./run/../run/set"])
def test_a_source_inside_the_run_folder_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(ConfigError, match="lies in run_dir"):
        config_at(tmp_path, **{"source.root": f"{tmp_path}/{place}"})


@pytest.mark.parametrize("run_dir", ["", " ", "/", "//"])
def test_the_root_of_the_disk_is_no_run_folder(tmp_path: Path, run_dir: str) -> None:
    with pytest.raises(ConfigError, match="run_dir"):
        load_run_config("folder", {"run_dir": run_dir})


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 0x04
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_a_damaged_shard_is_made_again(finished: RunConfig, at: float) -> None:
    path = Path(list_shards(f"{finished.run_dir}/samples")[1])
    whole = path.read_bytes()
    flip(path, at)
    assert any("damaged" in why for line in plan(finished) for why in line.why)
    assert ingest(finished).steps[0].written == 1
    assert path.read_bytes() == whole
    assert ingest(finished).idle


def test_a_cut_shard_is_made_again(finished: RunConfig) -> None:
    path = Path(list_shards(f"{finished.run_dir}/samples")[1])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    ingest(finished)
    assert path.read_bytes() == whole


def test_a_unit_that_was_cut_off_between_its_outputs_keeps_the_finished_one(finished: RunConfig) -> None:
    shard, rejects = (Path(list_shards(f"{finished.run_dir}/{name}")[1]) for name in ("samples", "rejects"))
    inode, whole = shard.stat().st_ino, rejects.read_bytes()
    rejects.unlink()
    ingest(finished)
    assert (shard.stat().st_ino, rejects.read_bytes()) == (inode, whole)


@pytest.mark.parametrize("part", ["image", "id"])
def test_a_change_that_keeps_the_time_is_met_by_who_reads_it_and_by_the_next_run(
    finished: RunConfig, part: str
) -> None:
    path = Path(list_shards(f"{finished.run_dir}/samples")[1])
    stat, row = path.stat(), pq.read_table(path).to_pylist()[0]
    flipped = bytearray(path.read_bytes())
    flipped[bytes(flipped).find(row["image"]["bytes"] if part == "image" else row["sample_id"].encode()) + 9] ^= 4
    path.write_bytes(bytes(flipped))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DamagedError):
        read_shard(str(path), SAMPLE)
    assert not ingest(finished).idle, "its inode was changed after the run was closed"
    assert shard_fault(str(path)) is None
    assert ingest(finished, Again(verify=True)).idle


def test_a_copied_run_is_looked_at_and_is_done(finished: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(finished.run_dir, tmp_path / "copy", copy_function=shutil.copyfile)
    assert ingest(config_at(tmp_path, "copy")).idle


def test_recheck_reads_the_source_again(finished: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "SMALL", 0)  # as with large files: size and time
    ingest(finished)
    path = tmp_path / "set/images/a.jpg"
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-20] ^= 0x10
    path.write_bytes(bytes(data))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert ingest(finished).idle
    assert ingest(finished, Again(recheck=True)).steps[0].written == 1
    assert ingest(finished, Again(recheck=True)).idle


def test_rejects_of_a_reason_are_tried_again(
    finished: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskmill.data_contracts import ContractError, Problem, Reason

    def undecodable(root: Root, path: str, *rest: object) -> None:
        raise ContractError(path, Problem(Reason.UNDECODABLE_IMAGE, "x", "y", "z"))

    put(tmp_path / "set/images/a.jpg", photo(7))
    monkeypatch.setattr(Root, "read", undecodable)
    assert ingest(finished).ledger.ingested == 2
    monkeypatch.undo()
    assert ingest(finished, Again(retry=frozenset({"size_mismatch"}))).idle
    assert ingest(finished).ledger.ingested == 2
    report = ingest(finished, Again(retry=frozenset({"undecodable_image"})))
    assert (report.steps[0].written, report.ledger.ingested) == (1, 4)


def test_runs_that_stamped_size_and_time_stay_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "set", list("abc"))
    config = config_at(tmp_path)
    monkeypatch.setattr(stamps, "SMALL", -1)
    ingest(config)
    monkeypatch.undo()
    assert ingest(config).idle
