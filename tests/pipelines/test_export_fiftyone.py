"""The FiftyOne export, read as FiftyOne reads it: metadata for the schema, documents straight into its base."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskmill.data_contracts import SCORE, decode_mask, read_shard, write_shard
from maskmill.pipelines.export import create_exporter, run_export
from tests.factories import FakeRun

Json = dict[str, Any]
OWN = {"_id", "_media_type", "_rand", "_dataset_id"}  # what FiftyOne keeps beside a dataset's fields
KINDS: dict[str, Callable[[Any], bool]] = {
    "ObjectIdField": lambda v: bool(re.fullmatch(r"[0-9a-f]{24}", v["$oid"])),
    "StringField": lambda v: isinstance(v, str),
    "FloatField": lambda v: isinstance(v, float),
    "IntField": lambda v: isinstance(v, int),
    "ListField": lambda v: isinstance(v, list) and all(isinstance(one, str) for one in v),
    "ArrayField": lambda v: v is None,
}


def exported(run: FakeRun, **options: Any) -> Path:
    run_export(run.path, create_exporter("fiftyone", **options), run.space, name="Shapes & <more>")
    return Path(run.path, "export/fiftyone")


def read(root: Path) -> tuple[Json, list[Json]]:
    """The dataset's document and its samples; every value is of the kind that the schema says, every path leads to a
    file.
    """
    metadata = json.loads((root / "metadata.json").read_text())
    samples = json.loads((root / "samples.json").read_text())["samples"]
    assert metadata["version"], "without it the folder would be taken for one of the format before"
    assert metadata["media_type"] == "image"
    for sample in samples:
        check(sample, metadata["sample_fields"], OWN)
        assert sample["_dataset_id"] == metadata["_id"]
        assert not Path(sample["filepath"]).is_absolute()
        with Image.open(root / sample["filepath"]) as image:
            assert (image.width, image.height) == (sample["metadata"]["width"], sample["metadata"]["height"])
            assert sample["metadata"]["mime_type"] == f"image/{image.format.lower()}"  # type: ignore[union-attr]
        assert (root / sample["filepath"]).stat().st_size == sample["metadata"]["size_bytes"]
    return metadata, samples


def check(document: Json, fields: list[Json], own: set[str]) -> None:
    declared = {field["db_field"]: field for field in fields}
    assert set(document) - own - {"_cls"} <= set(declared)
    for name, value in document.items():
        if name in declared and value is not None:
            field = declared[name]
            if field["embedded_doc_type"]:
                assert field["embedded_doc_type"].rpartition(".")[2] == value["_cls"]
                check(value, field["fields"], set())
            else:
                assert KINDS[field["ftype"].rpartition(".")[2]](value), (name, value)


def test_what_was_kept_is_there_with_its_mask_and_numbers(run: FakeRun) -> None:
    root = exported(run)
    metadata, samples = read(root)
    assert {sample["maskmill_id"] for sample in samples} == run.kept
    assert len({sample["_id"]["$oid"] for sample in samples}) == len(samples)
    scores = {
        row["sample_id"]: row
        for path in sorted(Path(run.path, "scores").glob("*.parquet"))
        for row in read_shard(str(path), SCORE).to_pylist()
    }
    targets = {int(value): name for value, name in metadata["mask_targets"]["ground_truth"].items()}
    assert targets[255] == "ignored"
    for sample in samples:
        row = run.rows[sample["maskmill_id"]]
        mask = decode_mask((root / sample["ground_truth"]["mask_path"]).read_bytes(), "")
        assert (mask == decode_mask(row["mask"]["bytes"], "")).all()  # type: ignore[index]
        assert set(np.unique(mask).tolist()) <= set(targets)
        assert sample["classes"] == [targets[i] for i in row["class_ids"]]  # type: ignore[attr-defined]
        assert sample["asf"] == scores[sample["maskmill_id"]]["asf"]
        assert sample["entropy"] == scores[sample["maskmill_id"]]["h_orig"]
        assert (sample["decision"], sample["reason"]) == ("kept", "kept")
        assert sample["prompt"] == "a drawing of shapes"
        assert sample["tags"][0] in ("train", "val")
    assert "FiftyOneDataset" in (root / "README.md").read_text()


def test_what_was_turned_away_can_be_looked_at(run: FakeRun) -> None:
    root = exported(run, rejected=True)
    _, samples = read(root)
    assert {sample["maskmill_id"] for sample in samples} == set(run.rows)
    by_id = {str(d["sample_id"]): d for d in run.decisions}
    for sample in samples:
        decision = by_id[sample["maskmill_id"]]
        assert sample["decision"] == ("kept" if decision["kept"] else "rejected")
        assert sample["reason"] == decision["reason"]
        assert sample["score"] == pytest.approx(decision["score"])
    away = len(run.rows) - len(run.kept)
    card = (root / "README.md").read_text()
    assert f"{away} samples here were turned away" in card
    assert f"{len(run.rows)} image-mask pairs for semantic segmentation, rejects among them" in card


def test_the_same_run_gives_the_same_bytes_and_other_scores_others(run: FakeRun) -> None:
    root = exported(run)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    reports = run_export(run.path, create_exporter("fiftyone"), run.space, name="Shapes & <more>")
    assert {report.status for report in reports} == {"skipped"}
    for path in before:
        path.unlink()
    exported(run)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    path = f"{run.path}/scores/shard-00000.parquet"
    rows = [{**row, "asf": 0.123} for row in read_shard(path, SCORE).to_pylist()]
    write_shard(path, SCORE.table(rows), SCORE, stage="score", fingerprint="others")
    _, samples = read(exported(run))
    assert any(sample["asf"] == pytest.approx(0.123) for sample in samples)


def test_photos_without_masks_leave_without_one(run: FakeRun) -> None:
    from maskmill.data_contracts import SAMPLE

    path = f"{run.path}/samples/shard-00000.parquet"
    rows = [{**row, "mask": None} for row in read_shard(path, SAMPLE).to_pylist()]
    write_shard(path, SAMPLE.table(rows), SAMPLE, stage="ingest", fingerprint="bare")
    _, samples = read(exported(run))
    assert any(sample["ground_truth"] is None for sample in samples)
