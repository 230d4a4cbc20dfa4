"""A toy world for the FTMU agent: which part of its training lets it learn when to update?

A target and a distractor move on a 100 x 100 plane and bounce off its sides. Their unit appearance vectors drift. The
target is hidden from time to time for 3 to 7 steps and comes back anywhere. Matching by overlap takes the nearest
detection within 18 units of the template's place, matching by appearance the one most like the template. The agent sees
the similarity and the distance, and is given no hint at the right threshold.
Arms: fixed policies (`overlap_updated`, `overlap_kept`, `appearance_updated`, `appearance_kept`); `threshold` and
`threshold@5` (update where the similarity is above a level, chosen on clips of their own; N = 3 and 5); `actor_critic`
(N = 3), and it without one of its parts: `one_step` (trace 0, the paper's TD error), `full_returns` (trace 1 and gamma
0.99, the released code's), `no_entropy`, `no_normalisation` (of advantages); `counted` (the counter, N and "lost" are
in the state; N = 5) and `free` (besides, the agent itself says when to look over the whole frame: there is no N); and
both learnt on from what each action would have given: `counterfactual`, and, free, `learned`.
Metrics: `j`, `whole_rate` (appearance calls), `update_rate`, `action_variety`.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ftmu.arms import variety
from maskmill.trainers.engine import lr_factor, make_optimizer
from maskmill.trainers.engine.optim import set_lr
from maskmill.trainers.ftmu.config import Config
from maskmill.trainers.ftmu.policies import AlwaysUpdate, Head, NeverUpdate, Policy, Threshold
from maskmill.trainers.ftmu.rollout import Trajectory, Walk, reward
from maskmill.trainers.ftmu.tracker import UPDATE
from maskmill.trainers.ftmu.train import losses

Array = NDArray[np.float64]
DIMENSIONS, DRIFT, REACH = 8, 0.07, 18.0


def unit(x: Array) -> Array:
    scaled: Array = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return scaled


@dataclass
class World:
    """`n` clips in step: places (n, 2 things, 2), looks (n, 2, 8), steps that the target is still hidden (n,)."""

    rng: np.random.Generator
    n: int

    def __post_init__(self) -> None:
        rng, n = self.rng, self.n
        self.place, self.speed = rng.uniform(0, 100, (n, 2, 2)), rng.normal(0, 2.0, (n, 2, 2))
        target = unit(rng.normal(size=(n, DIMENSIONS)))
        other = unit(0.5 * target + 0.87 * unit(rng.normal(size=(n, DIMENSIONS))))
        self.looks = np.stack([target, other], 1)
        self.hidden = np.zeros(n, int)

    def step(self) -> None:
        rng = self.rng
        self.place += self.speed
        out = (self.place < 0) | (self.place > 100)
        self.speed[out] *= -1
        self.place = np.clip(self.place, 0, 100)
        self.looks = unit(self.looks + rng.normal(0, DRIFT, self.looks.shape))
        back = self.hidden == 1
        self.place[back, 0] = rng.uniform(0, 100, (int(back.sum()), 2))
        self.hidden = np.maximum(self.hidden - 1, 0)
        starts = (self.hidden == 0) & ~back & (rng.random(self.n) < 0.06)
        self.hidden[starts] = rng.integers(3, 8, int(starts.sum()))

    def see(self) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Noisy places and looks of both things, and which are there (n, 2)."""
        there = np.stack([self.hidden == 0, np.ones(self.n, bool)], 1)
        noisy = self.place + self.rng.normal(0, 0.4, self.place.shape)
        return noisy, unit(self.looks + self.rng.normal(0, 0.10, self.looks.shape)), there


@dataclass(frozen=True)
class Rules:
    """What the agent sees and decides. `hint` adds [similarity > 0.8], which is nearly the best rule; `counted` the
    counter, N, whether anything was found and whether the whole frame has been looked over; `free` lets it decide when
    to look over it: actions 0 to 3 are 2 x look + (0 = update, 1 = keep), and it is asked whether or not anything was
    found. After a look it is asked again, as ever, and its word on the update counts.
    """

    hint: bool = False
    counted: bool = False
    free: bool = False

    @property
    def width(self) -> int:
        return 4 + self.hint + 4 * self.counted

    @property
    def actions(self) -> int:
        return 4 if self.free else 2


