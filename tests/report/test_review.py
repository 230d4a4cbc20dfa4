"""Judging samples in a real browser, by mouse, touch and keys; what a person said is there after a reload."""

import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from maskmill.pipelines.core.verdicts import Verdict, read_journal, read_reviewed
from maskmill.pipelines.run.review import Asked, Desk, ReviewError, check_place
from tests.factories import FakeRun, make_run
from tests.report.conftest import config_of, open_page, served, wrongs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture
def own(tmp_path: Path) -> FakeRun:
    """24 samples, of which the page holds few pictures."""
    return make_run(tmp_path / "run", shards=2, rows=12)


@pytest.fixture
def desk(own: FakeRun) -> Iterator[str]:
    with served(config_of(own)) as url:
        yield url


@pytest.fixture
def page(browser: "Browser", desk: str) -> "Iterator[Page]":
    yield from open_page(browser, desk)


def last(run: FakeRun) -> dict[str, Verdict]:
    reviewed = read_reviewed(run.path)
    return {} if reviewed is None else reviewed.verdicts


def wait_saved(page: "Page", words: str = "saved") -> None:
    """Wait until the server has acknowledged everything, the last of it with these words."""
    said = "words => UNSENT.size === 0 && document.getElementById('told').textContent.startsWith(words)"
    page.wait_for_function(said, arg=words)


def shown(page: "Page") -> str:
    return page.inner_text("#view-facts code")


def ids(page: "Page") -> list[str]:
    return page.eval_on_selector_all("#grid .card", "cards => cards.map(card => card.dataset.id)")


def test_by_mouse(page: "Page", own: FakeRun) -> None:
    first, second, *_ = ids(page)
    page.click("#grid .shot >> nth=0")
    page.fill("#why", "the mask does not fit")
    page.click("#reject")
    wait_saved(page)
    assert shown(page) == second, "the next one is there at once"
    assert page.input_value("#why") == ""
    page.uncheck("#advance")
    page.click("#keep")
    wait_saved(page, "saved: kept")
    assert shown(page) == second
    assert page.get_attribute("#keep", "aria-pressed") == "true"
    said = last(own)
    assert (said[first].verdict, said[first].why, said[first].who) == ("reject", "the mask does not fit", "anna")
    decided = next(d["reason"] for d in own.decisions if d["sample_id"] == first)
    assert said[first].decided == decided
    assert said[second].verdict == "keep"
    page.click("#close")
    assert page.locator(f".card[data-id='{first}'] .said").inner_text() == "rejected by a person"
    assert "2 verdicts are new" in page.inner_text("#desk-state")
    assert f"maskmill run {own.path}/config.json" in page.inner_text("#desk-command")


def test_by_keys_alone(page: "Page", own: FakeRun) -> None:
    key = page.keyboard.press
    order = ids(page)
    page.focus("#grid .shot >> nth=0")
    key("k")  # on a card of the list
    page.wait_for_selector(f".card[data-id='{order[0]}'] .said")
    key("ArrowRight")
    key("Enter")
    key("r")
    wait_saved(page, "saved: rejected")
    assert shown(page) == order[2]
    key("l")
    assert page.evaluate("document.activeElement.id") == "relabel-to"
    page.select_option("#relabel-to", label="cow")
    key("Enter")
    wait_saved(page, "saved: relabelled to cow")
    key("n")
    page.keyboard.type("look at this krone, later")
    key("Control+Enter")
    wait_saved(page, "saved: has a note")
    noted = shown(page)
    key("ArrowLeft")
    key("n")
    key("Escape")
    assert page.is_visible("#view"), "the first Esc closes the note, not the sample"
    key("Escape")
    assert page.is_hidden("#view")
    said = last(own)
    assert [said[i].verdict for i in order[:3]] == ["keep", "reject", "relabel"]
    cow = own.space.find("cow").id
    assert (said[order[2]].to_class_id, said[order[2]].to_class, said[order[2]].from_class_id) == (cow, "cow", None)
    assert (said[noted].verdict, said[noted].note) == ("none", "look at this krone, later")


