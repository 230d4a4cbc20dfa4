"""A toy world for the FTMU agent: which part of its training lets it learn when to update?

A target and a distractor move on a 100 x 100 plane and bounce off its sides. Their unit appearance vectors drift. The
target is hidden from time to time for 3 to 7 steps and comes back anywhere. Matching by overlap takes the nearest
detection within 18 units of the template's place, matching by appearance the one most like the template. The agent sees
the similarity and the distance, and is given no hint at the right threshold.
Arms: fixed policies (`overlap_updated`, `overlap_kept`, `appearance_updated`, `appearance_kept`), `threshold` (the best
of three rules), `learned`, and `learned` without one of its parts: `one_step` (trace 0, the published TD error),
`no_entropy`, `no_normalisation` (of advantages). Metrics: `j`, `whole_rate` (appearance calls), `update_rate`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import Options, Record, parse_options
from maskmill.trainers.engine import lr_factor, make_optimizer
from maskmill.trainers.engine.optim import set_lr
from maskmill.trainers.ftmu.config import Config
from maskmill.trainers.ftmu.policies import AlwaysUpdate, Head, Learned, NeverUpdate, Policy, Threshold
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


def play(
    policy: Policy, seed: int, n: int, steps: int, patience: int | None, config: Config, hint: bool = False
) -> Walk:
    """Walk through `n` clips; J = 0.9 on the target, 1 for nothing while it is hidden, else 0.

    `hint` adds [similarity > 0.8] to the states, which is nearly the best rule.
    """
    world = World(np.random.default_rng(seed), n)
    place, looks, _ = world.see()
    template_place, template_looks = place[:, 0].copy(), looks[:, 0].copy()
    kept, rows = np.zeros(n, int), np.arange(n)
    paths = [Trajectory() for _ in range(n)]
    walked = Walk(paths, [])

    def ask(chosen: NDArray[np.intp], picked: Array, frame: int) -> NDArray[np.bool_]:
        """Which of the chosen clips update on their candidates `picked` (indices into things)."""
        similarity = (template_looks[chosen] * looks[chosen, picked[chosen]]).sum(1)
        away = np.linalg.norm(place[chosen, picked[chosen]] - template_place[chosen], axis=1) / REACH
        columns = [np.ones(len(chosen)), similarity, similarity**2, np.minimum(away, 6) / 3]
        states = np.stack([*columns, similarity > 0.8] if hint else columns, 1)
        actions = policy.act(states.astype(np.float32)) if len(chosen) else []
        for clip, state, action in zip(chosen, states.astype(np.float32), actions, strict=True):
            paths[clip].decide(state, action, frame)
        walked.decisions += len(actions)
        walked.updates += sum(a == UPDATE for a in actions)
        updates = np.zeros(n, bool)
        updates[chosen] = np.array(actions, int) == UPDATE
        return updates

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
            updates = ask(np.flatnonzero(found), picked, frame)
            settle(updates, picked)
            kept[~updates] += 1
            result[found] = picked[found]
        lost = kept >= patience if patience is not None else np.zeros(n, bool)
        if lost.any():
            likeness = np.where(there, (template_looks[:, None] * looks).sum(2), -np.inf)
            picked = likeness.argmax(1)
            settle(ask(np.flatnonzero(lost), picked, frame), picked)
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
    "learned": {},
    "one_step": {"trace": 0.0},
    "no_entropy": {"entropy": 0.0},
    "no_normalisation": {"normalise_advantage": False},
}
FIXED: dict[str, tuple[Policy, int | None]] = {
    "overlap_updated": (AlwaysUpdate(), None),
    "overlap_kept": (NeverUpdate(), None),
    "appearance_updated": (AlwaysUpdate(), 0),
    "appearance_kept": (NeverUpdate(), 0),
}
STEPS = {"small": 120, "full": 400}
TEST_SEED, TEST_CLIPS, TEST_STEPS, PATIENCE = 99_999, 400, 40, 3


def settings(steps: int, seed: int, **changes: Any) -> Config:
    """The agent's settings in this world."""
    return Config(**{**BASE, "steps": steps, "seed": seed, **changes})


def learn(config: Config, hint: bool = False) -> Head:
    """Train an agent on fresh clips."""
    torch.manual_seed(config.seed)
    actor, critic = Head(4 + hint, config.hidden, 2), Head(4 + hint, config.hidden, 1)
    slow = config.model_copy(update={"lr": config.critic_lr})
    optimizers = [make_optimizer(config, list(actor.parameters())), make_optimizer(slow, list(critic.parameters()))]
    rng = np.random.default_rng(config.seed)

    class Exploring:
        def act(self, states: NDArray[np.float32]) -> list[int]:
            with torch.no_grad():
                shares = actor(torch.from_numpy(states)).softmax(1)[:, 0].numpy()
            return [int(a) for a in rng.random(len(states)) > shares]

    for step in range(config.steps):
        seed = 10_000 * (config.seed + 1) + step
        walked = play(Exploring(), seed, config.batch, config.length, PATIENCE, config, hint)
        torch.autograd.backward(losses(actor, critic, walked, config)[0])
        for optimizer in optimizers:
            set_lr(optimizer, lr_factor(config, step))
            optimizer.step()
            optimizer.zero_grad()
    return actor


def measure(policy: Policy, patience: int | None, config: Config, hint: bool = False) -> dict[str, float]:
    """Figures of a policy on clips that no agent has met."""
    walked = play(policy, TEST_SEED, TEST_CLIPS, TEST_STEPS, patience, config, hint)
    whole = walked.whole / len(walked.j)
    return {"j": float(np.mean(walked.j)), "whole_rate": whole, "update_rate": walked.update_rate}


def best_threshold(config: Config) -> dict[str, float]:
    """The best of three similarity rules."""
    found = [measure(Threshold(level, 1), PATIENCE, config) for level in (0.7, 0.8, 0.9)]
    return max(found, key=lambda metrics: metrics["j"])


def run(options: Options) -> None:
    """All arms of all seeds."""
    torch.set_num_threads(1)
    record = Record.open(options)
    for seed in options.seeds:
        plain = settings(STEPS[options.budget], seed)
        for arm, (policy, patience) in FIXED.items():
            record.add(arm, seed, measure(policy, patience, plain))
        record.add("threshold", seed, best_threshold(plain))
        for arm, changes in LEARNED.items():
            if not record.has(arm, seed):
                config = settings(STEPS[options.budget], seed, **changes)
                record.add(arm, seed, measure(Learned(learn(config)), PATIENCE, config))
                print(f"seed {seed}: {arm} {record.values[arm][str(seed)]}", flush=True)
    record.finish()


def main() -> None:
    """As the command line says."""
    run(parse_options("ftmu_toy", __doc__, needs_data=False))
