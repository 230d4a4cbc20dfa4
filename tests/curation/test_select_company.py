"""The company that an image keeps: wrong names are seen by embeddings alone, and no sound class suffers."""

import numpy as np
import polars as pl
import pytest

from maskmill.curation.select import select
from maskmill.curation.select.company import BLOCK, COMPANY, LEAD, NEAREST, company
from tests.curation.score_tables import NO_PAIRS, cleaned, faithful, kept, reasons, score_row, score_table

WIDTH = 32


def images(classes: int = 5, each: int = 12, seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, classes and unit vectors: a cluster for each class around a mean that all share, as CLIP's are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, WIDTH))
    labels = np.repeat(np.arange(1, classes + 1), each)
    x = 3 * rng.normal(size=WIDTH) + centres[labels - 1] + 0.6 * rng.normal(size=(len(labels), WIDTH))
    return [f"{i:03d}" for i in range(len(labels))], labels, x / np.linalg.norm(x, axis=1, keepdims=True)


def strangers(found: pl.DataFrame) -> set[str]:
    return set(found.filter(pl.col("company") - pl.col("rival") < -LEAD)["sample_id"])


@pytest.mark.parametrize("seed", range(3))
def test_wrong_names_are_found_and_right_ones_left_alone(seed: int) -> None:
    ids, labels, x = images(each=20, seed=seed)
    assert not strangers(company(ids, labels, x))
    wrong = np.random.default_rng(seed).choice(len(ids), 8, replace=False)
    true = labels[wrong]
    labels[wrong] = true % 5 + 1
    found = company(ids, labels, x)
    assert strangers(found) == {ids[i] for i in wrong}
    rivals = dict(found.select("sample_id", "rival_class_id").iter_rows())
    assert [rivals[ids[i]] for i in wrong] == true.tolist()


def test_cosines_equal_the_definition() -> None:
    ids, labels, x = images(3, 8)
    table = company(ids, labels, x).rows_by_key("sample_id", unique=True, named=True)
    centred = x - x.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    for i, name in enumerate(ids):
        by_class = {}
        for c in (1, 2, 3):
            cosines = sorted(float(centred[i] @ centred[j]) for j in range(len(ids)) if labels[j] == c and j != i)
            by_class[c] = float(np.mean(cosines[-NEAREST:]))
        own = by_class.pop(int(labels[i]))
        assert table[name]["company"] == pytest.approx(own, abs=1e-5)
        assert table[name]["rival"] == pytest.approx(max(by_class.values()), abs=1e-5)


def test_order_and_repeated_ids_do_not_matter() -> None:
    ids, labels, x = images(4, BLOCK // 3)
    turn = np.random.default_rng(1).permutation(len(ids))
    again = [*turn, *turn[:5]]
    assert company(ids, labels, x).equals(company([ids[i] for i in again], labels[again], x[again]))


def test_few_images_neither_judge_nor_are_judged() -> None:
    ids, labels, x = images(2, 10)
    assert company(ids, np.ones(20), x).equals(pl.DataFrame(schema=COMPANY))
    labels[:NEAREST] = 7
    found = company(ids, labels, x)
    assert set(found["sample_id"]) == set(ids[NEAREST:])
    assert 7 not in set(found["rival_class_id"])
    assert company([], [], np.empty((0, WIDTH))).is_empty()


def test_selection_turns_strangers_away_where_swaps_are_dropped() -> None:
    rows = [score_row("sound"), score_row("stranger"), score_row("unknown")]
    said = {"sample_id": ["sound", "stranger"], "company": [0.6, 0.1], "rival": [0.5, 0.4], "rival_class_id": [2, 3]}
    table = score_table(rows).join(pl.DataFrame(said, schema=COMPANY), on="sample_id", how="left")
    decisions = select(table, NO_PAIRS, cleaned(rho=1))
    assert reasons(decisions) == {"sound": "kept", "stranger": "label_swap", "unknown": "kept"}
    verdict = decisions.row(by_predicate=pl.col("sample_id") == "stranger", named=True)
    assert verdict["score"] == pytest.approx(-0.3)
    assert verdict["threshold"] == pytest.approx(-LEAD)
    assert "class 3" in verdict["detail"]
    assert kept(select(table, NO_PAIRS, faithful(rho=1))) == {"sound", "stranger", "unknown"}
