"""Verdicts of people: they decide whatever scores say, and what stays for them stands where near-duplicates look."""

from typing import Any

import polars as pl
import pytest

from maskmill.curation.select import SelectConfig, decide
from maskmill.curation.select.review import COLUMNS
from maskmill.data_contracts import DECISION
from tests.curation.score_tables import NO_PAIRS, faithful, pairs, random_rows, score_row, score_table

ALL = faithful(rho=1, min_score=0.3, near_duplicates="best", duplicate_similarity=0.9)


def said(**verdicts: Any) -> pl.DataFrame:
    """Verdicts by sample id: a word, or (from, to) of a relabelling."""
    rows = []
    for sample_id, verdict in verdicts.items():
        pair = verdict if isinstance(verdict, tuple) else (None, None)
        word = "relabel" if isinstance(verdict, tuple) else verdict
        rows.append({"sample_id": sample_id, "verdict": word, "from_class_id": pair[0], "to_class_id": pair[1]})
    return pl.DataFrame([{**row, "words": "by anna on Monday"} for row in rows], schema=COLUMNS)


def by_id(rows: list[dict], config: SelectConfig, verdicts: pl.DataFrame, found: pl.DataFrame = NO_PAIRS) -> dict:
    table = decide(score_table(rows), found, config, verdicts).decisions
    DECISION.check(table.to_arrow().cast(DECISION.schema))
    return {row["sample_id"]: row for row in table.iter_rows(named=True)}


def test_what_people_say_decides() -> None:
    rows = [score_row(name, asf) for name, asf in (("a", 0.1), ("b", 0.9), ("c", 0.1), ("d", 0.1), ("e", 0.9))]
    found = by_id(rows, ALL, said(a="keep", b="reject", c=(1, 2), e="none"))
    assert {name: (row["kept"], row["reason"], row["stage"]) for name, row in found.items()} == {
        "a": (True, "kept", "review"),
        "b": (False, "rejected_in_review", "review"),
        "c": (True, "kept", "review"),
        "d": (False, "low_asf", "select"),
        "e": (True, "kept", "select"),
    }
    assert found["a"]["detail"] == "kept by anna on Monday (scores said low asf)"
    assert found["b"]["detail"] == "rejected by anna on Monday"
    assert found["c"]["detail"].startswith("kept and relabelled by anna")
    assert [found[name]["threshold"] for name in "abc"] == [None] * 3
    assert {name: (row["relabel_from"], row["relabel_to"]) for name, row in found.items() if row["relabel_to"]} == {
        "c": (1, 2)
    }


@pytest.mark.parametrize("seed", range(3))
def test_without_verdicts_and_with_notes_alone_nothing_changes(seed: int) -> None:
    rows = random_rows(40, seed)
    usual = decide(score_table(rows), NO_PAIRS, ALL).decisions
    noted = decide(score_table(rows), NO_PAIRS, ALL, said(**{rows[0]["sample_id"]: "none"})).decisions
    assert noted.equals(usual)
    nobody = decide(score_table(rows), NO_PAIRS, ALL, said(stranger="reject")).decisions
    assert nobody.equals(usual)


def test_thresholds_read_off_the_scores_stay_those_of_all_samples() -> None:
    rows = random_rows(60, 5)
    config = faithful(rho=1, min_score={"method": "quantile", "keep": 0.5})
    usual = {row["sample_id"]: row for row in decide(score_table(rows), NO_PAIRS, config).decisions.to_dicts()}
    away = next(name for name, row in usual.items() if row["reason"] == "kept")
    found = by_id(rows, config, said(**{away: "reject"}))
    assert {name for name, row in found.items() if row["reason"] != usual[name]["reason"]} == {away}


def test_near_duplicates_of_what_people_kept_make_way_and_of_what_they_rejected_come_back() -> None:
    rows = [score_row("a", 0.5), score_row("b", 0.9)]
    alike = pairs(("a", "b", 0.95))
    assert by_id(rows, ALL, said(), alike)["a"]["duplicate_of"] == "b"
    kept = by_id(rows, ALL, said(a="keep"), alike)
    assert kept["a"]["kept"]
    assert (kept["b"]["reason"], kept["b"]["duplicate_of"]) == ("near_duplicate", "a")
    away = by_id(rows, ALL, said(b="reject"), alike)
    assert away["a"]["kept"]
    both = by_id(rows, ALL, said(a="keep", b="keep"), alike)
    assert both["a"]["kept"]
    assert both["b"]["kept"]


def test_a_repeated_sample_is_judged_once() -> None:
    rows = [{**score_row("a", 0.9), "shard": shard} for shard in ("shard-00000.parquet", "shard-00001.parquet")]
    table = decide(score_table(rows), NO_PAIRS, ALL, said(a="reject")).decisions
    assert table["reason"].to_list() == ["rejected_in_review", "duplicate_id"]
