"""What the page is made of: colours that stay, numbers that a slider shows, rows as JSON, the sentence on selection."""

import json
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from maskmill.curation.select import SelectConfig, decide
from maskmill.data_contracts import Reason
from maskmill.pipelines.report.colours import PATTERNS, luma, reason_colour, reason_pattern
from maskmill.pipelines.report.data import load_tables
from maskmill.pipelines.report.pays import subset_rows, verdict
from maskmill.pipelines.report.records import as_json, neighbours, records, worst_first
from maskmill.pipelines.report.scores import score_figures
from maskmill.pipelines.report.words import SCORES, TERMS
from maskmill.pipelines.stages.downstream import SubsetResult
from maskmill.pipelines.stages.select import read_scores
from tests.factories import FakeRun

REJECTIONS = [reason.value for reason in Reason if reason is not Reason.KEPT]


def test_every_reason_has_a_look_of_its_own_in_grey() -> None:
    looks = {(round(luma(reason_colour(r)), 2), reason_pattern(r)) for r in REJECTIONS}
    assert len(looks) == len(REJECTIONS)
    assert {reason_pattern(r) for r in REJECTIONS} <= set(PATTERNS)
    for one, other in pairwise(REJECTIONS):
        assert abs(luma(reason_colour(one)) - luma(reason_colour(other))) > 0.05
    assert len({reason_colour(r) for r in [*REJECTIONS, "kept"]}) == len(REJECTIONS) + 1
    assert reason_colour("of a later version") == reason_colour("of another")


@pytest.mark.parametrize(("column", "key"), [("asf", "min_score"), ("pcs", "pcs_tau"), ("h_orig", "max_entropy")])
def test_sliders_count_as_selection_does(run: FakeRun, column: str, key: str) -> None:
    rows = load_tables(run.path).rows
    if column == "pcs":
        rows = rows.with_columns(image_score=pl.col("image_score") + 1)
    slider = next(f.slider for f in score_figures(rows) if f.column == column)
    assert slider is not None
    assert slider["key"] == f"select.{key}"
    scores = read_scores([f"{run.path}/scores/shard-{n:05d}.parquet" for n in range(4)])
    nobody = {"pcs_tau": None, "image_score_tau": None, "min_score": None, "rho": 1.0, "near_duplicates": "keep"}
    none = pl.DataFrame(
        schema=dict.fromkeys(("sample_id", "other_id", "other_set"), pl.String) | {"similarity": pl.Float32}
    )
    for place in (0, 60, 120, 200):
        config = SelectConfig.model_validate({**nobody, "preset": "faithful", key: slider["values"][place]})
        kept = set(decide(scores, none, config).decisions.filter("kept")["sample_id"].to_list())
        assert slider["stay"][place] == len(kept & run.kept)


def test_rows_as_json_hold_no_markup_and_no_nan(run: FakeRun) -> None:
    rows = load_tables(run.path).rows.with_columns(
        file=pl.lit("</script><!-- 'x' & y"), asf=pl.lit(float("nan"), pl.Float32), threshold=pl.lit(np.inf, pl.Float32)
    )
    text = as_json(records(rows, run.space, dict.fromkeys(run.space.ids, "#000000"), {}))
    assert not set("<>&'") & set(text)
    found = json.loads(text)
    assert found["rows"]["file"][0] == "</script><!-- 'x' & y"
    assert found["rows"]["asf"] == found["rows"]["threshold"] == [None] * rows.height


def test_neighbours_are_known_from_both_sides(run: FakeRun) -> None:
    first, second = (str(run.decisions[n]["sample_id"]) for n in (0, 1))
    assert neighbours(run.path, {first}) == {first: [(second, 0.981, "")]}
    assert neighbours(run.path, {second}) == {second: [(first, 0.981, "")]}


def test_the_worst_are_those_furthest_below(run: FakeRun) -> None:
    rows = load_tables(run.path).rows.filter(pl.col("reason") == "low_asf")
    below = dict(rows.select("sample_id", pl.col("score") - pl.col("threshold")).iter_rows())
    assert worst_first(rows) == sorted(below, key=lambda i: (below[i], i))


def subset(words: str, ious: list[float]) -> SubsetResult:
    iou = {f"class {n}": value for n, value in enumerate(ious)}
    metrics = {"iou": iou, "miou": np.mean(ious), "dice": 0.5, "pixel_accuracy": 0.5, "images": 3}
    return SubsetResult(words, 9, metrics, None)


@pytest.mark.parametrize(
    ("kept", "chance", "answer"),
    [
        ([0.5, 0.6, 0.7], [0.4, 0.51, 0.6], "Yes: "),
        ([0.4, 0.51, 0.6], [0.5, 0.6, 0.7], "No, it costs: "),
        ([0.5, 0.3, 0.6], [0.3, 0.5, 0.5], "It cannot be told from chance: "),
    ],
)
def test_the_sentence_on_selection_says_how_sure_it_is(kept: list[float], chance: list[float], answer: str) -> None:
    results = [subset("what was kept", kept), subset("as many at random", chance)]
    said = verdict(results)
    assert said.startswith(answer)
    assert ("higher than" if sum(kept) > sum(chance) else "lower than") in said
    assert "standard error" in said
    assert subset_rows(results)[0].spread == pytest.approx(np.std(kept, ddof=1))
    assert verdict(results[:1]) == ""


def test_terms_stand_in_plain_words(run: FakeRun) -> None:
    assert {"pcs", "asf"} <= set(SCORES)
    assert {"rho", "rank", "margin", "threshold"} <= set(TERMS)
