"""The weclip trainer: conformance, kick-in, frozen CLIP, tags only, second encoder, inference, and that it learns."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from maskmill.data_contracts import SAMPLE, LabelSpace
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, Example, PredictConfig, read_artifact
from maskmill.trainers.engine.optim import lr_factor
from maskmill.trainers.engine.samples import Info
from maskmill.trainers.registry import load_artifact
from maskmill.trainers.weclip import Config
from maskmill.trainers.weclip.labels import PseudoLabeler
from maskmill.trainers.weclip.model import Weclip, clip_precision
from maskmill.trainers.weclip.predict import WeclipPredictor
from maskmill.trainers.weclip.refine import refined_attention
from maskmill.trainers.weclip.train import CropView, check
from maskmill.trainers.weclip.views import ViewStore
from maskmill.vision.clip import DenseFeatures, build_text_bank, clip_response, load_clip
from tests.trainers import shapes
from tests.trainers.conformance import TrainerConformance

CLIPS = Path(__file__).parents[1] / "data"
TINY = str(CLIPS / "tiny_clip")
RUNTIME = {"threads": 1, "progress": False, "log_every": 1, "device": "cpu"}
SMALL: dict[str, Any] = {
    "model": TINY,
    "augment": {"size": 48, "fit": "short"},
    "warmup_steps": 0,
    "par_iterations": 2,
    "par_dilations": [1, 2],
    "test_size": 64,
    "precision": "fp32",
    "runtime": RUNTIME,
}

torch.set_num_threads(1)


class TestWeclip(TrainerConformance):
    name = "weclip"
    settings: ClassVar = SMALL


class TestWeclipOnFixedViews(TrainerConformance):
    name = "weclip"
    settings: ClassVar = {**SMALL, "views": 2}


def run(tmp_path: Path, data: DataConfig, name: str = "a", val: DataConfig | None = None, **settings: Any) -> str:
    given = {**SMALL, "steps": 2, "batch": 2, **settings}
    config = TrainConfig(trainer="weclip", label_space=shapes.SPACE, data=data, val=val, settings=given)
    return train(config, str(tmp_path / name / "run"), str(tmp_path / name / "artifact"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return DataConfig(samples=(shapes.write_scenes(tmp_path_factory.mktemp("scenes"), 4),))


def lines(path: str) -> list[dict[str, Any]]:
    log = Path(path).parent / "run" / "metrics.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_clip_is_frozen_and_bit_identical_after_training(tmp_path: Path, scenes: DataConfig) -> None:
    backbone = load_clip(TINY, None, "cpu")
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    path = run(tmp_path, scenes, rfm_start=0)
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.model.state_dict().items())
    assert all(key.startswith("module/decoder/") for key in read_artifact(path).tensors)


def test_kick_in_is_a_training_step_and_validation_does_not_move_it(tmp_path: Path, scenes: DataConfig) -> None:
    path = run(tmp_path, scenes, val=scenes, steps=4, eval_every=1, rfm_start=2)
    assert [("maps_kept" in line) for line in lines(path)] == [False, False, True, True]
    assert Config(steps=10, warmup_steps=0).kick_in == 5
    assert Config(preset="faithful").kick_in == 9_144


def test_the_curve_of_labels_is_that_of_the_labels_that_training_makes(tmp_path: Path, scenes: DataConfig) -> None:
    path = run(tmp_path, scenes, val=scenes, steps=4, eval_every=2, rfm_start=3, measure_labels=True, lr=0.05)
    first, last = (one["label_miou"] for one in read_artifact(path).metrics["history"])
    unrefined = run(tmp_path, scenes, "b", val=scenes, steps=4, eval_every=2, rfm_start=9, measure_labels=True, lr=0.05)
    plain = [one["label_miou"] for one in read_artifact(unrefined).metrics["history"]]
    assert 0 < first <= 1
    assert plain == [first, first], "a frozen CLIP alone makes the same labels at every step"
    assert last != first, "the decoder's affinity has its say after the kick-in"
    assert "label_miou" not in read_artifact(run(tmp_path, scenes, "c", val=scenes)).metrics


def test_the_decoders_affinity_changes_labels_after_the_kick_in() -> None:
    config = Config(**{**SMALL, "filter": "absolute"})
    model = Weclip(config, shapes.SPACE.size, torch.device("cpu"))
    labeler = PseudoLabeler(model, build_text_bank(shapes.SPACE, model.backbone), shapes.SPACE, config)
    images = [shapes.draw_scene(number, 64, 64)[0] for number in range(3)]
    rgb = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    dense = model.encode(model.normalisation(rgb), labeler.n_attention)
    tags = [[1], [1, 2], []]
    plain, none = labeler(dense, rgb, tags, None)
    n = dense.grid[0] * dense.grid[1]
    block = torch.full((3, n, n), -9.0)
    block[:, : n // 2, : n // 2] = block[:, n // 2 :, n // 2 :] = 9.0
    refined, kept = labeler(dense, rgb, tags, block)
    assert none is None
    assert kept is not None
    assert not torch.equal(plain, refined)
    for labels in (plain, refined):
        for image, ids in enumerate(tags):
            assert set(labels[image].unique().tolist()) <= {0, *ids}
        assert not labels[2].any(), "an image without tags is all background"
    again, _ = labeler(dense, rgb, tags, torch.zeros(3, n, n, requires_grad=True))
    assert not again.requires_grad


def test_gate_leaves_out_tags_that_the_crop_does_not_show() -> None:
    config = Config(**{**SMALL, "presence_gate": 0.999})
    model = Weclip(config, shapes.SPACE.size, torch.device("cpu"))
    labeler = PseudoLabeler(model, build_text_bank(shapes.SPACE, model.backbone), shapes.SPACE, config)
    rgb = torch.from_numpy(shapes.draw_scene(0, 64, 64)[0]).permute(2, 0, 1)[None]
    dense = model.encode(model.normalisation(rgb), labeler.n_attention)
    assert not labeler(dense, rgb, [[1, 2]], None)[0].any()


def test_masks_are_never_opened_when_tags_supervise(tmp_path: Path) -> None:
    rows = [shapes.sample_row(number) for number in range(4)]
    for row in rows:
        row["mask"] = {"bytes": b"no mask at all", "path": None}
    data = DataConfig(samples=(shapes.write_rows(tmp_path / "samples", rows, SAMPLE),))
    run(tmp_path, data)
    with pytest.raises(ValueError, match="expected a complete image file"):
        run(tmp_path, data, "b", supervision="masks")


def test_fixed_views_are_encoded_once_and_stay_what_the_encoder_gives(
    tmp_path: Path, scenes: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = Weclip.encode

    def counted(model: Weclip, images: torch.Tensor, n_attention: int = 0) -> DenseFeatures:
        seen.append(len(images))
        return encode(model, images, n_attention)

    monkeypatch.setattr(Weclip, "encode", counted)
    run(tmp_path, scenes, steps=10, views=1)
    assert seen == [1] * 4, "four scenes, one view each, one at a time"
    model = Weclip(Config(**SMALL), 4, torch.device("cpu"))
    images = torch.randn(3, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    store = ViewStore(model, 2)
    first, again = store(images, ["a", "b", "a"], [0, 0, 1]), store(images[:2], ["a", "b"], [0, 0])
    fresh = encode(model, images, 2)
    assert (first.grid, first.prefix, len(first.block_outputs)) == (fresh.grid, fresh.prefix, len(fresh.block_outputs))
    for kept, plain in zip(first.block_outputs, fresh.block_outputs, strict=True):
        torch.testing.assert_close(kept, plain, rtol=1e-2, atol=1e-2)
    for kept, plain in zip(first.block_attention, fresh.block_attention, strict=True):
        torch.testing.assert_close(kept, plain, rtol=1e-2, atol=1e-4)
    assert torch.equal(again.last_input, first.last_input[:2])
    assert store(images, ["a", "b", "a"], [0, 0, 0]).last_input[2].equal(first.last_input[0]), "by key, not by pixels"


def test_views_are_drawn_by_number_and_sample_alone() -> None:
    image = shapes.draw_scene(5, 64, 80)[0]
    example = Example(
        info=Info("five", 64, 80, (1,), None, None, has_mask=False),
        image=image,
        mask=None,
        confidence=None,
        scribble=None,
        boxes=np.zeros((0, 5), np.float32),
        points=np.zeros((0, 3), np.float32),
        spacing=None,
    )
    view = CropView(Config(**{**SMALL, "views": 2}), with_mask=False)
    drawn = [view(example, np.random.default_rng(seed)) for seed in range(12)]
    by_number: dict[int, list[torch.Tensor]] = {}
    for item in drawn:
        by_number.setdefault(item["view"], []).append(item["rgb"])
    assert set(by_number) == {0, 1}
    assert all(torch.equal(one, crops[0]) for crops in by_number.values() for one in crops)
    assert not torch.equal(by_number[0][0], by_number[1][0])
    free = CropView(Config(**SMALL), with_mask=False)
    assert not torch.equal(*(free(example, np.random.default_rng(seed))["rgb"] for seed in range(2)))


def test_frozen_blocks_follow_the_runs_precision_and_class_maps_stay_in_fp32() -> None:
    device = torch.device("cpu")
    assert clip_precision(Config(**SMALL), device) == "fp32"
    assert clip_precision(Config(**{**SMALL, "precision": "bf16"}), device) == "bf16"
    assert clip_precision(Config(preset="faithful", precision="bf16"), device) == "fp32"
    config = Config(**{**SMALL, "clip_precision": "bf16"})
    model = Weclip(config, shapes.SPACE.size, device)
    labeler = PseudoLabeler(model, build_text_bank(shapes.SPACE, model.backbone), shapes.SPACE, config)
    rgb = torch.from_numpy(shapes.draw_scene(0, 64, 64)[0]).permute(2, 0, 1)[None]
    dense = model.encode(model.normalisation(rgb), 2)
    assert {x.dtype for x in (dense.last_input, *dense.block_outputs, *dense.block_attention)} == {torch.float32}
    response = clip_response(model.backbone, dense, labeler.bank, [[1, 2]], affinity=dense.block_attention[-1])
    assert response.cams.dtype == response.spread.dtype == torch.float32


def test_samples_without_tags_and_spaces_without_background_are_refused(tmp_path: Path) -> None:
    rows = [{**shapes.sample_row(number), "class_ids": []} for number in range(2)]
    data = DataConfig(samples=(shapes.write_rows(tmp_path / "samples", rows, SAMPLE),))
    with pytest.raises(ValueError, match="expected image tags, found none on 2 samples"):
        run(tmp_path, data)
    bare = LabelSpace(name="bare", classes=shapes.SPACE.classes, background_id=None)
    with pytest.raises(ValueError, match="needs a background id"):
        check(Config(), bare)


@pytest.mark.parametrize("clip", ["tiny_clip_timm", "tiny_clip_conv"])
def test_trains_on_other_towers(tmp_path: Path, scenes: DataConfig, clip: str) -> None:
    path = run(tmp_path, scenes, model=str(CLIPS / clip), augment={"size": 64}, steps=1, rfm_start=0)
    image = shapes.draw_scene(7)[0]
    assert load_artifact(path, "cpu").predict([image])[0].labels.shape == image.shape[:2]


def test_options_train_and_load(tmp_path: Path, scenes: DataConfig) -> None:
    path = run(
        tmp_path,
        scenes,
        val=scenes,
        second="tf_efficientnet_lite0",
        second_weights="random",
        affinity_loss="bce",
        filter="none",
        ignore_below=0.6,
        ignore_padding=False,
        normalisation="imagenet",
        rfm_start=1,
        test_crf=True,
    )
    metrics = read_artifact(path).metrics
    assert {"miou", "miou_crf"} <= metrics.keys()
    predictor = load_artifact(path, "cpu")
    assert predictor.predict([shapes.draw_scene(3)[0]])[0].logits.shape == (4, 48, 56)


def test_supervised_by_masks_and_learns_four_scenes(tmp_path: Path, scenes: DataConfig) -> None:
    path = run(
        tmp_path,
        scenes,
        val=scenes,
        supervision="masks",
        steps=60,
        batch=4,
        lr=3e-3,
        augment={"size": 96, "flip": 0.0, "fit": "squash"},
        test_size=112,
    )
    assert read_artifact(path).metrics["miou"] > 0.45, "frozen random features and stride 16 leave coarse shapes"


def test_artifact_on_another_clip_is_refused(tmp_path: Path, scenes: DataConfig) -> None:
    path = run(tmp_path, scenes, steps=1)
    file = Path(path) / "config.json"
    file.write_text(file.read_text().replace('"clip": "', '"clip": "0'))
    with pytest.raises(ValueError, match="put the same weights in its place"):
        load_artifact(path, "cpu")


def test_prediction_is_flip_equivariant_and_averages_on_the_grid_of_scale_one() -> None:
    config = Config(**SMALL)
    torch.manual_seed(0)
    model = Weclip(config, 4, torch.device("cpu")).eval()
    predict = PredictConfig(fit="long", size=80, scales=(1.0, 0.75), flip=True, multiple=1)
    mean, std = model.normalisation.mean, model.normalisation.std
    predictor = WeclipPredictor(model, shapes.SPACE, mean, std, predict)
    image = shapes.draw_scene(1, 70, 90)[0]
    straight = predictor.predict([image])[0].logits
    mirrored = predictor.predict([image[:, ::-1].copy()])[0].logits
    np.testing.assert_allclose(mirrored[..., ::-1], straight, atol=1e-4)
    with torch.no_grad():
        assert predictor._logits([image], predict).shape[2:] == (3, 5), "62 x 80 pixels, floored to patches of 16"
    assert predictor.predict([np.zeros((3, 90, 3), np.uint8)])[0].labels.shape == (3, 90)
    crf = predictor.predict_crf([image])[0]
    np.testing.assert_allclose(crf.probabilities.sum(0), 1, atol=1e-4)


def test_faithful_schedule() -> None:
    config = Config(preset="faithful")
    rates = [config.lr * lr_factor(config, step) for step in (0, 50, 15_000, 29_999)]
    assert rates[0] == pytest.approx(2e-9)
    assert rates[1] == pytest.approx(2e-3 * (1 - 50 / 30_000))
    assert rates[2] == pytest.approx(1e-3)
    assert 0 < rates[3] < 1e-7
    assert (config.batch, config.augment.size, config.par_iterations, config.weight_decay) == (4, 320, 20, 0.01)
    assert Config(preset="faithful", weight_decay=1e-3).weight_decay == 1e-3
    assert Config(preset="faithful_coco").candidates == 10
    with pytest.raises(ValidationError, match="filtr"):
        Config.model_validate({"filtr": "none"})


def test_refinement_carries_no_gradient() -> None:
    logits = torch.randn(1, 4, 4, requires_grad=True)
    attention, _ = refined_attention([torch.rand(1, 4, 4)], logits, 6, "absolute")
    assert not attention.requires_grad
