"""A newcomer's first hour: every command ends as it must, and docs/tutorial.md shows these commands and their words."""

import re
from pathlib import Path

import pytest

from tests.first_hour.newcomer import SCHEDULE, STEPS, act, prepare, schedule
from tests.first_hour.schedule import ROOT, lines

pytestmark = pytest.mark.slow

SAID = {  # words of a step: what must be among its words
    "as it is": "label_space: not given",
    "copied, with a word": "report: runs/pets/report/index.html",
    "done twice": "all done",
    "typing error": "did you mean select.rho?",
    "What differs": "config select.rho: 1.0 → 0.5",
    "in the folder that is there": "score: 1 of 1 done, 1 of them already",
    "Why was this": "source: folder images/00.jpg",
    "0 and 255": "source.remap={255: 1}",
    "CCP": "report: runs/ccp/report/index.html",
    "DAVIS": "source.images=JPEGImages",
    "Ctrl-C": "of score (two seconds at most; Ctrl-C again stops at once). What is done stays done: the same command",
    "goes on": "report: runs/long/report/index.html",
    "every byte": "0 are damaged",
    "segmenter on what": "artifact: runs/segmenter/artifact",
    "Its masks": "12 of 12 photos",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hour")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def hour(home: Path) -> dict[str, str]:
    """What was seen, by the words of the step."""
    return {step.words: f"$ {typed}\n{seen}" for step, typed, seen in act(home)}


@pytest.mark.parametrize("about", SAID)
def test_every_step_ends_as_it_must_and_says_what_helps(hour: dict[str, str], about: str) -> None:
    assert len(hour) == len(STEPS)
    seen = next(words for step, words in hour.items() if about in step)
    assert SAID[about] in seen
    assert "Traceback" not in seen


def test_the_block_of_the_readme_works_without_a_terminal(home: Path, hour: dict[str, str]) -> None:
    _, said = schedule(home)
    assert "deployed curate-synthetic/nightly" in said
    assert re.search(r"Flow run finished .*'Completed'", said)


def test_the_tutorial_shows_these_commands() -> None:
    page = Path(ROOT, "docs", "tutorial.md").read_text()
    for step in STEPS:
        assert step.words in page
        assert step.command.split("{")[0].strip() in page
    assert SCHEDULE in page
    assert all(f"$ {line}" in page for line in lines("nightly"))