def test_undo_goes_back_step_by_step(page: "Page", own: FakeRun) -> None:
    order = ids(page)
    page.click("#grid .shot >> nth=0")
    for word in ("k", "r"):
        page.keyboard.press(word)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("k")
    wait_saved(page, "saved: kept")
    assert last(own)[order[1]].verdict == "keep"
    page.keyboard.press("u")
    wait_saved(page, "saved: rejected")
    assert shown(page) == order[1], "one sees what is undone"
    for _ in range(2):
        page.keyboard.press("u")
    wait_saved(page, "saved: nothing")
    page.wait_for_function("() => document.querySelectorAll('.said').length === 0")
    assert last(own) == {}
    assert len(read_journal(own.path)) == 6, "the journal keeps all that was said"
    page.keyboard.press("u")
    assert page.inner_text("#told") == "nothing to undo"


def test_one_class_of_a_mask_can_be_another(browser: "Browser", own: FakeRun) -> None:
    several = next(i for i, row in own.rows.items() if len(row["class_ids"]) > 1)  # type: ignore[arg-type]
    part = own.rows[several]["class_ids"][1]  # type: ignore[index]
    with served(config_of(own)) as url:
        for page in open_page(browser, f"{url}#samples?search={several}"):
            page.click("#grid .shot")
            page.click("#relabel")
            assert page.locator("#relabel-from option").all_inner_texts()[0] == "everything in the mask"
            page.select_option("#relabel-from", str(part))
            page.select_option("#relabel-to", label="sheep")
            page.click("#relabel-go")
            wait_saved(page)
    assert last(own)[several].from_class_id == part


def test_a_reload_shows_what_was_said_and_the_list_can_be_asked_for_it(page: "Page", own: FakeRun) -> None:
    order = ids(page)
    page.focus("#grid .shot >> nth=3")
    page.keyboard.press("r")
    page.wait_for_selector(".said")
    page.reload()
    page.wait_for_selector("html[data-ready=yes]")
    assert page.locator(f".card[data-id='{order[3]}'] .said").inner_text() == "rejected by a person"
    page.select_option("#judged", "reject")
    assert ids(page) == [order[3]]
    page.select_option("#judged", "no")
    assert order[3] not in ids(page)
    assert len(ids(page)) == 23


def test_pictures_that_the_page_lacks_come_when_they_are_looked_at(browser: "Browser", tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", shards=2, rows=40)
    with served(config_of(run, per_reason=1, groups=0)) as url:
        for page in open_page(browser, url):
            bare = page.locator("#grid .card:has(.unpictured)")
            assert bare.count() > 20
            page.locator("#grid .card >> nth=30").scroll_into_view_if_needed()
            page.wait_for_function("() => document.querySelectorAll('#grid .card')[30].querySelector('img.overlay')")
            page.locator("#grid .shot >> nth=55").click()
            page.wait_for_function("() => document.getElementById('view-image').naturalWidth > 0")
            assert page.is_hidden("#no-picture")


def test_a_phone_judges_by_touch(browser: "Browser", desk: str, own: FakeRun) -> None:
    phone = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}
    for page in open_page(browser, desk, **phone):
        order = ids(page)
        page.tap("#grid .shot >> nth=0")
        for word in ("keep", "reject", "relabel", "note-open", "undo"):
            box = page.locator(f"#{word}").bounding_box()
            assert box is not None
            assert box["height"] >= 40, word
            assert box["x"] + box["width"] <= 390
        page.tap("#reject")
        wait_saved(page)
        assert page.evaluate("document.getElementById('view').scrollWidth") <= 390
    assert last(own)[order[0]].verdict == "reject"


