"""An agent of the toy world that learns from what each of its actions would have given.

The world goes its way whatever the agent does, so a clip can be walked again with another action at one moment and all
else as it was: what J was then, discounted, until the clip's end. The actor raises its expected return over all actions
of that moment, which is the policy gradient without the chance of which action was drawn. It begins as an actor-critic
has left it: from a random start it may end at "look over every frame", which no single other action improves.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ftmu.toy import DEV_SEED, Forced, Rules, learn, measure, play
from maskmill.trainers.engine import lr_factor, make_optimizer
from maskmill.trainers.engine.optim import set_lr
from maskmill.trainers.ftmu.config import Config
from maskmill.trainers.ftmu.policies import Head, Learned

CLIPS, LENGTH, HORIZON, DISCOUNT = 160, 34, 14, 0.95
EXPLORED = 0.05  # share of actions that are drawn from all
TEMPERATURE = 0.02  # of the entropy that keeps all actions alive, in units of J
ENTROPY, RATE = 0.03, 3e-3  # of the actor-critic before, and the learning rate after it
EVERY = 50  # steps between two measurements on development clips; the best actor is kept


@dataclass
class Exploring:
    """Greedy but for a share of the actions; the same draws for the same seed."""

    actor: Head
    actions: int
    seed: int
    share: float = EXPLORED

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def act(self, states: NDArray[np.float32]) -> list[int]:
        with torch.no_grad():
            best = self.actor(torch.from_numpy(states)).argmax(1).numpy()
        drawn = self._rng.random(len(states)) < self.share
        return [int(a) for a in np.where(drawn, self._rng.integers(self.actions, size=len(states)), best)]


def learn_counterfactual(config: Config, rules: Rules, patience: int | None, first: int) -> Head:
    """An actor-critic's actor after `first` steps, bettered on fresh clips; `config` gives steps, widths and seed. Of
    the actors on the way, that which is best on development clips.
    """
    begun = config.model_copy(update={"steps": first, "entropy": ENTROPY})
    actor = learn(begun, rules, patience)
    config = config.model_copy(update={"lr": RATE})
    optimizer = make_optimizer(config, list(actor.parameters()))
    rng = np.random.default_rng(config.seed)
    best, found = _developed(actor, config, rules, patience), deepcopy(actor)
    for step in range(config.steps):
        seed = 10_000 * (config.seed + 1) + first + step
        moment = int(rng.integers(1, LENGTH - HORIZON)), bool(rng.random() < 0.3)
        states, returns = counterfactuals(actor, seed, moment, config, rules, patience)
        if len(states):
            set_lr(optimizer, lr_factor(config, step))
            shares = actor(torch.from_numpy(states)).softmax(1)
            entropy = -(shares * shares.clamp_min(1e-9).log()).sum(1)
            loss = -((shares * torch.from_numpy(returns)).sum(1) + TEMPERATURE * entropy).mean()
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % EVERY == 0 and (own := _developed(actor, config, rules, patience)) > best:
            best, found = own, deepcopy(actor)
    return found


def _developed(actor: Head, config: Config, rules: Rules, patience: int | None) -> float:
    """J on development clips."""
    return measure(Learned(actor), patience, config, rules, DEV_SEED)["j"]


def counterfactuals(
    actor: Head,
    seed: int,
    moment: tuple[int, bool],
    config: Config,
    rules: Rules,
    patience: int | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """States (k, width) of the clips that are asked at a moment, and the returns (k, actions) of each action there."""
    states, columns = np.zeros((0, rules.width), np.float32), list[NDArray[Any]]()
    actions = 2 if moment[1] else rules.actions  # after the look only the update is left to decide
    for action in range(actions):
        forced = Forced(*moment, action)
        walked = play(Exploring(actor, rules.actions, seed), seed, CLIPS, LENGTH, patience, config, rules, forced)
        if forced.states is None or forced.clips is None or not len(forced.clips):
            return states, np.zeros((0, rules.actions), np.float32)
        states = forced.states
        j = np.array(walked.j, np.float32).reshape(LENGTH - 1, CLIPS)[moment[0] - 1 :, forced.clips]
        columns.append((j * DISCOUNT ** np.arange(len(j))[:, None]).sum(0))
    while len(columns) < rules.actions:
        columns.append(columns[len(columns) % 2])
    returns = np.stack(columns, 1)
    return states, (returns - returns.mean(1, keepdims=True)).astype(np.float32)
