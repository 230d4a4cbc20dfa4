"""The recipes of DCFM, DFR and SCWSSOD from end to end on miniatures of the releases' layouts, with random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskmill.data_contracts import Uint8Array
from maskmill.pipelines.run.reproduce import load_recipe, reproduce
from tests.golden import picture
from tests.pipelines.test_reproduce import pair

RUNTIME = {"progress": False, "threads": 1, "device": "cpu"}
SIDES = (64, 80)
SALIENCY_SETS = ("ECSSD", "DUT-OMRON", "PASCAL-S", "HKU-IS", "THUR15K", "DUTS")
IDS = ((8,), (3, 15), (12,), (8, 12))
XML = """<annotation><size><width>80</width><height>64</height></size>
<polygon><tag>{tag}</tag><point><X>20</X><Y>30</Y></point><point><X>50</X><Y>34</Y></point></polygon>
<polygon><tag>background</tag><point><X>2</X><Y>3</Y></point><point><X>70</X><Y>3</Y></point></polygon></annotation>"""


def soft_mask() -> Uint8Array:
    """White on black with a grey border, as saliency sets have it."""
    mask = np.zeros(SIDES, np.uint8)
    mask[14:50, 18:60], mask[16:48, 20:58] = 90, 170
    mask[17:47, 21:57] = 255
    mask[15, 19:40] = 33
    return mask


def groups(root: Path) -> Path:
    """Two groups of two photos a set, as the release of DCFM has them."""
    for images, masks in [("CoCo/img", "CoCo/gt")] + [
        (f"images/{s}", f"gts/{s}") for s in ("CoCA", "CoSOD3k", "CoSal2015")
    ]:
        for group in ("axe", "bear"):
            for folder in (root / images / group, root / masks / group):
                folder.mkdir(parents=True)
            for name in ("1", "2"):
                Image.fromarray(picture(f"{images} {group} {name}", *SIDES)).save(root / images / group / f"{name}.jpg")
                Image.fromarray(soft_mask()).save(root / masks / group / f"{name}.png")
    return root


def saliency(root: Path) -> Path:
    """Two photos a set; DUTS has scribbles of three equal channels, too."""
    for place in SALIENCY_SETS:
        for folder in ("image", "mask", "scribble"):
            (root / place / folder).mkdir(parents=True)
        for name in ("a", "b"):
            Image.fromarray(picture(f"{place} {name}", *SIDES)).save(root / place / "image" / f"{name}.jpg")
            Image.fromarray(soft_mask()).save(root / place / "mask" / f"{name}.png")
            strokes = np.zeros(SIDES, np.uint8)
            strokes[30, 22:50], strokes[4, 4:70] = 1, 2
            Image.fromarray(np.repeat(strokes[..., None], 3, axis=2)).save(root / place / "scribble" / f"{name}.png")
        for split in ("train", "test"):
            (root / place / f"{split}.txt").write_text("a\nb\n")
    return root


def voc(root: Path) -> Path:
    place = root / "VOCdevkit" / "VOC2012"
    (root / "scribble_annotation" / "pascal_2012").mkdir(parents=True)
    names = [f"2007_{i:06d}" for i in range(4)]
    for name, ids, tag in zip(names, IDS, ("cat", "bird", "dog", "cat"), strict=True):
        pair(place, name, ids, "JPEGImages", "SegmentationClassAug")
        (root / "scribble_annotation" / "pascal_2012" / f"{name}.xml").write_text(XML.format(tag=tag))
    (place / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split in ("train_aug", "val"):
        (place / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def on(steps: tuple[str, ...], settings: dict[str, Any]) -> dict[str, Any]:
    return {f"steps.{step}.config.settings.{key}": value for step in steps for key, value in settings.items()}


SMALL_GROUPS = {
    "encoder": "tf_efficientnet_lite0",
    "feature_levels": [1, 2, 3, 4],
    "trained_layers": ["blocks.6"],
    "width": 8,
    "channels": 16,
    "members": 2,
    "epochs": 1,
    "augment": {"size": 32},
    "runtime": RUNTIME,
}
SMALL_SALIENCY = {
    "encoder": "tf_efficientnet_lite0",
    "width": 8,
    "batch": 2,
    "steps": 1,
    "augment": {"size": 64},
    "runtime": RUNTIME,
}
SMALL_CLASSES = {
    "segmenter": {
        "architecture": "upernet",
        "encoder": "swin_s3_tiny_224",
        "weights": "random",
        "options": {"img_size": 64},
    },
    "steps": 1,
    "batch": 2,
    "warmup_steps": 0,
    "long_pairs": 16,
    "augment": {"size": 64},
    "runtime": RUNTIME,
}
RECIPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "dcfm": (groups, on(("train",), SMALL_GROUPS)),
    "scwssod": (saliency, on(("train",), SMALL_SALIENCY)),
    "dfr-voc": (voc, {**on(("train", "static"), SMALL_CLASSES), "steps.val.config.crf.backend": "mean_field"}),
}


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_runs_on_a_miniature(name: str, tmp_path: Path) -> None:
    make, changes = RECIPES[name]
    recipe = load_recipe(name, {"data": str(make(tmp_path / "data")), "weights": "random", **changes}, str(tmp_path))
    found = reproduce(recipe)
    table = json.loads((tmp_path / "table.json").read_text())
    assert all(row["ours"] is not None and 0 <= row["ours"] <= 100 for row in table["rows"]), table["rows"]
    text = (tmp_path / "table.md").read_text()
    assert all(row.row in text for row in recipe.rows)
    assert all(deviation in text for deviation in recipe.deviations)
    if name == "dcfm":
        assert {key for key in found if "images" in found[key]} == {"coca", "cosod3k", "cosal2015"}
        assert found["coca"]["images"] == 4, "groups are read whole, masks with grey borders too"
    else:
        assert found["scribbles"] == {"kept": 4 if name == "dfr-voc" else 2}
    if name == "scwssod":
        measured = [key for key in found if "adaptive_f" in found[key]]
        assert measured == ["ecssd", "omron", "pascal_s", "hku_is", "thur15k", "duts"]


def test_what_is_published_stands_in_the_recipes() -> None:
    rows = {row.row: row.published for name in RECIPES for row in load_recipe(name, {}, "out").rows}
    assert (rows["CoCA, S"], rows["CoSal2015, max F"], rows["ECSSD, MAE"]) == (71.0, 85.6, 4.89)
    reading = load_recipe("dfr-voc", {}, "out")
    assert any("our reading" in words for words in reading.deviations)
