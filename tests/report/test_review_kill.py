"""A real folder's run, judged in a browser; server and browser are killed; the next run honours what was said."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from maskmill.data_contracts import DECISION, read_shard
from maskmill.pipelines.core.ledger import Ledger
from maskmill.pipelines.core.verdicts import read_journal
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.run import run
from maskmill.pipelines.run.timings import read_times
from tests.pipelines.ingest_sets import make_folder
from tests.pipelines.test_cli import TINY
from tests.report.conftest import ARGS, chromium, open_page, wrongs

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Eight photos of a folder, of which scores keep half."""
    home = tmp_path_factory.mktemp("real")
    make_folder(home / "set", list("abcdefgh"))
    sets = {"source.root": str(home / "set"), "run_dir": str(home / "run"), "label_space": ["cat", "dog"], **TINY}
    keep = {"select.min_score": None, "select.image_score_tau": None, "select.rho": 0.5}
    config = load_run_config("folder", {**sets, **keep, "export": [{"format": "hf"}]})
    run(config)
    return config


def start(config: RunConfig) -> tuple["subprocess.Popen[str]", str]:
    """`maskmill review` in a process of its own, and the address that it prints."""
    command = [sys.executable, "-m", "maskmill", "review", config.run_dir, "--who", "anna"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    line = server.stdout.readline()
    assert "http://127.0.0.1:" in line, line
    return server, "http" + line.partition("http")[2].split()[0]


def own_browser(profile: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A Chromium that can be killed, and the address of its tools."""
    command = [chromium(), *ARGS, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    try:
        yield process, next(line.split()[-1] for line in process.stderr if "DevTools listening on" in line)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_killed_server_and_browser_lose_nothing_that_was_acknowledged(
    real: RunConfig, browser: "Browser", tmp_path: Path
) -> None:
    server, url = start(real)
    for process, tools in own_browser(tmp_path / "profile"):
        page = browser.browser_type.connect_over_cdp(tools).new_page()
        page.goto(url)
        page.wait_for_selector("html[data-ready=yes]")
        page.click("[data-filter=kept]")
        page.click("#grid .shot >> nth=0")
        rejected = page.inner_text("#view-facts code")
        page.keyboard.press("r")
        page.wait_for_function("() => UNSENT.size === 0")
        page.keyboard.press("n")
        page.keyboard.type("never saved, so never said to be")
        os.killpg(process.pid, signal.SIGKILL)
    server.kill()
    server.wait()
    assert [(v.sample_id, v.verdict, v.who) for v in read_journal(real.run_dir)] == [(rejected, "reject", "anna")]

    server, url = start(real)
    try:
        for page in open_page(browser, url):
            assert page.locator(f"#grid .card[data-id='{rejected}'] .said").inner_text() == "rejected by a person"
            assert "1 verdict is new" in page.inner_text("#desk-state")
            run(real)
            page.reload()
            page.wait_for_selector("html[data-ready=yes]")
            assert page.inner_text("#desk-state") == "Selection honours all that was said."
            card = page.locator(f"#grid .card[data-id='{rejected}']")
            assert card.get_attribute("data-reason") == "rejected_in_review", "the page is that of the new decisions"
    finally:
        server.kill()
        server.wait()
    rows = {row["sample_id"]: row for row in read_shard(f"{real.run_dir}/decisions.parquet", DECISION).to_pylist()}
    assert rows[rejected]["reason"] == "rejected_in_review"
    assert Ledger.read(f"{real.run_dir}/ledger.json").counts["rejected_in_review"] == 1
    assert "Judged by 1 person: 1 sample (1 rejected)." in Path(real.run_dir, "export/hf/README.md").read_text()


def test_the_report_of_a_real_folder(real: RunConfig, browser: "Browser") -> None:
    for page in open_page(browser, Path(real.run_dir, "report/index.html").absolute().as_uri()):
        page.fill("#search", "c.jpg")
        assert page.locator("#grid .card").count() == 1
        assert page.inner_text("#grid .file").endswith("c.jpg")
        page.click("#reset")
        page.click("[data-filter=kept]")
        assert set(page.eval_on_selector_all("#grid .card", "all => all.map((c) => c.dataset.reason)")) == {"kept"}
        page.select_option("#sort", "worst:image_score")
        slider = page.locator("[data-column=image_score] input")
        slider.fill("200")
        assert "--set select.image_score_tau=" in page.inner_text("[data-column=image_score] code")
        page.click("#grid .shot >> nth=0")
        assert "maskmill explain" in page.inner_text("#view-commands")
        page.click("#close")
        speed = page.inner_text("#speed")
        assert "score" in speed
        assert "BARE MODEL" in speed.upper()
        assert wrongs(page) == []
        page.emulate_media(media="print")
        assert page.is_hidden("#tools")
        assert len(page.pdf()) > 20_000
    time = read_times(real.run_dir)["score"]
    assert time.bare is not None
    assert time.share is not None
    assert time.device in ("cpu", "cuda")


def test_a_folder_of_somebody_else_is_looked_at_but_not_judged(real: RunConfig, tmp_path: Path) -> None:
    """The report of a run opens from any folder, without a server."""
    shutil.copytree(real.run_dir, tmp_path / "copy")
    html = (tmp_path / "copy/report/index.html").read_text()
    assert "connect-src" not in html
    assert 'id="judge"' not in html
