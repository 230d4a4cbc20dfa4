"""Reasons that reach a person: the account of all that lies there, examples on the console, and plans that foresee."""

import json
from pathlib import Path

import pytest
from ingest_sets import label_map, make_folder, photo, put
from typer.testing import CliRunner

from maskmill.data_contracts import DECISION, SAMPLE, encode_mask, load_label_space, read_shard, write_shard
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.core.examples import first_examples
from maskmill.pipelines.core.ledger import Ledger, build_ledger
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.foresee import foresee


def faulty(root: Path) -> Path:
    """Two sound pairs, three photos without masks, one mask with an odd id, and a stray file."""
    make_folder(root, ["a", "b", "odd"])
    put(root / "masks/odd.png", encode_mask(label_map(77)))
    for number in range(3):
        put(root / f"images/lone{number}.jpg", photo(50 + number))
    put(root / "images/notes.txt", "x")
    return root


def call(tmp_path: Path, *args: str) -> str:
    sets = {"source.root": tmp_path / "set", "run_dir": tmp_path / "run", "label_space": "voc"}
    pairs = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    done = CliRunner().invoke(app, [*args, "folder", *pairs])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_in_is_kept_and_rejected_and_not_read(tmp_path: Path) -> None:
    faulty(tmp_path / "set")
    call(tmp_path, "ingest")
    ledger = build_ledger(str(tmp_path / "run"))
    assert (ledger.rows_in, ledger.ingested, ledger.not_read) == (7, 2, 1)
    assert {r.reason: r.rows for r in ledger.rejections} == {"missing_mask": 3, "unknown_mask_id": 1, "not_read": 1}
    read = Ledger.read(f"{tmp_path}/run/ledger.json")
    assert read == ledger
    names = [example.name for example in read.examples if example.reason == "not_read"]
    assert names == ["images/notes.txt"]


@pytest.mark.parametrize("command", ["ingest", "plan"])
def test_two_examples_of_each_reason_say_what_to_do(tmp_path: Path, command: str) -> None:
    faulty(tmp_path / "set")
    words = call(tmp_path, command)
    assert "missing_mask (ingest, 3), e.g." in words
    assert "images/lone0.jpg: expected a mask masks/lone0.*, found none." in words
    assert "fix: add the mask, or drop the image" in words
    assert "lone1" in words
    assert "lone2" not in words
    assert "id 77 on 42 pixels" in words
    assert "images/notes.txt" in words


def test_words_stay_after_a_step_that_had_nothing_to_do(tmp_path: Path) -> None:
    faulty(tmp_path / "set")
    assert call(tmp_path, "ingest").count("lone0") == call(tmp_path, "ingest").count("lone0") > 0


def test_a_plan_foresees_and_writes_nothing(tmp_path: Path) -> None:
    faulty(tmp_path / "set")
    assert "2 of the first 7 entries would be kept" in call(tmp_path, "plan")
    assert not (tmp_path / "run").exists()
    planned = json.loads(call(tmp_path, "plan", "--json"))
    assert planned["foreseen"]["counts"] == {"missing_mask": 3, "unknown_mask_id": 1, "not_read": 1}
    call(tmp_path, "ingest")
    assert json.loads(call(tmp_path, "plan", "--json"))["foreseen"] is None


def test_faults_of_the_listing_are_foreseen_beyond_the_first_entries(tmp_path: Path) -> None:
    source = FolderSource(root=str(faulty(tmp_path / "set")))
    foresight = foresee(source, load_label_space("voc"), first=2)
    assert (foresight.listed, foresight.looked, foresight.kept) == (7, 2, 2)
    assert foresight.counts == {"missing_mask": 3, "not_read": 1}  # the odd id is seen by loading alone


def test_decisions_without_words_show_their_numbers(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", ["a", "b", "c"])
    call(tmp_path, "ingest")
    run = f"{tmp_path}/run"
    rows = read_shard(f"{run}/samples/shard-00000.parquet", SAMPLE, ["sample_id"]).to_pylist()
    decided = [
        {**row, "stage": "select", "kept": False, "reason": "low_pcs", "score": 0.125, "threshold": 0.5, **more}
        for row, more in zip(
            rows, ({}, {"detail": "pcs must be above 0.5"}, {"reason": "kept", "kept": True}), strict=True
        )
    ]
    table = DECISION.table([{**row, "shard": "shard-00000.parquet"} for row in decided])
    write_shard(f"{run}/decisions.parquet", table, DECISION, stage="select", fingerprint="x")
    found = [(e.stage, e.reason, e.name.split(" ")[0], e.words) for e in first_examples(run)]
    assert found == [
        ("select", "low_pcs", "images/a.jpg", "0.125 against 0.5"),
        ("select", "low_pcs", "images/b.jpg", "pcs must be above 0.5"),
    ]
