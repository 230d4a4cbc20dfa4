"""A small run folder for tests of export, report and ledger."""

from pathlib import Path

import pytest

from tests.factories import FakeRun, make_run


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return make_run(tmp_path / "run", shards=3, rows=6, faults=True)
