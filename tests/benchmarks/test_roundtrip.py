"""benchmarks.roundtrip: what it feeds to formats, what it counts, and that the exact formats are exact."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.roundtrip.__main__ import compare
from benchmarks.roundtrip.readers import READERS
from benchmarks.roundtrip.samples import SPACE, instances, make_run, masks
from maskmill.data_contracts import IGNORE
from maskmill.pipelines.export import create_exporter, export_root, run_export


def test_the_samples_hold_what_they_are_named_for() -> None:
    found = masks()
    assert len(found) == 24
    assert found["1x1"].shape == (1, 1)
    assert found["7x333"].shape == (7, 333)
    assert set(np.unique(found["ids 200 and 254"])) == {0, 200, 254}
    assert sum((mask == IGNORE).any() for mask in found.values()) == 3
    assert sum(not mask.any() for mask in found.values()) == 2
    assert [len(objects) for name, mask in found.items() if (objects := instances(name, mask))] == [2, 3, 2]


def test_shares_count_masks_that_are_lost_or_other() -> None:
    mask = np.array([[0, 1], [IGNORE, 2]], np.uint8)
    truth = dict.fromkeys("abcd", mask)
    found = {"a": mask, "b": np.where(mask == IGNORE, 0, mask), "c": mask * 0}
    assert compare(truth, iter(found.items())) == {"identical": 0.25, "identical_but_ignored": 0.5, "read": 0.75}


@pytest.mark.parametrize(
    ("export", "reader", "metric"),
    [
        ("voc", "labelmap", "identical"),
        ("coco", "pycocotools", "identical"),
        ("coco_polygon", "pycocotools", "identical"),
        ("yolo", "trainers", "identical_but_ignored"),
        ("yolo", "supervision", "identical_but_ignored"),
        ("yolo", "maskmill", "identical_but_ignored"),
        ("webdataset", "webdataset", "identical"),
        ("hf", "polars", "identical"),
    ],
)
def test_exact_formats_are_exact(tmp_path: Path, export: str, reader: str, metric: str) -> None:
    if reader == "supervision":
        pytest.importorskip("supervision", reason="supervision is not installed")
    truth = make_run(tmp_path)
    name, options, readers = READERS[export]
    exporter = create_exporter(name, splits={"train": 1.0}, **options)
    run_export(str(tmp_path), exporter, SPACE)
    assert compare(truth, readers[reader](Path(export_root(str(tmp_path), exporter))))[metric] == 1
