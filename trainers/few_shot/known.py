"""The base learner that a few-shot network takes over: its encoder, its head, and which classes it knows."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from maskmill.trainers.engine import Artifact, read_artifact
from maskmill.trainers.few_shot.base import PyramidHead

TRAINER = "base_learner"
ENCODER = ("encoder", "output_stride", "released_dilation")


@dataclass(frozen=True, eq=False)
class KnownClasses:
    """A finished artifact of trainer `base_learner`; `ids` are its classes, in the order of its channels after the
    first, which is background.
    """

    artifact: Artifact
    ids: tuple[int, ...]

    @property
    def stamp(self) -> str:
        """Fingerprint of its weights."""
        return self.artifact.info.weights

    def into(self, encoder: nn.Module) -> None:
        """Give an encoder the learner's weights."""
        self.artifact.load(encoder=encoder)

    def head(self, channels: int, device: torch.device) -> PyramidHead:
        """The frozen head over the encoder's last features."""
        head = PyramidHead(channels, 1 + len(self.ids), self.artifact.info.model["width"])
        self.artifact.load(head=head)
        return head.eval().requires_grad_(False).to(device)

    def place(self, class_id: int) -> int:
        """The channel of a class, 0 where the learner does not know it."""
        return 1 + self.ids.index(class_id) if class_id in self.ids else 0

    def check(self, settings: dict[str, object], held_out: Sequence[int]) -> None:
        """Raise ValueError where the learner's encoder is another than `settings` ask for, or where it knows what
        training must not see.
        """
        own = self.artifact.info.config
        for name in ENCODER:
            if own[name] != settings[name]:
                raise ValueError(
                    f"{self.artifact.path}: expected a base learner with {name}: {settings[name]}, found {own[name]}; "
                    "train both with the same encoder"
                )
        if both := sorted(set(self.ids) & set(held_out)):
            raise ValueError(
                f"{self.artifact.path}: a base learner that knows the held-out classes {', '.join(map(str, both))}: "
                "train it with the same episodes.fold or held_out"
            )


@functools.lru_cache(maxsize=4)
def read_known(path: str) -> KnownClasses:
    """The base learner of a folder.

    Raises:
        ValueError: an artifact of another trainer.
    """
    artifact = read_artifact(path)
    if artifact.info.trainer != TRAINER:
        raise ValueError(f"{path}: expected an artifact of trainer {TRAINER}, found one of {artifact.info.trainer}")
    return KnownClasses(artifact, tuple(artifact.info.model["ids"]))
