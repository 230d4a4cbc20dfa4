"""What a person does with the report, in a real browser: sort, search, filter, slide, open, with keys, on a phone."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from maskmill.data_contracts import DECISION, SAMPLE, SCORE, LabelSpace, content_id, read_shard, write_shard
from tests.factories import FakeRun, make_run, write_decisions
from tests.report.conftest import open_page, written, wrongs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCRIPT_SECOND = 1000  # milliseconds for 10,000 samples, the best of a few tries


def ids(page: "Page") -> list[str]:
    """Ids of the cards in the list, in order."""
    return page.eval_on_selector_all("#grid .card", "cards => cards.map(card => card.dataset.id)")


def first_shard(run: FakeRun) -> list[dict[str, object]]:
    return read_shard(f"{run.path}/scores/shard-00000.parquet", SCORE).to_pylist()


def scores_of(run: FakeRun, column: str) -> dict[str, float]:
    shards = sorted(Path(run.path, "scores").glob("*.parquet"))
    rows = [row for path in shards for row in read_shard(str(path), SCORE).to_pylist()]
    return {row["sample_id"]: row[column] for row in rows}


def test_the_worst_come_first_by_score_and_by_margin(opened: "Page", run: FakeRun) -> None:
    asf = scores_of(run, "asf")
    opened.select_option("#sort", "worst:asf")
    assert ids(opened) == sorted(asf, key=lambda i: (round(asf[i], 5), i))[:60]
    opened.select_option("#sort", "best:asf")
    assert ids(opened)[0] == max(asf, key=lambda i: asf[i])
    entropy = scores_of(run, "h_orig")
    opened.select_option("#sort", "worst:h_orig")
    assert ids(opened)[0] == max(entropy, key=lambda i: entropy[i]), "of entropy the highest is worst"
    opened.select_option("#sort", "margin")
    decided = {
        str(d["sample_id"]): d for d in run.decisions if d["score"] is not None and d["reason"] != "near_duplicate"
    }
    below = {i: float(str(d["score"])) - float(str(d["threshold"])) for i, d in decided.items()}
    assert ids(opened)[0] == min(below, key=lambda i: below[i])


def test_search_finds_by_id_and_by_file_name(opened: "Page", run: FakeRun) -> None:
    sample_id, row = next(iter(run.rows.items()))
    name = str(row["provenance"]["source_path"])  # type: ignore[index]
    opened.fill("#search", name.upper())
    assert ids(opened) == [sample_id]
    opened.fill("#search", sample_id[:10])
    assert ids(opened) == [sample_id]
    opened.fill("#search", "no such sample")
    assert ids(opened) == []
    assert opened.inner_text("#found").startswith("0 of 72")
    opened.click("#reset")
    assert opened.inner_text("#found").startswith("72 of 72")


def test_filters_by_reason_class_and_score_hold_together(opened: "Page", run: FakeRun) -> None:
    by_reason = {str(d["sample_id"]): d["reason"] for d in run.decisions}
    opened.click("[data-filter=low_asf]")
    assert {by_reason[i] for i in ids(opened)} == {"low_asf"}
    assert "does not cover" in opened.inner_text("#reason-words")
    opened.click("[data-filter=kept]")
    assert len(ids(opened)) == min(60, sum(r in ("low_asf", "kept") for r in by_reason.values()))
    opened.select_option("#class", label=(wanted := run.space.by_id[run.space.ids[0]]).name)
    chosen = ids(opened)
    assert chosen
    assert all(wanted.id in run.rows[i]["class_ids"] for i in chosen)  # type: ignore[operator]
    opened.select_option("#range-score", "asf")
    opened.fill("#low", "0.4")
    opened.fill("#high", "0.7")
    asf = scores_of(run, "asf")
    assert set(ids(opened)) == {i for i in chosen if 0.4 <= round(asf[i], 5) <= 0.7}


def test_a_reload_shows_the_same_list(opened: "Page") -> None:
    opened.click("[data-filter=low_asf]")
    opened.select_option("#sort", "worst:asf")
    opened.fill("#search", "jpg")
    before = ids(opened)
    assert before
    opened.reload()
    opened.wait_for_selector("html[data-ready=yes]")
    assert ids(opened) == before
    assert opened.get_attribute("[data-filter=low_asf]", "aria-pressed") == "true"
    opened.click("#reset")
    opened.reload()
    opened.wait_for_selector("html[data-ready=yes]")
    assert opened.inner_text("#found").startswith("72 of 72")


def test_an_address_of_nonsense_is_no_error(browser: "Browser", report: str) -> None:
    for page in open_page(browser, f"{report}#samples?sort=no-such&reason=<b>&class=99&low=x"):
        assert page.inner_text("#found").startswith("72 of 72")


def test_more_than_a_page_is_a_button_away(opened: "Page") -> None:
    assert len(ids(opened)) == 60
    opened.click("#more")
    assert len(set(ids(opened))) == 72
    assert opened.is_hidden("#more")


def test_a_slider_counts_what_would_stay_and_gives_the_words_to_set(opened: "Page", run: FakeRun) -> None:
    panel = opened.locator("[data-column=asf]")
    for place in (0, 77, 140, 200):
        panel.locator("input").fill(str(place))
        code, said = panel.locator("code").inner_text(), panel.locator("output").inner_text()
        found = re.fullmatch(r"--set select\.min_score=([\d.]+)", code)
        assert found, code
        limit, asf = float(found.group(1)), scores_of(run, "asf")
        stay = sum(asf[i] >= limit for i in run.kept)
        away = [str(d["sample_id"]) for d in run.decisions if d["reason"] == "low_asf"]
        back = sum(asf[i] >= limit for i in away)
        range_ = f"{stay} to {stay + back}" if back else f"{stay}"
        assert f"at least {limit:g}: {range_} of 72 would stay. {stay} of the {len(run.kept)} kept now pass" in said
    assert "select.pcs_tau=" in opened.locator("[data-column=image_score] code").inner_text(), "PCS ranks images here"


def test_commands_can_be_copied(browser: "Browser", report: str) -> None:
    for page in open_page(browser, report, permissions=["clipboard-read", "clipboard-write"]):
        panel = page.locator("[data-column=asf]")
        panel.locator(".copy").click()
        page.wait_for_function("() => document.querySelector('[data-column=asf] .copy').textContent === 'copied'")
        assert page.evaluate("navigator.clipboard.readText()") == panel.locator("code").inner_text()


def test_a_sample_at_large(opened: "Page", run: FakeRun) -> None:
    keeper, pair = (run.decisions[n]["sample_id"] for n in (0, 1))
    opened.fill("#search", str(pair))
    opened.click("#grid .shot")
    view = opened.locator("#view")
    assert view.is_visible()
    text = view.inner_text()
    row = run.rows[str(pair)]
    for part in (pair, row["provenance"]["source_path"], "a drawing of shapes", "near duplicate", "0.981", "0.950"):  # type: ignore[index]
        assert str(part) in text
    assert f"maskmill explain {run.path} {pair}" in text
    assert f"maskmill regenerate {run.path}/config.json {pair}" in text
    view.locator("summary", has_text="ASF").click()
    assert "overlap of the sample's mask" in view.inner_text()
    view.locator(".near").click()
    assert str(keeper) in view.inner_text(), "a neighbour is a click away"


DRAWN = """() => {  // whether the canvas holds outlines, and whether regions
  const { width, height } = document.getElementById("view-mask");
  const { data } = document.getElementById("view-mask").getContext("2d").getImageData(0, 0, width, height);
  const found = new Set();
  for (let at = 3; at < data.length; at += 4) found.add(data[at]);
  return [found.has(255), [...found].some((alpha) => alpha > 0 && alpha < 255)];
}"""


def test_the_mask_lies_over_the_image_in_layers(opened: "Page") -> None:
    opened.click("#grid .shot")
    opened.wait_for_function("() => document.getElementById('view-mask').width > 0")
    for layer, edges, regions in (("outline", True, False), ("mask", False, True), ("both", True, True)):
        opened.check(f"#layers input[value={layer}]")
        opened.wait_for_function(
            f"() => JSON.stringify(({DRAWN})()) === '{json.dumps([edges, regions], separators=(',', ':'))}'"
        )
    opened.check("#layers input[value=none]")
    assert opened.is_hidden("#view-mask")


def test_keys_alone_do_all_of_it(opened: "Page") -> None:
    key = opened.keyboard.press
    key("/")
    opened.keyboard.type("jpg")
    assert opened.evaluate("document.activeElement.id") == "search"
    order = ids(opened)
    while not opened.evaluate("document.activeElement.matches('#grid .shot')"):
        key("Tab")
    key("ArrowRight")
    key("ArrowDown")
    key("ArrowUp")
    key("Enter")
    title = opened.inner_text("#view-facts code")
    assert title == order[1]
    key("ArrowRight")
    assert opened.inner_text("#view-facts code") == order[2]
    key("m")
    assert opened.is_hidden("#view-mask")
    key("m")
    key("Escape")
    assert opened.is_hidden("#view")
    assert opened.evaluate("document.activeElement.closest('.card').dataset.id") == order[1], "back where one was"
    opened.focus("[data-column=asf] input")
    before = opened.locator("[data-column=asf] code").inner_text()
    key("ArrowRight")
    assert opened.locator("[data-column=asf] code").inner_text() != before


def test_a_phone_shows_all_of_it_by_touch(browser: "Browser", report: str) -> None:
    phone = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True, "color_scheme": "dark"}
    for page in open_page(browser, report, **phone):
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.tap("#grid .shot >> nth=1")
        assert page.is_visible("#view")
        assert page.evaluate("document.getElementById('view').scrollWidth") <= 390
        page.tap("#next")
        assert page.inner_text("#view-facts code") == ids(page)[2]
        page.tap("#close")
        assert page.is_hidden("#view")


def test_prints_with_pictures_and_without_tools(opened: "Page") -> None:
    opened.emulate_media(media="print")
    assert opened.evaluate("[...document.querySelectorAll('#grid img')].every(i => i.complete && i.naturalWidth > 0)")
    assert opened.locator("#grid img").count() > 60
    assert opened.is_hidden("#tools")
    assert opened.is_hidden("nav")
    assert len(opened.pdf()) > 50_000
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.is_visible("#samples .term p >> nth=0"), "words are printed open"
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.is_hidden("#samples .term p >> nth=0")


HOSTILE = (
    "<img src=x onerror=alert(1)>.jpg",
    "</script><script>alert(2)</script>.jpg",
    "\"><svg onload=alert(3)>'.jpg",
    "{{7*7}}{% raw %}<!--<script>.jpg",
    "a\u2028b&lt;b&gt;\\u003cscript\\u003e.jpg",
)


def test_hostile_names_stay_names(browser: "Browser", tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", shards=1, rows=len(HOSTILE), space=LabelSpace.from_names(["<b>bold</b>", "x"]))
    path = f"{run.path}/samples/shard-00000.parquet"
    rows = read_shard(path, SAMPLE).to_pylist()
    for name, row in zip(HOSTILE, rows, strict=True):
        row["provenance"] |= {"source_path": name, "prompt": name, "model_id": name, "source": name}
    write_shard(path, SAMPLE.table(rows), SAMPLE, stage="ingest", fingerprint="hostile")
    for decision in run.decisions:
        decision["detail"] = HOSTILE[1]
    write_decisions(run.path, run.decisions)
    for page in open_page(browser, written(run)):
        assert set(page.locator("#grid .file").all_text_contents()) == set(HOSTILE)
        for number in range(len(HOSTILE)):
            page.click(f"#grid .shot >> nth={number}")
            assert any(name in page.locator("#view-facts").text_content() for name in HOSTILE)  # type: ignore[operator]
            page.click("#close")
        assert page.locator("script").count() == 2
        assert page.locator("img[src=x]").count() == 0
        assert page.locator("svg:not(.figure)").count() == 0
        assert page.locator("b", has_text="bold").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_matters(browser: "Browser", report: str, scheme: str) -> None:
    for page in open_page(browser, report, color_scheme=scheme):
        assert wrongs(page) == []
        page.click("#grid .shot >> nth=1")
        assert wrongs(page) == []


def test_no_script_but_the_page_s_own_runs(browser: "Browser", report: str) -> None:
    held = browser.new_context()
    page = held.new_page()
    page.goto(report)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<i onclick=\"window.ran = 1\" id=hit>x</i>')")
    page.evaluate("document.getElementById('hit').click()")
    page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 2'; document.body.append(s)"
    )
    assert page.evaluate("window.ran === undefined")
    held.close()


def many(path: Path, count: int) -> FakeRun:
    """A run of `count` samples that share the pixels of one."""
    run = make_run(path, shards=1, rows=2, rejects=0, duplicates=False, size=(24, 24))
    sample = run.samples[0][0]
    score = first_shard(run)[0]
    names = [content_id(str(n)) for n in range(count)]
    samples = [
        {**sample, "sample_id": i, "provenance": {**sample["provenance"], "source_path": f"photos/{n:05d}.jpg"}}
        for n, i in enumerate(names)
    ]  # type: ignore[dict-item]
    scores = [
        {**score, "sample_id": i, "asf": int(i[:4], 16) / 65536, "image_score": int(i[4:8], 16) / 65536} for i in names
    ]
    decisions = [
        {**run.decisions[0], "sample_id": i, "kept": True, "reason": "kept", "score": None, "threshold": None}
        for i in names
    ]
    for folder, rows, contract in (("samples", samples, SAMPLE), ("scores", scores, SCORE), ("rejects", [], DECISION)):
        counts = {"kept": count} if folder != "scores" else None
        write_shard(
            f"{path}/{folder}/shard-00000.parquet",
            contract.table(rows),
            contract,
            stage=folder,
            fingerprint=folder,
            counts=counts,
        )  # type: ignore[arg-type]
    write_decisions(str(path), decisions)
    return FakeRun(str(path), run.space, [samples], decisions)  # type: ignore[list-item]


TIME_OF_AN_ANSWER = """() => {
  const start = performance.now();
  document.getElementById("tools").dispatchEvent(new Event("input"));
  return performance.now() - start;
}"""


def test_ten_thousand_samples_answer_within_a_second(browser: "Browser", tmp_path: Path) -> None:
    run = many(tmp_path / "run", 10_000)
    url = written(run)
    assert Path(run.path, "report/index.html").stat().st_size < 8_000_000
    for page in open_page(browser, url):
        assert page.inner_text("#found") == "10,000 of 10,000 samples"
        for change in ("sort.value = 'worst:asf'", "search.value = '0099'", "sort.value = 'file'"):
            page.evaluate(f"document.getElementById('tools').{change}")
            times = [page.evaluate(TIME_OF_AN_ANSWER) for _ in range(4)]
            assert min(times) < SCRIPT_SECOND, change
        assert page.locator("#grid .file").first.inner_text() == "photos/00099.jpg"


def test_without_its_script_the_page_still_shows_pictures(browser: "Browser", report: str) -> None:
    held = browser.new_context(java_script_enabled=False)
    page = held.new_page()
    page.goto(report)
    assert page.locator(".shelf .card img").count() > 12
    assert page.is_hidden("#tools")
    held.close()


LEAST_CONTRAST = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * r + 0.7152 * g + 0.0722 * b;
  const light = (colour) => luminance(numbers(colour).map(linear));
  const paper = light(getComputedStyle(document.querySelector(".card")).backgroundColor);
  const ratios = [...document.querySelectorAll(".note, .small, .verdict, td, th, summary, .badge")]
    .filter((each) => each.offsetParent && each.textContent.trim())
    .map((each) => light(getComputedStyle(each).color))
    .map((ink) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05));
  return Math.min(...ratios);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: "Browser", report: str, scheme: str) -> None:
    for page in open_page(browser, report, color_scheme=scheme):
        assert page.evaluate(LEAST_CONTRAST) >= 4.5
