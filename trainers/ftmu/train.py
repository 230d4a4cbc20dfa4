"""Training of the agent, top to bottom: clips with cached detections, walks, advantages, actor and critic, artifact.

Source: "Fast Template Matching and Update for Video Object Tracking and Segmentation", CVPR 2020. Mended: only a box of
the first frame is ever given; the state holds template and mask; regions follow one rule. Against the published
collapse to "always update": entropy, normalised advantages and traces for credit that comes late.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import sample_seed
from maskmill.trainers.engine import (
    Artifact,
    ArtifactInfo,
    Batch,
    Job,
    Loop,
    Samples,
    make_optimizer,
    pick_device,
    save_artifact,
)
from maskmill.trainers.ftmu.agent import Agent, open_segmenter, segmenter_stamp
from maskmill.trainers.ftmu.config import Config
from maskmill.trainers.ftmu.policies import Constant, Head, Learned, device_of
from maskmill.trainers.ftmu.rollout import Episode, TrueClip, Walk, open_clips, walk
from maskmill.trainers.ftmu.state import StateEncoder, build_encoder, state_stamp

MASKS = False  # of images alone: it needs clips and boxes
VERSION = 1
logger = logging.getLogger("maskmill.train")
Float32 = NDArray[np.float32]


def stamps(config: Config) -> tuple[str, ...]:
    """The segmenter's weights and the state's trunk."""
    return (
        segmenter_stamp(config.segmenter, config.segmenter_weights),
        state_stamp(config.state, config.trunk, config.trunk_weights),
    )


class EpisodeSource:
    """Which stretches of which clips a step walks through: clip and start are drawn by (seed, number)."""

    def __init__(self, samples: Samples, clips: dict[str, TrueClip], config: Config) -> None:
        if not clips:
            raise ValueError(
                f"{samples.config.samples}: expected clips (samples with a `group`) of 3 frames or more, found none"
            )
        self.samples, self.config = samples, config
        self.names = sorted(clips)
        self.lengths = {name: len(clip) for name, clip in clips.items()}

    def __call__(self, step: int) -> Batch:
        chosen: list[tuple[str, int, int]] = []
        for number in range(step * self.config.batch, (step + 1) * self.config.batch):
            rng = np.random.default_rng(sample_seed(self.config.seed, str(number), "episode"))
            name = self.names[int(rng.integers(len(self.names)))]
            length = min(self.config.length, self.lengths[name])
            chosen.append((name, int(rng.integers(self.lengths[name] - length + 1)), length))
        groups = self.samples.groups
        ids = [self.samples.ids[p] for name, start, length in chosen for p in groups[name][start : start + length]]
        return {"episodes": chosen, "sample_id": ids}


def make_episodes(clips: dict[str, TrueClip], chosen: Sequence[tuple[str, int, int]]) -> list[Episode]:
    """Episodes with at least one object in their first frame."""
    found = [(clips[name], start, length) for name, start, length in chosen]
    return [Episode(clip, start, length, ids) for clip, start, length in found if (ids := tuple(clip.objects(start)))]


def advantages(
    rewards: Sequence[float], values: Sequence[float], discounts: Sequence[float], trace: float
) -> tuple[list[float], list[float]]:
    """Generalised advantages and the critic's targets of one trajectory; trace 0 = one-step TD errors.

    delta_t = r_t + g_t V(s_t+1) - V(s_t) and A_t = delta_t + g_t trace A_t+1, where g is 0 at the end.
    """
    found: list[float] = []
    ahead, following = 0.0, 0.0
    for r, v, g in zip(reversed(rewards), reversed(values), reversed(discounts), strict=True):
        ahead = r + g * following - v + g * trace * ahead
        following = v
        found.append(ahead)
    found.reverse()
    return found, [a + v for a, v in zip(found, values, strict=True)]


def losses(actor: Head, critic: Head, walked: Walk, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """Actor loss + critic loss of all decisions of a walk; neither's gradient reaches the other."""
    paths = [path for path in walked.trajectories if path.states]
    device = device_of(actor)
    states = torch.from_numpy(np.concatenate([np.stack(path.states) for path in paths])).to(device)
    actions = torch.tensor([a for path in paths for a in path.actions], device=device)
    values = critic(states)[:, 0]
    known, wanted, gained = values.detach().tolist(), [], []
    for path in paths:
        own, known = known[: len(path.states)], known[len(path.states) :]
        gain, target = advantages(path.rewards, own, path.discounts(config.discount), config.trace)
        gained += gain
        wanted += target
    gains = torch.tensor(gained, device=device)
    if config.normalise_advantage:
        gains = (gains - gains.mean()) / gains.std(correction=0).clamp(min=1e-6)
    log_p = actor(states).log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1).mean()
    policy = -(log_p.gather(1, actions[:, None])[:, 0] * gains).mean()
    value = 0.5 * F.mse_loss(values, torch.tensor(wanted, device=device))
    return policy - config.entropy * entropy + value, {"policy": policy, "value": value, "entropy": entropy}


