"""`maskmill label promptable` and `detect` over folders of photos: prompts from files, EXIF, resume, both at once."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from maskmill.data_contracts import (
    PSEUDO_LABEL,
    WEAK_LABEL,
    LabelSpace,
    decode_mask,
    encode_mask,
    list_shards,
    read_shard,
)
from maskmill.pipelines.cli.label import app
from maskmill.pipelines.run.config import load_run_config
from maskmill.pipelines.run.plan import resources
from maskmill.pipelines.stages.label import LabelConfig, label, label_units
from maskmill.pipelines.weak.boxes import read_boxes
from tests.labelers.model_folders import owlv2, sam2
from tests.trainers import shapes

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos (the third lies on its side, and EXIF turns it), their boxes and points, and two models."""
    root = tmp_path_factory.mktemp("prompts")
    (root / "photos").mkdir()
    (root / "strokes").mkdir()
    for number in range(2):
        image, mask = shapes.draw_scene(number)
        Image.fromarray(image).save(root / "photos" / f"{number}.png")
        strokes = np.full_like(mask, 255)
        strokes[20:28:4] = np.where(mask[20:28:4] == 255, 255, mask[20:28:4])
        (root / "strokes" / f"{number}.png").write_bytes(encode_mask(strokes))
    upright = shapes.draw_scene(2)[0]
    turned = Image.fromarray(np.rot90(upright).copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(root / "photos" / "2.png", exif=exif)
    (root / "boxes.csv").write_text("file,class,x0,y0,x1,y1\n0.png,red box,5,5,30,30\n2.png,blue bar,4,20,50,40\n")
    (root / "points.csv").write_text("file,class,x,y\n1.png,green disc,20,20\n1.png,background,1,1\n")
    sam2(root / "sam2")
    owlv2(root / "owlv2")
    return root


def run(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.output


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for path in list_shards(str(folder)) for row in read_shard(path, PSEUDO_LABEL).to_pylist()]


def test_boxes_and_points_to_masks_and_instances(place: Path, tmp_path: Path) -> None:
    words = [
        "promptable",
        "--images",
        str(place / "photos"),
        "--model",
        str(place / "sam2"),
        "--out",
        str(tmp_path / "o"),
    ]
    words += ["--boxes", str(place / "boxes.csv"), "--points", str(place / "points.csv")]
    assert "of 3" in run(*words)
    found = {row["sample_id"]: row for row in rows(tmp_path / "o" / "labels")}
    weak = [r for p in list_shards(str(tmp_path / "o" / "weak")) for r in read_shard(p, WEAK_LABEL).to_pylist()]
    assert [(len(r["boxes"]), len(r["points"])) for r in weak] == [(1, 0), (0, 2), (1, 0)]
    assert weak[1]["points"][1]["class_id"] == 0
    assert len(found) == 3
    made = json.loads((tmp_path / "o" / "instances.json").read_text())
    assert {c["name"] for c in made["categories"]} >= {"red box", "blue bar", "green disc"}
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "o" / "labels").glob("*.parquet")}
    run(*words)
    assert {p: p.stat().st_mtime_ns for p in before} == before, "what is labelled is not labelled again"


