"""Co-saliency of whole groups: any number of images, any sizes."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import LabelSpace, Uint8Array
from maskmill.trainers.dcfm.config import Enlarge
from maskmill.trainers.dcfm.consensus import Consensus
from maskmill.trainers.dcfm.model import Dcfm
from maskmill.trainers.dcfm.prototypes import agreement
from maskmill.trainers.engine import (
    PredictConfig,
    Prediction,
    Samples,
    check_images,
    evaluating,
    fitted_size,
    normalise,
    resize_image,
)
from maskmill.trainers.engine.batches import Rgb
from maskmill.trainers.engine.saliency import SaliencyMetrics, to_map

FAR = 30.0  # logit distance of classes that co-saliency knows nothing of


@dataclass(frozen=True, eq=False)
class GroupMap:
    """Result for one image of a group, at its own size."""

    logits: NDArray[np.float32]  # (H, W), of the object
    agreement: float  # mean cosine of its seed with the others' seeds: low = does not belong; 1 without any

    @property
    def saliency(self) -> NDArray[np.float32]:
        """Probability of the object, (H, W)."""
        return (1 / (1 + np.exp(-np.clip(self.logits, -FAR, FAR)))).astype(np.float32)


class GroupPredictor:
    """A trained network over groups. Each group goes through alone and whole, `config.batch` images at a time in
    encoder and decoder, so that neither other groups nor memory shape a result.

    `resize`: what is enlarged to an image's own size: `logits`, or `maps` (the release: the sigmoid of the logits at
    the network's size, corners on corners). `consensus`: votes on what is shared.
    """

    def __init__(
        self,
        model: Dcfm,
        space: LabelSpace,
        mean: Rgb,
        std: Rgb,
        config: PredictConfig,
        device: torch.device,
        *,
        resize: Enlarge = "logits",
        consensus: Consensus | None = None,
    ) -> None:
        self.model, self.space, self.mean, self.std = model, space, mean, std
        self.config, self.device, self.resize, self.consensus = config, device, resize, consensus
        for network in (model, consensus):
            if network is not None:
                network.to(device).to(memory_format=torch.channels_last)

    def predict_group(self, images: Sequence[Uint8Array], config: PredictConfig | None = None) -> list[GroupMap]:
        """The maps of one group of images uint8 (H, W, 3).

        Raises:
            ValueError: an image of another shape or dtype; names its position.
        """
        config = config or self.config
        check_images(images)
        if not images:
            return []
        with evaluating(self.model):
            inputs = [self._input(image, config.size) for image in images]
            logits, agree = self._logits(inputs, config.batch)
            if self.consensus is not None and len(images) > 1:
                logits, agree = self._agreed(self.consensus, images, torch.stack(inputs), logits, config.batch)
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        if self.resize == "maps":
            net = inputs[0].shape[1], inputs[0].shape[2]
            maps = [enlarged_map(one, net, size) for one, size in zip(logits, sizes, strict=True)]
        else:
            maps = [_enlarge(one, size) for one, size in zip(logits, sizes, strict=True)]
        return [GroupMap(one, float(a)) for one, a in zip(maps, agree, strict=True)]

    def _agreed(
        self, consensus: Consensus, images: Sequence[Uint8Array], seen: Tensor, logits: Tensor, batch: int
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, 1, S, S) of what is salient and shared, at the size of `seen` (N, 3, S, S), which the network saw,
        and each image's agreement (N,).
        """
        features = []
        for start in range(0, len(images), batch):
            inputs = [self._input(image, consensus.size) for image in images[start : start + batch]]
            features.append(consensus.encode(torch.stack(inputs).to(self.device)))
        votes, agree = consensus.votes(torch.cat(features), logits.sigmoid())
        return consensus.shared(logits, votes, seen.to(self.device)), agree

    def _input(self, image: Uint8Array, size: int) -> Tensor:
        """All images of a group take one size: both sides `size`, the aspect is lost."""
        height, width = fitted_size(image.shape[0], image.shape[1], "squash", size)
        fitted = image if image.shape[:2] == (height, width) else resize_image(image, height, width)
        return normalise(fitted, self.mean, self.std)

    def _logits(self, inputs: Sequence[Tensor], batch: int) -> tuple[Tensor, Tensor]:
        """Finest logits (N, 1, h, w) and agreement (N,) of one group."""
        pieces = []
        for start in range(0, len(inputs), batch):
            stacked = torch.stack(list(inputs[start : start + batch])).to(self.device)
            pieces.append(self.model.encode(stacked.to(memory_format=torch.channels_last)))
        features = [torch.cat(level) for level in zip(*pieces, strict=True)]
        del pieces
        mates = torch.ones(len(inputs), len(inputs), dtype=torch.bool, device=self.device)
        top, mined = self.model.mine(features, mates)
        finest = [
            self.model.decoder(top[start : start + batch], [f[start : start + batch] for f in features[:-1]])[0]
            for start in range(0, len(inputs), batch)
        ]
        agree = torch.ones(len(inputs)) if mined is None else agreement(mined.seeds, mates)
        return torch.cat(finest).float(), agree

    def predict(
        self,
        images: Sequence[Uint8Array],
        config: PredictConfig | None = None,
        groups: Sequence[Hashable] | None = None,
    ) -> list[Prediction]:
        """The object as the first class of the label space, one prediction an image. `groups` names each image's
        group; without it every image is a group of its own, so that companions change nothing.
        """
        names = list(range(len(images))) if groups is None else list(groups)
        found: dict[int, Prediction] = {}
        for name in dict.fromkeys(names):
            places = [place for place, other in enumerate(names) if other == name]
            maps = self.predict_group([images[place] for place in places], config)
            found.update((place, self._prediction(one)) for place, one in zip(places, maps, strict=True))
        return [found[place] for place in range(len(images))]

    def _prediction(self, one: GroupMap) -> Prediction:
        logits = np.full((max(self.space.size, 2), *one.logits.shape), -FAR, np.float32)
        logits[self.space.background_id or 0] = 0
        logits[self.space.classes[0].id] = one.logits
        return Prediction(logits)


