"""S5: on sets with planted faults the kept half is cleaner than chance, and than either stage alone; calibrated
thresholds find the gap.
"""

import numpy as np
import pytest

from maskmill.curation.select import Calibrated, decide, select
from maskmill.curation.select.calibrate import resolve
from tests.curation.score_tables import NO_PAIRS, Row, faithful, kept, score_row, score_table


def planted(seed: int, clean: int = 200, spread: float = 1.0) -> tuple[list[Row], set[str]]:
    """Half clean; a quarter with a spoilt image (low PCS, ASF as usual), a quarter with a spoilt mask (low ASF). With
    `spread` 1 the heaps overlap.
    """
    rng = np.random.default_rng(seed)
    rows, good = [], set()
    for i in range(2 * clean):
        kind = "clean" if i < clean else "image" if i % 2 else "mask"
        pcs = abs(rng.normal(0.08 if kind == "image" else 0.35, 0.12 * spread))
        asf = float(np.clip(rng.normal(0.25 if kind == "mask" else 0.6, 0.15 * spread), 0, 1))
        name = f"{rng.integers(2**60):015x}"
        rows.append(score_row(name, asf, pcs, classes=dict.fromkeys(range(1, 2 + i % 3), asf)))
        if kind == "clean":
            good.add(name)
    return rows, good


def precision(stays: set[str], good: set[str]) -> float:
    return len(stays & good) / len(stays)


@pytest.mark.parametrize("group_by", ["n_classes", "class"])
@pytest.mark.parametrize("seed", range(4))
def test_kept_half_is_cleaner_than_either_stage_alone(seed: int, group_by: str) -> None:
    rows, good = planted(seed)
    table = score_table(rows)
    both = kept(select(table, NO_PAIRS, faithful(group_by=group_by)))
    assert abs(len(both) - 200) <= 12
    by_pcs = sorted(rows, key=lambda row: -row["pcs"])[: len(both)]
    by_asf = sorted(rows, key=lambda row: -row["asf"])[: len(both)]
    alone = max(precision({row["sample_id"] for row in half}, good) for half in (by_pcs, by_asf))
    assert precision(both, good) > 0.7
    assert precision(both, good) >= alone


@pytest.mark.parametrize("method", ["otsu", "mixture"])
def test_calibrated_gates_find_the_gap_without_being_told(method: str) -> None:
    rows, good = planted(0, spread=0.5)
    config = faithful(pcs_tau={"method": method}, min_score={"method": method}, rho=1)
    selection = decide(score_table(rows), NO_PAIRS, config)
    stays = kept(selection.decisions)
    assert precision(stays, good) > 0.8
    assert len(stays & good) > 0.7 * len(good)
    assert set(selection.thresholds) == {"pcs_tau", "min_score"}


def gap(low: int, high: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(0.2, 0.03, low), rng.normal(0.7, 0.05, high)])


@pytest.mark.parametrize("method", ["otsu", "mixture"])
@pytest.mark.parametrize("low", [30, 100, 150])
def test_a_clear_gap_is_cut_inside(method: str, low: int) -> None:
    cut = resolve(Calibrated(method=method), gap(low, 300))
    assert cut is not None
    assert 0.3 < cut < 0.55


def test_one_heap_is_not_cut_by_the_mixture() -> None:
    scores = np.random.default_rng(1).normal(0.6, 0.1, 500)
    assert resolve(Calibrated(method="mixture"), scores) is None
    assert resolve(Calibrated(method="otsu"), scores) is not None


@pytest.mark.parametrize("method", ["otsu", "mixture", "quantile"])
def test_calibration_ignores_order_and_rejects_no_more_than_allowed(method: str) -> None:
    scores = gap(300, 200).astype(np.float32)
    asked = Calibrated(method=method, keep=0.8, max_rejected=0.2)
    cut = resolve(asked, scores)
    assert cut is not None
    assert cut == resolve(asked, np.random.default_rng(0).permutation(scores))
    assert (scores > np.float32(cut)).sum() == (scores >= np.float32(cut)).sum() == 400


def test_shift_and_scale_of_the_scores_move_the_cut_along() -> None:
    scores = gap(100, 300)
    for method in ("otsu", "mixture"):
        here, there = (resolve(Calibrated(method=method), s) for s in (scores, 10 * scores + 3))
        assert here is not None
        assert there == pytest.approx(10 * here + 3, rel=1e-3)


@pytest.mark.parametrize("method", ["otsu", "mixture"])
@pytest.mark.parametrize("scores", [np.empty(0), np.full(50, 0.4), np.array([0.1, 0.9])])
def test_no_distribution_no_threshold(method: str, scores: np.ndarray) -> None:
    assert resolve(Calibrated(method=method), scores) is None


def test_quantile_keeps_ties() -> None:
    scores = np.array([0.1, 0.5, 0.5, 0.5, 0.9], dtype=np.float32)
    cut = resolve(Calibrated(method="quantile", keep=0.4), scores)
    assert cut is not None
    assert (scores > cut).sum() == 4
