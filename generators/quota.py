"""Quota-driven generation: how many prompts each class gets next, from what was kept so far.

"500 kept samples of every class, at most 20,000 tries": rounds of prompts are planned, drawn and judged elsewhere;
this module only counts and plans. Everything is a pure function of the outcomes so far, so a run that was cut off
plans the same round again.

    state = tally(outcomes) rows = next_round(state, quotas, budget, seed, space, PromptConfig())     # [] when done
    print(*[h.why for h in hard_classes(state, quotas, budget, space)], sep="\\n")
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from maskmill.data_contracts import LabelSpace, Reason, sample_seed
from maskmill.generators.prompts import PromptConfig, Row, prompts_from_mentions

PILOT = 20  # tries of a class before its keep rate is believed
GROWTH = 1.0  # a round gives a class at most this many times the tries that it had, so a lucky start is soon corrected
PRIOR_KEPT, PRIOR_TRIES = 1.0, 2.0  # Laplace's rule of succession: an untried class counts as one half
LOST = "class_lost"  # the sample was kept, but this class is not in its mask


@dataclass(frozen=True)
class Outcome:
    """What became of one prompt. `class_ids`: foreground ids in the mask of a kept sample."""

    prompt_id: str
    prompted: tuple[int, ...]
    kept: bool
    reason: str
    class_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClassTally:
    """Tries and keeps of one class, and why tries failed."""

    tried: int = 0
    kept: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Keep rate to plan with: (kept + 1) / (tried + 2), never 0."""
        return (self.kept + PRIOR_KEPT) / (self.tried + PRIOR_TRIES)


@dataclass(frozen=True)
class QuotaState:
    """Prompts drawn so far, rounds finished, and a tally per class."""

    prompts: int = 0
    rounds: int = 0
    tallies: Mapping[int, ClassTally] = field(default_factory=dict)

    def of(self, class_id: int) -> ClassTally:
        """The tally of a class; empty where it was not tried yet."""
        return self.tallies.get(class_id, ClassTally())


def tally(rounds: Iterable[Sequence[Outcome]]) -> QuotaState:
    """Count the outcomes of finished rounds. A class is kept where its sample is kept and its mask holds it."""
    tried: Counter[int] = Counter()
    kept: Counter[int] = Counter()
    reasons: dict[int, Counter[str]] = {}
    prompts = finished = 0
    for outcomes in rounds:
        finished += 1
        prompts += len(outcomes)
        for outcome in outcomes:
            for class_id in outcome.prompted:
                tried[class_id] += 1
                if outcome.kept and class_id in outcome.class_ids:
                    kept[class_id] += 1
                else:
                    reason = LOST if outcome.kept else outcome.reason
                    reasons.setdefault(class_id, Counter())[reason] += 1
    tallies = {c: ClassTally(tried[c], kept[c], dict(sorted(reasons.get(c, Counter()).items()))) for c in sorted(tried)}
    return QuotaState(prompts, finished, tallies)


def tries_needed(tally_: ClassTally, quota: int) -> int:
    """Tries until the quota is expected to be met at the rate so far."""
    return max(0, ceil((quota - tally_.kept) / tally_.rate))


def plan_tries(state: QuotaState, quotas: Mapping[int, int], budget: int, per_prompt: float = 1.0) -> dict[int, int]:
    """Tries for each class in the next round.

    A class gets what its quota still needs, at most PILOT tries on first sight and then GROWTH times its tries so
    far. When the budget cannot pay for all, the classes that need least come first: that way most quotas are met, and
    what is left goes to the hard ones. `per_prompt` = classes named by one prompt: tries are mentions, the budget
    counts prompts.
    """
    left = int((budget - state.prompts) * per_prompt)
    needs = {c: tries_needed(state.of(c), quota) for c, quota in quotas.items()}
    planned: dict[int, int] = {}
    for class_id in sorted(needs, key=lambda c: (needs[c], c)):
        ceiling = max(PILOT, round(GROWTH * state.of(class_id).tried))
        tries = min(needs[class_id], ceiling, left)
        if tries > 0:
            planned[class_id] = tries
            left -= tries
    return dict(sorted(planned.items()))


def next_round(
    state: QuotaState, quotas: Mapping[int, int], budget: int, seed: int, space: LabelSpace, config: PromptConfig
) -> list[Row]:
    """Prompt rows of the next round; [] when every quota is met or `budget` prompts are drawn.

    Raises:
        ValueError: a quota for a class that the label space does not have.
    """
    if strangers := sorted(set(quotas) - set(space.ids)):
        raise ValueError(f"quotas name classes {strangers}, which label space {space.name} does not have")
    sizes = config.classes_per_prompt
    planned = plan_tries(state, quotas, budget, sum(sizes) / len(sizes))
    round_seed = sample_seed(seed, f"round {state.rounds}", "quota")
    return prompts_from_mentions(planned, space, config, round_seed)[: max(0, budget - state.prompts)]


@dataclass(frozen=True)
class HardClass:
    """A class that fell short, with the sentence that a report prints."""

    class_id: int
    name: str
    tried: int
    kept: int
    quota: int
    why: str


def hard_classes(state: QuotaState, quotas: Mapping[int, int], budget: int, space: LabelSpace) -> list[HardClass]:
    """Classes whose quota is not met, the furthest from it first, each with its keep rate and what its tries failed
    for.
    """
    short = [c for c, quota in quotas.items() if state.of(c).kept < quota]
    found = []
    for c in sorted(short, key=lambda c: (state.of(c).kept / quotas[c], c)):
        seen, name = state.of(c), space.by_id[c].name
        found.append(
            HardClass(c, name, seen.tried, seen.kept, quotas[c], _why(name, seen, quotas[c], budget - state.prompts))
        )
    return found


def _why(name: str, seen: ClassTally, quota: int, left: int) -> str:
    if not seen.tried:
        return f"{name}: 0 of {quota} kept; the budget was spent before it was tried"
    failures = sorted(seen.reasons.items(), key=lambda item: (-item[1], item[0]))
    causes = ", ".join(f"{reason} {count}" for reason, count in failures[:3]) or "no failures"
    need = tries_needed(seen, quota)
    share = f"{seen.kept} of {quota} kept after {seen.tried} tries ({seen.kept / seen.tried:.1%})"
    return f"{name}: {share}; {causes}; about {need} more tries needed, {max(left, 0)} prompts left"


def outcomes_of(
    prompts: Sequence[Row],
    samples: Iterable[tuple[str, str, Sequence[int]]],
    decisions: Mapping[str, str],
    rejects: Mapping[str, str],
) -> list[Outcome]:
    """Join a round's prompts with what became of them.

    `samples`: (prompt id, sample id, class ids in the mask) of what was drawn; `decisions`: sample id to final reason;
    `rejects`: prompt id to the reason why nothing was drawn.
    """
    drawn = {prompt_id: (sample_id, class_ids) for prompt_id, sample_id, class_ids in samples}
    found = []
    for row in prompts:
        prompt_id = str(row["sample_id"])
        sample_id, class_ids = drawn.get(prompt_id, ("", ()))
        reason = decisions.get(sample_id) or rejects.get(prompt_id) or Reason.GENERATION_FAILED.value
        kept = reason == Reason.KEPT.value
        prompted = tuple(int(c) for c in row["class_ids"])  # type: ignore[attr-defined]
        found.append(Outcome(prompt_id, prompted, kept, reason, tuple(class_ids) if kept else ()))
    return found
