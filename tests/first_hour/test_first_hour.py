"""A newcomer's first hour: every command ends as it must, and docs/tutorial.md shows these commands and their words."""

from pathlib import Path

import pytest

from tests.first_hour.newcomer import ROOT, STEPS, act, prepare

Seen = dict[str, str]


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What was seen, by the words of the step."""
    home = tmp_path_factory.mktemp("hour")
    prepare(home)
    return {step.words: f"$ {typed}\n{seen}" for step, typed, seen in act(home)}


def test_every_step_ends_as_it_must_and_says_what_helps(hour: Seen) -> None:
    seen = list(hour.values())
    assert len(seen) == len(STEPS)
    assert "label_space: not given" in seen[0]
    assert "report: runs/pets/report/index.html" in seen[1]
    assert "all done" in seen[2]
    assert "did you mean select.rho?" in seen[3]
    assert "config select.rho: 1.0 → 0.5" in seen[5]
    assert "source: folder images/00.png" in seen[6]
    assert "source.remap={255: 1}" in seen[7]
    assert not any("Traceback" in words for words in seen)


def test_the_tutorial_shows_these_commands() -> None:
    page = Path(ROOT, "docs", "tutorial.md").read_text()
    for step in STEPS:
        assert step.words in page
        assert step.command.split("{")[0].strip() in page
