"""Names of classes that come with the data: ClassLabel numbers, label files, and `label_space: from_source`."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_sets import ingest, label_map, make_folder, mask_of, photo, put, put_json
from typer.testing import CliRunner

from maskmill.data_contracts import SAMPLE, LabelSpace, encode_image, encode_mask, load_label_space, read_shard
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.hf_parquet import HfParquetSource
from maskmill.pipelines.ingest.voc import VocSource
from maskmill.pipelines.run.config import load_run_config

PETS = LabelSpace.from_names(["cat", "dog"], "pets")
LABEL = {"names": ["cat", "dog"], "_type": "ClassLabel"}


@pytest.mark.parametrize(
    ("feature", "cell", "wanted"),
    [
        ({"feature": LABEL, "_type": "List"}, [0, 1], [1, 2]),
        ({"feature": LABEL, "_type": "Sequence"}, [1], [2]),
        ([LABEL], [1], [2]),
        (LABEL, 1, [2]),
        (LABEL, -1, []),
        ({"names": ["dog", "cat"], "_type": "ClassLabel"}, 0, [2]),
        ({"dtype": "int64", "_type": "Value"}, 1, [1]),
        (None, [2], [2]),
    ],
)
def test_class_label_numbers_are_names(tmp_path: Path, feature: object, cell: object, wanted: list[int]) -> None:
    rows = [{"image": photo(), "mask": encode_mask(label_map()), "labels": cell}]
    info = {"info": {"features": {"labels": feature} if feature else {}}}
    (tmp_path / "set").mkdir()
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, tmp_path / "set/x.parquet")
    (row,), _ = ingest(HfParquetSource(root=str(tmp_path / "set"), classes="labels"), tmp_path / "run", PETS)
    assert row["prompt_class_ids"] == wanted


def test_a_class_label_number_without_a_name_is_told(tmp_path: Path) -> None:
    rows = [{"image": photo(), "mask": encode_mask(label_map()), "labels": [2]}]
    info = {"info": {"features": {"labels": {"feature": LABEL, "_type": "List"}}}}
    (tmp_path / "set").mkdir()
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, tmp_path / "set/x.parquet")
    _, (lost,) = ingest(HfParquetSource(root=str(tmp_path / "set"), classes="labels"), tmp_path / "run", PETS)
    assert "0..1 (cat, dog), found 2" in lost["detail"]


def call(root: Path, run: Path, **options: str) -> LabelSpace:
    """Ingest with the names that come with the data; the label space that the run folder holds then."""
    pairs = {"source.root": root, "run_dir": run, "label_space": "from_source", **options}
    args = [part for key, value in pairs.items() for part in ("--set", f"{key}={value}")]
    done = CliRunner().invoke(app, ["ingest", "folder", *args])
    assert done.exit_code == 0, done.output
    return load_label_space(str(run / "label_space.yaml"))


@pytest.mark.parametrize(
    ("name", "text", "wanted", "ground"),
    [
        ("labelmap.txt", "# label:color\nbackground:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n", {1: "cat", 2: "dog"}, 0),
        ("_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n2, dog\n", {1: "cat", 2: "dog"}, 0),
        ("images/_classes.csv", "Pixel Value, Class\r\n1, cat\r\n", {1: "cat"}, 0),
        ("dataset.json", '{"labels": {"background": 0, "cat": 1, "dog": 2}}', {1: "cat", 2: "dog"}, 0),
        ("dataset.json", '{"labels": {"0": "background", "1": "cat"}}', {1: "cat"}, 0),
        ("id2label.json", '{"0": "wall", "1": "cat", "255": "ignore"}', {0: "wall", 1: "cat"}, None),
        ("data.yaml", "names: [sky, cat]", {0: "sky", 1: "cat"}, None),
        ("data.yaml", "names: {1: cat, 7: dog}", {1: "cat", 7: "dog"}, 0),
        ("labelmap.txt", "_background_\ncat\n", {1: "cat"}, 0),
    ],
)
def test_label_files_beside_the_data_make_the_space(
    tmp_path: Path, name: str, text: str, wanted: dict[int, str], ground: int | None
) -> None:
    put(make_folder(tmp_path / "set", ["a"]) / name, text)
    space = call(tmp_path / "set", tmp_path / "run")
    assert {c.id: c.name for c in space.classes} == wanted
    assert space.background_id == ground
    (row,) = read_shard(f"{tmp_path}/run/samples/shard-00000.parquet", SAMPLE).to_pylist()
    assert 1 in row["class_ids"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("labelmap.txt", "\n".join(f"c{i}" for i in range(300)), "1 to 254 classes, found 300"),
        ("dataset.json", '{"labels": {"whole": [1, 2]}}', "a region of several ids"),
        ("dataset.json", '{"name": "x"}', "KeyError: 'labels'"),
        ("data.yaml", "names: 7", "TypeError"),
        ("labelmap.txt", "cat\ncat\n", "must be unique"),
        ("notes.txt", "cat", "finds none: expected one of labelmap.txt"),
    ],
)
def test_label_files_that_name_no_classes_are_told(tmp_path: Path, name: str, text: str, words: str) -> None:
    put(make_folder(tmp_path / "set", ["a"]) / name, text)
    with pytest.raises(ValueError, match=words):
        FolderSource(root=str(tmp_path / "set")).own_space()


def test_categories_are_numbered_in_the_order_of_their_ids(tmp_path: Path) -> None:
    put(tmp_path / "set/images/a.png", photo(kind="PNG"))
    image = {"id": 1, "file_name": "a.png", "width": 16, "height": 12}
    note = {"id": 1, "image_id": 1, "category_id": 90, "segmentation": [[4, 3, 11, 3, 11, 9, 4, 9]]}
    names = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 0, "name": "background"}]
    put_json(tmp_path / "set/a.json", {"images": [image], "annotations": [note], "categories": names})
    space = call(tmp_path / "set", tmp_path / "run", **{"source.kind": "coco", "source.annotations": "a.json"})
    assert [(c.id, c.name, c.source_id) for c in space.classes] == [(1, "person", 1), (2, "toothbrush", 90)]
    (row,) = read_shard(f"{tmp_path}/run/samples/shard-00000.parquet", SAMPLE).to_pylist()
    assert row["class_ids"] == [2]


def test_class_label_features_make_the_space(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    info = {"info": {"features": {"labels": {"feature": LABEL, "_type": "List"}}}}
    rows = [{"image": photo(), "mask": encode_mask(label_map()), "labels": [1]}]
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, tmp_path / "set/x.parquet")
    space = call(tmp_path / "set", tmp_path / "run", **{"source.kind": "hf_parquet", "source.classes": "labels"})
    assert [(c.id, c.name, c.source_id) for c in space.classes] == [(1, "cat", 0), (2, "dog", 1)]


def test_pairs_that_are_made_need_a_space_of_their_own() -> None:
    with pytest.raises(ValueError, match="from_source needs a `source`"):
        load_run_config("demo", {"label_space": "from_source"})


@pytest.mark.parametrize("colours", [None, {"9,9,9": "cat"}])
def test_coloured_masks_are_read_by_the_colours_of_a_label_map(tmp_path: Path, colours: object) -> None:
    """CVAT's VOC export: labelmap.txt, and masks painted in its colours."""
    root = tmp_path / "set"
    picture = np.zeros((12, 16, 3), np.uint8)
    picture[3:6, 4:8], picture[7:9, 4:8] = (128, 0, 0), (0, 128, 0)
    if colours is not None:
        picture[0, 0] = (9, 9, 9)
    put(root / "labelmap.txt", "background:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n")
    put(root / "JPEGImages/a.jpg", photo())
    put(root / "SegmentationClass/a.png", encode_image(picture))
    put(root / "ImageSets/Segmentation/trainval.txt", "a\n")
    source = VocSource(root=str(root))
    samples, rejects = ingest(source, tmp_path / "run", source.own_space())
    if colours is None:
        wanted = np.where(picture[..., 0] > 0, 1, np.where(picture[..., 1] > 0, 2, 0))
        assert np.array_equal(mask_of(samples[0]), wanted)
    else:
        assert "9,9,9" in rejects[0]["detail"]
