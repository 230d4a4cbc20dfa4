"""A checkpoint of mmsegmentation's DeepLabV3 (`iter_20000.pth` of Dataset Diffusion's recipe) under our names.

Its `state_dict` holds ResNetV1c under `backbone`, the pyramid under `decode_head` and FCN's head under
`auxiliary_head`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maskmill.data_contracts import LabelSpace
from maskmill.trainers.engine import PredictConfig, describe_segmenter
from maskmill.trainers.supervised.train import Config
from maskmill.vision.released_deeplab import own_name
from maskmill.vision.segmenters import RELEASED, build_segmenter, segmenter_normalisation
from maskmill.vision.weights import fitted


def released_artifact(state: Mapping[str, Tensor], where: str, config: Config, space: LabelSpace) -> dict[str, Any]:
    """What an artifact holds, from the release's state: arguments of `save_artifact`.

    Raises:
        WeightsError: weights that are missing or of another shape (another number of classes, another encoder).
        ValueError: settings that name another network.
    """
    if config.segmenter.architecture != RELEASED:
        raise ValueError(
            f"segmenter.architecture: expected {RELEASED}, the network of these checkpoints, found "
            f"{config.segmenter.architecture}; --set segmenter.architecture={RELEASED}, segmenter.encoder=resnet50c"
        )
    network, classes = config.segmenter.model_copy(update={"weights": "random"}), max(space.size, 2)
    model = build_segmenter(network, classes)
    model.load_state_dict(fitted(model.state_dict(), state, where, rename=own_name))
    mean, std = segmenter_normalisation(network)
    return {
        "modules": {"model": model},
        "model": describe_segmenter(network, classes, model),
        "mean": mean,
        "std": std,
        "predict": PredictConfig(fit=config.augment.fit, size=config.augment.size),
    }
