"""DFR-style training, top to bottom: settings, network and head, losses, loop, artifact."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE
from maskmill.trainers.dfr.calibration import Calibration, drawn_pairs
from maskmill.trainers.dfr.config import Config
from maskmill.trainers.dfr.consistency import (
    affinity_means,
    long_pair_loss,
    merged_targets,
    near_pairs,
    pair_loss,
    smoothness,
)
from maskmill.trainers.dfr.kernel import KernelRule, mean_mass
from maskmill.trainers.dfr.measures import measure
from maskmill.trainers.dfr.model import FeatureConsistencyHead, level_channels, segment
from maskmill.trainers.engine import Batch, Job, ParamGroup, check_crops, describe_segmenter, param_groups, widened
from maskmill.trainers.scribbles import ScribbleRun, partial_ce
from maskmill.trainers.supervised.losses import dice_loss
from maskmill.vision.scribbles import grid_labels, grid_valid
from maskmill.vision.segmenters import build_segmenter, encoder_normalisation, weights_stamp
from maskmill.vision.windows import (
    Window,
    feature_distances,
    l1_energy,
    narrowed,
    potts_energy,
)

VERSION = 2


def stamps(config: Config) -> tuple[str, ...]:
    """The encoder's first weights."""
    return (weights_stamp(config.segmenter.encoder, config.segmenter.weights),)


