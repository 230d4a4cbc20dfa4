"""The choices that the closed loop compares: equal sizes within each set of classes, and the rule of each arm."""

import numpy as np

from benchmarks.closed_loop import ARMS, Pair, choose

RNG = np.random.default_rng(0)
PAIRS = [
    Pair(f"{i:03d}", f"[{i % 3}]", float(RNG.random()), float(RNG.random()), float(RNG.random())) for i in range(60)
]


def stratum_sizes(chosen: set[str]) -> list[int]:
    return [sum(p.stratum == f"[{k}]" for p in PAIRS if p.sample_id in chosen) for k in range(3)]


def test_halves_keep_the_balance() -> None:
    for arm in ARMS:
        assert stratum_sizes(choose(arm, PAIRS, 0)) == [20 if arm == "all" else 10] * 3


def test_each_half_holds_the_best_by_its_score() -> None:
    for arm, value in (("pcs_half", "image_score"), ("asf_half", "asf"), ("oracle_half", "quality")):
        chosen = choose(arm, PAIRS, 0)
        for stratum in ("[0]", "[1]", "[2]"):
            members = [p for p in PAIRS if p.stratum == stratum]
            worst = min(getattr(p, value) for p in members if p.sample_id in chosen)
            assert all(getattr(p, value) <= worst for p in members if p.sample_id not in chosen)


def test_sds_never_takes_the_worst_quarter_by_image() -> None:
    chosen = choose("sds_half", PAIRS, 0)
    for stratum in ("[0]", "[1]", "[2]"):
        ranked = sorted((p for p in PAIRS if p.stratum == stratum), key=lambda p: p.image_score)
        assert not {p.sample_id for p in ranked[:5]} & chosen
        rest = sorted(ranked[5:], key=lambda p: -p.asf)
        assert {p.sample_id for p in rest[:10]} == {p.sample_id for p in ranked if p.sample_id in chosen}


def test_chance_depends_on_the_seed() -> None:
    assert choose("random_half", PAIRS, 0) != choose("random_half", PAIRS, 1)
    assert choose("random_half", PAIRS, 0) == choose("random_half", PAIRS[::-1], 0)
