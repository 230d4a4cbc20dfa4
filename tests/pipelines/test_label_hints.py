"""`maskmill label a2gnn` from scribbles, points and tags, and whose preset the affinity network takes."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from maskmill.data_contracts import IGNORE, WEAK_LABEL, ContractError, encode_image, encode_mask, read_shard
from maskmill.pipelines.cli.label import app
from maskmill.pipelines.weak.label_hints import affinity_settings
from maskmill.pipelines.weak.points import Point, point_names, read_points
from maskmill.trainers.engine import read_info
from tests.labelers.test_clip_cam import TINY
from tests.trainers import shapes

OPTIONS = {
    "other_steps": "[2, 1]",
    "hidden": 8,
    "loss_stride": 8,
    "radius": 2,
    "crf": "{iterations: 1}",
    "seeds": json.dumps({"cam": {**TINY, "image_side": 48}}),
}
SETS = [part for key, value in OPTIONS.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos; points, tags and scribbles of two of them."""
    root = tmp_path_factory.mktemp("hints")
    (root / "photos").mkdir()
    (root / "scribbles").mkdir()
    points, tags = [], {}
    for number in range(3):
        image, mask = shapes.draw_scene(number)
        (root / "photos" / f"{number}.png").write_bytes(encode_image(image))
        if number == 2:
            continue
        shown = [int(i) for i in np.unique(mask) if i in shapes.SPACE.by_id]
        tags[f"{number}.png"] = [shapes.SPACE.by_id[i].name for i in shown]
        for class_id in shown:
            y, x = (int(v[len(v) // 2]) for v in np.nonzero(mask == class_id))
            points.append({"file": f"{number}.png", "name": shapes.SPACE.by_id[class_id].name, "point": [x, y]})
        strokes = np.full_like(mask, IGNORE)
        strokes[::9, ::2] = mask[::9, ::2]
        (root / "scribbles" / f"{number}.png").write_bytes(encode_mask(strokes))
    (root / "points.json").write_text(json.dumps(points))
    (root / "tags.json").write_text(json.dumps(tags))
    space = {
        "name": "shapes",
        "background_id": 0,
        "classes": [{"id": c.id, "name": c.name} for c in shapes.SPACE.classes],
    }
    (root / "space.yaml").write_text(json.dumps(space))
    return root


@pytest.mark.parametrize("kind", ["points", "tags", "scribbles"])
def test_the_command_takes_other_hints(files: Path, tmp_path: Path, kind: str) -> None:
    given = {"points": "points.json", "tags": "tags.json", "scribbles": "scribbles"}[kind]
    argv = ["a2gnn", "--images", str(files / "photos"), f"--{kind}", str(files / given), "--out", str(tmp_path / "out")]
    argv += ["--label-space", str(files / "space.yaml"), "--steps", "1", *SETS]
    done = CliRunner().invoke(app, argv, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "labelled 2 of 3 (1 no classes)" in done.output
    assert (tmp_path / "out/masks/0.png").is_file()
    assert f"from {kind}" in (tmp_path / "out/index.html").read_text()
    folder = "hints" if kind == "scribbles" else "weak"
    rows = read_shard(str(tmp_path / f"out/{folder}/shard-00000.parquet"), WEAK_LABEL).to_pylist()
    assert len(rows) == 3
    column = {"points": "points", "tags": "class_ids", "scribbles": "scribble"}[kind]
    assert sum(bool(row[column]) for row in rows) == 2
    assert read_info(str(tmp_path / "out/artifact")).config["preset"] == "starter"


def test_one_kind_of_hint_is_asked_for(files: Path, tmp_path: Path) -> None:
    argv = ["a2gnn", "--images", str(files / "photos"), "--out", str(tmp_path / "out")]
    for more, found in (([], "none"), (["--tags", "a", "--points", "b"], "--points and --tags")):
        done = CliRunner().invoke(app, [*argv, *more])
        assert done.exit_code != 0
        assert f"found {found}" in " ".join(done.output.split())
    done = CliRunner().invoke(app, [*argv, "--scribbles", str(files / "scribbles")])
    assert "say --label-space" in " ".join(done.output.split())


def test_the_affinity_network_takes_the_labelers_preset() -> None:
    assert affinity_settings({"steps": 200}, {}, "boxes") == {"steps": 200}
    faithful = affinity_settings({}, {"preset": "faithful"}, "boxes")
    assert faithful == {"preset": "faithful", "epochs": 12}
    assert affinity_settings({"steps": 5}, {"preset": "faithful"}, "boxes") == {"preset": "faithful", "steps": 5}
    assert affinity_settings({"preset": "starter"}, {"preset": "faithful"}, "boxes") == {"preset": "starter"}
    assert affinity_settings({}, {"preset": "faithful"}, "points")["radius"] == 3
    assert affinity_settings({}, {"preset": "faithful"}, "tags")["radius"] == 3
    assert "radius" not in affinity_settings({}, {"preset": "faithful"}, "scribbles")


def test_points_from_csv_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,class,x,y\nsub/a.jpg,dog,2,3.5\nsub/a.jpg,cat,0,1\n")
    rows = [
        {"file": "sub/a.jpg", "name": "dog", "point": [2, 3.5]},
        {"file": "sub/a.jpg", "name": "cat", "point": [0, 1]},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    found = read_points(str(tmp_path / "a.csv"))
    assert found == {"sub/a": [Point("dog", 2, 3.5), Point("cat", 0, 1)]} == read_points(str(tmp_path / "a.json"))
    assert point_names(found) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "file,class,x\n", "columns"),
        ("a.csv", "file,class,x,y\n", "at least one point"),
        ("a.csv", "file,class,x,y\na.jpg,dog,one,2\n", "line 2"),
        ("a.csv", "file,class,x,y\na.jpg,dog,-1,2\n", "x and y in pixels"),
        ("a.csv", "file,class,x,y\n,dog,1,2\n", "file name of a photo"),
        ("a.json", "{}", "a list of points"),
        ("a.json", "no json", "JSON"),
        ("a.json", '[{"file": "a.jpg", "name": "dog", "point": [1]}]', "a list of points"),
        ("a.json", '[{"file": "a.jpg", "point": [1, 2]}]', "point 0"),
    ],
)
def test_wrong_points_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ContractError, match=message):
        read_points(str(tmp_path / name))


def test_no_file_of_points_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="file, class, x, y"):
        read_points(str(tmp_path / "none.csv"))
