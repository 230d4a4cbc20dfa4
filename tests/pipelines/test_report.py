"""The report is one page that needs nothing else, shows what the run decided, and is the same for the same run."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from maskmill.data_contracts import IGNORE, PSEUDO_LABEL, LabelSpace, load_label_space, write_shard
from maskmill.pipelines.core.ledger import build_ledger
from maskmill.pipelines.report import ReportConfig, Timing, report_summary_markdown, why_report, write_report
from maskmill.pipelines.report.data import (
    Pick,
    changes,
    duplicate_groups,
    fault_of,
    fault_rows,
    load_tables,
)
from maskmill.pipelines.report.figures import Threshold, histogram, ticks
from maskmill.pipelines.report.scores import score_figures
from maskmill.pipelines.report.thumbs import class_colour, overlay, thumbnail
from tests.factories import FakeRun, make_run, make_sample, write_decisions

VOC = load_label_space("voc")


class Links(HTMLParser):
    """Collects whatever a browser would load, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loads += [v for key in ("src", "srcset", "data", "poster") if (v := values.get(key))]
        if tag in ("link", "iframe", "object", "embed") or (tag == "script" and values.get("src")):
            self.loads.append(f"<{tag}>")
        if tag not in ("meta", "img", "input", "br", "hr", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line"):
            assert self.open.pop() == tag


def page(run: FakeRun, **options: object) -> str:
    path = write_report(run.path, ReportConfig.model_validate(options), run.space, title="Shapes")
    return Path(path).read_text()


def test_page_loads_nothing_and_is_well_formed(run: FakeRun) -> None:
    html = page(run)
    parser = Links()
    parser.feed(html)
    assert parser.open == []
    assert parser.loads
    assert all(value.startswith("data:image/") for value in parser.loads)
    assert "url(" not in html
    assert "@import" not in html


def test_same_run_same_bytes(run: FakeRun, tmp_path: Path) -> None:
    other = make_run(tmp_path / "elsewhere", shards=3, rows=6, faults=True)
    assert page(run) == page(other)


def test_ledger_and_every_shown_decision_are_on_the_page(run: FakeRun) -> None:
    html = page(run, per_reason=100)
    ledger = build_ledger(run.path)
    assert f"<b>{ledger.kept}</b> of {ledger.rows_in} samples kept" in html
    for decision in run.decisions:
        assert f'<code title="{decision["sample_id"]}">' in html
    for rejects in run.rejects:
        for row in rejects:
            assert str(row["source_path"]) in html


def test_gallery_is_chosen_by_hash(run: FakeRun) -> None:
    ids = sorted(run.rows)
    assert Pick(0)(ids, 5) == Pick(0)(reversed(ids), 5)
    assert Pick(0)(ids, 5) != Pick(1)(ids, 5)
    html = page(run, per_reason=2, groups=0)
    shelf = html[html.index('class="shelf" data-reason="kept"') :]
    shown = re.findall(r'<code title="([0-9a-f]{32})">', shelf[: shelf.index("</section>")])
    assert set(Pick(0)(run.kept, 4)) <= set(shown)


def test_page_stays_below_its_limit(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", shards=2, rows=20, size=(256, 256))
    whole = len(page(run, per_reason=50).encode())
    limit = whole // 2
    assert len(page(run, per_reason=50, max_bytes=limit).encode()) <= limit


def test_text_from_the_data_is_escaped(run: FakeRun) -> None:
    run.decisions[0].update(detail="<script>alert(1)</script>")
    write_decisions(run.path, run.decisions)
    html = page(run, per_reason=100)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_why_report(run: FakeRun, tmp_path: Path) -> None:
    config = ReportConfig()
    assert why_report(run.path, config, run.space) == "not done yet"
    write_report(run.path, config, run.space)
    assert why_report(run.path, config, run.space) is None
    assert why_report(run.path, config, run.space, {"run_dir": "elsewhere", "workers": 9}) is None
    assert why_report(run.path, ReportConfig(per_reason=3), run.space) == "what it shows changed"
    run.keep(set(sorted(run.kept)[1:]))
    assert why_report(run.path, config, run.space) == "what it shows changed"


def test_faults_are_counted_by_kind_and_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", shards=2, rows=30, faults=True)
    rows, reasons = fault_rows(load_tables(run.path).rows)
    assert rows[-1].name == "clean"
    assert sum(r.planted for r in rows) == 60
    assert sum(r.caught for r in rows) == 60 - len(run.kept)
    for row in rows:
        assert sum(row.reasons.values()) == row.caught
        assert set(row.reasons) <= set(reasons)
    assert "Planted faults" in page(run)
    clean = make_run(tmp_path / "clean", shards=1, rows=4)
    assert fault_rows(load_tables(clean.path).rows) == ([], [])
    assert "Planted faults" not in page(clean)


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        (None, None),
        ("", None),
        ("{}", None),
        ("[1]", None),
        ("{broken", None),
        ('{"fault": "shifted_mask"}', "shifted_mask"),
    ],
)
def test_fault_of(extra: str | None, fault: str | None) -> None:
    assert fault_of(extra) == fault


