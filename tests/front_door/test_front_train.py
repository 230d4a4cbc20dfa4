"""Training as a call, and the artifact on whatever form images come in."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import maskmill as mm
from maskmill.data_contracts import ContractError
from maskmill.pipelines.core.settings import ConfigError
from maskmill.trainers.engine import PredictConfig
from tests.trainers import shapes

PHOTOS = sorted((Path(__file__).resolve().parent.parent / "data/photos/images").iterdir())
SETTINGS = {
    "segmenter": {"architecture": "fpn", "weights": "random"},
    "augment": {"size": 32},
    "steps": 1,
    "batch": 2,
    "runtime": {"threads": 1, "progress": False, "device": "cpu"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> mm.Segmenter:
    folder = tmp_path_factory.mktemp("trained")
    samples = shapes.write_scenes(folder / "samples", 4)
    config = {"label_space": shapes.SPACE.model_dump(), "data": {"samples": samples}, "settings": SETTINGS}
    return mm.train(config, folder / "out", val={"samples": samples}, settings__lr=0.001)


def test_training_leaves_an_artifact_with_metrics(trained: mm.Segmenter) -> None:
    assert isinstance(trained.metrics["miou"], float)
    assert trained.space == shapes.SPACE
    assert trained.info.config["lr"] == 0.001
    assert "supervised" in repr(trained)
    again = mm.load_artifact(trained.path, device="cpu")
    assert again.info == trained.info
    assert "history" in again.metrics


def test_paths_pillow_images_and_arrays_are_predicted_alike(trained: mm.Segmenter) -> None:
    pixels = np.asarray(Image.open(PHOTOS[1]))
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    forms = [PHOTOS[1], str(PHOTOS[1]), Image.open(PHOTOS[1]), pixels, rgba]
    model = mm.load_artifact(trained.path, device="cpu")
    found = model.predict(forms)
    plain = model.predictor.predict([pixels])[0]
    for one in found:
        assert np.array_equal(one.labels, plain.labels)
    assert found[0].labels.shape == pixels.shape[:2]
    assert np.array_equal(model.labels([PHOTOS[1]])[0], plain.labels)
    flipped = model.predict([pixels], config=PredictConfig(flip=True))[0]
    assert not np.array_equal(flipped.logits, plain.logits)


def test_a_stack_of_images_is_a_list_and_one_image_is_not(trained: mm.Segmenter) -> None:
    stack = np.zeros((2, 32, 32, 3), np.uint8)
    assert len(trained.predict(stack)) == 2
    with pytest.raises(TypeError, match="put brackets around a single one"):
        trained.predict(stack[0])
    with pytest.raises(ContractError, match=r"image 1: .*float32"):
        trained.predict([stack[0], stack[0].astype(np.float32)])
    with pytest.raises(ContractError, match=r"nowhere\.jpg"):
        trained.predict(["nowhere.jpg"])


def test_a_trainer_without_predict_says_what_to_use(trained: mm.Segmenter) -> None:
    model = mm.load_artifact(trained.path)
    model.__dict__["predictor"] = object()
    with pytest.raises(TypeError, match=r"has no `predict`; use `\.predictor` \(object\)"):
        model.predict([])


def test_what_cannot_be_used_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a trained artifact"):
        mm.load_artifact(tmp_path)
    with pytest.raises(ConfigError, match="dta"):
        mm.train({"dta": {}}, tmp_path)
    with pytest.raises(ValueError, match=r"expected one of .*supervised"):
        mm.train({"trainer": "magic", "data": {"samples": "x"}}, tmp_path)
