"""A browser without a window, and reports of small runs to open in it."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from maskmill.pipelines.cli.review import open_desk
from maskmill.pipelines.core.settings import save_settings
from maskmill.pipelines.report import ReportConfig, write_report
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.run.review import Desk
from tests.factories import FakeRun, make_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]


def chromium() -> str:
    """Path of the browser; without one the test is skipped."""
    found = os.environ.get("MASKMILL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no browser: apt-get install chromium, or set MASKMILL_CHROMIUM to one")
    return found


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Chromium as the system installs it (MASKMILL_CHROMIUM names another one); without one the tests are skipped."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
    found = chromium()
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


def open_page(browser: "Browser", url: str, expected: str = "\0", **context: object) -> "Iterator[Page]":
    """A page that is ready. At its end: no error but those that hold `expected`, and nothing loaded from elsewhere."""
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
    assert [words for words in wrong if expected not in words] == []


def config_of(run: FakeRun, **report: object) -> RunConfig:
    """A config such as the run could have been made with; it is also written beside the data."""
    source = {"kind": "folder", "root": "elsewhere"}
    config = RunConfig.model_validate(
        {"name": "Shapes", "run_dir": run.path, "label_space": run.space, "source": source, "report": report}
    )
    save_settings(config, run.path)
    return config


@contextmanager
def served(config: RunConfig, who: str = "anna") -> Iterator[str]:
    """Address of a review of the run, in this process."""
    server, url = open_desk(Desk(config, who))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def wrongs(page: "Page") -> list[str]:
    """What axe-core finds on the page as it stands that keeps people out: rule, element, what is wrong."""
    package = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed (extra: dev)")
    page.evaluate(next(Path(package.__path__[0]).rglob("axe.min.js")).read_text(encoding="utf-8"))
    told = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    assert len(told["passes"]) > 10, "it looked at the page"
    serious = [one for one in told["violations"] if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {node['html'][:120]} {node['failureSummary']}" for one in serious for node in one["nodes"]]