def _enlarge(logits: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    full = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)
    pixels: NDArray[np.float32] = full[0, 0].cpu().numpy()
    return pixels


def enlarged_map(logits: Tensor, net: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float32]:
    """Logits (H, W) of a map at `size`, from logits (1, h, w): enlarged to the network's input `net`, made a map
    there, and the map enlarged with corners on corners, as the release does it.
    """
    inputs = F.interpolate(logits[None], net, mode="bilinear", align_corners=False)
    share = F.interpolate(inputs.sigmoid(), size, mode="bilinear", align_corners=True)[0, 0].cpu().double()
    pixels: NDArray[np.float32] = torch.special.logit(share, eps=1e-12).float().numpy()
    return pixels


def score_groups(predictor: GroupPredictor, samples: Samples) -> dict[str, float]:
    """The measures of `group_metrics`."""
    return group_metrics(predictor, samples).compute()


def group_metrics(predictor: GroupPredictor, samples: Samples) -> SaliencyMetrics:
    """Measures over all images of all groups that have masks; samples without a group are groups of their own.

    `compute` raises ValueError where no sample has a mask.
    """
    truth = samples.with_masks()
    alone = [[place] for place, info in enumerate(truth.infos) if info.group is None]
    metrics = SaliencyMetrics()
    for places in [*truth.groups.values(), *alone]:
        examples = [truth.example(place) for place in places]
        for example, one in zip(examples, predictor.predict_group([e.image for e in examples]), strict=True):
            if example.mask is not None:
                metrics.update(to_map(one.saliency), example.mask, predictor.space.background_id or 0)
    return metrics
