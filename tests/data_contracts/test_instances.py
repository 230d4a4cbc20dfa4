"""Objects beside a label map: what they must agree on, how they are stored, and shards from before they were."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from maskmill.data_contracts import (
    PSEUDO_LABEL,
    SAMPLE,
    Instance,
    LabelSpace,
    check_instances,
    encode_mask,
    read_instances,
    read_shard,
    write_shard,
)
from maskmill.data_contracts.instances import upgrade_entries
from maskmill.data_contracts.rle import Runs, pack_mask, unpack_mask, unpack_runs
from maskmill.data_contracts.seal import SEAL_KEY

SPACE = LabelSpace.from_names(["cat", "dog"])


def area(rows: slice, columns: slice) -> NDArray[np.bool_]:
    mask = np.zeros((10, 12), dtype=bool)
    mask[rows, columns] = True
    return mask


LEFT, RIGHT = area(slice(0, 5), slice(0, 4)), area(slice(0, 5), slice(4, 8))
DOG = area(slice(3, 7), slice(2, 6))
CROWD = area(slice(8, 10), slice(0, 12))


def scene() -> tuple[list[Instance], NDArray[np.uint8]]:
    """Two cats that touch, a dog over both, and a crowd below."""
    mask = np.where(CROWD, 255, np.where(LEFT | RIGHT, 1, 0)).astype(np.uint8)
    mask[DOG] = 2
    cats = [Instance.of(1, LEFT, source_id="7", score=0.5), Instance.of(1, RIGHT)]
    return [*cats, Instance.of(2, DOG), Instance.of(2, CROWD, crowd=True)], mask


@settings(max_examples=60, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_lengths_come_back(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(unpack_mask(pack_mask(mask), *mask.shape), mask)


def test_objects_come_back_from_their_row() -> None:
    objects, mask = scene()
    objects.append(Instance(2, (1.5, 2.0, 4.0, 8.0), None))
    back = read_instances({"instances": [one.row() for one in objects]}, *mask.shape)
    assert back is not None
    for one, again in zip(objects, back, strict=True):
        assert replace(one, runs=None) == replace(again, runs=None) or one.box == again.box
        assert (one.mask is None and again.mask is None) or np.array_equal(one.mask, again.mask)
        assert (one.class_id, one.score, one.crowd, one.source_id) == (
            again.class_id,
            again.score,
            again.crowd,
            again.source_id,
        )
    assert read_instances({}, 1, 1) is None
    with pytest.raises(ValueError, match="sum"):
        read_instances({"instances": [objects[0].row()]}, 3, 3)


def test_objects_that_agree_with_their_label_map() -> None:
    assert check_instances(*scene(), SPACE) is None
    assert check_instances([], np.zeros((3, 3), np.uint8), SPACE) is None
    assert check_instances([Instance(1, (0, 0, 2, 2), None)], np.full((3, 3), 255, np.uint8), SPACE) is None


def broken(name: str) -> tuple[list[Instance], NDArray[np.uint8]]:
    objects, mask = scene()
    if name == "an object too few":
        del objects[1]
    if name == "an object on background":
        objects.append(Instance.of(1, area(slice(7, 8), slice(0, 2)), source_id="99"))
    if name == "an object of another class":
        objects[2] = replace(objects[2], class_id=1)
    if name == "a class that is none":
        objects[0] = replace(objects[0], class_id=9)
    if name == "a mask of another size":
        objects[0] = replace(objects[0], runs=Runs.of(np.ones((3, 3), dtype=bool)))
    if name == "a box of no size":
        objects[0] = replace(objects[0], box=(4.0, 0.0, 4.0, 5.0))
    return objects, mask


@pytest.mark.parametrize(
    ("name", "expected", "found"),
    [
        ("an object too few", "every pixel of class cat in one of its instances", "16 pixels in none"),
        ("an object on background", "instance 4 (99 in the source)", "2 that are not"),
        ("an object of another class", "every pixel of class dog", "16 pixels in none"),
        ("a class that is none", "instance 0 (7 in the source) with a class of", "class id 9"),
        ("a mask of another size", "a mask of 12x10", "3x3"),
        ("a box of no size", "a box with x0 < x1", "(4.0, 0.0, 4.0, 5.0)"),
    ],
)
def test_what_disagrees_is_named(name: str, expected: str, found: str) -> None:
    problem = check_instances(*broken(name), SPACE)
    assert problem is not None
    assert expected in problem.expected
    assert found in problem.found


SAMPLE_ROW: dict[str, Any] = {
    "sample_id": "a",
    "image": {"bytes": b"x", "path": "a.jpg"},
    "height": 10,
    "width": 12,
    "class_ids": [1, 2],
    "provenance": {"source": "folder"},
}


def test_shards_from_before_the_column_are_read_with_nulls(tmp_path: Path) -> None:
    path = str(tmp_path / "shard-00000.parquet")
    write_shard(path, SAMPLE.table([SAMPLE_ROW]), SAMPLE, stage="ingest", fingerprint="f")
    older = replace_columns(path, lambda table: table.drop_columns(["instances"]))
    assert "instances" not in older.column_names
    assert read_shard(path, SAMPLE).to_pylist()[0]["instances"] is None
    assert read_shard(path, SAMPLE, ["sample_id", "instances"]).to_pylist() == [{"sample_id": "a", "instances": None}]


def test_labels_whose_objects_were_png_files_are_read_in_the_new_layout(tmp_path: Path) -> None:
    box = pa.struct([("class_id", pa.int32()), *((name, pa.float32()) for name in ("x0", "y0", "x1", "y1"))])
    old = pa.struct([("class_id", pa.int32()), ("box", box), ("mask", SAMPLE.schema.field("mask").type)])
    png = {"bytes": encode_mask(LEFT.astype(np.uint8) * np.uint8(255)), "path": None}
    entry = {"class_id": 1, "box": {"class_id": 1, "x0": 0, "y0": 0, "x1": 4, "y1": 5}, "mask": png}
    rows = [{"sample_id": i, "class_ids": [1], "labeler": "a2gnn", "labeler_version": "1"} for i in ("a", "b")]
    path = str(tmp_path / "shard-00000.parquet")
    write_shard(path, PSEUDO_LABEL.table(rows), PSEUDO_LABEL, stage="label", fingerprint="f")

    def as_before(table: pa.Table) -> pa.Table:
        place = table.column_names.index("instances")
        return table.set_column(place, "instances", pa.array([[entry], None], pa.list_(old)))

    replace_columns(path, as_before)
    first, second = read_shard(path, PSEUDO_LABEL).to_pylist()
    found = read_instances(first, 10, 12)
    assert found is not None
    assert np.array_equal(found[0].mask, LEFT)
    assert second["instances"] is None


def replace_columns(path: str, change: Any) -> pa.Table:
    """Write a shard again as an older version would have: its footer kept, without a seal."""
    table = pq.read_table(path)
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != SEAL_KEY}
    changed = change(table).replace_schema_metadata(metadata)
    pq.write_table(changed, path)
    return changed


def test_a_box_holds_all_pixels_and_nothing_more() -> None:
    assert Instance.of(1, area(slice(2, 5), slice(3, 10))).box == (3.0, 2.0, 10.0, 5.0)
    corners = area(slice(0, 1), slice(0, 1)) | area(slice(9, 10), slice(11, 12))
    assert Instance.of(1, corners).box == (0.0, 0.0, 12.0, 10.0)


def test_older_masks_of_ones_are_masks_too() -> None:
    box = {"x0": 0.0, "y0": 0.0, "x1": 4.0, "y1": 5.0}
    for value in (1, 255):
        png = {"bytes": encode_mask(LEFT.astype(np.uint8) * np.uint8(value))}
        (entry,) = upgrade_entries([{"class_id": 1, "box": box, "mask": png}]) or []
        found = Instance.read(entry, 10, 12)
        assert np.array_equal(found.mask, LEFT)
        assert (found.box, found.crowd, found.score) == ((0.0, 0.0, 4.0, 5.0), False, None)
    assert upgrade_entries(None) is None


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ("03", "no list"),
        ([1.0, 119], "no list"),
        ([True, 119], "no list"),
        ([-1, 121], "no list"),
        ([60, 59], "a sum of 119 pixels"),
    ],
)
def test_runs_that_make_no_mask(runs: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Runs.of_counts(runs, 10, 12)
    assert Runs.of_counts([0, 1, 119], 10, 12).draw()[0, 0]
    assert not Runs.of_counts([120], 10, 12).area


CODED = "no compressed run lengths"


@pytest.mark.parametrize(("text", "said"), [("/", CODED), ("p", CODED), ("`" * 12 + "0", CODED), ("0P", "cut off")])
def test_strings_that_hold_no_runs(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        unpack_runs(text)


def test_run_lengths_by_hand() -> None:
    assert unpack_runs("123") == [1, 2, 3]
    assert unpack_runs("1234") == [1, 2, 3, 6]  # from the fourth on the difference to the one two before
    assert unpack_runs("Q1") == [33]
    assert unpack_runs("555K") == [5, 5, 5, 0]  # K is -5
    assert unpack_runs("PPPPPP4") == [4 << 30]


def test_crowds_cover_nothing_and_boxes_alone_are_no_pixels() -> None:
    mask = np.where(LEFT, 1, 0).astype(np.uint8)
    crowd = Instance.of(1, LEFT, crowd=True)
    problem = check_instances([crowd], mask, SPACE)
    assert problem is not None
    assert problem.found == "20 pixels in none"
    other = Instance.of(2, LEFT)  # shows what belongs to a class of its own
    problem = check_instances([Instance.of(1, LEFT), other], mask, SPACE)
    assert problem is None  # another object lies over all of it
    low = replace(Instance.of(1, LEFT), box=(0.0, 5.0, 4.0, 5.0))
    problem = check_instances([low], mask, SPACE)
    assert problem is not None
    assert "y0 < y1" in problem.expected
