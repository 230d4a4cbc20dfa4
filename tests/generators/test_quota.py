"""Quota planning against a simulated generator whose classes keep at known rates."""

import numpy as np
import pytest

from maskmill.data_contracts import load_label_space, sample_seed
from maskmill.generators.prompts import PromptConfig
from maskmill.generators.quota import (
    GROWTH,
    LOST,
    PILOT,
    Outcome,
    QuotaState,
    hard_classes,
    next_round,
    outcomes_of,
    plan_tries,
    tally,
)

VOC = load_label_space("voc")


def judge(row, rates):
    """Keep or drop one prompt by a coin that depends on the prompt only."""
    coin = np.random.default_rng(sample_seed(0, row["sample_id"], "coin")).random()
    kept = coin < min(rates[c] for c in row["class_ids"])
    ids = tuple(row["class_ids"])
    return Outcome(row["sample_id"], ids, kept, "kept" if kept else "low_asf", ids if kept else ())


def simulate(rates, quotas, budget, config=None, seed=1):
    rounds = []
    while rows := next_round(tally(rounds), quotas, budget, seed, VOC, config or PromptConfig()):
        rounds.append([judge(row, rates) for row in rows])
        assert len(rounds) < 60
    return tally(rounds), rounds


def test_every_quota_is_met_and_budget_moves_to_the_hard_classes():
    rates = dict.fromkeys(VOC.ids, 0.9) | {5: 0.1, 9: 0.3}
    quotas = dict.fromkeys(VOC.ids, 60)
    state, rounds = simulate(rates, quotas, budget=20_000)
    assert all(state.of(c).kept >= 60 for c in VOC.ids)
    assert hard_classes(state, quotas, 20_000, VOC) == []
    assert state.of(5).tried > 4 * state.of(1).tried
    # nobody is asked for much more than the quota takes
    assert max(state.of(c).kept for c in VOC.ids) < 60 * 1.5
    assert state.prompts < 1.6 * sum(60 / rate for rate in rates.values())
    assert len(rounds) < 12


def test_budget_is_never_exceeded_and_easy_classes_are_not_sacrificed_to_a_hopeless_one():
    rates = dict.fromkeys(VOC.ids, 0.9) | {5: 0.0}
    quotas = dict.fromkeys(VOC.ids, 40)
    state, _ = simulate(rates, quotas, budget=1500)
    assert state.prompts == 1500
    (hard,) = hard_classes(state, quotas, 1500, VOC)
    assert (hard.name, hard.kept, hard.quota) == ("bottle", 0, 40)
    assert f"after {hard.tried} tries (0.0%); low_asf {hard.tried}" in hard.why
    assert "0 prompts left" in hard.why


def test_prompts_of_several_classes_count_once_in_the_budget():
    rates = dict.fromkeys(VOC.ids, 0.8)
    quotas = dict.fromkeys(VOC.ids, 30)
    state, _ = simulate(rates, quotas, budget=3000, config=PromptConfig(classes_per_prompt=(1, 2)))
    assert all(state.of(c).kept >= 30 for c in VOC.ids)
    assert state.prompts < sum(t.tried for t in state.tallies.values())


def test_planning_is_deterministic_and_resumes_from_outcomes_alone():
    rates = dict.fromkeys(VOC.ids, 0.5)
    quotas = {1: 30, 12: 30}
    state, rounds = simulate(rates, quotas, budget=500)
    again, _ = simulate(rates, quotas, budget=500)
    assert again == state
    for done in range(len(rounds)):
        rows = next_round(tally(rounds[:done]), quotas, 500, 1, VOC, PromptConfig())
        assert [row["sample_id"] for row in rows] == [o.prompt_id for o in rounds[done]]
    ids = [o.prompt_id for r in rounds for o in r]
    assert len(set(ids)) == len(ids)


def test_first_rounds_are_pilots_and_rounds_grow_gently():
    first = plan_tries(QuotaState(), {1: 500, 2: 3}, 10_000)
    assert first == {1: PILOT, 2: 6}
    seen = tally([[Outcome(str(i), (1,), i % 2 == 0, "low_pcs", (1,)) for i in range(100)]])
    assert plan_tries(seen, {1: 500}, 10_000) == {1: round(100 * GROWTH)}


def test_a_class_missing_from_a_kept_mask_is_not_kept():
    state = tally([[Outcome("a", (12, 8), True, "kept", (12,))]])
    assert state.of(12).kept == 1
    assert state.of(8).kept == 0
    assert dict(state.of(8).reasons) == {LOST: 1}


def test_an_untried_class_is_named_too():
    (hard,) = hard_classes(QuotaState(prompts=10), {7: 5}, 10, VOC)
    assert "car: 0 of 5 kept; the budget was spent before it was tried" in hard.why


def test_unknown_class_in_a_quota_is_refused():
    with pytest.raises(ValueError, match=r"classes \[77\]"):
        next_round(QuotaState(), {77: 5}, 10, 0, VOC, PromptConfig())


def test_outcomes_join_prompts_samples_and_decisions():
    prompts = [{"sample_id": p, "class_ids": [12]} for p in ("p1", "p2", "p3", "p4")]
    samples = [("p1", "s1", [12]), ("p2", "s2", [12])]
    found = outcomes_of(prompts, samples, {"s1": "kept", "s2": "low_asf"}, {"p3": "empty_foreground"})
    assert [(o.kept, o.reason) for o in found] == [
        (True, "kept"),
        (False, "low_asf"),
        (False, "empty_foreground"),
        (False, "generation_failed"),
    ]
    assert found[0].class_ids == (12,)
