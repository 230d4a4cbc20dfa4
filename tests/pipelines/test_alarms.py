"""What went wrong as a whole is said: in the terminal, on the page, with the key to turn and the exit status."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from maskmill.curation.select.quotas import NO_CUT
from maskmill.data_contracts import LabelSpace, Reason
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.core.ledger import Ledger, Rejection, ShardLedger
from maskmill.pipelines.report.alarms import FIT, alarms_of, markdown
from maskmill.pipelines.report.data import Tables
from maskmill.pipelines.report.words import KEYS, WORDS
from tests.pipelines.test_cli import TINY
from tests.pipelines.test_scan import write_pairs

SPACE = LabelSpace.from_names(["cat", "elephant"])
CAT, ELEPHANT = 1, 2


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words_and_a_key(reason: Reason) -> None:
    assert WORDS[reason]
    assert KEYS[reason] or reason in (Reason.KEPT, Reason.ALREADY_LABELLED)


def account(kept: int, classes_in: dict[int, int], classes_kept: dict[int, int], **rejected: int) -> Ledger:
    rejections = tuple(Rejection(stage="select", reason=name, rows=rows) for name, rows in rejected.items())
    total = kept + sum(rejected.values())
    shard = ShardLedger(
        shard="shard-00000.parquet", rows_in=total, ingested=total, kept=kept, undecided=0, rejections=rejections
    )
    return Ledger(shards=(shard,), classes_in=classes_in, classes_kept=classes_kept, licences=[])


def tables(rows: list[tuple[int, str, float]], detail: str | None = None) -> Tables:
    """Rows of (class id, reason, score), each decided with `detail`."""
    frame = pl.DataFrame(
        {
            "class_ids": [[class_id] for class_id, _, _ in rows],
            "reason": [reason for _, reason, _ in rows],
            "kept": [reason == "kept" for _, reason, _ in rows],
            "image_score": [score for *_, score in rows],
            "asf": [0.5 for _ in rows],
            "detail": [detail for _ in rows],
        },
        schema={
            "class_ids": pl.List(pl.Int32),
            "reason": pl.String,
            "kept": pl.Boolean,
            "image_score": pl.Float32,
            "asf": pl.Float32,
            "detail": pl.String,
        },
    )
    return Tables(frame, frame.head(0))


def kinds(run_dir: Path, ledger: Ledger, rows: list[tuple[int, str, float]] | None = None) -> dict[str, str]:
    return {a.kind: str(a) for a in alarms_of(str(run_dir), tables(rows or []), ledger, SPACE)}


def test_a_ranking_that_rejects_nothing_is_said(tmp_path: Path) -> None:
    rows = [(1 + n % 2, "kept", 0.5 + 0.01 * (n % 7)) for n in range(40)]
    ledger = account(40, {1: 20, 2: 20}, {1: 20, 2: 20})
    detail = f"rank 1 of 40 with number of classes 1; 40 stay (rho 1; {NO_CUT})"
    (found,) = alarms_of(str(tmp_path), tables(rows, detail), ledger, SPACE)
    assert found.kind == "no_cut"
    assert "left 40 of 40 samples" in found.message
    assert "select.rho" in found.turn


def test_a_good_run_raises_no_alarm(tmp_path: Path) -> None:
    rows = [(1 + n % 2, "kept", 0.5 + 0.01 * (n % 7)) for n in range(40)]
    assert kinds(tmp_path, account(40, {1: 20, 2: 20}, {1: 20, 2: 20}), rows) == {}


def test_nothing_kept(tmp_path: Path) -> None:
    found = kinds(tmp_path, account(0, {1: 9}, {}, empty_foreground=9))
    assert list(found) == ["nothing_kept", "one_reason"]
    assert "source.remap" in found["nothing_kept"]


def test_a_class_lost_whole_is_named_with_its_reason(tmp_path: Path) -> None:
    rows = [*[(CAT, "kept", 0.5)] * 20, *[(ELEPHANT, "low_image_score", 0.1)] * 5]
    found = kinds(tmp_path, account(20, {CAT: 20, ELEPHANT: 5}, {CAT: 20}, low_image_score=5), rows)
    assert "class elephant is lost whole: 5 samples, 5 as low image score" in found["class_lost"]
    assert "select.image_score_tau" in found["class_lost"]


def test_one_reason_for_more_than_half_or_for_all_rejects(tmp_path: Path) -> None:
    half = kinds(tmp_path, account(9, {1: 19}, {1: 9}, near_duplicate=8, low_asf=2))
    assert half == {}
    most = kinds(tmp_path, account(8, {1: 19}, {1: 8}, near_duplicate=10, low_asf=1))
    assert "select.near_duplicates=keep" in most["one_reason"]
    only = kinds(tmp_path, account(16, {1: 20}, {1: 16}, low_asf=4))
    assert "all 4 rejects" in only["only_reason"]


def test_a_class_whose_scores_lie_apart(tmp_path: Path) -> None:
    rows = [
        *[(CAT, "kept", 0.5 + 0.01 * n) for n in range(20)],
        *[(ELEPHANT, "kept", 0.1 + 0.01 * n) for n in range(10)],
    ]
    found = kinds(tmp_path, account(30, {1: 20, 2: 10}, {1: 20, 2: 10}), rows)
    assert list(found) == ["class_apart"]
    assert "image scores of class elephant lie apart" in found["class_apart"]


@pytest.mark.parametrize(("share", "alarmed"), [(0.0, True), (0.6, False)])
def test_labels_that_clip_does_not_see(tmp_path: Path, share: float, alarmed: bool) -> None:
    (tmp_path / FIT).write_text(json.dumps({"photos": 71, "share": share, "classes": ["aeroplane"], "stamp": ""}))
    found = kinds(tmp_path, account(40, {1: 40}, {1: 40}))
    assert ("misfit" in found) == alarmed
    if alarmed:
        assert "(aeroplane)" in found["misfit"]
        assert "label_space" in found["misfit"]


def test_alarms_are_a_list_in_markdown(tmp_path: Path) -> None:
    found = alarms_of(str(tmp_path), tables([]), account(0, {}, {}, low_asf=4), SPACE)
    assert markdown(found).startswith("- **nothing was kept")


def test_a_run_that_keeps_nothing_ends_with_3_and_says_so_on_its_page(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pets", 1)
    sets = {"source.root": root, "label_space": "[cat]", "run_dir": tmp_path / "run", "select.min_score": 2, **TINY}
    words = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    done = CliRunner().invoke(app, ["run", "folder", *words, "--json"])
    assert done.exit_code == 3, done.output
    assert json.loads(done.stdout)["alarms"][0]["kind"] == "nothing_kept"
    assert "warning: nothing was kept" in done.stderr
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert page.index("nothing was kept") < page.index('id="ledger"')
    assert json.loads((tmp_path / "run" / FIT).read_text())["photos"] == 3
