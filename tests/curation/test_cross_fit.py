"""Cross-fit agreement: sums, heads, folds, and what the scorer says of sound and faulty masks."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from maskmill.curation.base import Scorer, teach
from maskmill.curation.cross_fit import CrossFitConfig, agreement, load
from maskmill.curation.cross_fit.features import cell_shares
from maskmill.curation.cross_fit.heads import Sums, class_weights, nothing, solve, square, sums_of, total, triangle
from maskmill.curation.cross_fit.judge import CrossFit, fold_of
from maskmill.curation.registry import get_scorer
from maskmill.data_contracts import IGNORE
from tests.curation.coloured_scenes import SIDE, SPACE, row, rows, scene, table

SMALL: dict[str, Any] = {"side": 64, "folds": 3}
CONFIG = CrossFitConfig(**SMALL)


@pytest.fixture(scope="module")
def untaught() -> Scorer:
    return load(CONFIG, SPACE)


class Plain(Scorer):
    """A scorer that learns nothing."""

    def score(self, samples: pa.Table, seed: int) -> pa.Table:
        return samples


def scores(
    scorer: Scorer, found: list[dict[str, object]], taught_by: list[dict[str, object]] | None = None
) -> pa.Table:
    return teach(scorer, [table(taught_by or found)], 0).score(table(found), 0)


def asf(scored: pa.Table) -> list[float]:
    return [float(v) for v in scored.column("asf").to_pylist()]


def test_agreement_is_iou_in_so_far_as_the_class_is_known() -> None:
    mask, predicted = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    mask[:2] = 1  # 8 pixels
    predicted[1:3] = 1  # 8 pixels, 4 of them in common: IoU 4 / 12
    assert agreement(mask, predicted, (1,), {1: 1e9}, 4).pooled == pytest.approx(1 / 3)
    assert agreement(mask, predicted, (1,), {1: 12.0}, 4).per_class == pytest.approx({1: 0.75 / 3 + 0.25})
    assert agreement(mask, predicted, (1,), {1: 12.0}, 0).per_class == pytest.approx({1: 1 / 3})
    assert agreement(mask, predicted, (1,), {}, 4).pooled == 1
    assert agreement(mask, predicted, (1,), {}, 0).pooled == 1


def test_what_is_predicted_and_not_annotated_counts_against_the_whole() -> None:
    mask, predicted = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    mask[0] = predicted[0] = 1
    predicted[1:] = 2
    found = agreement(mask, predicted, (1,), {1: 1e9, 2: 1e9}, 4)
    assert found.per_class == pytest.approx({1: 1.0})
    assert found.pooled == pytest.approx(4 / 16)
    assert agreement(mask, predicted, (1,), {1: 1e9, 2: 4.0}, 4).pooled == pytest.approx((4 + 12 * 0.5) / 16)
    mask[1:] = IGNORE
    assert agreement(mask, predicted, (1,), {1: 1e9, 2: 1e9}, 4).pooled == 1


def test_agreement_wants_classes_and_equal_shapes() -> None:
    blank = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="expected classes and equal shapes"):
        agreement(blank, blank, (), {}, 4)
    with pytest.raises(ValueError, match="expected classes and equal shapes"):
        agreement(blank, blank[:1], (1,), {}, 4)


def test_shares_of_cells_are_whole_sixteenths() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :3] = 1
    mask[:4, 4:] = IGNORE
    found = cell_shares(mask, (0, 1, 2), 2).reshape(2, 2, 3)
    assert found[..., 1].tolist() == [[12, 0], [12, 0]]
    assert found[..., 0].tolist() == [[4, 0], [4, 16]]
    assert not found[..., 2].any()


def test_class_weights_lift_small_classes() -> None:
    shares = np.zeros((100, 3), np.float32)
    shares[:80, 0], shares[80:, 1] = 16, 16
    assert class_weights(shares, 0).tolist() == [1, 1, 1]
    assert class_weights(shares, 1).tolist() == [0.5, 2.5, 1]  # mean 50 cells: 50/80 and 50/20, in quarters
    assert class_weights(shares, 0.5).tolist() == [0.75, 1.5, 1]
    shares[:80, 0], shares[80:, 1] = 16, 0
    shares[80, 1] = 1
    assert class_weights(shares, 1)[1] == 16


def _cells(seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.integers(-127, 128, (40, 6)).astype(np.float32)
    x[:, -1] = 1
    y = np.zeros((40, 2), np.float32)
    y[np.arange(40), (x[:, 0] > 0).astype(int)] = 16
    y[:3] = 0
    return x, y


def test_sums_are_exact_and_heads_are_weighted_ridge() -> None:
    parts = [sums_of(*_cells(seed), np.array([1.0, 0.0]), 1.0) for seed in range(5)]
    forth, back = total(parts, 6, 2), total(parts[::-1], 6, 2)
    for name in ("gram", "cross", "samples"):
        assert np.array_equal(getattr(forth, name), getattr(back, name))
        assert np.array_equal(getattr(forth, name), np.round(getattr(forth, name)))
    assert forth.samples.tolist() == [5, 0]
    assert np.array_equal(square(triangle(forth.gram), 6), forth.gram)
    x, y = _cells(0)
    told, weights = y.any(axis=1), class_weights(y, 1.0) * 4
    x, y = x[told].astype(float), y[told] * weights
    root = np.sqrt(y.sum(axis=1, keepdims=True))
    scale = 1e-3 * np.trace(parts[0].gram) / 6
    penalty = np.diag(np.sqrt([scale] * 5 + [0]))
    wanted = np.linalg.lstsq(
        np.concatenate([x * root, penalty]), np.concatenate([y / root, np.zeros((6, 2))]), rcond=None
    )[0]
    assert np.allclose(solve(parts[0], 1e-3), wanted, atol=1e-9)
    assert not solve(nothing(6, 2), 1e-3).any()
    rest = forth - parts[0]
    assert np.array_equal(rest.gram, total(parts[1:], 6, 2).gram)
    assert isinstance(rest, Sums)


def test_folds_are_a_hash_of_seed_and_sample_or_group() -> None:
    names = [f"s{i}" for i in range(300)]
    folds = [fold_of(name, "clip", CONFIG, 0) for name in names]
    assert set(folds) == {0, 1, 2}
    assert max(folds.count(k) for k in range(3)) < 130
    assert folds != [fold_of(name, "clip", CONFIG, 1) for name in names]
    grouped = CrossFitConfig(**SMALL, fold_by="group")
    assert len({fold_of(name, "clip", grouped, 0) for name in names}) == 1
    assert [fold_of(name, None, grouped, 0) for name in names] == folds


def test_what_is_learnt_does_not_depend_on_the_cut_into_tables(untaught: Scorer) -> None:
    found = rows(7)
    whole = untaught.conclude([untaught.study(table(found), 0)])
    parts = [untaught.study(table(part), 0) for part in (found[4:], found[:1], found[1:4])]
    assert untaught.conclude(parts).equals(whole)
    assert not untaught.conclude([untaught.study(table(found), 1)]).equals(whole)


def test_faults_agree_less_than_sound_masks(untaught: Scorer) -> None:
    found = rows(24)
    image, mask = scene(0, 1)
    wrong = {
        0: np.where(mask > 0, 2, 0).astype(np.uint8),
        6: np.roll(scene(6, 1)[1], SIDE // 3, axis=1),
        9: scene(10, 2)[1],
    }
    for i, own in wrong.items():
        found[i] = row(f"s{i}", scene(i, 1 + i % 2)[0], own)
    assert image.shape == (SIDE, SIDE, 3)
    scored = asf(scores(untaught, found))
    sound = [value for i, value in enumerate(scored) if i not in wrong]
    assert max(scored[i] for i in wrong) < min(sound) - 0.1
    assert min(sound) > 0.5


def test_a_sample_is_judged_by_the_other_folds_alone(untaught: Scorer) -> None:
    found = rows(12)
    fold = fold_of("s0", None, CONFIG, 0)
    mates = [i for i in range(1, 12) if fold_of(f"s{i}", None, CONFIG, 0) == fold]
    others = [i for i in range(1, 12) if i not in mates]
    assert mates
    assert others
    before = scores(untaught, found).slice(0, 1)

    def with_emptied(i: int) -> pa.Table:
        changed = list(found)
        changed[i] = row(f"s{i}", scene(i, 1 + i % 2)[0], np.full((SIDE, SIDE), 2, np.uint8))
        return scores(untaught, found, changed).slice(0, 1)

    assert with_emptied(mates[0]).column("asf").equals(before.column("asf"))
    assert not with_emptied(others[0]).column("asf").equals(before.column("asf"))


def test_a_class_that_no_other_fold_shows_is_granted(untaught: Scorer) -> None:
    found = [*rows(8), row("bus", *scene(40, 3))]
    (last,) = scores(untaught, found).slice(8, 1).to_pylist()
    assert last["per_class"] == [{"class_id": 3, "iou": 1.0}]
    assert last["image_score"] == 1
    assert 0 < last["asf"] <= 1


def test_rows_hold_what_selection_reads(untaught: Scorer) -> None:
    image, mask = scene(0, 1)
    found = [
        *rows(6),
        row("bare", image, None, asked=[1]),
        row("empty", image, np.zeros_like(mask)),
        row("other", image, mask, asked=[2]),
        row("odd", image, mask[:10]),
        row("nameless", image, None),
    ]
    scored = {r["sample_id"]: r for r in scores(untaught, found).to_pylist()}
    assert scored["s0"]["label_ids"] == [1]
    assert scored["s0"]["n_classes"] == 1
    assert scored["s0"]["pcs"] is None
    assert np.linalg.norm(scored["s0"]["embedding"]) == pytest.approx(1, abs=2e-3)
    assert scored["bare"]["asf"] is None
    assert scored["bare"]["image_score"] == scored["s0"]["image_score"]
    assert (scored["empty"]["reason"], scored["empty"]["n_classes"]) == ("no_classes", 0)
    assert scored["other"]["label_ids"] == [2]
    assert scored["other"]["image_score"] < scored["s0"]["image_score"]
    assert scored["odd"]["reason"] == "score_failed"
    assert (scored["nameless"]["reason"], scored["nameless"]["n_classes"]) == ("no_classes", None)


def test_batch_order_and_company_change_no_score(untaught: Scorer) -> None:
    found = rows(6)
    scorer = teach(untaught, [table(found)], 0)
    whole = scorer.score(table(found), 0)
    assert scorer.score(table(found[4:]), 0).equals(whole.slice(4))
    assert scorer.score(table(found[::-1]), 0).equals(whole.take([5, 4, 3, 2, 1, 0]))


def test_a_scorer_that_was_not_taught_says_so(untaught: Scorer) -> None:
    with pytest.raises(ValueError, match="expected a scorer that was taught"):
        untaught.score(table(rows(1)), 0)
    plain = Plain()
    with pytest.raises(TypeError, match="learns nothing"):
        plain.study(table([]), 0)
    with pytest.raises(TypeError, match="learns nothing"):
        plain.conclude([])
    with pytest.raises(TypeError, match="learns nothing"):
        plain.taught(table([]))


def test_identity_names_options_and_weights() -> None:
    module = get_scorer("cross_fit")
    identities = [
        module.identity(CrossFitConfig(**SMALL, **more)) for more in ({}, {"ridge": 1.0}, {"weights": "random"})
    ]
    assert len({str(one) for one in identities}) == 3
    assert CONFIG.learns
    assert isinstance(CrossFit(CONFIG, SPACE).ids, tuple)
