"""The ledger accounts for every sample, or says in which shard the sums disagree."""

from pathlib import Path

import pytest

from maskmill.data_contracts import DECISION, SCORE, Reason, read_shard, write_shard
from maskmill.pipelines.core.ledger import Ledger, LedgerError, build_ledger
from tests.factories import FakeRun, write_decisions


def test_in_is_kept_plus_rejected(run: FakeRun) -> None:
    ledger = build_ledger(run.path)
    assert ledger.rows_in == 3 * 7 == sum(ledger.counts.values())
    assert ledger.kept == len(run.kept)
    assert ledger.counts[Reason.UNDECODABLE_IMAGE] == 3
    assert ledger.counts[Reason.NEAR_DUPLICATE] == 3
    for shard in ledger.shards:
        assert shard.rows_in == shard.kept + shard.rejected + shard.undecided == 7
    kept = [row for row in run.rows.values() if row["sample_id"] in run.kept]
    assert ledger.classes_kept == {
        i: n
        for i in run.space.ids
        if (n := sum(i in list(row["class_ids"]) for row in kept))  # type: ignore[call-overload]
    }
    assert ledger.licences == ["CC0-1.0"]


def test_before_selection_samples_are_undecided(run: FakeRun) -> None:
    Path(run.path, "decisions.parquet").unlink()
    ledger = build_ledger(run.path)
    assert (ledger.kept, ledger.undecided) == (0, 18)
    assert sum(ledger.counts.values()) == ledger.rows_in


def test_round_trip_and_tables(run: FakeRun, tmp_path: Path) -> None:
    ledger = build_ledger(run.path)
    ledger.write(str(tmp_path / "ledger.json"))
    assert Ledger.read(str(tmp_path / "ledger.json")) == ledger
    text = ledger.markdown()
    assert f"| **kept** | {ledger.kept} |" in text
    assert "| ingest | undecodable_image | 3 |" in text
    assert ledger.rich_table().row_count == len(ledger.lines())
    assert ledger.rich_table(per_shard=True).row_count == 3


def test_missing_decision_is_named(run: FakeRun) -> None:
    lost = run.decisions.pop()
    write_decisions(run.path, run.decisions)
    with pytest.raises(LedgerError, match=rf"shard-00002.*rows without a decision, e\.g\. {lost['sample_id']}"):
        build_ledger(run.path)


def test_decision_without_sample_is_named(run: FakeRun) -> None:
    write_decisions(run.path, [*run.decisions, {**run.decisions[0], "sample_id": "f" * 32}])
    with pytest.raises(LedgerError, match=r"shard-00000.*decisions without a row"):
        build_ledger(run.path)


def test_decision_about_a_lost_shard_is_named(run: FakeRun) -> None:
    for folder in ("samples", "scores", "rejects"):
        Path(run.path, folder, "shard-00001.parquet").unlink()
    with pytest.raises(LedgerError, match=r"shard-00001.*no such sample shard"):
        build_ledger(run.path)


def test_missing_score_is_named(run: FakeRun) -> None:
    path = f"{run.path}/scores/shard-00001.parquet"
    write_shard(path, read_shard(path, SCORE).slice(1), SCORE, stage="score", fingerprint="x")
    with pytest.raises(LedgerError, match=r"shard-00001.*rows without a score"):
        build_ledger(run.path)


def test_lost_reject_is_named(run: FakeRun) -> None:
    path = f"{run.path}/rejects/shard-00000.parquet"
    write_shard(path, DECISION.table([]), DECISION, stage="ingest", fingerprint="x")
    with pytest.raises(LedgerError, match=r"shard-00000.*ingest counted"):
        build_ledger(run.path)


def test_contradictory_decision_is_named(run: FakeRun) -> None:
    run.decisions[0].update(kept=True, reason=Reason.LOW_ASF.value)
    write_decisions(run.path, run.decisions)
    with pytest.raises(LedgerError, match="kept = True and reason 'low_asf'"):
        build_ledger(run.path)


def test_empty_run(tmp_path: Path) -> None:
    ledger = build_ledger(str(tmp_path))
    assert (ledger.rows_in, ledger.kept, ledger.counts) == (0, 0, {"kept": 0})
    assert "| **in** | 0 |" in ledger.markdown()
