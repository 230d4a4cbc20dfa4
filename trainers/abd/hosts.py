"""One training step of each host, as a function of batch and step: the losses that the loop then sums and logs.

`Cross Teaching`: X. Luo et al., MIDL 2022. `BCP`: Y. Bai et al., CVPR 2023. Both as ABD (CVPR 2024) extends them.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from maskmill.trainers.abd.config import Config
from maskmill.trainers.abd.displace import Move, displace, inverse, reliable
from maskmill.trainers.abd.losses import cross_pseudo_loss, mixed_loss, ramp, supervised_loss
from maskmill.trainers.abd.mixing import largest_components, mix, paste_region
from maskmill.trainers.engine import Batch, evaluating


@dataclass
class Terms:
    """The loss of a step, and what to write down about it."""

    loss: Tensor
    notes: dict[str, Tensor | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Networks:
    """Network 1 (weak view, predicts), network 2 (strong view), and BCP's teacher, where the host has them."""

    first: nn.Module
    second: nn.Module | None = None
    teacher: nn.Module | None = None

    @property
    def pair(self) -> tuple[nn.Module, nn.Module]:
        if self.second is None:
            raise ValueError("this host has one network, expected two")
        return self.first, self.second


def supervised_step(networks: Networks, batch: Batch) -> Terms:
    """Each network on its own view of the labelled part."""
    known = batch["labelled"]
    loss = supervised_loss(networks.first(known["weak"]), known["mask"])
    if networks.second is not None:
        loss = loss + supervised_loss(networks.second(known["strong"]), known["mask_strong"])
    return Terms(loss)


def cross_teaching_step(
    networks: Networks, batch: Batch, config: Config, step: int, rng: np.random.Generator, background: int
) -> Terms:
    """L = Σ over both networks of Ls + λ_I I + w(t) (U + R); Ls, I on labels, U, R on the other network's labels."""
    first, second = networks.pair
    known, unknown = batch["labelled"], batch["unlabelled"]
    count = len(known["weak"])
    out_1 = first(torch.cat([known["weak"], unknown["weak"]]))
    out_2 = second(torch.cat([known["strong"], unknown["strong"]]))
    supervised = supervised_loss(out_1[:count], known["mask"]) + supervised_loss(out_2[:count], known["mask_strong"])
    between = cross_pseudo_loss(out_1[count:], out_2[count:]) + cross_pseudo_loss(out_2[count:], out_1[count:])
    notes: dict[str, Tensor | float] = {"supervised": supervised, "cross": between}
    total = supervised
    if acts_on_labelled(config, step):
        hard = labelled_loss(networks, known, out_1[:count], out_2[:count], config, rng)
        total = total + config.inverse_weight * hard
        notes["inverse"] = hard
    elif config.displace_labelled and config.inverse_idles:
        with torch.no_grad():
            labelled_loss(networks, known, out_1[:count], out_2[:count], config, rng)
    if config.displace_unlabelled:
        found, said = unlabelled_loss(networks, unknown, out_1[count:], out_2[count:], config, rng, background)
        between = between + found
        notes |= {"reliable": found, **said}
    weight = consistency(config, step)
    return Terms(total + weight * between, {**notes, "consistency": weight})


def consistency(config: Config, step: int) -> float:
    """w(t): the weight of what the networks teach each other. It counts from the end of the first phase."""
    begun = config.pretrain_steps
    return config.consistency * (ramp(step - begun, config.steps - begun) if config.ramp else 1.0)


def acts_on_labelled(config: Config, step: int) -> bool:
    """Whether ABD-I acts in this step: up to and including step `inverse_share` x steps."""
    return config.displace_labelled and config.inverse_weight > 0 and step <= config.inverse_share * config.steps


def labelled_loss(
    networks: Networks, known: Batch, weak: Tensor, strong: Tensor, config: Config, rng: np.random.Generator
) -> Tensor:
    """ABD-I: both networks on displaced labelled views with their labels moved along. `weak`, `strong`: logits."""
    first, second = networks.pair
    coins = torch.from_numpy(rng.random(len(weak)) < config.inverse_probability).to(weak.device)
    move = inverse(weak, strong, config.grid, coins)
    images = displace(known["weak"], known["strong"], move, config.grid)
    labels = displace(known["mask"], known["mask_strong"], move, config.grid)
    return supervised_loss(first(images), labels) + supervised_loss(second(images), labels)


