"""Optimisers with one learning-rate factor per parameter group, and schedules that are pure functions of the step."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn, optim

from maskmill.trainers.engine.config import TrainerConfig

POSITIONS = ("relative_position_bias_table", "pos_embed", "positional_embedding")  # how timm's parameter names end


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning rate of `config.lr * lr_factor`; `weight_decay` None means the config's."""

    params: tuple[nn.Parameter, ...]
    lr_factor: float = 1.0
    weight_decay: float | None = None


def param_groups(module: nn.Module, lr_factor: float = 1.0, *, decay_norms: bool = True) -> list[ParamGroup]:
    """Trainable parameters of a module; with `decay_norms` off, those with one axis (norms, biases) and position tables
    of transformers form a group of their own.
    """
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if decay_norms:
        return [ParamGroup(tuple(p for _, p in trainable), lr_factor)]
    spared = {name for name, p in trainable if p.ndim <= 1 or name.endswith(POSITIONS)}
    weights = tuple(p for name, p in trainable if name not in spared)
    vectors = tuple(p for name, p in trainable if name in spared)
    return [ParamGroup(weights, lr_factor), ParamGroup(vectors, lr_factor, weight_decay=0.0)]


def make_optimizer(config: TrainerConfig, groups: Sequence[ParamGroup] | Iterable[nn.Parameter]) -> optim.Optimizer:
    """The configured optimiser. Each group remembers its peak learning rate in `base_lr`, which `set_lr` scales."""
    parts = [g if isinstance(g, ParamGroup) else ParamGroup((g,)) for g in groups]
    settings = [
        {
            "params": list(part.params),
            "lr": config.lr * part.lr_factor,
            "base_lr": config.lr * part.lr_factor,
            "weight_decay": config.weight_decay if part.weight_decay is None else part.weight_decay,
        }
        for part in parts
        if part.params
    ]
    if config.optimizer == "sgd":
        return optim.SGD(settings, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
    kind = optim.AdamW if config.optimizer == "adamw" else optim.Adam
    return kind(settings, lr=config.lr, betas=config.betas)


def lr_factor(config: TrainerConfig, step: int) -> float:
    """Learning rate of `step` (from 0) as a share of the peak.

    Warm-up rises linearly from `warmup_factor`; after it the schedule runs on step / steps, never below `lr_floor`.
    `triangle` rises from the floor to the peak at half of the run and falls back.
    """
    if step < config.warmup_steps:
        return config.warmup_factor + (1 - config.warmup_factor) * step / config.warmup_steps
    done = min(step / config.steps, 1.0)
    shape: float = {
        "constant": 1.0,
        "poly": (1 - done) ** config.poly_power,
        "linear": 1 - done,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "triangle": 1 - abs(2 * done - 1),
    }[config.schedule]
    return config.lr_floor + (1 - config.lr_floor) * shape


def set_lr(optimizer: optim.Optimizer, factor: float) -> None:
    """Set each group to its peak times `factor`; a group's first learning rate is its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("base_lr", group["lr"]) * factor
