"""Learning from what every action would have given.

A clip goes its way whatever the agent does, and detections are kept, so that a track can be taken up again at any frame
with another action and all else as it was. The actor raises its expected return over all actions of such a moment: the
policy gradient without the chance of which action was drawn, and without a critic.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskmill.trainers.ftmu.config import Config
from maskmill.trainers.ftmu.policies import Head, Learned, Policy, device_of, drive
from maskmill.trainers.ftmu.rollout import Episode, reward
from maskmill.trainers.ftmu.state import StateEncoder
from maskmill.trainers.ftmu.tracker import UPDATE, Tracker

Float32 = NDArray[np.float32]


@dataclass
class Branched:
    """Moments of a step: states (k, width) and the returns (k, actions) of every action there; what the walks gave."""

    states: list[Float32] = field(default_factory=list)
    returns: list[list[float]] = field(default_factory=list)
    j: list[float] = field(default_factory=list)
    decisions: int = 0
    updates: int = 0
    whole: int = 0


@dataclass
class Watched:
    """A policy that may be told one action: `target` (of those that are asked) does `action` instead."""

    policy: Policy
    target: int = -1
    action: int = -1
    states: Float32 | None = None
    given: list[int] = field(default_factory=list)

    def act(self, states: Float32) -> list[int]:
        self.states, self.given = states, list(self.policy.act(states))
        if 0 <= self.target < len(self.given):
            self.given[self.target] = self.action
        return self.given


@dataclass(frozen=True)
class Drawn:
    """Actions drawn from the actor."""

    actor: Head
    rng: np.random.Generator

    def act(self, states: Float32) -> list[int]:
        with torch.no_grad():
            shares = self.actor(torch.from_numpy(states).to(device_of(self.actor))).softmax(1).cumsum(1).cpu().numpy()
        return [int(a) for a in (self.rng.random((len(states), 1)) > shares[:, :-1]).sum(1)]


def fork(tracker: Tracker) -> Tracker:
    """The same track, to be taken on in another way."""
    other = copy.copy(tracker)
    other.tracks = [copy.copy(track) for track in tracker.tracks]
    return other


def branch(
    actor: Head, episodes: Sequence[Episode], encoder: StateEncoder, config: Config, rng: np.random.Generator
) -> Branched:
    """Walk each episode with actions drawn from the actor up to a moment of chance; there, try every action of one
    target and go on greedily for `horizon` frames.
    """
    found = Branched()
    for episode in episodes:
        _branch(actor, episode, encoder, config, rng, found)
    return found


def _branch(
    actor: Head, episode: Episode, encoder: StateEncoder, config: Config, rng: np.random.Generator, found: Branched
) -> None:
    boxes = episode.clip.boxes(episode.start, episode.ids)
    tracker = Tracker(episode.clip.detections, boxes, encoder, config.track, episode.start)
    moment = episode.start + int(rng.integers(1, episode.length))
    drawn = Watched(Drawn(actor, rng))
    for frame in range(episode.start + 1, moment):
        outcomes = drive(tracker.step(frame), drawn)
        found.j += [episode.clip.j(frame, i, o) for i, o in zip(episode.ids, outcomes, strict=True)]
        found.whole += sum(outcome.whole for outcome in outcomes)
        found.decisions += len(drawn.given)
        found.updates += sum(action % 2 == UPDATE for action in drawn.given)
    asked = Watched(Learned(actor))
    drive(fork(tracker).step(moment), asked)
    if asked.states is None or not len(asked.states):
        return
    target = int(rng.integers(len(asked.states)))
    returns = []
    for action in range(config.track.choices):
        other = fork(tracker)
        total, factor = 0.0, 1.0
        for frame in range(moment, min(moment + config.horizon, episode.start + episode.length)):
            policy = Watched(Learned(actor), target, action) if frame == moment else Learned(actor)
            outcomes = drive(other.step(frame), policy)
            for number, outcome in zip(episode.ids, outcomes, strict=True):
                gained = reward(episode.clip.j(frame, number, outcome), config.offset)
                total += factor * (gained - config.price * outcome.whole)
            factor *= config.discount
        returns.append(total)
    found.states.append(asked.states[target])
    found.returns.append(returns)


def expected_return_loss(actor: Head, branched: Branched, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus the expected return of each moment over all actions (in deviations of the step's returns), and minus
    `entropy` times the policy's entropy.
    """
    device = device_of(actor)
    states = torch.from_numpy(np.stack(branched.states)).to(device)
    returns = torch.tensor(branched.returns, dtype=torch.float32, device=device)
    gains = returns - returns.mean(1, keepdim=True)
    if config.normalise_advantage:
        gains = gains / gains.std(correction=0).clamp(min=1e-6)
    log_p = actor(states).log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1).mean()
    policy = -(log_p.exp() * gains).sum(1).mean()
    return policy - config.entropy * entropy, {"policy": policy, "entropy": entropy}