@dataclass(frozen=True)
class Grid:
    """What the pair-wise losses see of a batch, on the loss grid."""

    image: Tensor  # (N, 3, h, w), normalised, before colour jitter, area averages
    labels: Tensor  # int64 (N, h, w), strokes, 255 elsewhere
    valid: Tensor  # bool (N, h, w), false where any padding falls into the cell

    @classmethod
    def of(cls, batch: Batch, config: Config) -> "Grid":
        height, width = (max(1, s // config.loss_stride) for s in batch["plain"].shape[2:])
        labels = (
            grid_labels(batch["labels"], height, width)
            if config.grid_labels == "drawn"
            else F.interpolate(batch["labels"][:, None].float(), (height, width), mode="nearest")[:, 0].long()
        )
        image = F.adaptive_avg_pool2d(batch["plain"], (height, width))
        return cls(image, labels, grid_valid(batch["valid"], height, width))

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[2], self.image.shape[3]


@dataclass(frozen=True)
class Pairs:
    """What both pair-wise losses share in a step: by window the static kernel S (no gradient) and the distances of the
    embedding (None without a head), as pair stacks.
    """

    stacks: Mapping[Window, tuple[Tensor, Tensor | None]]

    def within(self, window: Window) -> tuple[Tensor, Tensor | None]:
        """Kernel and distances of a window, or the part of a wider one's that lies in it."""
        if window in self.stacks:
            return self.stacks[window]
        wider = next(iter(self.stacks))
        colour, distances = self.stacks[wider]
        return narrowed(colour, wider, window), None if distances is None else narrowed(distances, wider, window)


class Regulariser:
    """Both pair-wise losses of a step."""

    def __init__(self, config: Config, background_id: int | None, calibration: Calibration | None = None) -> None:
        self.config, self.background_id, self.calibration = config, background_id, calibration
        self.kernel = KernelRule(
            config.kernel,
            config.window,
            config.xy_sigma_cells,
            config.colour_sigma_normalised,
            config.gamma,
            config.static_share,
            config.deep_share,
            config.mass_normalised,
            config.detach_kernel,
            calibration,
        )
        self.static = replace(self.kernel, combination="static")

    def pairs(self, grid: Grid, embedding: Tensor | None) -> Pairs:
        """Colour kernel and distances of all pairs, once a step: E (N, D, h, w), float32."""
        config = self.config
        windows = [config.window] if embedding is None else [config.window, config.pair_radius]
        if not config.dilations:  # one holds the other
            windows = [max(config.radius, 0 if embedding is None else config.pair_radius)]
        return Pairs({w: (self.kernel.static(grid.image, w), _distances(embedding, w)) for w in windows})

    def calibrate(self, embedding: Tensor, grid: Grid) -> dict[str, Tensor]:
        """Show this step's drawn pairs to the calibration; what to watch, nothing without one."""
        if self.calibration is None:
            return {}
        labels = grid.labels.masked_fill(~grid.valid, IGNORE)
        drawn = drawn_pairs(embedding, grid.image, labels, max(2, self.config.long_pairs))
        self.calibration.observe(drawn, self.kernel.weigh)
        kernel, colour = self.calibration.ratios
        return {"ratio_kernel": kernel, "ratio_colour": colour}

    def smooth_labels(self, p: Tensor, grid: Grid, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The regularised loss of probabilities (N, C, h, w), and the kernel's mean mass a pixel.

        Its gradient reaches the probabilities alone, unless `detach_kernel` is off.
        """
        window = self.config.window
        colour, distances = pairs.within(window)
        kernel = self._kernel(colour, distances, grid.valid)
        energy = potts_energy if self.config.energy == "potts" else l1_energy
        norm = grid.valid.sum().clamp(min=1)
        return energy(p, kernel, window, norm), mean_mass(kernel.detach(), grid.valid)

    def _kernel(self, colour: Tensor, distances: Tensor | None, valid: Tensor) -> Tensor:
        """The rule's kernel; a calibrated one has the mass of the static kernel, which it replaces once it is ready."""
        if self.calibration is None:
            return self.kernel(colour, distances, valid)
        static = self.static(colour, None, valid)
        if not self.calibration.ready:
            return static
        kernel = self.kernel(colour, distances, valid)
        return kernel * (mean_mass(static, valid) / mean_mass(kernel.detach(), valid).clamp(min=1e-3))

    def consistency(
        self, embedding: Tensor, grid: Grid, pairs: Pairs, targets: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The head's loss against targets int64 (N, h, w), and what to watch: mean affinity within and across classes.

        Raises:
            ValueError: pairs without distances.
        """
        config, radius = self.config, self.config.pair_radius
        colour, distances = pairs.within(radius)
        if distances is None:
            raise ValueError("consistency: expected pairs with distances; give `pairs` the embedding")
        targets = targets.masked_fill(~grid.valid, IGNORE)
        drawn = near_pairs(targets, radius, self.background_id)
        loss = pair_loss(distances, drawn)
        if config.smooth_weight:
            loss = loss + config.smooth_weight * smoothness(distances, colour, grid.valid, radius)
        if config.long_pairs:
            loss = loss + long_pair_loss(embedding, targets, config.long_pairs, self.background_id)
        within, across = affinity_means(distances, drawn)
        return loss, {"affinity_within": within, "affinity_across": across}


def _distances(embedding: Tensor | None, window: Window) -> Tensor | None:
    return None if embedding is None else feature_distances(embedding, window)


def train(config: Config, job: Job) -> str:
    """Train on scribbles (or on masks, the upper bound); returns the artifact's folder."""
    classes = max(job.space.size, 2)
    torch.manual_seed(config.seed)
    model = build_segmenter(config.segmenter, classes)
    check_crops(model, config.augment.size, config.segmenter.architecture)
    head = FeatureConsistencyHead(level_channels(model), config.head_widths, config.head_dim)
    modules: dict[str, nn.Module] = {"model": model, **({"head": head} if config.uses_head else {})}
    calibration = Calibration(config.colour_sigma_normalised) if config.uses_head and config.calibrated else None
    modules |= {} if calibration is None else {"calibration": calibration}
    colours = encoder_normalisation(config.segmenter.encoder)
    measured = functools.partial(measure, config, colours, modules)
    run = ScribbleRun(config, job, colours, modules, optimised(config, modules), model, measure=measured)
    regulariser = Regulariser(config, job.space.background_id, calibration)

    for step, batch in run.loop:
        with run.loop.autocast():
            logits, features = segment(model, batch["image"])
        logits = widened(logits)
        pce = partial_ce(logits, batch["labels"])
        loss, notes = pce, {"pce": pce}
        if config.supervision == "masks" and config.mask_dice:
            loss = loss + config.mask_dice * dice_loss(logits, batch["labels"])
        if config.uses_head or config.uses_kernel:
            grid = Grid.of(batch, config)
            p = F.interpolate(logits, grid.size, mode="bilinear", align_corners=False, antialias=True).softmax(dim=1)
            embedding = head([widened(f) for f in features], grid.size) if config.uses_head else None
            pairs = regulariser.pairs(grid, embedding)
            if embedding is not None:
                begun = step >= config.target_start * config.steps
                targets = merged_targets(grid.labels, p, config.target_threshold) if begun else grid.labels
                consistency, watched = regulariser.consistency(embedding, grid, pairs, targets)
                loss = loss + config.fc_weight * consistency
                notes |= {"consistency": consistency, **watched, **regulariser.calibrate(embedding, grid)}
            if (weight := config.reg_at(step)) and config.uses_kernel:
                smooth, mass = regulariser.smooth_labels(p, grid, pairs)
                loss = loss + weight * smooth
                notes |= {"regulariser": smooth, "kernel_mass": mass}
        run.learn(loss, **notes)
    return run.save(model, describe_segmenter(config.segmenter, classes))  # the head is needed for training alone


def optimised(config: Config, modules: Mapping[str, nn.Module]) -> list[ParamGroup]:
    """All trained modules, the encoder at its own rate; with `decay_norms` off, norms, biases and position tables
    without weight decay.
    """
    groups: list[ParamGroup] = []
    for name, module in modules.items():
        for part, child in module.named_children():
            factor = config.encoder_lr_factor if (name, part) == ("model", "encoder") else 1.0
            groups += param_groups(child, factor, decay_norms=config.decay_norms)
    return groups
