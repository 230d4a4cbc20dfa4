"""The agent: reward, advantages worked by hand, gradients, and what it learns in a toy world."""

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.ftmu import toy
from maskmill.trainers.ftmu import Config
from maskmill.trainers.ftmu.policies import Head, Learned
from maskmill.trainers.ftmu.rollout import Trajectory, Walk, reward
from maskmill.trainers.ftmu.train import advantages, losses

torch.set_num_threads(1)


def test_reward() -> None:
    assert reward(0.1) == pytest.approx(-0.1)
    assert reward(0.1 + 1e-9) == pytest.approx(0.101)
    assert reward(1.0) == pytest.approx(1.1)
    assert reward(0.0) == pytest.approx(-0.1)
    values = [reward(j) for j in np.linspace(0.11, 1, 50)]
    assert values == sorted(values)


def test_one_step_errors_of_a_hand_worked_clip() -> None:
    rewards, values, gamma = [1.0, 0.5, 2.0], [0.3, 0.2, 0.1], 0.9
    found, targets = advantages(rewards, values, [gamma, gamma, 0.0], trace=0.0)
    assert found == pytest.approx([1.0 + 0.9 * 0.2 - 0.3, 0.5 + 0.9 * 0.1 - 0.2, 2.0 - 0.1])
    assert targets == pytest.approx([1.18, 0.59, 2.0]), "the value after the last step is 0"


def test_traces_reach_from_one_step_errors_to_whole_returns() -> None:
    rewards, values, gamma = [1.0, 0.5, 2.0], [0.3, 0.2, 0.1], 0.9
    _, targets = advantages(rewards, values, [gamma, gamma, 0.0], trace=1.0)
    assert targets == pytest.approx([1 + 0.9 * (0.5 + 0.9 * 2), 0.5 + 0.9 * 2, 2.0])


def test_rewards_between_decisions_are_discounted_by_frames() -> None:
    path = Trajectory()
    path.earn(5.0, 1, 0.5)  # nothing was decided yet
    path.decide(np.zeros(2, np.float32), 1, 2)
    path.earn(1.0, 2, 0.5)
    path.earn(1.0, 3, 0.5)
    path.decide(np.zeros(2, np.float32), 0, 4)
    path.decide(np.zeros(2, np.float32), 0, 4)  # asked again in the same frame
    path.earn(1.0, 4, 0.5)
    assert path.rewards == [1.5, 0.0, 1.0]
    assert path.discounts(0.5) == [0.25, 1.0, 0.0]


def test_gradients_of_actor_and_critic_stay_apart_and_follow_the_equations() -> None:
    torch.manual_seed(0)
    actor, critic = Head(3, (), 2), Head(3, (), 1)
    path = Trajectory()
    states = np.eye(3, dtype=np.float32)
    for frame, (state, action) in enumerate(zip(states, [0, 1, 0], strict=True)):
        path.decide(state, action, frame)
        path.earn([1.0, 0.5, 2.0][frame], frame, 0.9)
    plain = Config(segmenter="none", trace=0.0, entropy=0.0, normalise_advantage=False, discount=0.9)
    total, parts = losses(actor, critic, Walk([path], []), plain)
    total.backward()
    values = critic(torch.eye(3)).detach()[:, 0].tolist()
    delta, _ = advantages([1.0, 0.5, 2.0], values, [0.9, 0.9, 0.0], 0.0)
    bias = critic.layers[0].bias.grad
    assert bias is not None
    assert bias.item() == pytest.approx(-np.mean(delta), rel=1e-4), "critic: -delta times the gradient of V"
    shares = actor(torch.eye(3)).softmax(1).detach().numpy()
    chosen = np.eye(2)[[0, 1, 0]]
    wanted = -((chosen - shares) * np.array(delta)[:, None]).mean(0)
    grad = actor.layers[0].bias.grad
    assert grad is not None
    np.testing.assert_allclose(grad.numpy(), wanted, rtol=1e-4)
    for network in (actor, critic):
        network.zero_grad()
    _, parts = losses(actor, critic, Walk([path], []), plain)
    assert 0 < float(parts["entropy"].detach()) <= np.log(2) + 1e-6, "a mean over decisions"
    parts["policy"].backward()
    assert critic.layers[0].weight.grad is None or not critic.layers[0].weight.grad.any()


def test_a_policy_of_one_action_is_noticed() -> None:
    assert Walk([], [], decisions=100, updates=99).collapsed
    assert Walk([], [], decisions=100, updates=1).collapsed
    assert not Walk([], [], decisions=100, updates=60).collapsed
    assert not Walk([], [], decisions=100, updates=98).collapsed
    assert not Walk([], [], decisions=100, updates=2).collapsed


@pytest.mark.parametrize(("seed", "hint"), [(0, False), (1, False), (2, False), (0, True)])
def test_learns_when_to_update_in_a_toy_world(seed: int, hint: bool) -> None:
    config = toy.settings(120, seed)
    fixed = {name: toy.measure(policy, n, config)["j"] for name, (policy, n) in toy.FIXED.items()}
    found = toy.measure(Learned(toy.learn(config, toy.Rules(hint=hint))), toy.PATIENCE, config, toy.Rules(hint=hint))
    margin = 0.10 if hint else 0.08  # without the hint 0.11 to 0.13 here; kernels of other machines round differently
    assert found["j"] >= max(fixed.values()) + margin, (found, fixed)
    assert found["j"] >= toy.threshold(config, toy.PATIENCE)["j"] - (0.02 if hint else 0.04)
    assert found["whole_rate"] < 0.4
    assert 0.02 < found["update_rate"] < 0.98


def test_the_toy_shows_the_counter_and_lets_the_agent_look() -> None:
    """Counted states have the counter, N and where the candidate is from; a free agent looks when it says so."""
    seen: list[np.ndarray[Any, Any]] = []

    class Says:
        def __init__(self, action: int) -> None:
            self.action = action

        def act(self, states: np.ndarray[Any, Any]) -> list[int]:
            seen.append(states)
            return [self.action] * len(states)

    config = toy.settings(1, 0)
    counted = toy.play(Says(1), 0, 8, 6, 5, config, toy.Rules(counted=True))
    assert all(states.shape[1] == toy.Rules(counted=True).width == 8 for states in seen)
    assert {float(row[-1]) for states in seen for row in states} == {0.0, 1.0}, "after the fifth keep it is lost"
    assert max(float(row[4]) for states in seen for row in states) >= 0.8, "the counter grows"
    assert counted.updates == 0
    free = toy.Rules(counted=True, free=True)
    assert toy.play(Says(1), 0, 8, 6, None, config, free).whole == 0
    walked = toy.play(Says(3), 0, 8, 6, None, config, free)
    assert walked.whole == 8 * 5, "it looks on every frame"
    assert walked.decisions == 2 * 8 * 5
    assert toy.play(Says(2), 0, 8, 6, None, config, free).updates == 2 * 8 * 5
