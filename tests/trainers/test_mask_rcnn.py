"""The Mask R-CNN trainer: conformance, its targets, average precision as pycocotools sums it up, and the commands."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from maskmill.data_contracts import SAMPLE, Instance, Uint8Array, decode_mask, encode_image
from maskmill.pipelines.cli.main import app
from maskmill.trainers.engine import DataConfig, PredictConfig, Samples
from maskmill.trainers.mask_rcnn.predict import drawn
from maskmill.trainers.mask_rcnn.train import Config, targets
from maskmill.trainers.mask_rcnn.views import ObjectSource
from maskmill.trainers.registry import load_artifact
from maskmill.vision.instances.precision import average_precision
from tests.trainers import shapes
from tests.trainers.conformance import TrainerConformance

torch.set_num_threads(1)
SMALL: dict[str, Any] = {
    "network": {
        "encoder": "lcnet_035", "weights": "random", "width": 8, "head": 16, "mask_width": 8,
        "anchors": [8, 16, 24, 32, 48], "most": 5, "min_score": 0.0,
    },
    "augment": {"size": 32, "fit": "short"},
    "slots": 3,
}  # fmt: skip


def write_objects(folder: Path, count: int = 6, shards: int = 1) -> str:
    """Scenes whose classes are one object each."""
    rows = [shapes.sample_row(number) for number in range(count)]
    for row in rows:
        mask = decode_mask(row["mask"]["bytes"])  # type: ignore[index]
        objects = [Instance.of(int(i), mask == i) for i in np.unique(mask) if i in shapes.SPACE.by_id]
        row["instances"] = [one.row() for one in objects]
    return shapes.write_rows(folder, rows, SAMPLE, shards)


class TestMaskRcnn(TrainerConformance):
    name = "mask_rcnn"
    settings: ClassVar = SMALL

    def write_data(self, folder: Path, shards: int) -> DataConfig:
        return DataConfig(samples=(write_objects(folder / "samples", shards=shards),))

    def check_prediction(self, predictor: Any, images: list[Uint8Array]) -> list[np.ndarray[Any, Any]]:
        found = predictor.predict(images)
        for image, one in zip(images, found, strict=True):
            assert one.labels.shape == one.confidence.shape == image.shape[:2]
            scores = [each.score for each in one.instances]
            assert scores == sorted(scores, reverse=True)
            assert {each.class_id for each in one.instances} <= set(shapes.SPACE.ids)
        return [np.concatenate([one.labels.ravel(), [each.score for each in one.instances]]) for one in found]

    def test_the_commands_print_ap_and_write_scores(self, trained: Path, data: DataConfig, tmp_path: Path) -> None:
        artifact, run = str(trained / "artifact"), CliRunner()
        words = ["evaluate", artifact, "--samples", data.samples[0], "--out", str(tmp_path / "e"), "--device", "cpu"]
        printed = run.invoke(app, words)
        assert printed.exit_code == 0, printed.output
        assert "ap50: " in printed.output
        assert 0 <= json.loads((tmp_path / "e" / "metrics.json").read_text())["ap"] <= 1
        photo = shapes.draw_scene(50)[0]
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "a.png").write_bytes(encode_image(photo))
        words = ["predict", artifact, "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "p")]
        printed = run.invoke(app, [*words, "--device", "cpu"])
        assert printed.exit_code == 0, printed.output
        listed = json.loads((tmp_path / "p" / "instances.json").read_text())
        wanted = load_artifact(artifact, "cpu").predict([photo])[0].instances
        assert [note["score"] for note in listed["annotations"]] == [one.score for one in wanted]
        assert listed["images"] == [{"id": 1, "file_name": "a.png", "height": 48, "width": 56}]


def test_crops_hold_each_object_with_its_box(tmp_path: Path) -> None:
    samples = Samples.open(DataConfig(samples=(write_objects(tmp_path),)), str(tmp_path / "cache"))
    config = Config.model_validate({**SMALL, "augment": {"size": 48, "fit": "native", "flip": 0.0}})
    batch = ObjectSource(samples, shapes.SPACE, config.augment, config.slots, (0.5, 0.5, 0.5), 4, 0)(0)
    assert batch["image"].shape == (4, 3, 48, 48)
    assert 0 <= float(batch["image"].min()) < float(batch["image"].max()) <= 1
    for crop, image in zip(targets(batch), batch["image"], strict=True):
        assert len(crop["labels"]) >= 1
        for label, box, mask in zip(crop["labels"], crop["boxes"], crop["masks"], strict=True):
            y, x = np.nonzero(mask.numpy())
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            inside = (255 * image[:, mask > 0]).median(dim=1).values
            assert np.abs(inside.numpy() - shapes.COLOURS[int(label)]).max() < 2


def test_samples_without_objects_are_refused(tmp_path: Path) -> None:
    samples = Samples.open(DataConfig(samples=(shapes.write_scenes(tmp_path / "s", 2),)), str(tmp_path / "cache"))
    config = Config.model_validate(SMALL)
    with pytest.raises(ValueError, match="told apart"):
        ObjectSource(samples, shapes.SPACE, config.augment, 3, (0.5, 0.5, 0.5), 2, 0)(0)


def block(class_id: int, top: int, left: int, side: int = 10, score: float | None = None) -> Instance:
    mask = np.zeros((40, 40), bool)
    mask[top : top + side, left : left + side] = True
    return Instance.of(class_id, mask, score=score)


def test_average_precision_by_hand() -> None:
    """Two photos; class 1: hit, hit at IoU 0.6, one in between that is nothing; class 2: missed; class 3: not there."""
    truths = [[block(1, 0, 0), block(2, 20, 20)], [block(1, 5, 5)]]
    shifted = np.zeros((40, 40), bool)
    shifted[5:15, 5:15], shifted[5:9, 5:15] = True, False  # 60 of 100 pixels
    found = [[block(1, 0, 0, score=0.9), block(1, 25, 0, score=0.8)], [Instance.of(1, shifted, score=0.7)]]
    judged = average_precision(truths, found, [(40, 40)] * 2, shapes.SPACE)
    first, both = 51 / 101, (51 + 50 * 2 / 3) / 101  # 101 points of recall: up to 0.5 at precision 1, then 2/3
    assert judged["ap50"] == pytest.approx(both / 2)  # the mean with class 2
    assert judged["ap25"] == pytest.approx(both / 2)
    assert judged["ap70"] == judged["ap75"] == pytest.approx(first / 2)
    assert judged["ap"] == pytest.approx((3 * both + 7 * first) / 20)  # 0.5, 0.55 and 0.6 hold
    assert judged["ap_class"] == {"red box": pytest.approx((3 * both + 7 * first) / 10), "green disc": 0.0}
    assert judged["ap50_box"] == pytest.approx(both / 2)
    assert judged["ap_box"] == pytest.approx((3 * both + 7 * first) / 20)


def test_average_precision_of_nothing() -> None:
    nothing = average_precision([[]], [[block(1, 0, 0, score=0.5)]], [(40, 40)], shapes.SPACE)
    assert nothing["ap"] is None
    assert average_precision([[block(1, 0, 0)]], [[]], [(40, 40)], shapes.SPACE)["ap"] == 0.0
    crowd = Instance(1, (0, 0, 10, 10), block(1, 0, 0).runs, crowd=True)
    spared = average_precision(
        [[crowd, block(1, 20, 20)]], [[block(1, 20, 20), block(1, 0, 0)]], [(40, 40)], shapes.SPACE
    )
    assert spared["ap"] == pytest.approx(1.0), "what lies in a crowd is no mistake"
    with pytest.raises(ValueError, match="one list a photo"):
        average_precision([[]], [], [(40, 40)], shapes.SPACE)


def test_the_best_object_lies_on_top(tmp_path: Path) -> None:
    over, under = block(1, 0, 0, score=0.9), block(2, 5, 5, score=0.4)
    found = drawn([over, under], (40, 40), shapes.SPACE)
    assert (found.labels[7, 7], found.labels[12, 12], found.labels[30, 30]) == (1, 2, 0)
    assert (found.confidence[7, 7], found.confidence[12, 12], found.confidence[30, 30]) == (230, 102, 255)


def test_scales_and_mirrors_are_refused(tmp_path: Path) -> None:
    from maskmill.trainers.mask_rcnn.predict import InstancePredictor

    predictor = InstancePredictor(torch.nn.Identity(), shapes.SPACE, torch.device("cpu"))
    with pytest.raises(ValueError, match="leave `predict` out"):
        predictor.predict([], PredictConfig(flip=True))
