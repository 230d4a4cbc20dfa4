"""VOC devkit and Dataset Diffusion rows."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingest_sets import VOC, ingest, label_map, mask_of, photo, put, put_json, reasons

from maskmill.data_contracts import ContractError, encode_mask, load_label_space
from maskmill.pipelines.ingest import ingest_units
from maskmill.pipelines.ingest.dataset_diffusion import DatasetDiffusionSource, split_class_prompt
from maskmill.pipelines.ingest.voc import VocObject, VocSource, parse_voc_xml

COCO = load_label_space("coco")


def annotation(*names: str, box: str = "<xmin>5</xmin><ymin>4</ymin><xmax>11</xmax><ymax>9</ymax>") -> str:
    objects = "".join(
        f"<object><name>{n}</name><bndbox>{box}</bndbox><part><name>head</name></part></object>" for n in names
    )
    return f"<annotation><filename>x.jpg</filename>{objects}</annotation>"


def make_voc(root: Path) -> Path:
    put(root / "ImageSets/Segmentation/train.txt", "2007_000001\n2007_000002\n2007_000003\n")
    for number in range(1, 5):
        mask = label_map(number)
        mask[0] = 255
        put(root / f"JPEGImages/2007_00000{number}.jpg", photo(number))
        put(root / f"SegmentationClass/2007_00000{number}.png", encode_mask(mask, VOC.palette))
    put(root / "Annotations/2007_000001.xml", annotation("person", "tvmonitor", "person"))
    put(root / "Annotations/2007_000003.xml", annotation("bird"))
    return root


def test_devkit(tmp_path: Path) -> None:
    make_voc(tmp_path / "VOC2012")
    samples, rejects = ingest(VocSource(root=str(tmp_path / "VOC2012"), split="train"), tmp_path / "run")
    assert not rejects
    assert [row["class_ids"] for row in samples] == [[1], [2], [3]]  # number 4 is in no list
    assert [row["prompt_class_ids"] for row in samples] == [[15, 20], None, [3]]
    assert (mask_of(samples[0])[0] == 255).all()
    assert samples[0]["provenance"]["source_path"] == "JPEGImages/2007_000001.jpg"


def test_lists_that_lie(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "VOC2012")
    put(
        root / "ImageSets/Segmentation/train.txt",
        "2007_000001\n2007_000009\n../../x\n2007_000002\n2007_000001\n2007_000004\n",
    )
    (root / "SegmentationClass/2007_000002.png").unlink()
    put(root / "Annotations/2007_000004.xml", "<annotation><object></annotation>")
    samples, rejects = ingest(VocSource(root=str(root), split="train"), tmp_path / "run", shard_size=10)
    assert len(samples) == 1
    assert sorted(reasons(rejects).values()) == [
        "bad_annotation",
        "duplicate_id",
        "missing_image",
        "missing_mask",
        "unsafe_path",
    ]


def test_unknown_object_names_and_unread_annotations(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "VOC2012")
    put(root / "Annotations/2007_000001.xml", annotation("dragon"))
    samples, rejects = ingest(VocSource(root=str(root), split="train"), tmp_path / "run")
    assert reasons(rejects) == {"JPEGImages/2007_000001.jpg": "unknown_class_name"}
    samples, rejects = ingest(VocSource(root=str(root), split="train", annotations=None), tmp_path / "run2")
    assert [row["prompt_class_ids"] for row in samples] == [None] * 3
    assert not rejects


def test_no_such_split(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ImageSets/Segmentation/val\.txt"):
        ingest_units(VocSource(root=str(make_voc(tmp_path)), split="val"), str(tmp_path / "run"))


def test_boxes_count_from_zero_and_exclude_their_end() -> None:
    found = parse_voc_xml(annotation("dog").encode())
    assert found == [VocObject("dog", (4.0, 3.0, 11.0, 9.0), False)]
    x0, y0, x1, y1 = (int(v) for v in found[0].box)
    drawn = np.zeros((12, 16), bool)
    drawn[y0:y1, x0:x1] = True
    assert np.array_equal(drawn, label_map() == 1)


LAUGHS = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]><annotation><object><name>&c;</name></object></annotation>'
FILES = (
    '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation><object><name>&b;</name></object></annotation>'
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        FILES,
        "",
        "no xml",
        annotation(""),
        annotation("dog", box=""),
        annotation("dog", box="<xmin>9</xmin><ymin>4</ymin><xmax>1</xmax><ymax>9</ymax>"),
        annotation("dog", box="<xmin>nan</xmin><ymin>4</ymin><xmax>1</xmax><ymax>9</ymax>"),
        annotation("dog", box="<xmin>-inf</xmin><ymin>4</ymin><xmax>1</xmax><ymax>9</ymax>"),
        annotation("dog", box="<xmin>one</xmin><ymin>4</ymin><xmax>1</xmax><ymax>9</ymax>"),
        '<?xml version="1.0" encoding="nonsense"?><annotation/>',
    ],
)
def test_bad_annotations(text: str) -> None:
    with pytest.raises(ContractError, match="bad_annotation"):
        parse_voc_xml(text.encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_objects_or_a_contract_error(data: bytes) -> None:
    with suppress(ContractError):
        assert isinstance(parse_voc_xml(data), list)


def make_rows(root: Path, lines: bool) -> Path:
    rows = [
        {"filename": "a.jpg", "caption": "a man on a sofa; person sofa", "class_prompt": "person sofa"},
        {"filename": "sub/b", "caption": "lunch; dining table", "class_prompt": "dining table"},
        {"filename": "gone.jpg", "caption": "x", "class_prompt": "cat"},
        {"filename": "../../etc/passwd", "caption": "x", "class_prompt": "cat"},
        {"filename": "c.jpg", "caption": "a wyvern", "class_prompt": "cat wyvern"},
        {"caption": "no name"},
        {"filename": "d.jpg", "caption": 5},
        "no row",
        {"filename": "e.jpg"},
    ]
    for number, stem in enumerate(["a", "sub/b", "c", "d", "e"]):
        put(root / f"images/{stem}.jpg", photo(number))
        put(root / f"masks/{stem}.png", encode_mask(label_map(15)))
    if lines:
        put(root / "prompts.json", "\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        put_json(root / "prompts.json", rows)
    return root


@pytest.mark.parametrize("lines", [False, True])
def test_dataset_diffusion(tmp_path: Path, lines: bool) -> None:
    make_rows(tmp_path / "gen_voc", lines)
    source = DatasetDiffusionSource(root=str(tmp_path / "gen_voc"), model_id="sd-2.1-base", licence="openrail++")
    samples, rejects = ingest(source, tmp_path / "run", shard_size=5)
    assert [row["prompt_class_ids"] for row in samples] == [[15, 18], None, [11]]
    origin = samples[0]["provenance"]
    assert (origin["source"], origin["source_path"]) == ("dataset_diffusion", "images/a.jpg")
    assert (origin["prompt"], origin["class_prompt"]) == ("a man on a sofa; person sofa", "person sofa")
    assert (origin["model_id"], origin["licence"]) == ("sd-2.1-base", "openrail++")
    assert reasons(rejects) == {
        "images/gone.jpg": "missing_image",
        "images/../../etc/passwd": "unsafe_path",
        "images/c.jpg": "unknown_class_name",
        "prompts.json#5": "bad_annotation",
        "images/d.jpg": "bad_annotation",
        "prompts.json#7": "bad_annotation",
    }
    assert "'wyvern'" in {row["source_path"]: row for row in rejects}["images/c.jpg"]["detail"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("person dining table tv monitor", ["person", "diningtable", "tvmonitor"]),
        ("Potted Plant", ["pottedplant"]),
        ("sofa, dining table; cat", ["sofa", "diningtable", "cat"]),
        ("", []),
    ],
)
def test_class_prompts(text: str, names: list[str]) -> None:
    assert [VOC.find(word).name for word in split_class_prompt(text, VOC)] == names


@given(st.lists(st.sampled_from(COCO.classes), max_size=6))
def test_every_list_of_coco_names_is_read_back(classes: list[object]) -> None:
    names = [c.name for c in classes]  # type: ignore[attr-defined]
    assert [COCO.find(word).name for word in split_class_prompt(" ".join(names), COCO)] == names


def test_hot_dog_is_no_dog() -> None:
    assert split_class_prompt("hot dog", COCO) == ("hot dog",)
    assert split_class_prompt("dog hot dog dog", COCO) == ("dog", "hot dog", "dog")
    with pytest.raises(ContractError, match="unknown_class_name"):
        split_class_prompt("hot", COCO)
