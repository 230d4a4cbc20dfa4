"""Which option of WeCLIP reaches which step: labels, training, and the CRF of the test."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig
from maskmill.trainers.weclip import Config, label_curve, labels, predict, tags
from maskmill.trainers.weclip.labels import PseudoLabeler
from maskmill.trainers.weclip.model import Weclip
from maskmill.trainers.weclip.predict import WeclipPredictor
from maskmill.vision.clip import build_text_bank
from maskmill.vision.crf_options import CrfOptions
from tests.trainers import shapes
from tests.trainers.test_weclip import SMALL

training: Any = importlib.import_module("maskmill.trainers.weclip.train")  # the package's `train` is a function

torch.set_num_threads(1)


def opened(**settings: Any) -> PseudoLabeler:
    config = Config.model_validate({**SMALL, **settings})
    model = Weclip(config, shapes.SPACE.size, torch.device("cpu")).eval()
    return PseudoLabeler(model, build_text_bank(shapes.SPACE, model.backbone), shapes.SPACE, config)


def test_each_option_reaches_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    plain = {name: getattr(labels, name) for name in ("clip_response", "pseudo_labels", "refined_attention")}

    def watched(name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            asked[name] = (args, options)
            return plain[name](*args, **options)

        return call

    for name in plain:
        monkeypatch.setattr(labels, name, watched(name))
    labeler = opened(filter="none", candidates=3, ignore_below=0.7, box_threshold=0.6, temperature=0.5, edge_fix=True)
    rgb = torch.from_numpy(shapes.draw_scene(0, 64, 64)[0]).permute(2, 0, 1)[None]
    dense = labeler.model.encode(labeler.model.normalisation(rgb), labeler.n_attention)
    labeler(dense, rgb, [[1]], torch.zeros(1, 16, 16))
    assert asked["refined_attention"][0][2:] == (3, "none")
    assert asked["clip_response"][1]["box_threshold"] == 0.6
    assert asked["clip_response"][1]["scale"] == 2.0
    assert asked["clip_response"][1]["edge_fix"] is True
    assert asked["clip_response"][1]["layer"] == labeler.config.cam_layer
    assert asked["pseudo_labels"][1]["ignore_below"] == 0.7
    assert (labeler.n_attention, opened(candidates=10).n_attention) == (8, 10)


def test_the_crf_of_the_test_is_the_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[CrfOptions] = []
    monkeypatch.setattr(predict, "with_crf", lambda found, images, options, workers: asked.append(options) or found)
    model, own = opened().model, CrfOptions(iterations=2)
    mean, std = model.normalisation.mean, model.normalisation.std
    predictor = WeclipPredictor(model, shapes.SPACE, mean, std, crf=own)
    image = shapes.draw_scene(0, 64, 64)[0]
    predictor.predict_crf([image])
    predictor.predict_crf([image], CrfOptions(iterations=3))
    assert [one.iterations for one in asked] == [2, 3]


def test_each_option_reaches_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind of affinity loss, synonyms, and a decoder whose dropout is on."""
    asked: dict[str, Any] = {}
    loss, build = training.affinity_loss, training.build_text_bank

    def watched_loss(*args: Any) -> torch.Tensor:
        asked["loss"] = args[3]
        return loss(*args)

    def watched_bank(*args: Any, **options: Any) -> Any:
        asked["synonyms"] = options["synonyms"]
        return build(*args, **options)

    decode = Weclip.decode

    def watched_decode(self: Weclip, *args: Any) -> Any:
        asked.setdefault("modes", set()).add(self.decoder.training)
        return decode(self, *args)

    monkeypatch.setattr(training, "affinity_loss", watched_loss)
    monkeypatch.setattr(training, "build_text_bank", watched_bank)
    monkeypatch.setattr(Weclip, "decode", watched_decode)
    data = DataConfig(samples=(shapes.write_scenes(tmp_path / "scenes", 2),))
    settings = {
        **SMALL,
        "steps": 1,
        "batch": 2,
        "affinity_loss": "bce",
        "synonyms": True,
        "rfm_start": 0,
        "filter": "none",
        "tag_weight": 0.5,
    }
    config = TrainConfig(trainer="weclip", label_space=shapes.SPACE, data=data, settings=settings)
    train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
    assert asked == {"loss": "bce", "synonyms": True, "modes": {True}}
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if "segmentation" in line]
    parts = line["segmentation"] + Config.model_validate(settings).affinity_weight * line["affinity"]
    assert line["loss"] == pytest.approx(parts + 0.5 * line["tags"], rel=1e-5)
    assert [line["maps_kept"] for line in lines if "maps_kept" in line] == [4.0], "all maps of the small CLIP, an image"


def test_the_form_of_the_affinity_reaches_training_labels_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, set[str]] = {}
    plain = training.affinity_logits

    def watched(name: str) -> Any:
        def call(features: torch.Tensor, form: str) -> torch.Tensor:
            asked.setdefault(name, set()).add(form)
            return plain(features, form)

        return call

    for name, module in (("training", training), ("label_curve", label_curve), ("tags", tags)):
        monkeypatch.setattr(module, "affinity_logits", watched(name))
    data = DataConfig(samples=(shapes.write_scenes(tmp_path / "scenes", 2),))
    own = {"affinity": "centred", "rfm_start": 0, "measure_labels": True, "test_maps": 0.5, "steps": 1, "batch": 2}
    settings = {**SMALL, **own}
    config = TrainConfig(trainer="weclip", label_space=shapes.SPACE, data=data, val=data, settings=settings)
    train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
    assert asked == {"training": {"centred"}, "label_curve": {"centred"}, "tags": {"centred"}}
    assert Config().affinity == Config(preset="faithful").affinity == "inner"


def test_sides_are_cut_to_whole_pixels_as_in_the_release() -> None:
    colours = SimpleNamespace(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    release: Any = WeclipPredictor._released_input
    assert release(colours, np.zeros((100, 150, 3), np.uint8), 64, 1.0).shape == (1, 3, 42, 64)
