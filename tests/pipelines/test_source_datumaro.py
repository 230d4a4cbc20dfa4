"""datumaro's formats: the tail of what people have."""

from pathlib import Path

import numpy as np
import pytest
from ingest_sets import ingest, mask_of, photo, put

from maskmill.data_contracts import LabelSpace, encode_image
from maskmill.pipelines.ingest.datumaro import DatumaroSource

datumaro = pytest.importorskip("datumaro", reason="needs `pip install datumaro`")
PETS = LabelSpace.from_names(["cat", "dog"], "pets")
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>
<label><name>cat</name><attributes></attributes></label><label><name>dog</name><attributes></attributes></label>
</labels></task></meta>
<image id="0" name="a.jpg" width="16" height="12">
<polygon label="cat" occluded="0" points="4,3;8,3;8,6;4,6" z_order="0"></polygon>
<polygon label="dog" occluded="0" points="8,3;12,3;12,6;8,6" z_order="0"></polygon>
{more}</image></annotations>"""


def cvat(root: Path, more: str = "") -> Path:
    put(root / "images/a.jpg", photo())
    put(root / "annotations.xml", CVAT.replace("{more}", more))
    return root


def test_cvat_xml(tmp_path: Path) -> None:
    points = '<points label="cat" occluded="0" points="1,1" z_order="0"></points>'
    source = DatumaroSource(root=str(cvat(tmp_path / "set", points)), format="cvat")
    (row,), rejects = ingest(source, tmp_path / "run", PETS)
    assert not rejects
    wanted = np.zeros((12, 16), np.uint8)
    wanted[3:6, 4:8], wanted[3:6, 8:12] = 1, 2
    assert np.array_equal(mask_of(row), wanted)
    assert row["provenance"]["source_path"] == "images/a.jpg"
    assert "points left out" in row["provenance"]["extra"]
    assert [(c.id, c.name) for c in source.own_space().classes] == [(1, "cat"), (2, "dog")]


def test_boxes_need_a_word(tmp_path: Path) -> None:
    box = '<box label="cat" occluded="0" xtl="1" ytl="8" xbr="3" ybr="11" z_order="0"></box>'
    source = DatumaroSource(root=str(cvat(tmp_path / "set", box)), format="cvat")
    _, (lost,) = ingest(source, tmp_path / "run", PETS)
    assert "boxes" in lost["detail"]
    (row,), _ = ingest(source.model_copy(update={"boxes": "fill"}), tmp_path / "again", PETS)
    assert mask_of(row)[9, 2] == 1


def test_camvid(tmp_path: Path) -> None:
    picture = np.zeros((12, 16, 3), np.uint8)
    picture[3:6, 4:8] = (64, 128, 64)
    put(tmp_path / "set/label_colors.txt", "0 0 0 background\n64 128 64 cat\n")
    put(tmp_path / "set/train/a.jpg", photo())
    put(tmp_path / "set/trainannot/a.png", encode_image(picture))
    put(tmp_path / "set/train.txt", "/train/a.jpg /trainannot/a.png\n")
    source = DatumaroSource(root=str(tmp_path / "set"), format="camvid")
    (row,), _ = ingest(source, tmp_path / "run", PETS)
    assert np.array_equal(mask_of(row), (picture[..., 1] == 128).astype(np.uint8))


@pytest.mark.parametrize(
    ("kind", "words"), [("cvatt", "is no format of datumaro; there is:"), ("kitti_segmentation", "")]
)
def test_other_formats_are_told(tmp_path: Path, kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=words or "kitti_segmentation|nothing to ingest"):
        ingest(DatumaroSource(root=str(cvat(tmp_path / "set")), format=kind), tmp_path / "run", PETS)


@pytest.mark.parametrize("kind", ["camvid", "cvat", "datumaro", "label_me", "voc_segmentation"])
def test_what_datumaro_writes(tmp_path: Path, kind: str) -> None:
    names, start = (
        (["cat", "dog"], 0) if kind in ("cvat", "datumaro", "label_me") else (["background", "cat", "dog"], 1)
    )
    wanted = np.zeros((12, 16), np.uint8)
    wanted[3:6, 4:8], wanted[3:6, 8:12] = 1, 2
    corners = [[left, 3, left + 4, 3, left + 4, 6, left, 6] for left in (4, 8)]
    objects = [
        datumaro.Polygon(ring, label=start + i, id=i + 1, group=i + 1)
        if kind == "cvat"
        else datumaro.Mask((wanted == i + 1).astype(np.uint8), label=start + i, id=i + 1, group=i + 1)
        for i, ring in enumerate(corners)
    ]
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    media = datumaro.Image.from_numpy(data=pixels, ext=".png")
    items = [datumaro.DatasetItem("a", subset="train", media=media, annotations=objects)]
    datumaro.Dataset.from_iterable(items, categories=names).export(str(tmp_path / "set"), kind, save_media=True)
    (row,), rejects = ingest(
        DatumaroSource(root=str(tmp_path / "set"), format=kind, boxes="ignore"), tmp_path / "run", PETS
    )
    assert not rejects
    assert np.array_equal(mask_of(row), wanted)


def test_photos_without_annotations_are_told(tmp_path: Path) -> None:
    root = cvat(tmp_path / "set")
    put(root / "annotations.xml", CVAT.replace("{more}", "").replace("polygon", "polyline"))
    _, (lost,) = ingest(DatumaroSource(root=str(root), format="cvat"), tmp_path / "run", PETS)
    assert lost["reason"] == "missing_mask"
