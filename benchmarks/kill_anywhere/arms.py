"""The commands that are killed: each stage on a local disk and on S3, on tiny data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.kill_anywhere.folders import copy

DATA = Path(__file__).resolve().parents[2] / "tests/data"
SCORE = f"score={{model: {DATA}/tiny_clip_timm, image_side: 64, refine: none}}"
FORMATS = {"local": "export=[{format: voc}, {format: hf}]", "s3": "export=[{format: hf}]"}
STAGES = ("label", "train", "export", "curate", "generate")
STORES = ("local", "s3")


@dataclass(frozen=True)
class Arm:
    """A command that always works in the same place. `seed` is a folder that it starts from; empty: from nothing."""

    stage: str
    store: str
    words: tuple[str, ...]
    folder: str
    cache: str  # where the working files of a run on S3 lie
    seed: str = ""

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.store}"

    @property
    def places(self) -> tuple[str, str]:
        return self.folder, self.cache

    def begin(self) -> None:
        """Put what the command starts from into its folder."""
        if self.seed:
            copy(self.seed, self.folder)


def curation(run_dir: str, *more: str) -> tuple[str, ...]:
    """Settings of a small run on drawn scenes."""
    sets = ("source.count=4", "shard_size=2", "source.scene.size=64", SCORE, f"run_dir={run_dir}", *more)
    return tuple(word for item in sets for word in ("--set", item))


def generation(run_dir: str) -> tuple[str, ...]:
    """Settings of a small run on pairs that the starter generator draws, in rounds."""
    sets = (
        "generate.generator={model: starter, steps: 1, batch_size: 4}",
        "generate.prompts.classes=[cat, boat]",
        "generate.quota=1",
        "generate.budget=4",
        "shard_size=1",
        SCORE,
        "select={preset: starter, image_score_tau: null, min_score: null}",
        "downstream=null",
        "export=[{format: hf}]",
        f"run_dir={run_dir}",
    )
    return tuple(word for item in sets for word in ("--set", item))


def make_arms(work: Path, bucket: str, samples: str, selected: str, stages: Sequence[str]) -> list[Arm]:
    """The arms of these stages, store by store. `samples` are shards to label and to train on, `selected` a local run
    folder that nothing was exported from yet.
    """
    label, train = _label_config(work, samples), _train_config(work, samples)
    arms = []
    for stage in stages:
        for store in STORES:
            folder = f"{work}/local/{stage}" if store == "local" else f"s3://{bucket}/{stage}"
            words = {
                "curate": ("run", "planted-faults", *curation(folder, FORMATS[store])),
                "generate": ("run", "starter-generator", *generation(folder)),
                "label": ("label", "shards", label, "--out", folder),
                "train": ("train", train, "--out", folder),
                "export": ("export", "planted-faults", *curation(folder, FORMATS[store])),
            }[stage]
            seed = selected if stage == "export" else ""
            arms.append(Arm(stage, store, words, folder, f"{work}/cache/maskmill", seed))
    return arms


def _label_config(work: Path, samples: str) -> str:
    settings = {"model": f"{DATA}/tiny_clip", "image_side": 64, "par_iterations": 1, "min_decided": 0.0}
    config = {"labeler": "clip_cam", "label_space": "voc", "samples": samples, "settings": settings}
    return _written(work / "label.yaml", config)


def _train_config(work: Path, samples: str) -> str:
    data = {"samples": samples}
    settings = {
        "steps": 4,
        "batch": 2,
        "precision": "fp32",
        "segmenter": {"architecture": "fpn", "weights": "random"},
        "augment": {"size": 32, "fit": "long"},
        "runtime": {"save_every": 1, "log_every": 1, "progress": False},
    }
    return _written(work / "train.yaml", {"label_space": "voc", "data": data, "val": data, "settings": settings})


def _written(path: Path, config: Mapping[str, object]) -> str:
    path.write_text(yaml.safe_dump(config))
    return str(path)