def test_thresholds_stand_in_the_histogram_of_the_score_that_decided(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", shards=2, rows=30, faults=True)
    figures = {f.title: f for f in score_figures(load_tables(run.path).rows)}
    assert [(t.reason, t.label) for t in figures["Image score"].thresholds] == [("low_pcs", "0.1")]
    assert [(t.reason, t.label) for t in figures["ASF"].thresholds] == [("low_asf", "0.5")]
    assert figures["Entropy"].thresholds == []
    assert "PCS" not in figures  # one and the same as the image score here


def test_histogram_counts_every_sample() -> None:
    rng = np.random.default_rng(0)
    kept, rejected = rng.normal(0.7, 0.1, 300), np.append(rng.normal(0.3, 0.1, 200), [np.nan, 50.0])
    svg = histogram(kept, rejected, [Threshold("low_asf", 0.5, 0.55)])
    bars = re.findall(r"<title>(\d+) (kept|rejected)</title>", svg)
    assert sum(int(n) for n, kind in bars if kind == "kept") == 300
    assert sum(int(n) for n, kind in bars if kind == "rejected") == 201  # the outlier is there, the NaN is not
    assert "0.5 to 0.55" in svg
    assert histogram(np.array([]), np.array([np.nan]), []) == ""
    assert histogram(np.full(9, 0.25), np.array([]), []).count("<rect") == 1


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 7.9), (1e-4, 2e-4), (0.0, 12345.0)])
def test_ticks_are_inside_and_even(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert low - 1e-9 <= found[0] <= found[-1] <= high + 1e-9
    np.testing.assert_allclose(np.diff(found), np.diff(found)[0], rtol=1e-6)


def test_changes_since_another_run(run: FakeRun, tmp_path: Path) -> None:
    previous = make_run(tmp_path / "previous", shards=3, rows=6, faults=True)
    assert changes(load_tables(run.path).rows, previous.path) == []
    assert "No decision changed" in page(run, previous=previous.path)
    dropped = sorted(run.kept)[:2]
    run.keep(run.kept - set(dropped))
    found = {(c.before, c.after): c.ids for c in changes(load_tables(run.path).rows, previous.path)}
    assert found["kept", "low_asf"] == dropped
    assert "kept → low ASF" in page(run, previous=previous.path)
    lone = make_run(tmp_path / "lone", shards=1, rows=3, seed=9)
    ways = {(c.before, c.after) for c in changes(load_tables(lone.path).rows, previous.path)}
    assert all("absent" in way for way in ways)


def test_duplicates_are_grouped_under_the_one_that_stands_for_them(run: FakeRun) -> None:
    groups = duplicate_groups(load_tables(run.path).rows)
    assert groups == {str(s[0]["sample_id"]): [s[1]["sample_id"]] for s in run.samples}
    assert "3 of 3 groups" in page(run)


def test_timings_give_rates(run: FakeRun) -> None:
    timings = [Timing(name="score", seconds=4.0, rows=100, device="cpu")]
    html = Path(write_report(run.path, ReportConfig(), run.space, timings=timings)).read_text()
    assert ">25.0<" in html
    Path(run.path, "timings.json").write_text('[{"name": "ingest", "seconds": 2, "rows": 50, "other": 1}]')
    assert ">25.0<" in page(run)
    Path(run.path, "timings.json").write_text('[{"name": "ing')
    assert 'id="speed"' not in page(run)


def test_a_page_of_a_large_run_says_which_samples_it_lists(run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskmill.pipelines.report.page.MOST_ROWS", 5)
    monkeypatch.setattr("maskmill.pipelines.report.page.ALL", 0)
    html = page(run, per_reason=1, groups=0)
    data = json.loads(re.search(r'id="run-data">(.*?)</script>', html, re.S).group(1))  # type: ignore[union-attr]
    assert data["total"] == 18
    listed, pictured = set(data["rows"]["sample_id"]), set(re.findall(r'data-id="(\w+)"', html))
    assert {*Pick(0)(run.rows, 5), *pictured} == listed
    assert len(listed) < 18


def test_a_labeler_s_masks_are_shown_where_the_run_holds_them(run: FakeRun) -> None:
    row = run.samples[0][0]
    label = {"sample_id": row["sample_id"], "mask": row["mask"], "confidence": None, "class_ids": row["class_ids"]}
    label |= {"labeler": "clip_cam", "labeler_version": "1"}
    before = why_report(run.path, ReportConfig(), run.space)
    page(run)
    write_shard(
        f"{run.path}/labels/shard-00000.parquet",
        PSEUDO_LABEL.table([label]),
        PSEUDO_LABEL,
        stage="label",
        fingerprint="l",
    )
    assert before == "not done yet"
    assert why_report(run.path, ReportConfig(), run.space) == "what it shows changed"
    found = re.search(r'"labels":\{"(\w+)":"data:image/png', page(run))
    assert found is not None
    assert found.group(1) == row["sample_id"]


def test_summary_in_markdown(run: FakeRun) -> None:
    text = report_summary_markdown(run.path)
    assert f"**{len(run.kept)} of 21 samples kept" in text
    assert "| planted |" in text
    assert "report/index.html" in text


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def test_overlay_colours_classes_and_leaves_background_clear() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 5:30] = 3
    mask[25:38, 20:55] = IGNORE
    _, size = thumbnail(np.zeros((40, 60, 3), np.uint8), 60)
    shown = np.asarray(decode(overlay(mask, VOC, size)).convert("RGBA"))
    assert shown[0, 0, 3] == 0
    assert tuple(shown[12, 15, :3]) == class_colour(VOC, 3)
    assert 0 < shown[12, 15, 3] < shown[5, 15, 3] == 255  # translucent inside, solid outline
    assert tuple(shown[30, 40, :3]) == (255, 255, 255)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 3)])