def test_what_could_not_be_saved_is_said_and_tried_again(
    browser: "Browser", desk: str, own: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    for page in open_page(browser, desk, expected="507"):
        fail_and_try_again(page, own, monkeypatch)


def fail_and_try_again(page: "Page", own: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("maskmill.pipelines.core.verdicts.os.fsync", full)
        page.click("#grid .shot >> nth=0")
        page.keyboard.press("k")
        page.wait_for_selector("#unsent:not([hidden])")
        assert "No space left" in page.inner_text("#unsent-words")
        assert page.locator(".said").count() == 0, "nothing is called saved that is not"
    page.click("#try-again")
    wait_saved(page)
    assert page.is_hidden("#unsent")
    assert [v.verdict for v in last(own).values()] == ["keep"]


def test_hostile_names_and_notes_stay_text(browser: "Browser", own: FakeRun) -> None:
    hostile = "</script><img src=x onerror=alert(1)>{{7*7}}"
    config = config_of(own)
    desk = Desk(config, hostile)
    desk.judge(Asked(sample_id=next(iter(own.rows)), verdict="reject", why=hostile, note=hostile))
    with served(config, hostile) as url:
        for page in open_page(browser, f"{url}#samples?judged=reject"):
            page.click("#grid .shot")
            assert page.inner_text("#view-said").count(hostile) == 3
            assert page.locator("img[src=x]").count() == 0
            assert page.locator("script").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_matters(browser: "Browser", desk: str, scheme: str) -> None:
    for page in open_page(browser, desk, color_scheme=scheme):
        page.focus("#grid .shot >> nth=0")
        page.keyboard.press("k")
        page.wait_for_selector(".said")
        assert wrongs(page) == []
        page.click("#grid .shot >> nth=0")
        for key in ("l", "n"):
            page.keyboard.press(key)
            page.wait_for_timeout(50)
            assert wrongs(page) == []
            page.keyboard.press("Escape")


# The server


def request(url: str, method: str = "GET", place: str = "", body: Any = None, **headers: str) -> tuple[int, Any]:
    host, _, token = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=10)
    path = place if place.startswith("/") else f"/{token}{place}"
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request(method, path, None if body is None else json.dumps(body), sent)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data if method == "GET" and not place else json.loads(data)


def test_other_sites_can_neither_read_nor_write(desk: str, own: FakeRun) -> None:
    verdict = {"sample_id": next(iter(own.rows)), "verdict": "reject"}
    port = desk.split(":")[2].split("/")[0]
    assert request(desk, "GET", "/")[0] == 404
    assert request(desk, "GET", "/wrong/verdicts")[0] == 404
    assert request(desk, "GET", "verdicts", Host=f"evil.example:{port}")[0] == 421
    assert request(desk, "POST", "verdicts", verdict, Host=f"evil.example:{port}")[0] == 421
    assert request(desk, "POST", "verdicts", verdict, Origin="https://evil.example")[0] == 403
    assert request(desk, "POST", "verdicts", verdict, Origin="null")[0] == 403
    assert request(desk, "POST", "verdicts", verdict, Content_Type="text/plain")[0] == 415
    assert request(desk, "POST", "/verdicts", verdict)[0] == 404
    assert request(desk, "POST", "verdicts", {"note": "x" * 100_000})[0] == 413
    assert last(own) == {}
    assert request(desk, "POST", "verdicts", verdict, Origin=f"http://127.0.0.1:{port}")[0] == 200
    assert request(desk, "GET", "picture/../../config.json")[0] == 404
    with served(config_of(own)) as again:
        assert again.rpartition("/")[0].rpartition("/")[2] != desk.rpartition("/")[0].rpartition("/")[2]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"verdict": "burn"}, "verdict"),
        ({"verdict": "keep", "who": "eve"}, "who"),
        ({"verdict": "relabel"}, "which class"),
        ({"verdict": "relabel", "to_class_id": 77}, "class 77: not in label space"),
        ({"verdict": "relabel", "to_class_id": 1, "from_class_id": 250}, "shows no class 250"),
        ({"verdict": "keep", "sample_id": "nobody"}, "no sample of this run"),
    ],
)
def test_what_is_no_verdict_is_refused_in_words(desk: str, own: FakeRun, wrong: dict[str, Any], words: str) -> None:
    status, told = request(desk, "POST", "verdicts", {"sample_id": next(iter(own.rows)), **wrong})
    assert status == 400
    assert words in told["error"]
    assert last(own) == {}


def test_the_page_says_what_it_may_do(desk: str) -> None:
    host, _, token = desk.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("GET", f"/{token}")
    answer = connection.getresponse()
    html = answer.read().decode()
    policy = answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert policy.split("script-src ")[1].split(";")[0] in html, "one script, the page's own"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_places_where_nothing_can_be_stored_are_refused_in_words(own: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReviewError, match=r"object store cannot do. Copy the run folder"):
        check_place("memory://bucket/run")
    with pytest.raises(FileNotFoundError, match="expected a run folder"):
        check_place(f"{own.path}/no-such")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ReviewError, match=r"may not be written.*maskmill serve"):
        check_place(own.path)


def test_a_run_without_decisions_is_sent_back(own: FakeRun) -> None:
    Path(own.path, "decisions.parquet").unlink()
    with pytest.raises(ReviewError, match="nothing is decided there yet"):
        Desk(config_of(own), "anna")
