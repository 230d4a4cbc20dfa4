"""A browser without a window, and reports of small runs to open in it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from maskmill.pipelines.report import ReportConfig, write_report
from tests.factories import FakeRun, make_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Chromium as the system installs it (MASKMILL_CHROMIUM names another one); without one the tests are skipped."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
    found = os.environ.get("MASKMILL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no browser: apt-get install chromium, or set MASKMILL_CHROMIUM to one")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=ARGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """72 samples: more than one page of the list."""
    return make_run(tmp_path_factory.mktemp("report") / "run", shards=4, rows=18, faults=True)


@pytest.fixture(scope="module")
def report(run: FakeRun) -> str:
    return written(run)


def written(run: FakeRun, **options: object) -> str:
    """URL of the run's report, written anew."""
    path = write_report(run.path, ReportConfig.model_validate(options), run.space, title="Shapes")
    return Path(path).absolute().as_uri()


@pytest.fixture
def opened(browser: "Browser", report: str) -> "Iterator[Page]":
    """The report of `run` on a desk; its script has run, without an error, and nothing else was loaded."""
    yield from open_page(browser, report)


def open_page(browser: "Browser", url: str, **context: object) -> "Iterator[Page]":
    held = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})  # type: ignore[arg-type]
    page = held.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("console", lambda message: wrong.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    own = ("data:", url.partition("#")[0])
    page.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
    page.goto(url)
    page.wait_for_selector("html[data-ready=yes]")
    yield page
    held.close()
    assert wrong == []
