"""What a trainer left, ready to predict: `load_artifact` opens it for paths, Pillow images and arrays alike."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from maskmill.data_contracts import LabelSpace, Uint8Array
from maskmill.given import ImageLike, name_of, pixels_of, several
from maskmill.trainers import load_artifact as open_predictor
from maskmill.trainers.engine import ArtifactInfo, Prediction, read_artifact, read_info


class Segmenter:
    """A trained artifact. Weights are read when it first predicts; `predictor` is the trainer's own object."""

    def __init__(self, path: str, device: str = "auto", metrics: dict[str, Any] | None = None) -> None:
        self.path, self.device = path, device
        self.info: ArtifactInfo = read_info(path)
        self._metrics = metrics

    @property
    def space(self) -> LabelSpace:
        """The classes that it tells apart."""
        return self.info.label_space

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """On its test data where `mm.train` was given such data, else what the trainer noted."""
        return read_artifact(self.path).metrics if self._metrics is None else self._metrics

    @cached_property
    def predictor(self) -> Any:
        """The trainer's predictor, for what only it can do (`predict_crf`, `predict_group` …); it takes arrays.

        Raises:
            ValueError: the weights are not the ones that config.json names.
        """
        return open_predictor(self.path, self.device)

    def predict(self, images: Sequence[ImageLike], *args: Any, **options: Any) -> list[Prediction]:
        """Predict images of any sizes: paths (or fsspec URLs), Pillow images, or arrays uint8 (H, W, 3) RGB.

        `args` and `options` go to the trainer's own `predict`: `config=PredictConfig(flip=True)`, or the supports of
        `few_shot`.

        Returns:
            One `Prediction` an image at its own size: `labels` uint8 (H, W) of class ids, `confidence` uint8 (H, W),
            255 = certain, `probabilities` and `logits` float32 (C, H, W). (`affinity` gives graphs instead.)

        Raises:
            ContractError: a missing or broken image, or an array of another shape or dtype; names it.
            TypeError: one image in place of a list, or a trainer that predicts nothing from images alone (`ftmu`).
        """
        given = several(images, "images")
        predict = getattr(self.predictor, "predict", None)
        if predict is None:
            what = type(self.predictor).__name__
            raise TypeError(
                f"{self.path}: {self.info.trainer} has no `predict`; use `.predictor` ({what}), or mm.label"
            )
        found: list[Prediction] = predict([pixels_of(x, name_of(x, i)) for i, x in enumerate(given)], *args, **options)
        return found

    def labels(self, images: Sequence[ImageLike]) -> list[Uint8Array]:
        """Label maps uint8 (H, W) of class ids, one an image; as `predict`."""
        return [prediction.labels for prediction in self.predict(images)]

    def __repr__(self) -> str:
        names = ", ".join(c.name for c in self.space.classes[:5]) + (", …" if len(self.space.classes) > 5 else "")
        return f"<maskmill segmenter {self.path}: {self.info.trainer}, {len(self.space.classes)} classes ({names})>"


def load_artifact(path: str, device: str = "auto") -> Segmenter:
    """Open the folder that a trainer left; `device` is "auto", "cpu", "cuda", "cuda:1" …

    Raises:
        FileNotFoundError: no finished artifact there.
    """
    return Segmenter(str(path), device)
