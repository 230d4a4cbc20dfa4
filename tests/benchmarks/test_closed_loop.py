"""The choices that the closed loop compares: equal shares of each class, and the rule of each arm."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks import closed_loop
from benchmarks.clean_learn import Cells, KnownFeatures, kept_features, train
from benchmarks.closed_loop import SETTINGS, TRAININGS, by_rate, learn_and_test
from benchmarks.common import Options, Record
from benchmarks.loop_arms import (
    ARMS,
    HALVES,
    Pair,
    choose,
    cross_fit_scores,
    draws_of,
    faulty_share,
    opinion,
    scene_spread,
)
from maskmill.curation.cross_fit import CrossFitOptions
from maskmill.curation.cross_fit.features import FrozenFeatures
from maskmill.data_contracts import SAMPLE, SCORE, load_label_space, shard_name, write_shard
from maskmill.pipelines.run.config import load_run_config
from tests.curation.coloured_scenes import row, scene

RNG = np.random.default_rng(0)
PAIRS = [Pair(f"{i:03d}", (1 + i % 3,), float(RNG.random()), bool(i % 2)) for i in range(60)]
ROWS: list[dict[str, Any]] = [
    {
        "sample_id": p.sample_id,
        "label_ids": list(p.asked),
        "n_classes": 1,
        "image_score": float(RNG.random()),
        "asf": (asf := float(RNG.random())),
        "per_class": [{"class_id": p.asked[0], "iou": asf}],
    }
    for p in PAIRS
]
SCORES = pl.DataFrame(SCORE.table(ROWS).drop_columns(["embedding"])).with_columns(shard=pl.lit("a"))


def members(class_id: int) -> list[str]:
    return [p.sample_id for p in PAIRS if p.asked == (class_id,)]


def scores(column: str) -> dict[str, float]:
    return {row["sample_id"]: row[column] for row in ROWS}


def test_halves_keep_the_balance() -> None:
    for arm in ("all", *HALVES):
        chosen = choose(arm, SCORES, PAIRS, 0)
        assert [len(chosen & set(members(c))) for c in (1, 2, 3)] == [20 if arm == "all" else 10] * 3


def test_halves_keep_the_styles_of_each_class() -> None:
    pairs = [replace(p, style="photo" if int(p.sample_id) < 24 else "drawing") for p in PAIRS]
    for arm in HALVES:
        chosen = choose(arm, SCORES, pairs, 0)
        counts = Counter((p.asked[0], p.style) for p in pairs if p.sample_id in chosen)
        assert counts == {(c, s): n for c in (1, 2, 3) for s, n in (("photo", 4), ("drawing", 6))}


def test_each_half_holds_the_best_by_its_score() -> None:
    quality = {p.sample_id: p.quality for p in PAIRS}
    by_asf = [(arm, scores("asf")) for arm in ("asf_half", "cross_fit_half")]
    for arm, value in (("pcs_half", scores("image_score")), *by_asf, ("oracle_half", quality)):
        chosen = choose(arm, SCORES, PAIRS, 0)
        for class_id in (1, 2, 3):
            ranked = sorted(members(class_id), key=lambda i: -value[i])
            assert set(ranked[:10]) == chosen & set(members(class_id))


def test_sds_never_takes_the_worst_quarter_by_image() -> None:
    chosen = choose("sds_half", SCORES, PAIRS, 0)
    image, asf = scores("image_score"), scores("asf")
    for class_id in (1, 2, 3):
        ranked = sorted(members(class_id), key=lambda i: image[i])
        assert set(sorted(ranked[5:], key=lambda i: -asf[i])[:10]) == chosen & set(members(class_id))


def test_pairs_that_scoring_gave_up_on_can_be_drawn_by_chance_and_rank_last_elsewhere() -> None:
    lost = SCORES.with_columns(
        pl.when(pl.col("sample_id") == "000").then(pl.lit("empty_mask")).alias("reason"),
        *(pl.when(pl.col("sample_id") != "000").then(pl.col(c)).alias(c) for c in ("image_score", "asf", "per_class")),
    )
    assert any("000" in choose("random_half", lost, PAIRS, seed) for seed in range(8))
    assert not any(
        "000" in choose(arm, lost, PAIRS, 0) for arm in ("pcs_half", "asf_half", "sds_half", "cross_fit_half")
    )


def test_a_pair_of_two_classes_stays_if_one_of_them_takes_it() -> None:
    pairs = [Pair("a", (1, 2), 0.5, None), Pair("b", (1,), 0.9, True), Pair("c", (2,), 0.1, False)]
    rows = [{**ROWS[0], "sample_id": p.sample_id, "label_ids": list(p.asked), "n_classes": len(p.asked)} for p in pairs]
    table = pl.DataFrame(SCORE.table(rows).drop_columns(["embedding"])).with_columns(shard=pl.lit("a"))
    assert choose("oracle_half", table, pairs, 0) == {"a", "b"}
    assert opinion(pairs) == {"n": 3, "quality": 0.5, "seen": 0.5}


def test_chance_depends_on_the_seed() -> None:
    assert choose("random_half", SCORES, PAIRS, 0) != choose("random_half", SCORES, PAIRS, 1)
    assert choose("random_half", SCORES, PAIRS, 0) == choose("random_half", SCORES[::-1], PAIRS[::-1], 0)


def test_scene_spread_is_zero_only_where_every_scene_gives_the_same_share() -> None:
    pairs = [Pair(str(i), (1,), 1.0, True, scene="sky" if i < 4 else "street") for i in range(12)]
    assert scene_spread(pairs, {"0", "1", "4", "5", "6", "7"}) == 0
    assert scene_spread(pairs, {"0", "1", "2", "3"}) == 0.5


def test_the_gate_drops_a_scene_s_own_faults_and_no_scene() -> None:
    pairs, rows = [], []
    for i in range(120):
        low, bad = i % 2 == 0, i % 12 < 2
        value = (0.5 if low else 0.8) * (0.1 if bad else 1.0) * (1 + 0.1 * float(RNG.random()))
        pairs.append(Pair(f"{i:03d}", (1 + i // 2 % 3,), 0.9, True, "a photo", "grass" if low else "sea"))
        known = {"sample_id": f"{i:03d}", "label_ids": [1 + i // 2 % 3], "n_classes": 1, "image_score": 0.5 + value}
        rows.append({**known, "asf": value, "per_class": [{"class_id": 1 + i // 2 % 3, "iou": value}]})
    table = pl.DataFrame(SCORE.table(rows).drop_columns(["embedding"])).with_columns(shard=pl.lit("a"))
    chosen = choose("sds_gate", table, pairs, 0)
    assert not chosen & {f"{i:03d}" for i in range(120) if i % 12 < 2}
    assert len(chosen) == 100
    assert scene_spread(pairs, chosen) < 0.01


def test_settings_are_named_by_their_rate_and_are_options_of_the_run() -> None:
    pairs = [Pair("a", (1,), 0.9, True), Pair("b", (1,), 0.4, True), Pair("c", (1,), 0.9, False)]
    assert faulty_share(pairs[:2]) == 50
    assert faulty_share([pairs[0], pairs[2]]) == 50
    assert faulty_share([Pair("a", (1, 2), 0.9, None)]) == 0
    found = {name: {"miou": 10.0 * i, "faulty": 50.0 - i, "n": 7.0} for i, name in enumerate(SETTINGS)}
    metrics = by_rate(found)
    assert (metrics["miou"], metrics["n"]) == (0, 7)
    assert [metrics[f"miou@{rate}"] for rate in (10, 25, 40)] == [20, 10, 0]
    assert metrics["faulty@40"] == 50
    assert "faulty" not in metrics
    for setting in SETTINGS.values():
        load_run_config("starter-generator", dict(setting.changes))


def test_cross_fit_scores_every_pair_of_a_run(tmp_path: Path) -> None:
    own = [row(f"s{i}", *scene(i, 1 + i % 2)) for i in range(6)]
    for i, part in enumerate((own[:4], own[4:])):
        path = f"{tmp_path}/samples/{shard_name(i)}"
        write_shard(path, SAMPLE.table(part), SAMPLE, stage="generate", fingerprint="0")
    frozen = FrozenFeatures(CrossFitOptions())
    images, cells = closed_loop.read_cells(str(tmp_path), frozen, tmp_path / "cells.npy")
    known = KnownFeatures.of_images(CrossFitOptions(), images, cells.features)
    assert np.array_equal(known.of(images[3]), frozen.of(images[3]))
    found = cross_fit_scores(str(tmp_path), load_label_space("voc"), 0)
    assert cross_fit_scores(str(tmp_path), load_label_space("voc"), 0, known)["asf"].equals(found["asf"])
    assert found["sample_id"].to_list() == [f"s{i}" for i in range(6)]
    assert found["asf"].null_count() == 0
    pairs = [Pair(f"s{i}", (1 + i % 2,), 0.9, True) for i in range(6)]
    assert len(choose("cross_fit_half", found, pairs, 0)) == 4


def test_features_are_made_once(tmp_path: Path) -> None:
    frozen, images = FrozenFeatures(CrossFitOptions(side=64)), [np.full((40, 40, 3), 90, np.uint8)] * 2
    first = kept_features(tmp_path / "a" / "cells.npy", images, frozen)
    assert first.shape == (2, 64, frozen.width)
    assert first.dtype == np.int8
    again = kept_features(tmp_path / "a" / "cells.npy", iter(()), frozen)
    assert np.array_equal(first, again)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["cells.npy"]


def test_a_choice_is_trained_several_times_and_its_mean_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    features = rng.integers(-16, 17, (6, 64, 5)).astype(np.int8)
    shown = rng.random((6, 64)) < 0.4
    features[..., 0] = np.where(shown, 40, -40)
    cells = Cells(features, [np.kron(one.reshape(8, 8), np.full((4, 4), 3)).astype(np.uint8) for one in shown])
    asked: list[int] = []

    def learnt(some: Cells, ids: tuple[int, ...], steps: int, seed: int) -> object:
        asked.append(seed)
        assert len(some.masks) == 4
        return train(some, ids, steps, seed)

    monkeypatch.setattr(closed_loop, "train", learnt)
    found = learn_and_test(cells, [0, 1, 2, 3], {"miou@known": cells, "miou@unseen": cells}, 60, 5)
    assert len(set(asked)) == TRAININGS
    assert found["miou"] == pytest.approx(found["miou@known"])
    assert found["miou"] > 80
    assert draws_of("random_half") == 3
    assert {draws_of(arm) for arm in ARMS if arm != "random_half"} == {1}


def test_the_command_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, measured = [], []

    def measure(_: Path, size: object, seed: int, setting: str) -> dict[str, dict[str, float]]:
        assert (seed, setting) in drawn
        measured.append((seed, setting))
        rate = {name: 10.0 * i for i, name in enumerate(SETTINGS)}[setting]
        return {arm: {"miou": seed + rate, "faulty": rate} for arm in ARMS}

    monkeypatch.setattr(closed_loop, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(closed_loop, "_judge", lambda *_: None)
    monkeypatch.setattr(closed_loop, "draw", lambda _w, _s, seed, setting: drawn.append((seed, setting)))
    monkeypatch.setattr(closed_loop, "measure", measure)
    options = Options("closed_loop", None, None, (0, 1), "small", tmp_path / "x.json")
    begun = Record(options)
    for arm in ARMS:
        begun.add(f"{arm}~few_steps", 1, {"miou": 7.0, "faulty": 10.0})
    closed_loop.main(options)
    assert sorted(measured) == sorted((s, n) for s in (0, 1) for n in SETTINGS if (s, n) != (1, "few_steps"))
    metrics = json.loads((tmp_path / "x.json").read_text())["metrics"]
    assert set(metrics) == set(ARMS)
    assert metrics["all"]["miou@25"]["per_seed"] == [10.0, 7.0]
    assert metrics["all"]["miou"]["per_seed"] == [0.0, 1.0]
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
