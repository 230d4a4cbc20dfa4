"""How a run on scribbles is set up around its network, and how it ends: data, loop, evaluation, artifact."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from maskmill.trainers.engine import (
    Job,
    Loop,
    ParamGroup,
    PredictConfig,
    Samples,
    SampleSource,
    SegmentationPredictor,
    evaluate,
    make_optimizer,
    save_artifact,
)
from maskmill.trainers.scribbles.config import ScribbleConfig
from maskmill.trainers.scribbles.view import ScribbleView, scribbled
from maskmill.vision.scribbles.maps import Resize
from maskmill.vision.segmenters import Rgb


class ScribbleRun:
    """Iterate over `loop` and end each step with `learn`; then `save`.

    `modules` are trained, `groups` say at which rates; `network` gives class logits, as the predictor wants them.
    `colours` are mean and deviation that images are normalised with, `resize` says how strokes shrink, `multiple` what
    inputs are padded to, `measure` what is measured on `job.val` (default: mIoU and its kin).

    Raises:
        ValueError: no scribbles in the data.
    """

    def __init__(
        self,
        config: ScribbleConfig,
        job: Job,
        colours: tuple[Rgb, Rgb],
        modules: Mapping[str, nn.Module],
        groups: Sequence[ParamGroup],
        network: nn.Module,
        *,
        resize: Resize = "any",
        multiple: int = 32,
        measure: Callable[[SegmentationPredictor, Samples], dict[str, Any]] | None = None,
    ) -> None:
        self.config, self.job = config, job
        self.mean, self.std = colours
        view = ScribbleView(config.augment, self.mean, self.std, config.supervision, resize)
        source = SampleSource(scribbled(job.data, config.supervision), view, config.batch, config.seed)
        self.loop = Loop(config, job, source, modules=modules, optimizers={"main": make_optimizer(config, groups)})
        self.predict = PredictConfig(fit=config.augment.fit, size=config.augment.size, multiple=multiple)
        predictor = SegmentationPredictor(network, job.space, self.mean, self.std, self.predict, self.loop.device)
        if job.val is None:
            self._score = None
        elif measure is not None:
            self._score = functools.partial(measure, predictor, job.val)
        else:
            self._score = functools.partial(evaluate, predictor.labels, job.val, job.space)
        for module in modules.values():
            module.train()

    def learn(self, loss: Tensor, **notes: Tensor | float) -> None:
        """Update the weights, write the loss and the notes down, and evaluate where that is due."""
        self.loop.update(loss)
        self.loop.log(loss=loss, **notes)
        self.loop.evaluate(self._score)

    def save(self, model: nn.Module, described: dict[str, Any]) -> str:
        """Leave `model` as the artifact, with the arguments that build it again; returns its folder."""
        return save_artifact(
            self.job,
            self.config,
            modules={"model": model},
            model=described,
            metrics=self.loop.metrics,
            curves=self.loop.curves(),
            mean=self.mean,
            std=self.std,
            predict=self.predict,
        )
