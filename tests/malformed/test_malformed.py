"""Hundreds of malformed inputs: each is turned away in words, in little memory, and none hangs or stops the next."""

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("rasterio", reason="GeoTIFF needs rasterio")

from tests.malformed.harness import CASES, MOST

IN_WORDS = ("ValueError", "FileNotFoundError", "KeyError", "SourceFaultError")  # errors whose text a person is shown


@pytest.fixture(scope="session")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What every case came to; a case that ended its process is left out, and the rest goes on without it."""
    out = tmp_path_factory.mktemp("malformed") / "said.jsonl"
    out.touch()
    env = {**os.environ, "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"}
    first = 0
    while first < len(CASES):
        command = [sys.executable, "-m", "tests.malformed.harness", str(first), str(out)]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        done = [json.loads(line)["name"] for line in out.read_text().splitlines()]
        if ended.returncode == 0:
            break
        last = first + len(done[first:]) if done else first
        names = [case.name for case in CASES]
        last = names.index(done[-1]) + 1 if done and names.index(done[-1]) >= first else first
        with out.open("a") as lines:
            lost = {"kept": 0, "lines": [], "error": f"died: {ended.returncode}: {ended.stderr[-2000:]}", "kind": ""}
            lines.write(json.dumps({"name": names[last], **lost, "grown": 0, "seconds": 0}) + "\n")
        first = last + 1
    return {line["name"]: line for line in map(json.loads, out.read_text().splitlines())}


def test_the_table_is_long_and_every_name_is_its_own() -> None:
    names = [case.name for case in CASES]
    assert len(names) >= 200
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_turned_away_in_words(said: dict[str, dict[str, Any]], case: Any) -> None:
    found = said[case.name]
    assert found["grown"] < MOST * case.share, f"{found['grown'] >> 20} MB"
    if found["error"]:
        assert set(found["kind"].split()) & set(IN_WORDS), f"{found['kind']}: {found['error'][:1000]}"
        assert re.search(case.expected, found["error"], re.DOTALL), found["error"][:1000]
        return
    lines = [*found["lines"], *(["kept"] if found["kept"] else [])]
    assert any(re.search(case.expected, line, re.DOTALL) for line in lines), lines[:5]
    for line in found["lines"]:
        assert re.search("expected .* found .* Fix: ", line, re.DOTALL), line
        assert len(line) < 2000
        assert "Error (" not in line, f"nobody thought of it: {line}"


def test_what_is_said_names_the_place(said: dict[str, dict[str, Any]]) -> None:
    """A file by its path, a folder, or the option that was given."""
    place = re.compile(r"/\w|--set|folder|\b\w+\.(yaml|json)")
    nameless = [name for name, found in said.items() if found["error"] and not place.search(found["error"])]
    assert not nameless