PLAIN = Rules()
Bools = NDArray[np.bool_]


@dataclass
class Forced:
    """One moment at which all clips do the same: the frame, whether after the look over the whole frame, the action.
    `clips` (k,) and `states` (k, width) are those that were asked then.
    """

    frame: int
    late: bool
    action: int
    clips: NDArray[np.intp] | None = None
    states: NDArray[np.float32] | None = None


def play(
    policy: Policy,
    seed: int,
    n: int,
    steps: int,
    patience: int | None,
    config: Config,
    rules: Rules = PLAIN,
    forced: Forced | None = None,
) -> Walk:
    """Walk through `n` clips; J = 0.9 on the target, 1 for nothing while it is hidden, else 0."""
    world = World(np.random.default_rng(seed), n)
    place, looks, _ = world.see()
    template_place, template_looks = place[:, 0].copy(), looks[:, 0].copy()
    kept, rows = np.zeros(n, int), np.arange(n)
    paths = [Trajectory() for _ in range(n)]
    walked = Walk(paths, [])

    def ask(chosen: NDArray[np.intp], picked: Array, frame: int, seen: Array, late: bool) -> tuple[Bools, Bools]:
        """Which clips update on their candidates `picked` (indices into things), and which look, bool (n,) both; of
        the chosen ones. `seen` says where there is a candidate, `late` that the whole frame has been looked over.
        """
        similarity = (template_looks[chosen] * looks[chosen, picked[chosen]]).sum(1)
        away = np.linalg.norm(place[chosen, picked[chosen]] - template_place[chosen], axis=1) / REACH
        columns = [np.ones(len(chosen)), similarity, similarity**2, np.minimum(away, 6) / 3]
        if rules.hint:
            columns.append(similarity > 0.8)
        if rules.counted:
            count, shown = np.minimum(kept[chosen], 10), seen[chosen].astype(float)
            left = np.zeros(len(chosen)) if patience is None else (patience - count) / patience
            columns = [columns[0], *(column * shown for column in columns[1:]), count / 5, left, shown]
            columns.append(np.full(len(chosen), float(late)))
        states = np.stack(columns, 1)
        actions = policy.act(states.astype(np.float32)) if len(chosen) else []
        if forced is not None and (forced.frame, forced.late) == (frame, late):
            forced.clips, forced.states = chosen, states.astype(np.float32)
            actions = [forced.action] * len(chosen)
        for clip, state, action in zip(chosen, states.astype(np.float32), actions, strict=True):
            paths[clip].decide(state, action, frame)
        walked.decisions += len(actions)
        walked.updates += sum(a % 2 == UPDATE for a in actions)
        updates, looks_now = np.zeros(n, bool), np.zeros(n, bool)
        updates[chosen] = (np.array(actions, int) % 2 == UPDATE) & seen[chosen]
        looks_now[chosen] = np.array(actions, int) >= 2
        return updates, looks_now

    def settle(updates: NDArray[np.bool_], picked: Array) -> None:
        template_place[updates] = place[rows, picked][updates]
        template_looks[updates] = looks[rows, picked][updates]
        kept[updates] = 0

    for frame in range(1, steps):
        world.step()
        place, looks, there = world.see()
        result = np.full(n, -1)
        if patience != 0:
            away = np.where(there, np.linalg.norm(place - template_place[:, None], axis=2), np.inf)
            picked = away.argmin(1)
            found = away.min(1) < REACH
            asked = rows if rules.free else np.flatnonzero(found)
            updates, wanted = ask(asked, picked, frame, found, False)
            settle(updates & ~wanted, picked)
            kept[~updates | wanted] += 1
            result[found] = picked[found]
        lost = kept >= patience if patience is not None else np.zeros(n, bool)
        if rules.free:
            lost = wanted
        if lost.any():
            likeness = np.where(there, (template_looks[:, None] * looks).sum(2), -np.inf)
            picked = likeness.argmax(1)
            settle(ask(np.flatnonzero(lost), picked, frame, np.ones(n, bool), True)[0], picked)
            result[lost] = picked[lost]
        walked.whole += int(lost.sum())
        visible = world.hidden == 0
        j = np.where(visible, 0.9 * (result == 0), (result == -1) * 1.0)
        walked.j += j.tolist()
        for path, value, call in zip(paths, j, lost, strict=True):
            path.earn(reward(float(value)) - config.price * call, frame, config.discount)
    return walked


