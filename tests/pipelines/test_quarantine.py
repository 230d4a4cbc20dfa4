"""What ingest turns away can be kept as it was given, in bounds, and goes nowhere else."""

import json
from pathlib import Path
from typing import Any

import pytest

from maskmill.data_contracts import encode_mask
from maskmill.pipelines.ingest.quarantine import sweep_quarantine
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.run.explain import explain_sample
from maskmill.pipelines.run.run import run
from maskmill.pipelines.run.verify import verify
from tests.pipelines.ingest_sets import label_map, make_folder, photo, put

BROKEN = photo(9)[:60]


def config(tmp_path: Path, **more: Any) -> RunConfig:
    source = {"kind": "folder", "root": str(tmp_path / "set"), "threads": 1}
    base = {"name": "x", "run_dir": str(tmp_path / "run"), "label_space": "voc", "source": source, "quarantine": True}
    return RunConfig.model_validate({**base, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sound pairs, a broken photo, and a mask of no class."""
    root = make_folder(tmp_path / "set", ["a", "b", "c", "d"])
    put(root / "images/c.jpg", BROKEN)
    put(root / "masks/d.png", encode_mask(label_map(77)))
    return root


def records(run_dir: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (run_dir / "quarantine").glob("*/*.json")]
    return {record["source_path"]: record for record in found}


def test_rejects_are_kept_as_they_were_given(folder: Path, tmp_path: Path) -> None:
    run(config(tmp_path), until="ingest")
    found = records(tmp_path / "run")
    assert {path: record["reason"] for path, record in found.items()} == {
        "images/c.jpg": "undecodable_image",
        "images/d.jpg": "unknown_mask_id",
    }
    for record in found.values():
        for file in record["files"]:
            assert (tmp_path / "run/quarantine" / file["file"]).read_bytes() == (folder / file["path"]).read_bytes()
    assert {file["path"] for file in found["images/d.jpg"]["files"]} == {"images/d.jpg", "masks/d.png"}
    told = explain_sample(str(tmp_path / "run"), "images/c.jpg")
    assert BROKEN in [Path(path).read_bytes() for path in told.kept_files]
    assert told.kept_files[0] in str(told)


def test_nothing_of_it_counts_as_part_of_the_run(folder: Path, tmp_path: Path) -> None:
    run(config(tmp_path, export=[{"format": "hf"}], stages={}), until="ingest")
    checked = verify(str(tmp_path / "run"))
    assert not checked.faults
    assert not any("quarantine" in path for path in (*checked.verified, *checked.without_hashes))
    plain = config(tmp_path, quarantine=False).model_dump(mode="json")
    assert "quarantine" not in plain
    assert plain["limits"] == {"rejected": None}
    done = run(config(tmp_path, quarantine=False), until="ingest")
    assert done.idle


def test_there_is_a_limit_and_it_is_said(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(config(tmp_path, limits={"quarantine_bytes": len(BROKEN)}), until="ingest")
    files = {f["path"]: f["file"] for record in records(tmp_path / "run").values() for f in record["files"]}
    assert files["images/c.jpg"] is not None
    assert files["images/d.jpg"] is None
    assert "limits.quarantine_bytes" in caplog.text
    held = sum(path.stat().st_size for path in (tmp_path / "run/quarantine/files").iterdir())
    assert held <= len(BROKEN)


def test_what_is_mended_leaves_quarantine(folder: Path, tmp_path: Path) -> None:
    run(config(tmp_path), until="ingest")
    put(folder / "images/c.jpg", photo(3))
    put(tmp_path / "run/quarantine/files/stray", b"x")
    run(config(tmp_path), until="ingest")
    assert set(records(tmp_path / "run")) == {"images/d.jpg"}
    kept = {file["file"] for record in records(tmp_path / "run").values() for file in record["files"]}
    assert {f"files/{path.name}" for path in (tmp_path / "run/quarantine/files").iterdir()} == kept
    sweep_quarantine(str(tmp_path / "none"))


def test_names_from_data_name_no_file(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a"])
    put(tmp_path / "set/images/x;rm -rf.jpg", BROKEN)
    put(tmp_path / "set/masks/x;rm -rf.png", encode_mask(label_map()))
    run(config(tmp_path), until="ingest")
    names = [path.name for path in (tmp_path / "run/quarantine/files").iterdir()]
    assert names
    assert all(name.replace(".", "").isalnum() for name in names)
