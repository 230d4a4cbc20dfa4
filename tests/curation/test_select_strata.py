"""Scores corrected by strata: a half by score holds every scene, and faults are still those of their own scene."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from maskmill.curation.select import SelectConfig, decide, select
from maskmill.curation.select.strata import column_of, correct, factors
from maskmill.data_contracts import FOR_HASH, SAMPLE, SCORE, encode_image, shard_name, write_shard
from maskmill.pipelines.stages.select import read_scores
from tests.curation.score_tables import NO_PAIRS, Row, faithful, kept, score_row, score_table

SCENES = {"grass": 1.0, "beach": 0.6}
HALF = {"pcs_tau": None, "rho": 0.5, "group_by": "class"}


def rows(count: int = 40, seed: int = 0) -> tuple[list[Row], list[str]]:
    """Samples of two classes in two scenes, one of which scores lower as a whole; every tenth has a bad mask."""
    rng = np.random.default_rng(seed)
    found, scenes = [], []
    for i in range(count):
        scene = sorted(SCENES)[i // 2 % 2]
        own = 1 + i % 2
        value = float(0.5 * own / 2 * SCENES[scene] * rng.lognormal(0, 0.1)) * (0.1 if i % 10 == 0 else 1.0)
        found.append(score_row(f"{i:03d}", value, value, classes={own: value}))
        scenes.append(scene)
    return found, scenes


def with_scenes(found: list[Row], scenes: Sequence[str | None], name: str = "scene") -> pl.DataFrame:
    return score_table(found).with_columns(pl.Series(column_of(name), scenes, dtype=pl.String))


def test_a_half_holds_as_much_of_every_scene() -> None:
    found, scenes = rows(160)
    table = with_scenes(found, scenes)
    of = dict(zip((r["sample_id"] for r in found), scenes, strict=True))
    plain = [of[i] for i in kept(select(table, NO_PAIRS, faithful(**HALF)))]
    stay = kept(select(table, NO_PAIRS, faithful(**HALF, strata=("scene",))))
    even = [of[i] for i in stay]
    assert len(plain) == len(even) == 80
    assert plain.count("grass") >= 68
    assert 36 <= even.count("grass") <= 48
    assert not stay & {r["sample_id"] for i, r in enumerate(found) if i % 10 == 0}


def test_factors_are_where_a_stratum_lies_beside_its_classes() -> None:
    found = [score_row(f"{i:02d}", 0.4 if i < 12 else 0.8, 0.5) for i in range(24)]
    table = with_scenes(found, ["low"] * 12 + ["high"] * 12).with_row_index("row")
    got = factors(table, "asf", column_of("scene"))
    middle = 0.6  # the median of all; both strata are held against it, and drawn towards 1 by 4 of 16
    class_typical = np.exp((24 * np.log(middle) + 4 * np.log(middle)) / 28)
    assert got["low"] == pytest.approx((0.4 / class_typical) ** (12 / 16), rel=1e-6)
    assert got["high"] == pytest.approx((0.8 / class_typical) ** (12 / 16), rel=1e-6)
    corrected = correct(table, ["scene"])
    assert corrected["asf"][0] == pytest.approx(0.4 / got["low"], rel=1e-6)
    assert corrected["per_class"][23][0]["iou"] == pytest.approx(0.8 / got["high"], rel=1e-6)
    assert corrected["pcs"].to_list() == pytest.approx([0.5] * 24)
    assert corrected.columns == table.columns
    assert corrected.schema == table.schema


def test_what_is_in_no_stratum_and_what_has_no_score_stays() -> None:
    found, scenes = rows()
    found[3] = score_row("003", None, 0.3)
    named: list[str | None] = list(scenes)
    named[5] = None
    table = with_scenes(found, named).with_row_index("row")
    corrected = correct(table, ["scene"])
    assert corrected["asf"][5] == table["asf"][5]
    assert corrected["asf"][3] is None
    assert corrected["per_class"][3] is None
    assert correct(table, []).equals(table)
    assert correct(table, ["style"]).equals(table)
    alone = with_scenes(found, ["grass"] * 40).with_row_index("row")
    assert correct(alone, ["scene"]).equals(alone)
    nothing = with_scenes([score_row(f"{i}", 0.0, 0.0) for i in range(4)], ["a", "a", "b", "b"]).with_row_index("row")
    assert correct(nothing, ["scene"]).equals(nothing)


def test_order_does_not_matter_and_old_hashes_hold() -> None:
    found, scenes = rows()
    table = with_scenes(found, scenes)
    config = faithful(**HALF, strata=("scene",))
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=3)
    assert decide(shuffled, NO_PAIRS, config).decisions.equals(decide(table, NO_PAIRS, config).decisions)
    assert "strata" not in SelectConfig().model_dump(mode="json", context=FOR_HASH)
    assert SelectConfig(strata=("scene",)).model_dump(mode="json", context=FOR_HASH)["strata"] == ["scene"]


def test_strata_come_from_provenance(tmp_path: Path) -> None:
    image = encode_image(np.zeros((2, 2, 3), np.uint8))
    origins = [
        {"prompt": "a photo of a cow, grass; cow", "model_id": "a", "extra": json.dumps({"scene": "grass"})},
        {"prompt": "cow", "model_id": "b", "extra": json.dumps({"scene": None})},
        {"extra": json.dumps([1])},
        {},
    ]
    samples: list[dict[str, object]] = [
        {
            "sample_id": f"s{i}",
            "image": {"bytes": image, "path": None},
            "height": 2,
            "width": 2,
            "class_ids": [],
            "provenance": origin,
        }
        for i, origin in enumerate(origins)
    ]
    scored: list[dict[str, object]] = [{"sample_id": f"s{i}", "label_ids": [1]} for i in range(len(origins))]
    paths = []
    for name, contract, found in (("samples", SAMPLE, samples), ("scores", SCORE, scored)):
        paths.append(f"{tmp_path}/{name}/{shard_name(0)}")
        write_shard(paths[-1], contract.table(found), contract, stage=name, fingerprint="0")
    table = read_scores([paths[1]], [paths[0]], ["scene", "style", "generator"]).sort("sample_id")
    assert table["stratum_scene"].to_list() == ["grass", None, None, None]
    assert table["stratum_style"].to_list() == ["a photo", None, None, None]
    assert table["stratum_generator"].to_list() == ["a", "b", None, None]
    assert not [c for c in read_scores([paths[1]], [paths[0]]).columns if c.startswith("stratum")]
