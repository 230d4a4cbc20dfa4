"""The shipped promptable model: an ordinary folder, small, and of use on drawings of a style that it never saw."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from maskmill.data_contracts import decode_mask, load_label_space
from maskmill.labelers import LabelItem
from maskmill.labelers.promptable import Config, Promptable, load
from maskmill.labelers.promptable.config import FOR_STARTER
from maskmill.pipelines.cli.label import app
from maskmill.starter.drawn import Scene, SceneConfig, instance_boxes, render_scene
from maskmill.vision.pretrained import local_folder, model_folder, model_type

VOC = load_label_space("voc")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    config = SceneConfig(size=200, styles=("openmoji",), max_objects=2, seed=3)
    return [render_scene(config, index) for index in range(6)]


@pytest.fixture(scope="module")
def engine() -> Promptable:
    torch.set_num_threads(1)
    return load(Config(tags="none", **{**FOR_STARTER, "crf": None}), VOC)


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / max((found | truth).sum(), 1))


def test_the_folder_is_small_and_states_where_it_comes_from() -> None:
    folder = model_folder("starter")
    assert model_type(folder) == "edgetam"
    assert local_folder("starter") == folder
    files = [path for path in folder.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10e6
    assert {path.suffix for path in files} <= {".json", ".md", ".safetensors"}
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: ")
    assert "tuxpaint-stamps-default" in card


def test_boxes_become_masks_of_what_is_in_them(scenes: list[Scene], engine: Promptable) -> None:
    items = [LabelItem(str(n), s.image, boxes=instance_boxes(s).astype(np.float32)) for n, s in enumerate(scenes)]
    drawn, filled = [], []
    for scene, label in zip(scenes, engine.label(items), strict=True):
        for one, instance in zip(scene.instances, label.instances, strict=True):
            box = np.zeros_like(one.mask)
            box[one.box[1] : one.box[3], one.box[0] : one.box[2]] = True
            assert instance.mask is not None
            assert not (instance.mask & ~box).any()
            drawn.append(iou(instance.mask, one.mask))
            filled.append(iou(box, one.mask))
    assert np.mean(drawn) > np.mean(filled) + 0.15
    assert np.mean(drawn) > 0.75


def test_the_answer_follows_the_prompt(scenes: list[Scene], engine: Promptable) -> None:
    scene = next(s for s in scenes if len(s.instances) == 2)
    points = [np.argwhere(one.mask)[one.visible_area // 2][::-1] for one in scene.instances]
    for own, other, at in zip(scene.instances, reversed(scene.instances), points, strict=True):
        point = np.array([[own.class_id, *at]], np.float32)
        (label,) = engine.label([LabelItem("a", scene.image, points=point)])
        (instance,) = label.instances
        assert instance.mask is not None
        assert iou(instance.mask, own.mask) > iou(instance.mask, other.mask)


def test_the_command_takes_it_without_being_told(scenes: list[Scene], tmp_path: Path) -> None:
    scene = scenes[0]
    (tmp_path / "photos").mkdir()
    Image.fromarray(scene.image).save(tmp_path / "photos" / "a.png")
    lines = [
        "file,class,x0,y0,x1,y1",
        *(f"a.png,{one.class_name},{','.join(map(str, one.box))}" for one in scene.instances),
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
    words = ["promptable", "--images", str(tmp_path / "photos"), "--boxes", str(tmp_path / "boxes.csv")]
    done = CliRunner().invoke(app, [*words, "--label-space", "voc", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    mask = decode_mask((tmp_path / "out" / "masks" / "a.png").read_bytes(), "a.png")
    assert iou(mask > 0, scene.mask > 0) > 0.8


def test_the_preset_for_shards_asks_as_the_command_does() -> None:
    preset = yaml.safe_load((ROOT / "configs" / "label" / "starter-boxes.yaml").read_text())
    assert preset["settings"] == {"model": "starter", "tags": "none", **FOR_STARTER}
