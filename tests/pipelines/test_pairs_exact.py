"""Small parts of listing and reading by exact values: pairs and advice, seams of names, orders, boxes, brackets."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from maskmill.data_contracts.rle import Runs
from maskmill.pipelines.ingest.base import Entry
from maskmill.pipelines.ingest.coco_draw import _Piece
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.pair_rule import _at_an_end, _is_seam, guess_pattern
from maskmill.pipelines.ingest.spill import _end_of_value
from maskmill.pipelines.ingest.yolo import _note


def listed(root: Path, *names: str, **options: str) -> dict[str, Entry]:
    """What a folder of empty files lists, by photo."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return {one.key: one for one in FolderSource.model_validate({"root": str(root), **options}).entries()}


def test_of_two_masks_the_first_is_named_and_both_are_told(tmp_path: Path) -> None:
    (one,) = listed(tmp_path, "images/a.jpg", "masks/a.png", "masks/a.bmp").values()
    assert one.fields["masks"] == [["masks/a.bmp", None]]
    assert one.problem is not None
    assert one.problem.found == "masks/a.bmp, masks/a.png"


def test_a_pattern_is_advised_for_those_that_lack_a_mask(tmp_path: Path) -> None:
    paired = [f"{side}/{name}.png" for name in ("bear", "fox", "owl") for side in ("images", "masks")]
    entries = listed(tmp_path, *paired, "images/cat_rgb.png", "masks/cat_seg.png")
    assert entries["images/bear.png"].problem is None
    lone = entries["images/cat_rgb.png"].problem
    assert lone is not None
    assert "they would pair with source.pair: '(?P<key>.+?)(?:(?P<image>rgb)|(?P<mask>seg))'" in lone.fix


def test_masks_of_one_photo_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ("images/x.jpg", "masks/x_1.png", "masks/x_1-b.png", "masks/x_0.png")
    (one,) = listed(tmp_path, *names, pair="(?P<key>x)(?P<mask>_.*)?").values()
    assert [path for path, _ in one.fields["masks"]] == ["masks/x_0.png", "masks/x_1-b.png", "masks/x_1.png"]


def test_one_photo_and_one_mask_are_enough_for_a_guess() -> None:
    assert guess_pattern(["a_rgb"], ["a_mask"]) is not None
    assert guess_pattern(["a_rgb", "c_rgb"], ["a_mask", "b_seg"]) is None  # each edit has one vote


@pytest.mark.parametrize(
    ("name", "at", "seam"),
    [("a_bc", 3, False), ("ab", 1, False), ("a1", 1, True), ("a_b", 1, True), ("a_b", 0, True), ("12", 1, False)],
)
def test_names_are_cut_between_words_and_numbers(name: str, at: int, seam: bool) -> None:
    assert _is_seam(name, at) is seam


def test_both_names_must_have_the_seam() -> None:
    assert _at_an_end("cat_x", "catalog") is None
    assert _at_an_end("x_cat", "bobcat") is None
    assert _at_an_end("cat_x", "cat_log") == ("end", "x", "log")


def test_objects_are_ordered_by_area_and_then_by_a_number_if_they_have_one() -> None:
    runs = Runs.of(np.ones((2, 3), bool))
    orders = [_Piece(note, 1, runs, below=False).order for note in ({}, {"id": "x7"}, {"id": "-7"}, {"id": 12})]
    assert orders == [(True, -6, 0.0), (True, -6, 0.0), (True, -6, -7.0), (True, -6, 12.0)]


def test_a_box_of_fractions_lies_around_its_middle() -> None:
    words = ["0", "0.5", "0.25", "0.5", "0.25"]
    assert _note(words, "a.txt:1", {"0": "cat"}, height=40, width=80)["bbox"] == [20.0, 5.0, 40.0, 10.0]


def test_a_value_ends_at_its_own_bracket() -> None:
    text = '[1, [2, "]\\"]"], {"a": [3]}], 4]'
    assert text[: _end_of_value(text, 0)] == '[1, [2, "]\\"]"], {"a": [3]}]'
    assert _end_of_value('[1, {"a": 2}', 0) is None


@pytest.mark.parametrize("colour", ["0,0,256", "300,0,0", "1,2", "a,b,c"])
def test_colours_are_three_numbers_of_a_byte(colour: str) -> None:
    with pytest.raises(ValidationError, match="expected keys like '128,0,0'"):
        FolderSource(root="x", colours={colour: 1})


def test_names_beside_the_masks_keep_their_ids(tmp_path: Path) -> None:
    (tmp_path / "id2label.json").write_text('{"0": "background", "7": "cat", "9": "dog"}')
    (tmp_path / "images").mkdir()
    space = FolderSource(root=str(tmp_path)).own_space()
    assert [(one.id, one.name, one.source_id) for one in space.classes] == [(7, "cat", None), (9, "dog", None)]
