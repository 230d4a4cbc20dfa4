"""A toy world for the agent: a target and a look-alike on a plane, occlusions, and matching by place or by looks.

A target and a distractor move on a 100 x 100 plane and bounce off its sides. Their unit appearance vectors drift. The
target is hidden from time to time for 3 to 7 steps and comes back anywhere. Matching by overlap takes the nearest
detection within 18 units of the template's place, matching by appearance the one most like the template.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.ftmu.config import Config
from trainers.ftmu.policies import Policy
from trainers.ftmu.rollout import Trajectory, Walk, reward
from trainers.ftmu.tracker import UPDATE

Array = NDArray[np.float64]
DIMENSIONS, DRIFT, REACH = 8, 0.07, 18.0


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


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


def play(policy: Policy, seed: int, n: int, steps: int, patience: int | None, config: Config) -> Walk:
    """Walk through `n` clips; J = 0.9 on the target, 1 for nothing while it is hidden, else 0."""
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
        states = np.stack([np.ones(len(chosen)), similarity, similarity**2, np.minimum(away, 6) / 3], 1)
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
