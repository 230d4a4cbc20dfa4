"""Groups as samples: the index of groups, drawn groups, and shards that never cut a group."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    LabelSpace,
    decode_mask,
    encode_image,
    encode_mask,
    list_shards,
    read_shard,
)
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.ingest import Source, ingest_stage, ingest_units
from maskmill.pipelines.ingest.drawn_groups import DrawnGroupsSource
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.groups import GroupsSource
from maskmill.starter.drawn import SceneConfig, render_group

OBJECT = LabelSpace.from_names(["object"], name="object")


def ingest(source: Source, out: Path, space: LabelSpace = OBJECT, shard_size: int = 4) -> list[list[dict[str, Any]]]:
    """Rows of each shard."""
    map_units(ingest_stage(source, space), ingest_units(source, str(out), shard_size))
    return [read_shard(path, SAMPLE).to_pylist() for path in list_shards(str(out / "samples"))]


def write_photo(root: Path, name: str, values: list[int]) -> None:
    """A photo and a mask with one column for each value."""
    rng = np.random.default_rng(sum(map(ord, name)))
    mask = np.repeat(np.array([values], np.uint8), 20, axis=0).repeat(6, axis=1)
    for folder, data in (
        ("images", encode_image(rng.integers(0, 255, (*mask.shape, 3)).astype(np.uint8))),
        ("masks", encode_mask(mask)),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / f"{name}.png").write_bytes(data)


def write_index(root: Path, groups: dict[str, list[tuple[str, list[int]]]]) -> None:
    def item(name: str, values: list[int]) -> dict[str, Any]:
        return {"image": f"street/images/{name}.png", "mask": f"street/masks/{name}.png", "values": values}

    rows = [{"name": g, "source": "street", "items": [item(*i) for i in items]} for g, items in groups.items()]
    (root / "co_groups").mkdir(parents=True)
    (root / "co_groups" / "groups.json").write_text(json.dumps({"groups": rows}))


def test_an_index_of_groups_gives_one_binary_mask_a_group(tmp_path: Path) -> None:
    for name in "abc":
        write_photo(tmp_path / "street", name, [0, 2, 7])
    write_index(tmp_path, {"hats": [("a", [2]), ("b", [2])], "people": [("a", [2, 7]), ("c", [2, 7])]})
    shards = ingest(GroupsSource(root=str(tmp_path)), tmp_path / "run", shard_size=1)
    assert [[row["group"] for row in rows] for rows in shards] == [["hats"] * 2, ["people"] * 2]
    rows = [row for shard in shards for row in shard]
    masks = [decode_mask(row["mask"]["bytes"])[0, ::6].tolist() for row in rows]
    assert masks == [[0, 1, 0]] * 2 + [[0, 1, 1]] * 2
    assert [row["index"] for row in rows] == [0, 1, 0, 1]
    assert rows[0]["sample_id"] != rows[2]["sample_id"], "one photo in two groups is two samples"
    assert rows[0]["provenance"]["source_path"] == "street/images/a.png"
    again = ingest(GroupsSource(root=str(tmp_path), only=("people",)), tmp_path / "some")
    assert [row["sample_id"] for row in again[0]] == [row["sample_id"] for row in shards[1]]


def test_what_an_index_names_and_is_not_there_is_said(tmp_path: Path) -> None:
    write_photo(tmp_path / "street", "a", [0, 2])
    write_index(tmp_path, {"hats": [("a", [2]), ("gone", [2])], "nothing": [("a", [9])]})
    rows = ingest(GroupsSource(root=str(tmp_path)), tmp_path / "run")
    assert [row["group"] for row in rows[0]] == ["hats"]
    rejects = read_shard(list_shards(str(tmp_path / "run" / "rejects"))[0], DECISION).to_pylist()
    assert {(r["source_path"], r["reason"]) for r in rejects} == {
        ("hats/street/images/gone.png", "missing_mask"),
        ("nothing/street/images/a.png", "empty_foreground"),
    }
    (tmp_path / "co_groups" / "groups.json").write_text('{"groups": [{"name": "x"}]}')
    with pytest.raises(ValueError, match=r'expected \{"groups": .* found KeyError'):
        list(GroupsSource(root=str(tmp_path)).entries())


def test_several_classes_need_a_named_one(tmp_path: Path) -> None:
    write_photo(tmp_path / "street", "a", [0, 2])
    write_index(tmp_path, {"hats": [("a", [2])]})
    two = LabelSpace.from_names(["hat", "bag"])
    assert ingest(GroupsSource(root=str(tmp_path), shared="bag"), tmp_path / "run", two)[0][0]["class_ids"] == [2]
    source = GroupsSource(root=str(tmp_path))
    map_units(ingest_stage(source, two), ingest_units(source, str(tmp_path / "none")))
    reject = read_shard(list_shards(str(tmp_path / "none" / "rejects"))[0], DECISION).to_pylist()[0]
    assert "name the class of the shared object in `shared`" in reject["detail"]


def test_drawn_groups_are_the_generators_groups(tmp_path: Path) -> None:
    scene = SceneConfig(size=32, classes=("cat", "car"), seed=3)
    source = DrawnGroupsSource(count=3, members=3, scene=scene, shared="object")
    shards = ingest(source, tmp_path / "a", shard_size=2)
    assert [len(rows) for rows in shards] == [3, 3, 3]
    for number, rows in enumerate(shards):
        group = render_group(scene, ("cat", "car")[number % 2], 3, number)
        for row, drawn in zip(rows, group.scenes, strict=True):
            assert row["image"]["bytes"] == encode_image(drawn.image)
            np.testing.assert_array_equal(decode_mask(row["mask"]["bytes"]), drawn.mask > 0)
            assert row["group"] == f"group-{number:05d}"
    named = ingest(source.model_copy(update={"shared": None}), tmp_path / "b", LabelSpace.from_names(["car", "cat"]))
    assert [row["class_ids"] for row in named[0][:3]] == [[2]] * 3
    alone = ingest(source.model_copy(update={"alone": 1.0}), tmp_path / "c")[0][0]
    assert alone["image"]["bytes"] == encode_image(render_group(scene, "cat", 3, 0, distractors=False).scenes[0].image)


def test_shards_keep_folders_whole_where_asked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a/1", "a/2", "a/3", "b/1", "c/1", "c/2", "loose"):
        path = tmp_path / "set" / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)))
    source = FolderSource(root=str(tmp_path / "set"), masks=None, group_by="parent", whole_groups=True)
    whole = ingest(source, tmp_path / "whole", shard_size=2)
    assert [[row["group"] for row in rows] for rows in whole] == [["a"] * 3, ["b", "c", "c"], ["."]]
    cut = ingest(source.model_copy(update={"whole_groups": False}), tmp_path / "cut", shard_size=2)
    assert [len(rows) for rows in cut] == [2, 2, 2, 1]
    ids = [{row["sample_id"] for rows in shards for row in rows} for shards in (whole, cut)]
    assert ids[0] == ids[1], "where shards are cut changes no row"


def test_lossy_masks_of_a_group_are_told_and_large_values_are_found(tmp_path: Path) -> None:
    for name in "ab":
        write_photo(tmp_path / "street", name, [0, 2, 7])
    mask = np.zeros((20, 18), np.uint16)
    mask[:, 6:12] = 26_001
    Image.fromarray(mask).save(tmp_path / "street/masks/a.png")
    Image.fromarray((mask // 102).astype(np.uint8)).save(tmp_path / "street/masks/b.png", format="JPEG")
    write_index(tmp_path, {"hats": [("a", [26_001]), ("b", [255])]})
    (rows,) = ingest(GroupsSource(root=str(tmp_path)), tmp_path / "run")
    assert len(rows) == 1
    np.testing.assert_array_equal(decode_mask(rows[0]["mask"]["bytes"]) > 0, mask > 0)
    (rejects,) = [read_shard(path, DECISION).to_pylist() for path in list_shards(str(tmp_path / "run/rejects"))]
    assert "JPEG, which changes values" in rejects[0]["detail"]
