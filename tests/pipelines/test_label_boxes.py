"""Boxes from files, the command over a folder of photos, and its COCO instances."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from maskmill.data_contracts import PSEUDO_LABEL, WEAK_LABEL, ContractError, decode_mask, encode_image, read_shard
from maskmill.pipelines.cli.label import app
from maskmill.pipelines.weak.boxes import NO_FILE, Box, boxes_in, class_names, read_boxes
from tests.labelers.test_a2gnn import boxed
from tests.labelers.test_clip_cam import TINY
from tests.trainers import shapes

torch.set_num_threads(1)

XML = """<annotation><object><name>dog</name><difficult>{difficult}</difficult><bndbox><xmin>3.0</xmin><ymin>2</ymin>
<xmax>9</xmax><ymax>8.0</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax>
<ymax>2</ymax></bndbox></part></object></annotation>"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos, the third without boxes, and their boxes as CSV."""
    root = tmp_path_factory.mktemp("boxes")
    lines = ["file,class,x0,y0,x1,y1"]
    for number in range(3):
        item, _ = boxed(number)
        (root / "photos").mkdir(exist_ok=True)
        (root / "photos" / f"{number}.png").write_bytes(encode_image(item.image))
        for row in item.boxes if number < 2 else []:
            corners = ",".join(str(v) for v in row[1:])
            lines.append(f"{number}.png,{shapes.SPACE.by_id[int(row[0])].name},{corners}")
    (root / "boxes.csv").write_text("\n".join(lines) + "\n")
    return root


def test_voc_files_give_boxes_of_objects_without_parts(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(XML.format(difficult=0))
    (tmp_path / "b.xml").write_text(XML.format(difficult=1))
    found = read_boxes(str(tmp_path))
    assert found == {"a": [Box("dog", (2.0, 1.0, 9.0, 8.0))], "b": [Box("dog", (2.0, 1.0, 9.0, 8.0))]}
    assert read_boxes(str(tmp_path), difficult=False)["b"] == []
    assert class_names(found) == ["dog"]


def test_one_xml_file_is_read_like_a_folder_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(XML.format(difficult=0))
    assert read_boxes(str(tmp_path / "a.xml")) == read_boxes(str(tmp_path))


def written(folder: Path, kind: str) -> str:
    """One dog's box in sub/a.jpg, in a file of a kind."""
    coco = {
        "images": [{"id": 7, "file_name": "sub/a.jpg"}],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [2, 1, 7, 7]},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }
    texts = {
        "coco.json": json.dumps(coco),
        "list.json": json.dumps([{"file": "sub/a.jpg", "name": "dog", "box": [2, 1, 9, 8]}]),
        "a.csv": "file,class,x0,y0,x1,y1\nsub/a.jpg,dog,2,1,9,8\n",
        "voc/sub/a.xml": XML.format(difficult=0),
    }
    path = folder / kind
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(texts[kind])
    return str(folder / kind.split("/")[0])


@pytest.mark.parametrize("kind", ["coco.json", "list.json", "a.csv", "voc/sub/a.xml"])
def test_every_format_says_the_same(tmp_path: Path, kind: str) -> None:
    found = read_boxes(written(tmp_path, kind))
    assert found == {"sub/a": [Box("dog", (2.0, 1.0, 9.0, 8.0))]}
    assert boxes_in(found, "sub/a.png") == found["sub/a"]
    assert boxes_in(found, "a.png") == []


def test_listed_boxes_need_neither_file_nor_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"box": [0, 0, 4, 4]}]')
    assert read_boxes(str(tmp_path / "a.json")) == {NO_FILE: [Box("object", (0.0, 0.0, 4.0, 4.0))]}