BASE: dict[str, Any] = {
    "segmenter": "none", "hidden": (32,), "lr": 2e-2, "critic_lr": 2e-2, "discount": 0.9, "trace": 0.9, "entropy": 0.01,
    "price": 0.05, "batch": 96, "length": 20, "schedule": "linear", "lr_floor": 0.1, "grad_clip": None,
}  # fmt: skip
LEARNED: dict[str, dict[str, Any]] = {
    "actor_critic": {},
    "one_step": {"trace": 0.0},
    "full_returns": {"trace": 1.0, "discount": 0.99},
    "no_entropy": {"entropy": 0.0},
    "no_normalisation": {"normalise_advantage": False},
}
WIDER = {"counted": Rules(counted=True), "free": Rules(counted=True, free=True)}
FIXED: dict[str, tuple[Policy, int | None]] = {
    "overlap_updated": (AlwaysUpdate(), None),
    "overlap_kept": (NeverUpdate(), None),
    "appearance_updated": (AlwaysUpdate(), 0),
    "appearance_kept": (NeverUpdate(), 0),
}
STEPS = {"small": 120, "full": 400}
TEST_SEED, TEST_CLIPS, TEST_STEPS, PATIENCE = 99_999, 400, 40, 3
DEV_SEED, LONG_PATIENCE = 88_888, 5
LEVELS = (0.7, 0.75, 0.8, 0.85, 0.9)


def settings(steps: int, seed: int, **changes: Any) -> Config:
    """The agent's settings in this world."""
    return Config(**{**BASE, "steps": steps, "seed": seed, **changes})


def learn(config: Config, rules: Rules = PLAIN, patience: int | None = PATIENCE) -> Head:
    """Train an agent on fresh clips."""
    torch.manual_seed(config.seed)
    actor, critic = Head(rules.width, config.hidden, rules.actions), Head(rules.width, config.hidden, 1)
    slow = config.model_copy(update={"lr": config.critic_lr})
    optimizers = [make_optimizer(config, list(actor.parameters())), make_optimizer(slow, list(critic.parameters()))]
    rng = np.random.default_rng(config.seed)

    class Exploring:
        def act(self, states: NDArray[np.float32]) -> list[int]:
            with torch.no_grad():
                shares = actor(torch.from_numpy(states)).softmax(1).cumsum(1).numpy()
            return [int(a) for a in (rng.random((len(states), 1)) > shares[:, :-1]).sum(1)]

    for step in range(config.steps):
        seed = 10_000 * (config.seed + 1) + step
        walked = play(Exploring(), seed, config.batch, config.length, patience, config, rules)
        torch.autograd.backward(losses(actor, critic, walked, config)[0])
        for optimizer in optimizers:
            set_lr(optimizer, lr_factor(config, step))
            optimizer.step()
            optimizer.zero_grad()
    return actor


def measure(
    policy: Policy, patience: int | None, config: Config, rules: Rules = PLAIN, seed: int = TEST_SEED
) -> dict[str, float]:
    """Figures of a policy on clips that no agent has met."""
    walked = play(policy, seed, TEST_CLIPS, TEST_STEPS, patience, config, rules)
    whole = walked.whole / len(walked.j)
    actions = Counter(action for path in walked.trajectories for action in path.actions)
    found = {"j": float(np.mean(walked.j)), "whole_rate": whole, "update_rate": walked.update_rate}
    return {**found, "action_variety": variety(actions)}


def threshold(config: Config, patience: int) -> dict[str, float]:
    """The similarity rule whose level is best on clips of its own, on the tested clips."""
    found = {level: measure(Threshold(level, 1), patience, config, seed=DEV_SEED)["j"] for level in LEVELS}
    best = max(found, key=lambda level: found[level])
    return measure(Threshold(best, 1), patience, config)