def unlabelled_loss(
    networks: Networks,
    views: Batch,
    weak: Tensor,
    strong: Tensor,
    config: Config,
    rng: np.random.Generator,
    background: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """ABD-R: both networks teach each other on displaced views. `weak`, `strong`: logits of the undisplaced ones."""
    first, second = networks.pair
    nearest = None
    if config.coin > 0:
        nearest = torch.from_numpy(rng.random(len(weak)) >= config.coin).to(weak.device)
    organs = background if config.lend == "organs" else None
    move = reliable(weak, strong, config.grid, config.candidates, nearest, organs)
    images = displace(views["weak"], views["strong"], move, config.grid)
    out_1, out_2 = first(images), second(images)
    loss = cross_pseudo_loss(out_1, out_2) + cross_pseudo_loss(out_2, out_1)
    return loss, monitor(move, strong, views["hole"], config.grid, background)


@torch.no_grad()
def monitor(move: Move, strong: Tensor, hole: Tensor, grid: int, background: int) -> dict[str, Tensor]:
    """What displacement does: share of foreground among what the strong view lends, and how often the strong view's
    overwritten patch lies in a hole.
    """
    foreground = _patch_shares(strong.argmax(1) != background, grid).gather(1, move.weak_from[:, None])
    holes = _patch_shares(hole, grid).gather(1, move.strong_to[:, None])
    return {"lent_foreground": foreground.mean(), "in_hole": (holes > 0.5).float().mean()}


def _patch_shares(area: Tensor, grid: int) -> Tensor:
    """Share of each patch that is true: (B, H, W) to (B, N)."""
    return nn.functional.adaptive_avg_pool2d(area[:, None].float(), grid).flatten(1)


def pretraining_step(networks: Networks, batch: Batch, config: Config, rng: np.random.Generator) -> Terms:
    """BCP's first phase: halves of the labelled batch pasted into each other, one way as released or both ways.
    Network 2 takes part where it starts from weights of its own.
    """
    known = batch["labelled"]
    outside = _region(known["mask"], config, rng)
    loss = torch.zeros((), device=outside.device)
    alone = networks.second is None or config.students == "same"
    views = (("weak", "mask", networks.first), ("strong", "mask_strong", networks.second))
    for image, label, network in views[:1] if alone else views:
        if network is not None:
            around, inside = (_pasted(known[key], config.paste_both_ways) for key in (image, label))
            logits = network(mix(*around, outside))
            quirk = config.whole_background
            loss = loss + mixed_loss(logits, *inside, outside, 1.0, 1.0, whole_background=quirk)
    return Terms(loss)


def _region(mask: Tensor, config: Config, rng: np.random.Generator) -> Tensor:
    """The step's rectangle for masks (B, H, W), on their device."""
    return paste_region(mask.shape[-2], mask.shape[-1], rng, edge=config.paste_edge).to(mask.device)


def _pasted(batch: Tensor, both_ways: bool) -> tuple[Tensor, Tensor]:
    """What lies around and what is pasted in: the halves of a batch, and the other way round."""
    a, b = batch.chunk(2)
    return (torch.cat([a, b]), torch.cat([b, a])) if both_ways else (a, b)


def bcp_step(
    networks: Networks, batch: Batch, config: Config, step: int, rng: np.random.Generator, background: int
) -> Terms:
    """BCP's second phase, for one student or, with ABD, for one a view that also teach each other."""
    known, unknown = batch["labelled"], batch["unlabelled"]
    outside = _region(known["mask"], config, rng)
    weak, bcp = _student(networks.first, networks, known, unknown, ("weak", "mask"), outside, config, background)
    if networks.second is None:
        return Terms(bcp)
    strong, other = _student(
        networks.second, networks, known, unknown, ("strong", "mask_strong"), outside, config, background
    )
    between = cross_pseudo_loss(weak[1], strong[1]) + cross_pseudo_loss(strong[1], weak[1])
    notes: dict[str, Tensor | float] = {"bcp": bcp + other, "cross": between}
    total = bcp + other
    if config.displace_unlabelled:
        hole = torch.cat([_mixed(unknown["hole"], known["hole"], outside)])
        views = {"weak": weak[0], "strong": strong[0], "hole": hole}
        found, said = unlabelled_loss(networks, views, weak[1], strong[1], config, rng, background)
        between = between + found
        notes |= {"reliable": found, **said}
    if acts_on_labelled(config, step):
        with torch.no_grad():
            scores = networks.first(known["weak"]), networks.pair[1](known["strong"])
        hard = labelled_loss(networks, known, *scores, config, rng)
        total = total + config.inverse_weight * hard
        notes["inverse"] = hard
    weight = consistency(config, step)
    return Terms(total + weight * between, {**notes, "consistency": weight})


def _student(
    student: nn.Module,
    networks: Networks,
    known: Batch,
    unknown: Batch,
    keys: tuple[str, str],
    outside: Tensor,
    config: Config,
    background: int,
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Mixed images (B, 3, H, W) of one view with the student's logits, and its BCP loss."""
    image, label = keys
    pseudo = teach(networks.teacher, unknown[image], config, background)
    mixed = _mixed(unknown[image], known[image], outside)
    logits = _apart(student, mixed, config)
    (u_a, u_b), (l_a, l_b) = pseudo.chunk(2), known[label].chunk(2)
    half, weight, quirk = len(u_a), config.pseudo_weight, config.whole_background
    loss = mixed_loss(logits[:half], u_a, l_a, outside, weight, 1.0, whole_background=quirk)
    loss = loss + mixed_loss(logits[half:], l_b, u_b, outside, 1.0, weight, whole_background=quirk)
    return (mixed, logits), loss


def _mixed(unknown: Tensor, known: Tensor, outside: Tensor) -> Tensor:
    """X_out = U_a M + L_a (1 - M) before X_in = L_b M + U_b (1 - M)."""
    (u_a, u_b), (l_a, l_b) = unknown.chunk(2), known.chunk(2)
    return torch.cat([mix(u_a, l_a, outside), mix(l_b, u_b, outside)])


def _apart(network: nn.Module, images: Tensor, config: Config) -> Tensor:
    """Logits of a batch, of its halves one after the other with `halves_apart`."""
    parts = images.chunk(2) if config.halves_apart else (images,)
    return torch.cat([network(part) for part in parts])


@torch.no_grad()
def teach(teacher: nn.Module | None, images: Tensor, config: Config, background: int) -> Tensor:
    """The teacher's hard labels, cleaned to the largest blob of each class: int64 (B, H, W)."""
    if teacher is None:
        raise ValueError("host bcp: expected a teacher, found none")
    if config.teacher_mode == "train":
        logits = _apart(teacher, images, config)
    else:
        with evaluating(teacher):
            logits = teacher(images)
    return largest_components(logits.argmax(1), background)