HEADER = "file,class,x0,y0,x1,y1\n"
COCO = '{"images": [{"id": 1, "file_name": "a"}], "categories": [{"id": 1, "name": "b"}], "annotations": [%s]}'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "file,class\n", "columns"),
        ("a.csv", HEADER, "at least one box"),
        ("a.csv", HEADER + "a.jpg,dog,5,0,2,3\n", "line 2"),
        ("a.csv", HEADER + "a.jpg,dog,1\n", "line 2"),
        ("a.csv", HEADER + ",dog,1,1,2,3\n", "file name of a photo"),
        ("a.csv", "class,x0,y0,x1,y1,file\ndog,1,1,2,3\n", "file name of a photo"),
        ("a.csv", HEADER + "a" * 200_000, "CSV"),
        ("a.json", '{"images": []}', "COCO"),
        ("a.json", "no json", "COCO"),
        ("a.txt", "no json", "COCO"),
        ("a.json", "3", "JSON list"),
        ("a.json", "[" * 100_000, "JSON list"),
        ("a.json", "[]", "at least one box"),
        ("a.json", '[{"box": [3, 0, 3, 4]}]', "box 0"),
        ("a.json", '[{"box": [0, 0, NaN, 4]}]', "x0 < x1"),
        ("a.json", '[{"box": [0, 0, 3]}]', "JSON list"),
        ("a.json", '[{"box": [0, 0, 3, 3], "label": "dog"}]', "label"),
        ("a.json", '[{"box": [0, 0, 3, 3], "file": "/"}]', "file name of a photo"),
        ("a.json", '["dog"]', "JSON list"),
        ("a.json", COCO % '{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]}', "width"),
        ("a.json", COCO % '{"image_id": 1, "category_id": 1, "bbox": [1, 2, 0, 3]}', "x0 < x1"),
        ("a.json", COCO % '{"image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4]}', "COCO"),
        ("a.json", COCO % "5", "COCO"),
        ("a.xml", "no xml", "VOC"),
        ("a.xml", "<annotation/>", "at least one box"),
    ],
)
def test_wrong_files_give_one_kind_of_message(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ContractError, match=message) as told:
        read_boxes(str(tmp_path / name))
    assert str(told.value).startswith(f"{tmp_path / name}")
    assert "bad_annotation: expected " in str(told.value)
    assert ". Fix: " in str(told.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="VOC XML"):
        read_boxes("missing.csv")


def test_the_command_turns_boxes_into_masks_and_instances(files: Path) -> None:
    options = {
        "steps": "[4, 2]",
        "hidden": 8,
        "tile": 4,
        "check": "none",
        "crf": "{iterations: 2}",
        "seeds": json.dumps({"cam": TINY}),
    }
    sets = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
    paths = ["--images", str(files / "photos"), "--boxes", str(files / "boxes.csv"), "--out", str(files / "out")]
    done = CliRunner().invoke(app, ["a2gnn", *paths, "--steps", "2", *sets], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "labelled 2 of 3 (1 no classes)" in done.output
    weak = read_shard(str(files / "out/weak/shard-00000.parquet"), WEAK_LABEL).to_pylist()
    assert sorted(len(row["boxes"]) for row in weak)[0] == 0
    labels = read_shard(str(files / "out/labels/shard-00000.parquet"), PSEUDO_LABEL).to_pylist()
    count = sum(len(row["instances"] or []) for row in labels)
    assert count == sum(len(row["boxes"]) for row in weak)

    from pycocotools.coco import COCO

    coco = COCO(str(files / "out/instances.json"))
    assert len(coco.anns) == count
    names = {image["file_name"]: image["id"] for image in coco.dataset["images"]}
    own = coco.loadAnns(coco.getAnnIds(imgIds=[names["0.png"]]))
    mask = decode_mask((files / "out/masks/0.png").read_bytes())
    joined = np.zeros_like(mask)
    for note in own:
        joined |= coco.annToMask(note)
        x0, y0, x1, y1 = note["box"]
        x, y, width, height = note["bbox"]
        assert x >= x0
        assert y >= y0
        assert x + width <= x1
        assert y + height <= y1
    np.testing.assert_array_equal(joined > 0, mask > 0)


def test_boxes_that_name_no_photo_are_reported(files: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("file,class,x0,y0,x1,y1\nelsewhere.jpg,dog,1,1,4,4\n")
    paths = ["--images", str(files / "photos"), "--boxes", str(tmp_path / "other.csv"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["a2gnn", *paths])
    assert done.exit_code != 0
    assert "elsewhere" in done.output