def train(config: Config, job: Job) -> str:
    """Train on the clips of `job.data`: every id of their masks is one object. Returns the artifact's folder."""
    device = str(pick_device(config.runtime.device))
    segmenter = open_segmenter(config.segmenter, config.segmenter_weights, device)
    encoder = build_encoder(config.state, config.trunk, config.trunk_weights, device)
    data, background = job.data.with_masks(), job.space.background_id
    clips = open_clips(data, segmenter, background)
    torch.manual_seed(config.seed)
    actor = Head(encoder.width, config.hidden, config.track.choices)
    critic = Head(encoder.width, config.hidden, 1)
    if config.warm_start:
        begin_near_the_best(actor, clips, encoder, config)
    optimizers = {
        "actor": make_optimizer(config, list(actor.parameters())),
        "critic": make_optimizer(config.model_copy(update={"lr": config.critic_lr}), list(critic.parameters())),
    }
    every = config.decay_every
    loop = Loop(
        config, job, EpisodeSource(data, clips, config), modules={"actor": actor, "critic": critic},
        optimizers=optimizers, schedule=None if every is None else lambda step: float(0.99 ** (step // every)),
    )  # fmt: skip
    val = {} if job.val is None else open_clips(job.val.with_masks(), segmenter, background)
    for _, batch in loop:
        walked = explore(actor, make_episodes(clips, batch["episodes"]), encoder, config, loop.rng)
        frames = max(len(walked.j), 1)
        rates = {"j": sum(walked.j) / frames, "updates": walked.update_rate, "whole": walked.whole / frames}
        if not any(path.states for path in walked.trajectories):  # nothing was found that could be decided on
            loop.update(None)
        else:
            total, parts = losses(actor, critic, walked, config)
            loop.update(total)
            rates = {"loss": float(total.detach()), **{k: float(v.detach()) for k, v in parts.items()}, **rates}
        loop.log(**rates)
        loop.evaluate((lambda: judge(actor, val, encoder, config)) if val else None)
    return save_artifact(
        job,
        config,
        modules={"actor": actor, "critic": critic},
        model={"width": encoder.width, "segmenter": segmenter.fingerprint},
        metrics={**loop.metrics, "train": judge(actor, clips, encoder, config)},
        curves=loop.curves(),
    )


def begin_near_the_best(actor: Head, clips: dict[str, TrueClip], encoder: StateEncoder, config: Config) -> None:
    """Raise the first logit of the action that, taken always, gives the best J on the training clips.

    Whole-frame actions are left out, being dear. What is explored then lies near sensible tracks, and far fewer
    regions have to be segmented than from a uniform start.
    """
    episodes = make_episodes(clips, [(name, 0, len(clips[name])) for name in sorted(clips)])
    found = [
        float(np.mean(walk(episodes, Constant(action).act, encoder, config.track, config).j or [0.0]))
        for action in range(min(config.track.choices, 4))
    ]
    logger.info("J of single actions on the training clips: %s", [round(j, 4) for j in found])
    last = actor.layers[-1]
    with torch.no_grad():
        last.bias[int(np.argmax(found))] += config.warm_start  # type: ignore[index, operator]


def explore(
    actor: Head, episodes: Sequence[Episode], encoder: StateEncoder, config: Config, rng: np.random.Generator
) -> Walk:
    """Walk with actions drawn from the actor."""

    def act(states: Float32) -> list[int]:
        with torch.no_grad():
            shares = actor(torch.from_numpy(states).to(device_of(actor))).softmax(1).cumsum(1).cpu().numpy()
        return [int(a) for a in (rng.random((len(states), 1)) > shares[:, :-1]).sum(1)]

    return walk(episodes, act, encoder, config.track, config)


def judge(actor: Head, clips: dict[str, TrueClip], encoder: StateEncoder, config: Config) -> dict[str, Any]:
    """Greedy J over whole clips, with the action rates; a policy that has collapsed to one action is warned of."""
    episodes = make_episodes(clips, [(name, 0, len(clips[name])) for name in sorted(clips)])
    walked = walk(episodes, Learned(actor).act, encoder, config.track, config)
    if walked.collapsed:
        logger.warning(
            "the agent has collapsed to one action: it updates on %.1f %% of decisions", 100 * walked.update_rate
        )
    return {
        "j": float(np.mean(walked.j)) if walked.j else 0.0,
        "update_rate": walked.update_rate,
        "whole_rate": walked.whole / max(len(walked.j), 1),
        "collapsed": walked.collapsed,
    }


def evaluate(agent: Agent, samples: Samples, info: ArtifactInfo) -> dict[str, Any]:
    """`judge` of a trained agent on the clips of `samples`: J over whole clips, and how often it acts.

    Raises:
        ValueError: no clip of three frames or more.
    """
    clips = open_clips(samples.with_masks(), agent.segmenter, info.label_space.background_id)
    EpisodeSource(samples, clips, agent.config)  # refuses what holds no clips
    return judge(agent.actor, clips, agent.encoder, agent.config)


def look(agent: Agent, samples: Samples, info: ArtifactInfo) -> list[str]:
    """Nothing here: `judge` on the training clips is in the metrics already, `collapsed` among them."""
    return []


def load(artifact: Artifact, device: torch.device) -> Agent:
    """The trained agent with its segmenter, ready to track."""
    info = artifact.info
    config = Config.model_validate(info.config)
    actor = Head(info.model["width"], config.hidden, config.track.choices)
    critic = Head(info.model["width"], config.hidden, 1)
    artifact.load(actor=actor, critic=critic)
    return Agent(config, actor.eval(), critic.eval(), info.model["segmenter"], str(device))
