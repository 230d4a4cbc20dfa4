"""Label spaces: the built-in ones are what the data sets use, and every class is found by every name it has."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from maskmill.data_contracts import IGNORE, LabelClass, LabelSpace, load_label_space
from maskmill.data_contracts.labels import SPACES, named_classes, voc_colour

NAMES = sorted(p.stem for p in SPACES.glob("*.yaml"))

# COCO's own numbers of its 80 things: 1..90 without these ten.
COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


@pytest.mark.parametrize("name", NAMES)
def test_built_in_spaces(name: str) -> None:
    space = load_label_space(name)
    assert space.name == name
    assert space.ids == tuple(range(min(space.ids), max(space.ids) + 1))
    assert space.size == max(space.ids) + 1
    assert IGNORE in space.allowed_ids
    assert not set(space.ignore_ids) & set(space.ids)
    assert len(space.palette) == 768
    for c in space.classes:
        for word in (c.name, *c.synonyms):
            for spelling in (word, word.upper(), word.replace(" ", "_"), word.replace(" ", "-"), word.replace(" ", "")):
                assert space.find(spelling) is c


def test_coco_ids_are_pinned_in_both_numberings() -> None:
    coco = load_label_space("coco")
    assert coco.ids == tuple(range(1, 81))
    source = [c.source_id for c in coco.classes]
    assert source == [i for i in range(1, 91) if i not in COCO_GAPS]
    for c in coco.classes:
        assert c.source_id is not None
        assert coco.find_id(c.source_id) == c.id
    known = {
        1: "person",
        11: "fire hydrant",
        13: "stop sign",
        18: "dog",
        44: "bottle",
        52: "banana",
        67: "dining table",
        90: "toothbrush",
    }
    assert {i: coco.by_id[coco.find_id(i)].name for i in known} == known
    assert [coco.by_id[i].name for i in (12, 13, 40, 47, 61, 80)] == [
        "stop sign",
        "parking meter",
        "bottle",
        "banana",
        "dining table",
        "toothbrush",
    ]


def test_voc_is_in_its_own_order_and_colours() -> None:
    voc = load_label_space("voc")
    names = (
        "aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,diningtable,dog,horse,motorbike,person,pottedplant,"
        "sheep,sofa,train,tvmonitor"
    )
    assert ",".join(voc.by_id[i].name for i in range(1, 21)) == names
    wanted = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {i: voc_colour(i) for i in wanted} == wanted
    assert {i: tuple(voc.palette[3 * i : 3 * i + 3]) for i in wanted} == wanted
    assert voc.find_id(7) == 7  # no numbering but its own


def test_camvid_and_acdc_know_their_ignore_values() -> None:
    camvid, acdc = load_label_space("camvid"), load_label_space("acdc")
    assert (camvid.background_id, camvid.ignore_ids, camvid.ids) == (None, (11,), tuple(range(11)))
    assert (acdc.background_id, acdc.ignore_ids, acdc.ids) == (0, (4,), (1, 2, 3))
    assert camvid.allowed_ids == {*range(11), 255}


def test_unknown_words_and_spaces_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"'yeti' is no class of label space voc; known: aeroplane, "):
        load_label_space("voc").find("yeti")
    with pytest.raises(FileNotFoundError, match=r"acdc, camvid, coco, foreground, objects, promise12, voc"):
        load_label_space(str(tmp_path / "mine.yaml"))


def test_a_file_may_hold_names_alone_and_must_be_yaml(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("[horse, person]\n")
    assert [(c.id, c.name) for c in load_label_space(str(path)).classes] == [(1, "horse"), (2, "person")]
    path.write_text("classes: [{id: 1\n")
    with pytest.raises(ValueError, match=r"space\.yaml: expected a YAML file of classes, found line 2"):
        load_label_space(str(path))


def test_a_space_can_be_written_and_read(tmp_path: Path) -> None:
    voc = load_label_space("voc")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(voc.model_dump(mode="json")))
    assert load_label_space(str(path)) == voc
    assert load_label_space(str(path)).fingerprint == voc.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"classes": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
        {"classes": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]},
        {"classes": [{"id": 0, "name": "a"}]},
        {"classes": [{"id": 255, "name": "a"}]},
        {"classes": [{"id": -1, "name": "a"}]},
        {"colour": "red"},
        {"classes": [{"id": 1, "name": "a", "colour": [1, 2]}]},
    ],
)
def test_spaces_that_make_no_sense(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LabelSpace.model_validate({"name": "x", "classes": [{"id": 1, "name": "a"}], **change})


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(alphabet="abcdefg ", min_size=1).filter(str.strip), min_size=1, max_size=20, unique_by=str.strip)
)
def test_names_alone_make_a_space(names: list[str]) -> None:
    space = LabelSpace.from_names(names)
    assert [c.name for c in space.classes] == [n.strip() for n in names]
    assert space.ids == tuple(range(1, len(names) + 1))
    assert space.background_id == 0


def test_prompt_stands_for_the_name() -> None:
    assert LabelClass(id=1, name="bird", prompt="bird avian").text == "bird avian"
    assert LabelClass(id=1, name="bird").text == "bird"


@pytest.mark.parametrize(
    "fault",
    [
        {"classes": []},
        {"classes": [{"id": 1, "name": ""}]},
        {"classes": [{"id": 1, "name": " "}]},
        {"classes": [{"id": 1, "name": "a b"}, {"id": 2, "name": "A_B"}]},
        {"background_id": 300},
        {"background_id": -1},
        {"ignore_ids": [999]},
        {"ignore_ids": [-5]},
        {"classes": [{"id": 1, "name": "a", "colour": [999, 0, 0]}]},
        {"cam_box_threshold": float("nan")},
        {"cam_box_threshold": float("inf")},
        {"classes": [{"id": 1, "name": "a", "source_id": 5}, {"id": 2, "name": "b", "source_id": 5}]},
    ],
)
def test_label_spaces_with_holes_are_refused(fault: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        LabelSpace.model_validate({"name": "z", "classes": [{"id": 12, "name": "a"}], **fault})


def space(*classes: dict[str, object], **more: object) -> LabelSpace:
    return LabelSpace.model_validate({"name": "x", "classes": classes, **more})


def test_ids_come_in_order_and_count_the_channels() -> None:
    found = space({"id": 5, "name": "b"}, {"id": 2, "name": "a"})
    assert found.ids == (2, 5)
    assert found.size == 6
    assert space({"id": 0, "name": "a"}, background_id=None).size == 1
    assert space({"id": 1, "name": "a"}, background_id=7).size == 8
    assert found.cam_box_threshold == 0.4
    assert found.allowed_ids == {0, 2, 5, 255}


def test_colours_of_classes_lie_over_those_of_voc() -> None:
    found = space({"id": 1, "name": "a", "colour": [0, 255, 7]}, {"id": 2, "name": "b"})
    assert found.palette[:9] == [0, 0, 0, 0, 255, 7, 0, 128, 0]
    for wrong in (-1, 256):
        with pytest.raises(ValidationError):
            LabelClass.model_validate({"id": 1, "name": "a", "colour": [0, 0, wrong]})


def test_the_ends_of_the_ranges_are_ids() -> None:
    found = space({"id": 254, "name": "a", "source_id": 9}, background_id=253, ignore_ids=[0, 255])
    assert found.size == 255
    assert (found.find_id(9), found.find_id(3)) == (254, 3)
    assert space({"id": 0, "name": "a"}, background_id=254, cam_box_threshold=1.0).background_id == 254
    with pytest.raises(ValidationError):
        space({"id": 1, "name": "a"}, cam_box_threshold=1.1)


def test_the_first_class_of_a_word_has_it() -> None:
    found = space({"id": 1, "name": "cat", "synonyms": ["pet"]}, {"id": 2, "name": "dog", "synonyms": ["pet"]})
    assert found.find("PET").id == 1
    with pytest.raises(ValidationError, match="one word in another spelling"):
        space({"id": 1, "name": "a-b"}, {"id": 2, "name": "a b"})
    assert space({"id": 1, "name": "+"}, {"id": 2, "name": "-"}).ids == (1, 2)  # nothing of them is left when folded


@pytest.mark.parametrize("wrong", [[], ["a", 3], ["a", " "], [None]])
def test_lists_that_are_no_names(wrong: list[object]) -> None:
    with pytest.raises(ValueError, match="expected names of classes"):
        named_classes(wrong)
    assert isinstance(named_classes(["a", "b"]), LabelSpace)
    assert isinstance(named_classes(("a",)), LabelSpace)
    assert named_classes("voc") == "voc"
