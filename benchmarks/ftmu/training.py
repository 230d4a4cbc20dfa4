"""How benchmarks.ftmu trains: the proposal segmenter once, an agent a seed, and the level of the plain rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import Options
from benchmarks.ftmu.clips import SPACE, clip_rows, read_stills
from benchmarks.ftmu.long_clips import LENGTH
from benchmarks.shards import sample_row, write_rows
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig
from maskmill.trainers.ftmu.agent import Agent
from maskmill.trainers.ftmu.policies import Threshold
from maskmill.trainers.ftmu.rollout import TrueClip, walk
from maskmill.trainers.ftmu.train import make_episodes
from maskmill.trainers.registry import load_artifact
from maskmill.vision.instances import ProposalConfig

NETWORK = ProposalConfig()
LEVELS = (0.0, 0.3, 0.6, 0.8, 0.9)


@dataclass(frozen=True)
class Size:
    """How much of everything a budget allows."""

    segmenter_steps: int
    stills: int  # of each set
    drawn: int  # clips for the segmenter, and as many others for the agent
    agent_steps: int
    crossing: int  # drawn clips that are tested
    long: int  # drawn clips of full length that are tested, and as many others for the agent
    frames: int = LENGTH  # of a long clip
    side: int = 128
    threads: int = 2
    network: ProposalConfig = NETWORK


SIZES = {
    "small": Size(segmenter_steps=1000, stills=150, drawn=12, agent_steps=90, crossing=6, long=3),
    "full": Size(segmenter_steps=6000, stills=400, drawn=60, agent_steps=600, crossing=40, long=24, side=160),
}


def train_segmenter(options: Options, size: Size, names: Sequence[str], work: Path) -> str:
    """The proposal segmenter, once for all seeds; taken up where an earlier run left it."""
    if options.data is None:
        raise FileNotFoundError("ftmu: expected --data DIR")
    stills = (sample_row(image, mask, SPACE) for image, mask in read_stills(options.data, size.stills))
    data = DataConfig(
        samples=(
            write_rows(clip_rows(options.data, names, range(size.drawn)), work / "clips"),
            write_rows(stills, work / "stills"),
        )
    )
    settings = {
        "steps": size.segmenter_steps,
        "crops": {"side": size.side},
        "network": size.network.model_dump(mode="json"),
        "precision": "fp32",
        "runtime": {"threads": size.threads, "save_every": 50, "progress": False},
    }
    config = TrainConfig(trainer="proposals", label_space=SPACE, data=data, settings=settings)
    return train(config, str(work / "segmenter-run"), str(work / "segmenter"))


def train_agent(size: Size, seed: int, segmenter: str, data: str, work: Path) -> Agent:
    """The agent of one seed."""
    settings = {
        "segmenter": segmenter,
        "steps": size.agent_steps,
        "batch": 16,
        "seed": seed,
        "runtime": {"threads": 1, "save_every": 20, "progress": False},
    }
    config = TrainConfig(trainer="ftmu", label_space=SPACE, data=DataConfig(samples=(data,)), settings=settings)
    agent: Agent = load_artifact(train(config, str(work / f"agent-{seed}-run"), str(work / f"agent-{seed}")), "cpu")
    return agent


def choose_level(agent: Agent, clips: dict[str, TrueClip]) -> float:
    """The similarity above which the rule updates, best on the agent's training clips."""
    episodes = make_episodes(clips, [(name, 0, len(clips[name])) for name in sorted(clips)])
    track = agent.config.track.model_copy(update={"actions": "history"})
    found = {
        level: float(np.mean(walk(episodes, Threshold(level).act, agent.encoder, track, agent.config).j))
        for level in LEVELS
    }
    print(f"threshold: J on the training clips by level {found}", flush=True)
    return max(found, key=lambda level: found[level])
