"""`maskmill examples`: the sets are there, fit each other, and are the same each time."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskmill.pipelines.weak.examples import CLASSES, SETS, SIDE, few_shot, photos, scans, write_examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("examples") / "example"
    counts = write_examples(place)
    assert counts.keys() == SETS.keys()
    assert sum(counts.values()) == sum(path.is_file() for path in place.rglob("*"))
    return place


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_tags_boxes_and_strokes_say_what_the_masks_say(folder: Path) -> None:
    tags = json.loads((folder / "tags.json").read_text())
    boxes = list(csv.DictReader((folder / "boxes.csv").open()))
    for path in sorted((folder / "images").iterdir()):
        mask = pixels(folder / "masks" / path.name)
        assert mask.shape == pixels(path).shape[:2] == (SIDE, SIDE)
        assert {CLASSES[i - 1] for i in np.unique(mask) if i} == set(tags[path.name])
        for box in (one for one in boxes if one["file"] == path.name):
            x0, y0, x1, y1 = (int(box[key]) for key in ("x0", "y0", "x1", "y1"))
            assert (mask[y0:y1, x0:x1] == CLASSES.index(box["class"]) + 1).any()
    for path in (folder / "strokes").iterdir():
        strokes, mask = pixels(path), pixels(folder / "masks" / path.name)
        assert (strokes[strokes != 255] == mask[strokes != 255]).all()
        drawn = pixels(folder / "object-strokes" / path.name)
        assert set(np.unique(drawn)) == {0, 1, 2}
        assert ((drawn == 1) == ((strokes > 0) & (strokes < 255))).all()


def test_clips_and_scans_are_whole(folder: Path) -> None:
    frames = sorted((folder / "clip").iterdir())
    assert len(json.loads((folder / "clip_boxes.json").read_text())) == 2
    assert len(frames) == len(list((folder / "clips/images/clip-0").iterdir()))
    for path in (folder / "scans/images").iterdir():
        assert set(np.unique(pixels(folder / "scans/masks" / path.name))) <= {0, 1, 2}


@pytest.mark.parametrize("files", [photos, few_shot, scans], ids=lambda files: files.__name__)
def test_the_same_files_each_time(folder: Path, files: object) -> None:
    for number, (path, data) in enumerate(files()):  # type: ignore[operator]
        assert (folder / path).read_bytes() == data
        if number == 5:
            return


def test_a_folder_with_files_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="name another folder"):
        write_examples(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
