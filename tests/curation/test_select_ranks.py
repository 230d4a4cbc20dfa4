"""Ranks by sorting in digits, and words that are made part by part, against the plain way."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.curation.select import decide, selection
from maskmill.curation.select.quotas import _best_first, _best_of_each, _digits, _numbered
from tests.curation.score_tables import NO_PAIRS, cleaned, faithful, random_rows, score_row, score_table

scores = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 0.25, -3.5, 1e-30, float("inf"), float("-inf"), float("nan")])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), scores), max_size=40))
def test_entries_go_by_group_then_from_best_to_worst(entries: list[tuple[int, float]]) -> None:
    groups = np.array([group for group, _ in entries], np.int64)
    values = np.array([score for _, score in entries], np.float32)

    def key(at: int) -> tuple[int, float, float]:
        return (
            int(groups[at]),
            float(np.isnan(values[at])),
            -float(np.nan_to_num(values[at], nan=0, posinf=9e9, neginf=-9e9)),
        )

    assert _best_first(groups, values).tolist() == sorted(range(len(entries)), key=key)


def test_many_groups_take_more_digits() -> None:
    assert [len(_digits(np.array([n], np.int64))) for n in (0, 65_535, 65_536, 2**33)] == [1, 1, 2, 3]
    groups = np.array([70_000, 4, 65_540, 4], np.int64)
    assert _best_first(groups, np.array([1, 1, 1, 2], np.float32)).tolist() == [3, 1, 2, 0]


def test_values_are_numbered_in_order() -> None:
    values, group = _numbered(np.array([7, 3, 7, 9], np.int64))
    assert (values.tolist(), group.tolist()) == ([3, 7, 9], [1, 0, 1, 2])


def test_each_owner_gets_its_lowest_entry_and_of_equals_the_first() -> None:
    owners, keys = np.array([0, 0, 2, 2, 2], np.int64), np.array([5, 4, 1, -3, -3], np.int64)
    assert _best_of_each(owners, keys, 4).tolist() == [1, -1, 3, -1]
    assert _best_of_each(owners[:0], keys[:0], 2).tolist() == [-1, -1]


@pytest.mark.parametrize("group_by", ["class", "n_classes"])
def test_decisions_do_not_depend_on_how_many_are_put_into_words_at_a_time(
    group_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = score_table(random_rows(90, 0))
    config = cleaned(group_by=group_by, pcs_tau=0.1)
    whole = decide(table, NO_PAIRS, config)
    monkeypatch.setattr(selection, "ROWS", 7)
    parts = decide(table, NO_PAIRS, config)
    assert len(list(parts.parts())) == 13
    assert parts.decisions.equals(whole.decisions)
    assert parts.counts == whole.counts == dict(whole.decisions.group_by("reason").len().sort("reason").iter_rows())
    assert parts.height == 90


def hashed(numbers: list[int], shards: list[int]) -> pl.DataFrame:
    rows = zip(numbers, shards, strict=True)
    return score_table([score_row(f"{n:032x}", shard=f"shard-{at:05d}.parquet") for n, at in rows])


def test_ids_are_sorted_by_all_their_digits() -> None:
    far = 2**100
    cases = [
        ([3 * far, far, 2 * far], [0, 0, 1]),  # the first digits tell
        ([2 * far + 5, 2 * far + 1, 2 * far + 5], [0, 1, 1]),  # they do not
        ([far, 5 * far, far], [1, 0, 0]),  # shards out of order
    ]
    for numbers, shards in cases:
        found = decide(hashed(numbers, shards), NO_PAIRS, faithful()).decisions
        expected = sorted((f"{n:032x}", f"shard-{at:05d}.parquet") for n, at in zip(numbers, shards, strict=True))
        assert found.select("sample_id", "shard").rows() == expected
        assert (found["reason"] == "duplicate_id").sum() == len(numbers) - len(set(numbers))


def test_of_one_id_the_first_shard_keeps_it() -> None:
    found = decide(hashed([7 * 2**70, 7 * 2**70], [0, 1]), NO_PAIRS, faithful()).decisions
    assert found["reason"].to_list() == ["kept", "duplicate_id"]
    assert found["detail"].to_list()[1] == "the same sample is in shard-00000.parquet"