def test_a_photo_that_exif_turns_is_prompted_upright(place: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(shapes.draw_scene(2)[0]).save(photos / "a.png")
    (photos / "b.png").write_bytes((place / "photos" / "2.png").read_bytes())
    (tmp_path / "boxes.csv").write_text("file,class,x0,y0,x1,y1\na.png,bar,4,20,50,40\nb.png,bar,4,20,50,40\n")
    out = tmp_path / "o"
    run(
        "promptable",
        "--images",
        str(photos),
        "--model",
        str(place / "sam2"),
        "--boxes",
        str(tmp_path / "boxes.csv"),
        "--out",
        str(out),
    )
    a, b = (decode_mask((out / "masks" / f"{name}.png").read_bytes()) for name in "ab")
    assert a.shape == (48, 56)
    np.testing.assert_array_equal(a, b)


def test_strokes_are_prompts_too(place: Path, tmp_path: Path) -> None:
    words = [
        "promptable",
        "--images",
        str(place / "photos"),
        "--model",
        str(place / "sam2"),
        "--out",
        str(tmp_path / "o"),
    ]
    output = run(*words, "--scribbles", str(place / "strokes"), "--classes", "red box,green disc,blue bar")
    assert "no classes" in output, "the photo without strokes says why it has no label"


def test_names_to_boxes_to_masks_in_one_run(place: Path, tmp_path: Path) -> None:
    words = [
        "promptable",
        "--images",
        str(place / "photos"),
        "--model",
        str(place / "sam2"),
        "--classes",
        "red box,blue bar",
    ]
    words += ["--detector", str(place / "owlv2"), "--set", "detector.threshold=0.2", "--out", str(tmp_path / "o")]
    run(*words)
    assert any(row["instances"] for row in rows(tmp_path / "o" / "labels"))


def test_detected_boxes_are_read_by_other_commands_and_weigh_in_shards(place: Path, tmp_path: Path) -> None:
    words = [
        "detect",
        "--images",
        str(place / "photos"),
        "--model",
        str(place / "owlv2"),
        "--classes",
        "red box,blue bar",
    ]
    run(*words, "--set", "threshold=0.2", "--out", str(tmp_path / "d"))
    listed = read_boxes(str(tmp_path / "d" / "boxes.json"))
    weak = [r for p in list_shards(str(tmp_path / "d" / "weak")) for r in read_shard(p, WEAK_LABEL).to_pylist()]
    assert sum(len(own) for own in listed.values()) == sum(len(row["boxes"]) for row in weak) > 0
    assert all(len(row["boxes"]) == len(row["box_scores"]) for row in weak)
    config = LabelConfig(
        labeler="promptable",
        label_space=LabelSpace.from_names(["red box", "blue bar"]),
        samples=str(tmp_path / "d" / "samples"),
        weak=str(tmp_path / "d" / "weak"),
        settings={"model": str(place / "sam2"), "tags": "none"},
    )
    counts = label(config, str(tmp_path / "l"))
    assert sum(counts.values()) == 3
    by_id = {row["sample_id"]: row for row in weak}
    for row in rows(tmp_path / "l"):
        best = max(by_id[row["sample_id"]]["box_scores"], default=1.0)
        assert all(one["score"] <= best + 1e-6 for one in row["instances"] or [])
    assert len(label_units(config, str(tmp_path / "l"))) == 1


def test_prompts_for_no_photo_are_an_error(place: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("file,class,x0,y0,x1,y1\nelsewhere.png,bar,4,20,50,40\n")
    words = [
        "promptable",
        "--images",
        str(place / "photos"),
        "--model",
        str(place / "sam2"),
        "--out",
        str(tmp_path / "o"),
    ]
    done = CliRunner().invoke(app, [*words, "--boxes", str(tmp_path / "boxes.csv")])
    assert done.exit_code == 2
    assert "expected photos that the boxes, points or scribbles belong to" in " ".join(done.output.split())


def test_a_png_with_exif_was_turned(place: Path) -> None:
    data = (place / "photos" / "2.png").read_bytes()
    assert Image.open(io.BytesIO(data)).size == (48, 56), "stored on its side"


def test_licence_and_size_of_the_models_are_said_and_kept(place: Path, tmp_path: Path) -> None:
    """One with a card and one without: both in OUT/labels/models.json, and in what the command says."""
    model = tmp_path / "model"
    shutil.copytree(place / "sam2", model)
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Weights\n")
    told = run(
        "promptable", "--images", str(place / "photos"), "--model", str(model), "--boxes", str(place / "boxes.csv"),
        "--set", f'refiner={{"kind": "promptable", "model": "{place / "sam2"}"}}', "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert "licence apache-2.0" in told.replace("\n", " ")
    first, second = json.loads((tmp_path / "out/labels/models.json").read_text())
    assert (first["model"], first["family"], first["licence"]) == (str(model), "sam2", "apache-2.0")
    assert second["licence"] == "not stated"
    assert first["weights_bytes"] == second["weights_bytes"] > 1000


def test_a_plan_names_the_memory_and_the_licence_of_a_judge(place: Path) -> None:
    asked = {"score.judge": "promptable", "score.by_boxes.model": str(place / "sam2"), "source.root": "/data"}
    told = resources(load_run_config("folder", asked))
    assert told is not None
    assert told.startswith(f"{place / 'sam2'} wants about 0.0 GB of memory")
    assert "licence not stated" in told
    away = resources(load_run_config("folder", {**asked, "score.by_boxes.model": "owner/nobody-has-it"}))
    assert away == "owner/nobody-has-it is fetched when the run starts"
