"""Export and report as steps of a run: any order of units, any number of threads, and nothing to do the second time."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.run.export_step import ExportStep
from maskmill.pipelines.run.report_step import ReportStep
from maskmill.pipelines.run.steps import open_step
from tests.factories import FakeRun
from tests.pipelines.test_export_runner import tree


@pytest.fixture
def config(run: FakeRun) -> RunConfig:
    source = {"kind": "folder", "root": "photos"}
    export = [{"format": "coco", "splits": {"train": 0.5, "val": 0.5}}, {"format": "hf"}]
    return RunConfig.model_validate(
        {"name": "shapes", "run_dir": run.path, "label_space": "voc", "source": source, "export": export}
    )


def test_units_in_reverse_and_on_threads_do_everything_once(config: RunConfig) -> None:
    step = open_step(config, "export")
    assert isinstance(step, ExportStep)
    assert step.count() == 2 * 3 + 2  # shards of both formats, then an index each
    assert all(step.why(i) for i in range(step.count()))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(step.run, reversed(range(step.count()))))
    before = tree(config.run_dir)
    again = ExportStep(config)
    assert [again.why(i) for i in range(again.count())] == [None] * again.count()
    assert {again.run(i).status for i in range(again.count())} == {"skipped"}
    assert tree(config.run_dir) == before


def test_report_config_touches_no_export(config: RunConfig) -> None:
    step = ExportStep(config)
    for index in range(step.count()):
        step.run(index)
    other = ExportStep(config.model_copy(update={"report": config.report.model_copy(update={"per_reason": 3})}))
    assert [other.why(i) for i in range(other.count())] == [None] * other.count()


def test_report_step(config: RunConfig) -> None:
    step = open_step(config, "report")
    assert isinstance(step, ReportStep)
    assert (step.count(), step.why(0), step.run(0).status) == (1, "not done yet", "written")
    assert (step.why(0), step.run(0).status) == (None, "skipped")
