"""Small parts of ingest by exact values: segmentations, what lies on top, name patterns, mask values."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskmill.data_contracts import ContractError, LabelSpace, Uint8Array, encode_mask
from maskmill.pipelines.ingest.coco_draw import Rules, draw_notes
from maskmill.pipelines.ingest.coco_masks import are_shares, draw_segmentation, is_empty, is_runs
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.masks import MaskRule, as_values
from maskmill.pipelines.ingest.pair_rule import PairRule, _edit, guess_pattern

SPACE = LabelSpace.from_names(["cat", "dog"])
SQUARE = [1, 1, 5, 1, 5, 4, 1, 4]


# segmentations


@pytest.mark.parametrize(
    ("segmentation", "empty"),
    [(None, True), ("", True), ([], True), ([[]], True), ([{}], True), ({}, True), ([[1]], False), ([[], [1]], False)],
)
def test_segmentations_that_say_nothing(segmentation: Any, empty: bool) -> None:
    assert is_empty(segmentation) is empty


@pytest.mark.parametrize(
    ("segmentation", "runs"),
    [({}, True), ([{"counts": []}], True), ([{"x": 1, "y": 2}], False), ([[1, 2]], False), ([], False), ("x", False)],
)
def test_run_lengths_are_told_from_polygons(segmentation: Any, runs: bool) -> None:
    assert is_runs(segmentation) is runs


def drawn_mask(segmentation: Any) -> np.ndarray:
    """Bool (8, 10) of a segmentation."""
    return draw_segmentation(segmentation, 8, 10, "x").draw()


def points(flat: list[int]) -> list[list[int]]:
    return [flat[i : i + 2] for i in range(0, len(flat), 2)]


def test_a_polygon_in_every_form_is_the_same_mask() -> None:
    wanted = drawn_mask([SQUARE])
    assert int(wanted.sum()) == 12
    assert wanted[1:4, 1:5].all()
    forms: list[Any] = [SQUARE, points(SQUARE), [points(SQUARE)], [{"x": x, "y": y} for x, y in points(SQUARE)]]
    for form in [*forms, str(SQUARE), [[], SQUARE]]:
        assert np.array_equal(drawn_mask(form), wanted), form


def test_parts_are_laid_together() -> None:
    other = [6, 5, 9, 5, 9, 7, 6, 7]
    both = drawn_mask([SQUARE, other])
    assert int(both.sum()) == 12 + 6
    runs = {"size": [8, 10], "counts": [79.0, 1]}
    mixed = drawn_mask([SQUARE, runs])
    assert mixed[7, 9]
    assert int(mixed.sum()) == 13
    assert int(drawn_mask([]).sum()) == 0


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([[1, 1, 5, 5]], "a box perhaps"),
        ([[1, 1, 5, 1]], "a box perhaps"),
        ([[1, 1, 5, 1, 5]], "5 numbers"),
        ([[1, 1, 5, 1, 5, 21]], "1, 1, 5, 1, 5, 21"),
        ([[1, 1, 5, 1, 5, float("nan")]], "nan"),
        ([[1, 1, 5, 1, 5, True]], "True"),
        ([3], "3"),
        ({"size": [10, 8], "counts": [80]}, "width before height"),
        ({"size": None, "counts": [80]}, "found None"),
        ({"size": [8, 10], "counts": [79.5]}, "no list of whole numbers"),
        ({"size": [8, 10], "counts": [79]}, "sum of 79"),
        ("[1, 2", "the text"),
        (7, "found 7"),
    ],
)
def test_segmentations_that_are_none_are_named(segmentation: Any, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        drawn_mask(segmentation)
    assert drawn_mask([[1, 1, 5, 1, 5, 20]]).shape == (8, 10)  # twice the longer side is near


@pytest.mark.parametrize(
    ("numbers", "shares"),
    [
        ([[0.1, 0.2, 1.0]], True),
        ([0, 1, 1], False),
        ([[0.5, 1.01]], False),
        ([[-0.1, 0.5]], False),
        ([{"x": 0.5, "y": 0.2}], True),
        ([], False),
        ([True], False),
    ],
)
def test_shares_of_the_sides_are_told_from_pixels(numbers: Any, shares: bool) -> None:
    assert are_shares(numbers) is shares


# what lies on top


def rules(crowds: str = "ignore", boxes: str = "label", **more: Any) -> Rules:
    return Rules("x.jpg", SPACE, lambda note: int(note["category_id"]), crowds, boxes, **more)


def note(category: int, segmentation: Any = None, number: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "category_id": category, "segmentation": segmentation, **more}


def test_the_smaller_lies_on_top_and_crowds_below_all() -> None:
    large, small = [[0, 0, 8, 0, 8, 6, 0, 6]], [[1, 1, 3, 1, 3, 3, 1, 3]]
    crowd = note(2, [[0, 0, 10, 0, 10, 8, 0, 8]], 9, iscrowd=1)
    drawn = draw_notes([note(2, small, 5, score=0.25), note(1, large, 4), crowd], 8, 10, rules())
    assert (drawn.mask[2, 2], drawn.mask[5, 5], drawn.mask[7, 9]) == (2, 1, 255)
    assert [(one.source_id, one.crowd, one.score) for one in drawn.instances] == [
        ("5", False, 0.25),
        ("4", False, None),
        ("9", True, None),
    ]
    assert drawn.notes == {"iscrowd as ignore": 1}
    equal = draw_notes([note(1, large, 10), note(2, large, 9)], 8, 10, rules())
    assert equal.mask[2, 2] == 1  # the number decides, not the text of it


def test_flags_mean_what_the_file_shows() -> None:
    square = [SQUARE]
    assert rules("objects").is_crowd(note(1, square, iscrowd=1)) is False
    assert rules("ignore").is_crowd(note(1, square, iscrowd=1)) is True
    assert rules("objects").is_crowd(note(1, square, ignore=1)) is True
    assert rules("reject").is_crowd(note(1, square)) is False
    with pytest.raises(ContractError, match="a crowd or an object"):
        rules("reject").is_crowd(note(1, square, iscrowd=1))
    for odd in ({"iscrowd": "maybe"}, {"ignore": "maybe"}):
        with pytest.raises(ContractError, match="iscrowd and ignore as 0 or 1"):
            rules().is_crowd(note(1, square, **odd))
    drawn = draw_notes([note(1, square, ignore=1)], 8, 10, rules())
    assert drawn.notes == {"ignore flags as ignore": 1}
    assert draw_notes([note(1, square, iscrowd=1)], 8, 10, rules("objects")).notes == {"iscrowd as objects": 1}


def test_boxes_alone_become_what_is_asked_for() -> None:
    box = note(1, bbox=[1.5, 2.2, 3, 2], number=3)
    labelled = draw_notes([box], 8, 10, rules(boxes="label"))
    assert np.argwhere(labelled.mask == 255).min(axis=0).tolist() == [2, 1]
    assert np.argwhere(labelled.mask == 255).max(axis=0).tolist() == [4, 4]
    (one,) = labelled.instances
    assert (one.box, one.mask, one.source_id) == ((1.5, 2.2, 4.5, 4.2), None, "3")
    (crowd,) = draw_notes([box], 8, 10, rules(boxes="ignore")).instances  # what is there is not known pixel by pixel
    assert (crowd.crowd, crowd.box) == (True, (1.0, 2.0, 5.0, 5.0))
    filled = draw_notes([note(1, bbox=[1, 1, 4, 3])], 8, 10, rules(boxes="fill"))
    assert np.array_equal(filled.mask == 1, drawn_mask([SQUARE]))
    outside = draw_notes([note(1, bbox=[-3, -2, 5, 4])], 8, 10, rules())
    assert int((outside.mask == 255).sum()) == 4
    with pytest.raises(ContractError, match=r"set source\.boxes"):
        draw_notes([box], 8, 10, rules(boxes="reject"))


@pytest.mark.parametrize("box", [None, [1, 2, 3], [1, 2, 0, 3], [1, 2, 3, 0], [1, 2, 3, True], [1, 2, 3, 21], "x"])
def test_boxes_that_are_none(box: Any) -> None:
    with pytest.raises(ContractError, match=r"an outline \(or a box\)"):
        draw_notes([note(1, bbox=box)], 8, 10, rules())


def test_shares_are_refused_unless_the_source_made_pixels_of_them() -> None:
    for shares in (note(1, [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]), note(1, bbox=[0.1, 0.1, 0.5, 0.5])):
        with pytest.raises(ContractError, match="coordinates in pixels"):
            draw_notes([shares], 8, 10, rules())
        assert draw_notes([shares], 8, 10, rules(in_pixels=True)).mask.shape == (8, 10)


def test_what_became_background_erases() -> None:
    drawn = draw_notes([note(1, [SQUARE]), note(0, [[1, 1, 3, 1, 3, 4, 1, 4]], 2)], 8, 10, rules())
    assert int((drawn.mask == 1).sum()) == 6
    (one,) = drawn.instances
    assert one.mask is not None
    assert int(one.mask.sum()) == 6
    bare = LabelSpace.model_validate({**SPACE.model_dump(), "background_id": None})
    around = draw_notes([], 2, 2, Rules("x", bare, lambda n: 1, "ignore", "label"))
    assert (around.mask == 255).all()


def test_what_covers_nothing_is_noted_and_no_object() -> None:
    nothing = {"size": [8, 10], "counts": [80]}
    drawn = draw_notes([note(1, nothing), note(2, nothing, 2, iscrowd=1)], 8, 10, rules())
    assert drawn.instances == []
    assert drawn.notes["objects that cover no pixel"] == 2


# names


@pytest.mark.parametrize(
    ("pattern", "stem", "key", "side"),
    [
        (r"(?P<key>.+)_(?:(?P<image>img)|(?P<mask>gt))", "a/x_gt", "a/x", "mask"),
        (r"(?P<key>.+)_(?:(?P<image>img)|(?P<mask>gt))", "x_img", "x", "image"),
        (r"(?P<key>.+?)(?P<mask>_gt)?", "x", "x", "image"),
        (r"(?P<key>.+?)(?P<image>_img)?", "x", "x", "mask"),
        (r"(?P<key>.+?)_?(?P<key2>\d+)", "x_07", "x07", ""),
        (r"(?P<key>.+)/[^/]+", "a/b/x", "a/b", ""),
        (r"(?P<key>e\u0301)", "e\u0301", "\u00e9", ""),
    ],
)
def test_what_a_name_says(pattern: str, stem: str, key: str, side: str) -> None:
    found = PairRule(pattern).match(stem)
    assert found is not None
    assert (found.key, found.side) == (key, side)
    assert PairRule(pattern).match("") is None


@pytest.mark.parametrize("pattern", ["x", "(?P<name>x)", "(?P<key>x)(?P<more>y)"])
def test_patterns_without_their_groups(pattern: str) -> None:
    with pytest.raises(ValueError, match="expected the named group `key`"):
        PairRule(pattern)


@pytest.mark.parametrize(
    ("photos", "masks", "pattern"),
    [
        (["img_1", "img_2"], ["gt_1", "gt_2"], "(?:(?P<image>img)|(?P<mask>gt))(?P<key>.+)"),
        (["a_rgb", "b_rgb"], ["a_mask", "b_mask"], "(?P<key>.+?)(?:(?P<image>rgb)|(?P<mask>mask))"),
        (["a1", "b2"], ["a1_gt", "b2_gt"], "(?P<key>.+?)(?P<mask>_gt)?"),
        (["x01", "x02"], ["xmask01", "xmask02"], r"(?P<key>.+?)(?P<mask>mask)?(?P<key2>\d+)"),
        (["s1/photo", "s2/photo"], ["s1/label", "s2/label"], "(?P<key>.+)/[^/]+"),
        (["a", "b"], ["c", "d"], None),
        (["cat1", "cat2"], ["dog8", "dog9"], None),
    ],
)
def test_a_pattern_is_guessed_from_what_names_have_in_common(
    photos: list[str], masks: list[str], pattern: str | None
) -> None:
    found = guess_pattern(photos, masks)
    if pattern is None:
        assert found is None
        return
    assert found is not None
    rule = PairRule(found)
    for photo, mask in zip(photos, masks, strict=True):
        one, two = rule.match(photo), rule.match(mask)
        assert one is not None
        assert two is not None
        assert one.key == two.key


@pytest.mark.parametrize(
    ("photo", "mask", "edit"),
    [
        ("a/img_1", "a/img_2", None),
        ("a/x_img2", "a/x_seg2", ("end", "img2", "seg2")),
        ("a/img2_x", "a/seg2_x", ("start", "img", "seg")),
        ("x_img3", "x_seg2", None),
        ("a/img_x", "b/seg_x", None),
    ],
)
def test_names_that_differ_in_a_number_are_two_samples(
    photo: str, mask: str, edit: tuple[str, str, str] | None
) -> None:
    assert _edit(photo, mask) == edit


# values


def rule(**options: Any) -> MaskRule:
    return MaskRule.of(FolderSource(root="x", masks="masks", **options), SPACE)


def grey(*values: int) -> bytes:
    return encode_mask(np.array([values], np.uint8))


def deep(*values: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.array([values], np.uint16)).save(buffer, format="PNG")
    return buffer.getvalue()


def found(data: bytes, **options: Any) -> list[int]:
    ids: list[int] = rule(**options).read(data, "m.png").mask[0].tolist()
    return ids


def test_values_become_ids() -> None:
    assert found(grey(0, 1, 2, 255)) == [0, 1, 2, 255]
    assert found(grey(0, 9, 2), remap={9: "cat"}) == [0, 1, 2]
    assert found(deep(0, 300, 2), remap={300: "dog"}) == [0, 2, 2]
    assert found(grey(0, 255), remap={255: "cat"}) == [0, 1]
    assert rule().read(grey(0, 7, 255), "m.png", foreground=2).mask[0].tolist() == [0, 2, 255]
    assert rule().read(deep(0, 700), "m.png", foreground=2).mask[0].tolist() == [0, 2]
    with pytest.raises(ContractError, match="values 300 on 2 pixels"):
        found(deep(0, 300, 300))
    with pytest.raises(ContractError, match="instance_step: 1000 and map the class"):
        found(deep(0, 24001, 24002))


def test_values_of_class_and_number_are_objects() -> None:
    labels = rule(instance_step=1000).read(deep(0, 1001, 1002, 2001, 1), "m.png")
    assert labels.mask[0].tolist() == [0, 1, 1, 2, 1]
    assert labels.instances is not None
    assert [(one.class_id, one.source_id) for one in labels.instances] == [
        (1, "1"),
        (1, "1001"),
        (1, "1002"),
        (2, "2001"),
    ]
    assert rule(instance_step=1000).read(grey(0, 1, 2), "m.png").instances is None
    at = rule(instance_step=10).read(grey(0, 10, 19), "m.png")  # the step itself is class 1, number 0
    assert at.mask[0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("values", [(0, 255), (255,), (255, 255)])
def test_black_and_white_masks_are_asked_about(values: tuple[int, ...]) -> None:
    with pytest.raises(ContractError, match="if 255 is your object"):
        found(grey(*values))
    assert found(grey(*values), remap={255: "ignore"}) == list(values)
    assert found(grey(*values, 1))[-1] == 1
    assert found(grey(*values), remap={0: "cat"}) == [1 if v == 0 else v for v in values]


def paletted(palette: list[int], *values: int) -> bytes:
    return encode_mask(np.array([values], np.uint8), palette + [0] * (768 - len(palette)))


def test_palettes_that_only_decorate_say_nothing() -> None:
    voc = SPACE.palette
    assert found(paletted(voc, 0, 1, 2)) == [0, 1, 2]
    assert found(paletted([0, 0, 0, 9, 9, 0, 0, 9, 9], 0, 1, 2)) == [0, 1, 2]
    with pytest.raises(ContractError, match="index 1 in 0,0,0, the colour of id 0"):
        found(paletted([200, 0, 0, 0, 0, 0], 0, 1))
    assert found(paletted([200, 0, 0, 0, 0, 0], 0, 1), remap={0: "cat", 1: "background"}) == [1, 0]


def coloured(*colours: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.array([colours], np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_colours_become_ids_by_name_or_by_the_space() -> None:
    named = {"10,20,30": "dog", "0,0,0": "background", "255,255,255": "ignore"}
    assert found(coloured((10, 20, 30), (0, 0, 0), (255, 255, 255)), colours=named) == [2, 0, 255]
    with pytest.raises(ContractError, match="colour 10,20,31 on 2 pixels"):
        found(coloured((10, 20, 31), (0, 0, 0), (10, 20, 31)), colours=named)
    space = LabelSpace.model_validate(
        {"name": "x", "classes": [{"id": 1, "name": "cat", "colour": [1, 2, 3]}, {"id": 2, "name": "dog"}]}
    )
    own = MaskRule.of(FolderSource(root="x", masks="masks"), space)
    assert own.read(coloured((1, 2, 3), (0, 0, 0)), "m.png").mask[0].tolist() == [1, 0]
    with pytest.raises(ContractError, match=r'source\.colours: \{"0,0,0": background, "9,8,7": dog\}'):
        own.read(coloured((0, 0, 0), (0, 0, 0), (9, 8, 7)), "m.png")


def test_large_values_of_a_mask_that_says_only_where_stay_values() -> None:
    from maskmill.data_contracts.label_files import decode_labels

    values: Uint8Array = as_values(decode_labels(deep(0, 255, 256, 60000)), "x")
    assert values[0].tolist() == [0, 255, 254, 254]


@pytest.mark.parametrize(("colours", "fix"), [(256, "name what each colour stands for"), (257, "a mask and no photo")])
def test_more_colours_than_ids_are_a_photo(colours: int, fix: str) -> None:
    with pytest.raises(ContractError, match=fix):
        found(coloured(*((i % 256, i // 256, 7) for i in range(colours))))
