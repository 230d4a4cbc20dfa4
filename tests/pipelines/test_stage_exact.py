"""What a stage is: why a unit runs, what of it is written, and what is made again, on a stage without models."""

import threading
from pathlib import Path
from typing import Any

import pytest

from maskmill.data_contracts import DECISION, DamagedError, Reason, read_footer, read_shard, write_shard
from maskmill.data_contracts import shards as shard_files
from maskmill.pipelines.core import stage as stages
from maskmill.pipelines.core.stage import (
    Stage,
    StageResult,
    Unit,
    UnitReport,
    map_units,
    run_unit,
    unit_inputs,
    why_run,
)


def rows(*ids: str) -> Any:
    rest = {"stage": "made", "kept": True, "reason": Reason.KEPT.value}
    return DECISION.table([{"sample_id": i, **rest} for i in ids])


def shard(path: Path, *ids: str) -> str:
    write_shard(str(path), rows(*ids), DECISION, stage="before", fingerprint="-".join(ids))
    return str(path)


def stage(
    calls: list[Unit] | None = None, *, version: int = 1, config: str = "c", ids: tuple[str, ...] = ("x",)
) -> Stage:
    def process(unit: Unit) -> StageResult:
        if calls is not None:
            calls.append(unit)
        return StageResult((rows(*ids), rows("second")), {"kept": len(ids)})

    return Stage("made", version, (DECISION, DECISION), config, process)


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(
        (shard(tmp_path / "in.parquet", "a"),), (f"{tmp_path}/out/a.parquet", f"{tmp_path}/out/b.parquet"), ("s",)
    )


def test_a_unit_depends_on_its_inputs_and_stamps(unit: Unit, tmp_path: Path) -> None:
    footer = read_footer(unit.inputs[0])
    assert footer is not None
    assert unit_inputs(unit) == (footer.content, "s")
    with pytest.raises(FileNotFoundError, match="run the stage that makes it first"):
        unit_inputs(Unit((str(tmp_path / "gone.parquet"),), ()))
    Path(unit.inputs[0]).write_bytes(b"x" * 100)
    with pytest.raises(DamagedError, match="no Parquet footer"):
        unit_inputs(unit)


def test_why_a_unit_runs(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_run(stage(), unit) == "not done yet"
    assert run_unit(stage(), unit) == UnitReport(unit, "written", {"kept": 1})
    assert why_run(stage(), unit) is None
    assert run_unit(stage(), unit) == UnitReport(unit, "skipped", {"kept": 1})
    assert why_run(stage(config="d"), unit) == "its config or model changed"
    assert why_run(stage(version=2), unit) == "the code or the contract changed"
    assert why_run(stage(), Unit(unit.inputs, unit.outputs, ("t",))) == "its input changed"
    Path(unit.outputs[1]).write_bytes(b"x" * 20)
    assert str(why_run(stage(), unit)).startswith("damaged (no Parquet footer")
    Path(unit.outputs[1]).unlink()
    assert why_run(stage(), unit) == "not done yet"
    Path(unit.inputs[0]).unlink()
    assert why_run(stage(), unit) == "its input is not there yet"


def test_another_major_version_of_what_decides_is_a_reason(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "deciding_versions", lambda: {"numpy": "0.0.1"})
    run_unit(stage(), unit)
    assert str(why_run(stage(), unit)).startswith("made with numpy 0.0.1, now")
    monkeypatch.undo()
    before = [Path(p).stat().st_ino for p in unit.outputs]
    assert run_unit(stage(), unit).status == "written"
    assert all(Path(p).stat().st_ino != old for p, old in zip(unit.outputs, before, strict=True))
    assert why_run(stage(), unit) is None


def test_an_output_that_stands_is_not_written_again(unit: Unit) -> None:
    calls: list[Unit] = []
    run_unit(stage(calls), unit)
    first = Path(unit.outputs[0]).stat().st_ino
    Path(unit.outputs[1]).unlink()
    assert run_unit(stage(calls), unit).status == "written"
    assert Path(unit.outputs[0]).stat().st_ino == first
    assert run_unit(stage(calls), unit, again=True).status == "skipped"  # looked at again, and the same
    assert len(calls) == 3
    assert run_unit(stage(calls, ids=("y",)), unit, again=True).status == "written"
    assert read_shard(unit.outputs[0], DECISION).column("sample_id").to_pylist() == ["y"]


def test_damage_is_found_and_mended_and_leftovers_are_swept(unit: Unit, caplog: pytest.LogCaptureFixture) -> None:
    run_unit(stage(), unit)
    data = bytearray(Path(unit.outputs[1]).read_bytes())
    data[10] ^= 1
    Path(unit.outputs[1]).write_bytes(bytes(data))
    (Path(unit.outputs[0]).parent / ".maskmill-tmp-1").touch()
    assert why_run(stage(), unit) is None  # only the footer is looked at
    (report,) = map_units(stage(), [unit])
    assert report.status == "written"
    assert "damaged (rows or pages" in caplog.text
    assert sorted(p.name for p in Path(unit.outputs[0]).parent.iterdir()) == ["a.parquet", "b.parquet"]
    caplog.clear()
    assert [r.status for r in map_units(stage(), [unit])] == ["skipped"]
    assert caplog.text == ""


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_units_are_told_in_their_order_on_as_many_threads(tmp_path: Path, workers: int) -> None:
    units = [
        Unit((shard(tmp_path / f"in{i}.parquet", f"a{i}"),), (f"{tmp_path}/{i}.parquet", f"{tmp_path}/{i}b.parquet"))
        for i in range(5)
    ]
    threads: set[int] = set()
    told: list[Unit] = []

    def note(report: UnitReport) -> None:
        threads.add(threading.get_ident())
        told.append(report.unit)

    reports = map_units(stage(), units, workers=workers, progress=note)
    assert [r.unit for r in reports] == units
    assert sorted(u.outputs for u in told) == [u.outputs for u in units]
    assert (threads == {threading.get_ident()}) == (workers <= 1)
    assert stages.footer_counts(units[0]) == {"kept": 1}
    assert stages.footer_counts(Unit((), (f"{tmp_path}/gone.parquet",))) == {}