def test_thumbnails_of_odd_sizes(shape: tuple[int, int]) -> None:
    uri, size = thumbnail(np.zeros((*shape, 3), np.uint8), 100)
    assert max(size) <= 100
    assert decode(uri).size == size
    assert decode(overlay(np.ones(shape, np.uint8), VOC, size)).size == size


def test_every_class_of_a_space_has_its_own_colour() -> None:
    for space in (VOC, load_label_space("coco"), load_label_space("camvid"), LabelSpace.from_names(["a", "b"])):
        assert len({class_colour(space, i) for i in space.ids}) == len(space.ids)


def test_nothing_kept_and_nothing_there(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", shards=1, rows=3, rejects=0, duplicates=False)
    run.keep(set())
    assert "<b>0</b> of 3 samples kept" in page(run)
    empty = make_run(tmp_path / "empty", shards=0)
    assert "<b>0</b> of 0 samples kept" in page(empty)


def test_sample_without_mask_is_shown(tmp_path: Path) -> None:
    from maskmill.data_contracts import SAMPLE, read_shard

    run = make_run(tmp_path / "run", shards=1, rows=3, rejects=0)
    path = f"{run.path}/samples/shard-00000.parquet"
    rows = [{**row, "mask": None, "class_ids": []} for row in read_shard(path, SAMPLE).to_pylist()]
    write_shard(path, SAMPLE.table(rows), SAMPLE, stage="ingest", fingerprint="x")
    assert 'class="overlay"' not in page(run)


def test_tables_carry_no_pixels_and_no_embeddings(run: FakeRun) -> None:
    rows = load_tables(run.path).rows
    assert rows.height == 18
    assert not {"image", "mask", "embedding"} & set(rows.columns)
    assert rows["sample_id"].is_sorted()
    assert isinstance(rows.schema["class_ids"], pl.List)
    assert make_sample(np.random.default_rng(0), VOC)["sample_id"] not in set(rows["sample_id"])
