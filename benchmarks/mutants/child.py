"""What a forked child does: run some tests in this warm process, and say which failed, how long each took, and which
lines each one ran.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutants.table import ROOT

#: What the tests of every room import and what takes long: never the house itself. Tables name what they need besides.
HEAVY = (
    *("torch", "cv2", "scipy.ndimage", "polars", "pyarrow.parquet", "pyarrow.compute", "PIL.Image", "pydantic"),
    *("fsspec", "yaml", "xxhash", "hypothesis.extra.numpy", "pytest"),
)
LINES_OF = ("data_contracts", "vision", "generators", "curation", "trainers", "labelers", "pipelines", "maskmill")


def warm(names: Iterable[str]) -> None:
    """Import what is heavy, so that children need not."""
    for name in (*HEAVY, *names):
        with contextlib.suppress(ImportError):
            __import__(name)


class Chosen:
    """A pytest plugin that keeps the chosen tests, and such as nobody knows, and takes notes."""

    def __init__(self, chosen: Set[str] | None, known: Set[str], coverage: Any = None) -> None:
        self.chosen, self.known, self.coverage = chosen, known, coverage
        self.failed: list[str] = []
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.chosen is not None:
            items[:] = [i for i in items if i.nodeid in self.chosen or i.nodeid not in self.known]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        if self.coverage is not None:
            self.coverage.switch_context(item.nodeid)
        started = time.perf_counter()
        found = yield
        self.seconds[item.nodeid] = round(time.perf_counter() - started, 3)
        return found

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.nodeid not in self.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def run_tests(files: list[str], plugin: Chosen, scratch: Path, *, stop: bool) -> int:
    """Pytest over these files in this process; its exit code."""
    options = ["-q", "-n0", "--no-header", "-p", "no:cacheprovider", "-p", "no:randomly", "--tb=short"]
    options += ["-x"] if stop else []
    return int(pytest.main([*options, f"--basetemp={scratch / 'tests'}", f"--rootdir={ROOT}", *files], [plugin]))


def map_file(file: str, scratch: Path, out: Path) -> int:
    """Run one file of tests and write which test runs which lines: `{"seconds", "failed", "lines"}`."""
    import coverage  # a development dependency, needed here alone

    folders = [str(ROOT / name) for name in LINES_OF]
    cover = coverage.Coverage(data_file=str(scratch / "coverage"), source=folders, config_file=False)
    cover.start()
    plugin = Chosen(None, frozenset(), cover)
    code = run_tests([file], plugin, scratch, stop=False)
    cover.stop()
    data = cover.get_data()
    lines = {
        os.path.relpath(path, ROOT): {str(n): contexts for n, contexts in data.contexts_by_lineno(path).items()}
        for path in data.measured_files()
    }
    out.write_text(json.dumps({"seconds": plugin.seconds, "failed": plugin.failed, "lines": lines}))
    return code
