"""Tags of one's own photos become shards that trainer weclip takes, and labelling leaves a ready training config."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from maskmill.data_contracts import WEAK_LABEL as WEAK
from maskmill.data_contracts import ContractError, LabelSpace, list_shards, load_label_space, read_shard
from maskmill.pipelines.cli.label_commands.common import write_recipe
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.core.settings import load_settings
from maskmill.pipelines.stages.train import TrainConfig
from maskmill.pipelines.weak.tags import read_tags
from tests.trainers import shapes


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.jpg", "deep/b.png", "c.jpg")):
        Image.fromarray(shapes.draw_scene(number)[0]).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", json.dumps({"a.jpg": ["cat", "dog"], "deep/b.png": ["cat"]})),
        ("t.csv", "file,classes\na.jpg,cat;dog\nb.png,cat\n"),
    ],
)
def test_tags_become_weak_shards_and_a_config(photos: Path, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    words = ["label", "read-tags", "--images", photos, "--tags", tmp_path / name, "--out", tmp_path / "out", "--json"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["counts"] == {"kept": 2, "no_classes": 1}
    rows = [row for path in list_shards(str(tmp_path / "out" / "weak")) for row in read_shard(path, WEAK).to_pylist()]
    assert sorted(row["class_ids"] for row in rows) == [[1], [1, 2]]
    config = load_settings(str(tmp_path / "out" / "train.yaml"), TrainConfig)
    assert (config.trainer, [c.name for c in config.space.classes]) == ("weclip", ["cat", "dog"])
    config.trainer_config()


@pytest.mark.parametrize("text", ["[]", '{"a.jpg": "cat"}', "{", '{"a.jpg": []}'])
def test_what_is_no_tags_file_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ContractError, match="Fix: give JSON"):
        read_tags(str(tmp_path / "t.json"))


def test_a_row_that_names_no_photo_is_told_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,classes\na.jpg,cat\n,dog\n")
    with pytest.raises(ContractError, match=r"t.csv, line 3: .*the file name of a photo"):
        read_tags(str(tmp_path / "t.csv"))


def test_labelling_leaves_a_label_space_and_a_config_that_load(tmp_path: Path) -> None:
    space = LabelSpace.from_names(["cat", "sea horse"])
    write_recipe(str(tmp_path), space)
    assert load_label_space(str(tmp_path / "label_space.yaml")) == space
    config = load_settings(str(tmp_path / "train.yaml"), TrainConfig)
    assert config.space == space
    assert config.data.labels == (f"{tmp_path}/labels",)
