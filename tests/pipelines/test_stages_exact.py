"""Small parts of stages by exact values: overlays, where a decision lies, what selection reads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from maskmill.curation.select import SelectConfig, decide
from maskmill.data_contracts import DECISION, LabelSpace, bytes_hash, load_label_space
from maskmill.data_contracts.sums import checked_json
from maskmill.pipelines.stages.evaluate import evaluation_fault, overlay, overlay_sheet
from maskmill.pipelines.stages.label import _own_boxes
from maskmill.pipelines.stages.select import (
    _beside,
    _named,
    read_company,
    read_scores,
    select_stage,
    select_units,
)
from tests.curation.score_tables import NO_PAIRS, faithful, score_row, score_table
from tests.factories import make_run

SPACE = LabelSpace.from_names(["cat", "dog"])


def test_labels_are_laid_over_a_picture() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    found = overlay(image, np.array([[0, 1, 255]], np.uint8), SPACE)
    assert found[0].tolist() == [[100, 100, 100], [117, 40, 40], [193, 193, 193]]  # 40 % picture, 60 % colour
    assert overlay(image, np.array([[0, 1, 255]], np.uint8), SPACE, opacity=1.0)[0, 1].tolist() == [128, 0, 0]


def test_a_sheet_has_a_row_a_sample_and_three_squares() -> None:
    images = [np.full((20, 40, 3), 50, np.uint8), np.full((40, 10, 3), 200, np.uint8)]
    masks = [np.zeros((20, 40), np.uint8), np.ones((40, 10), np.uint8)]
    sheet = overlay_sheet(images, masks, [*masks[:1], masks[1] * 0], SPACE, side=32)
    assert sheet.shape == (64, 96, 3)
    assert sheet[15, 31].tolist() == [50, 50, 50]
    assert sheet[16, 0].tolist() == [0, 0, 0]  # a picture twice as wide as high fills half of its square
    assert (sheet[32:, :8] == 200).all()
    assert (sheet[32:, 8:32] == 0).all()
    assert sheet[40, 34].tolist() != sheet[40, 66].tolist()  # truth and prediction differ
    assert overlay_sheet(images, masks, masks, SPACE).shape == (384, 576, 3)


def test_damage_of_an_evaluation_is_named(tmp_path: Path) -> None:
    def write(content: bytes) -> None:
        (tmp_path / "metrics.json").write_bytes(content)

    (tmp_path / "overlays.png").write_bytes(b"picture")
    whole = checked_json({"miou": 0.5, "sums": {"overlays.png": bytes_hash(b"picture")}})
    write(whole)
    assert evaluation_fault(str(tmp_path)) is None
    write(whole.replace(b"0.5", b"0.6"))
    assert evaluation_fault(str(tmp_path)) == "metrics.json: another content than was written"
    write(whole[:20])
    assert str(evaluation_fault(str(tmp_path))).startswith("metrics.json: no JSON")
    write(json.dumps({"miou": 0.5}).encode())  # an earlier version's
    assert evaluation_fault(str(tmp_path)) is None
    write(whole)
    (tmp_path / "overlays.png").write_bytes(b"other")
    assert evaluation_fault(str(tmp_path)) == "overlays.png: another content than was written"
    (tmp_path / "overlays.png").unlink()
    assert evaluation_fault(str(tmp_path)) == "overlays.png: gone"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_run(tmp_path_factory.mktemp("select") / "run", rows=4)


def test_selection_waits_for_scores_and_reads_all_shards(run: Any, tmp_path: Path) -> None:
    assert select_units(str(tmp_path)) == []
    (unit,) = select_units(run.path)
    assert [Path(p).parent.name for p in unit.inputs] == ["scores", "scores", "run", "samples", "samples"]
    assert unit.outputs == (f"{run.path}/decisions.parquet",)


def test_rows_name_their_shard_and_where_they_came_from(run: Any) -> None:
    scores, places = (
        [f"{run.path}/{folder}/shard-0000{i}.parquet" for i in (0, 1)] for folder in ("scores", "samples")
    )
    bare = read_scores(scores)
    assert bare["shard"].to_list() == ["shard-00000.parquet"] * 4 + ["shard-00001.parquet"] * 4
    assert not {"embedding", "source_path", "clip"} & set(bare.columns)
    placed = read_scores(scores, places)
    wanted = {i: row["provenance"]["source_path"] for i, row in run.rows.items()}
    assert dict(placed.select("sample_id", "source_path").iter_rows()) == wanted
    assert placed["clip"].null_count() == placed.height == 8
    assert read_scores(scores, []).equals(bare)


def test_only_samples_of_one_class_keep_company(run: Any) -> None:
    shards = [f"{run.path}/scores/shard-0000{i}.parquet" for i in (0, 1)]
    labels = [row["class_ids"] for row in run.rows.values()]
    one = sum(len(ids) == 1 for ids in labels)
    assert read_company(shards).height <= one


def test_decisions_name_classes_and_places() -> None:
    told = ["rank 1 with class 2; 3 stay", "class 22 is none", None]
    given: dict[str, Any] = {"sample_id": ["a", "b", "c"], "kept": [True, False, False], "detail": told}
    whole = {name: given.get(name, [None] * 3) for name in DECISION.schema.names}
    decisions = pl.DataFrame(whole, schema=pl.from_arrow(DECISION.schema.empty_table()).schema)
    named = _named(decisions, SPACE)
    assert named.schema.equals(DECISION.schema)
    assert named["detail"].to_pylist() == ["rank 1 with class dog; 3 stay", "class 22 is none", None]
    assert _named(decisions, None)["detail"].to_pylist() == told


@pytest.mark.parametrize("ids", [["a", "b", "c"], ["c", "a", "b"], ["b", "a"]])
def test_scores_get_the_clip_and_the_path_of_their_samples_in_any_order(ids: list[str]) -> None:
    samples = pl.DataFrame(
        {
            "sample_id": ids,
            "group": [f"clip {i}" for i in ids],
            "index": [None if i == "a" else 1 for i in ids],
            "source_path": [f"{i}.png" for i in ids],
            "stratum_scene": [f"scene {i}" for i in ids],
        },
        schema_overrides={"index": pl.Int64},
    )
    found = _beside(pl.DataFrame({"sample_id": ["a", "b", "c"], "asf": [0.1, 0.2, 0.3]}), samples)
    missing = "c" not in ids
    assert found["source_path"].to_list() == ["a.png", "b.png", None if missing else "c.png"]
    assert found["clip"].to_list() == [None, "clip b", None if missing else "clip c"]
    assert found["stratum_scene"].to_list()[:2] == ["scene a", "scene b"]
    assert found["asf"].to_list() == [0.1, 0.2, 0.3]


def test_decisions_say_where_a_sample_came_from() -> None:
    scores = score_table([score_row("b"), score_row("a")]).with_columns(source_path=pl.Series(["q", "p"]))
    found = decide(scores, NO_PAIRS, faithful()).decisions
    assert found.select("sample_id", "source_path").rows() == [("a", "p"), ("b", "q")]
    assert decide(scores.drop("source_path"), NO_PAIRS, faithful()).decisions["source_path"].null_count() == 2


def test_names_of_classes_count_for_what_is_done() -> None:
    config = SelectConfig()
    plain, voc = select_stage(config), select_stage(config, load_label_space("voc"))
    assert len({plain.config_hash, voc.config_hash, select_stage(SelectConfig(rho=0.5)).config_hash}) == 3


def test_own_boxes_are_those_of_objects_of_which_some_have_no_outline() -> None:
    box = {"x0": 1.0, "y0": 2.0, "x1": 3.0, "y1": 4.0}
    plain, drawn = ({"class_id": 1, "box": box, "rle": rle, "crowd": False} for rle in (None, b"x"))
    crowd = {**plain, "crowd": True}
    expected = {"class_id": 1, **box}
    assert _own_boxes({"instances": [plain, crowd]}) == [expected]
    assert _own_boxes({"instances": [plain, drawn]}) == [expected, expected]
    assert _own_boxes({"instances": [drawn, crowd]}) is None
    assert _own_boxes({"instances": None}) is None
