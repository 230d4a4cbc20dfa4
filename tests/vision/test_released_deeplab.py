"""mmsegmentation's DeepLabV3: every name and shape of its checkpoints, the heads against plain versions of them,
training with the auxiliary one, and a checkpoint as an artifact.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.pipelines.stages.import_checkpoint import import_checkpoint
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig
from maskmill.trainers.registry import load_artifact
from maskmill.vision.released_deeplab import STEM, ReleasedDeepLab, own_name
from maskmill.vision.segmenters import SegmenterConfig, build_encoder, build_segmenter
from tests.trainers import shapes

torch.set_num_threads(1)

BLOCKS = (3, 4, 6, 3)  # of ResNet-50
SMALL: dict[str, Any] = {
    "architecture": "deeplabv3_mmseg",
    "encoder": "resnet10t",  # a stem of three convolutions, as resnet50c, on basic blocks
    "weights": "random",
    "options": {"width": 8},
}


def unit(name: str, inputs: int, outputs: int, kernel: int) -> dict[str, tuple[int, ...]]:
    norms = {f"{name}.bn.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.conv.weight": (outputs, inputs, kernel, kernel), **norms}


def released(classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of `deeplabv3_r50-d8`, counters of batch norms left out."""
    found: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        found.update({f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")})

    for place, (inputs, outputs) in zip((0, 3, 6), ((3, 32), (32, 32), (32, 64)), strict=True):
        found[f"backbone.stem.{place}.weight"] = (outputs, inputs, 3, 3)
        norm(f"backbone.stem.{place + 1}", outputs)
    inputs = 64
    for stage, blocks in enumerate(BLOCKS, start=1):
        width = 64 * 2 ** (stage - 1)
        for block in range(blocks):
            name = f"backbone.layer{stage}.{block}"
            sizes = ((width, inputs, 1), (width, width, 3), (4 * width, width, 1))
            for number, (outputs, into, kernel) in enumerate(sizes, start=1):
                found[f"{name}.conv{number}.weight"] = (outputs, into, kernel, kernel)
                norm(f"{name}.bn{number}", outputs)
            if block == 0:
                found[f"{name}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
                norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    found |= unit("decode_head.image_pool.1", 2048, 512, 1)
    for branch, kernel in enumerate((1, 3, 3, 3)):
        found |= unit(f"decode_head.aspp_modules.{branch}", 2048, 512, kernel)
    found |= unit("decode_head.bottleneck", 5 * 512, 512, 3)
    found |= unit("auxiliary_head.convs.0", 1024, 256, 3)
    for head, width in (("decode_head", 512), ("auxiliary_head", 256)):
        found |= {f"{head}.conv_seg.weight": (classes, width, 1, 1), f"{head}.conv_seg.bias": (classes,)}
    return found


def test_every_weight_of_a_checkpoint_has_its_place() -> None:
    with torch.device("meta"):
        config = SegmenterConfig(architecture="deeplabv3_mmseg", encoder="resnet50c", weights="random")
        model = build_segmenter(config, 21)
    own = {key: tuple(v.shape) for key, v in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert {own_name(key): shape for key, shape in released(21).items()} == own


def test_strides_and_dilations_are_those_of_the_published_encoder() -> None:
    """Stages 3 and 4 keep the grid; the first block of each has half of its stage's dilation."""
    with torch.device("meta"):
        encoder: Any = build_encoder("resnet50c", "random", output_stride=8, out_indices=(3, 4))
    assert encoder.feature_info.reduction() == [8, 8]
    dilations = [[block.conv2.dilation[0] for block in encoder[f"layer{stage}"]] for stage in (2, 3, 4)]
    assert dilations == [[1] * 4, [1, 2, 2, 2, 2, 2], [2, 4, 4]]
    strides = [[block.conv2.stride[0] for block in encoder[f"layer{stage}"]] for stage in (2, 3, 4)]
    assert strides == [[2, 1, 1, 1], [1] * 6, [1] * 3]


def plain_unit(part: nn.Module, x: Tensor, dilation: int = 1) -> Tensor:
    conv, norm, _ = part
    x = F.conv2d(x, conv.weight, padding=dilation * (conv.weight.shape[-1] // 2), dilation=dilation)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()


def small(classes: int = 4) -> ReleasedDeepLab:
    torch.manual_seed(0)
    model = build_segmenter(SegmenterConfig.model_validate(SMALL), classes)
    assert isinstance(model, ReleasedDeepLab)
    return model.eval()


def test_both_heads_are_their_plain_versions() -> None:
    model, images = small(), torch.randn(2, 3, 72, 80, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        third, last = model.encoder(images)
        main, beside = model.with_auxiliary(images)
        pooled = plain_unit(model.head.image, last.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *last.shape[2:])
        parts = [pooled]
        for branch, dilation in zip(model.head.branches, (1, 12, 24, 36), strict=True):
            parts.append(plain_unit(branch, last, dilation))
        logits = model.head.classify(plain_unit(model.head.bottleneck, torch.cat(parts, dim=1)))
        other = model.auxiliary.classify(plain_unit(model.auxiliary.body, third))
        for found, wanted in ((main, logits), (beside, other), (model(images), logits)):
            full = F.interpolate(wanted, (72, 80), mode="bilinear", align_corners=False)
            torch.testing.assert_close(found, full, atol=1e-5, rtol=1e-4)
    assert last.shape[2:] == (9, 10)
    assert (model.head.dropout.p, model.auxiliary.dropout.p) == (0.1, 0.1)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return DataConfig(samples=(shapes.write_scenes(tmp_path_factory.mktemp("scenes"), 4),))


def run(folder: Path, scenes: DataConfig, **settings: Any) -> list[dict[str, float]]:
    given = {"steps": 2, "batch": 2, "augment": {"size": 40}, "class_balance": "none", "segmenter": SMALL, **settings}
    runtime = {"progress": False, "log_every": 1, "device": "cpu"}
    config = TrainConfig(
        trainer="supervised", label_space=shapes.SPACE, data=scenes, settings={**given, "runtime": runtime}
    )
    train(config, str(folder / "run"), str(folder / "artifact"))
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_the_auxiliary_loss_is_added_at_its_weight(tmp_path: Path, scenes: DataConfig) -> None:
    losses = [run(tmp_path / str(w), scenes, auxiliary=w, steps=1)[0]["loss"] for w in (0.0, 0.4, 0.8)]
    assert losses[0] < losses[1] < losses[2]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)
    found = load_artifact(str(tmp_path / "0.4" / "artifact"), "cpu").predict([shapes.draw_scene(9)[0]])
    assert found[0].logits.shape == (4, 48, 56)


def test_a_network_without_an_auxiliary_head_is_refused(tmp_path: Path, scenes: DataConfig) -> None:
    with pytest.raises(ValueError, match=r"found unet; set segmenter\.architecture=deeplabv3_mmseg"):
        run(tmp_path, scenes, auxiliary=0.4, segmenter={"weights": "random"})


def mmseg_name(key: str) -> str:
    """What mmsegmentation calls a weight of the network."""
    units = {"0": "conv", "1": "bn"}
    parts = key.split(".")
    if parts[0] == "encoder":
        for number, name in STEM.items():
            if key.startswith(f"encoder.{name}."):
                return f"backbone.stem.{number}.{key.removeprefix(f'encoder.{name}.')}"
        return f"backbone.{key.removeprefix('encoder.')}"
    head = "decode_head" if parts[0] == "head" else "auxiliary_head"
    if parts[1] == "classify":
        return f"{head}.conv_seg.{parts[2]}"
    if parts[1] == "branches":
        return f"{head}.aspp_modules.{parts[2]}.{units[parts[3]]}.{parts[4]}"
    name = {"image": "image_pool.1", "bottleneck": "bottleneck", "body": "convs.0"}[parts[1]]
    return f"{head}.{name}.{units[parts[2]]}.{parts[3]}"


def test_a_checkpoint_becomes_an_artifact(tmp_path: Path) -> None:
    model = small()
    state = {mmseg_name(key): value for key, value in model.state_dict().items()}
    torch.save({"meta": {"iter": 20_000}, "state_dict": state}, tmp_path / "iter_20000.pth")
    settings = {"segmenter": SMALL, "augment": {"size": 64, "fit": "short"}}
    out = import_checkpoint("supervised", str(tmp_path / "iter_20000.pth"), str(tmp_path / "a"), shapes.SPACE, settings)
    predictor = load_artifact(out, "cpu")
    assert (predictor.config.fit, predictor.config.size) == ("short", 64)
    image = shapes.draw_scene(2, 64, 80)[0]
    with torch.no_grad():
        wanted = model(predictor._input(image, predictor.config, 1.0)[None])
    torch.testing.assert_close(
        torch.from_numpy(predictor.predict([image])[0].logits), wanted[0, :, :64, :80], atol=1e-3, rtol=1e-2
    )
    with pytest.raises(ValueError, match="expected deeplabv3_mmseg, the network of these checkpoints, found unet"):
        import_checkpoint("supervised", str(tmp_path / "iter_20000.pth"), str(tmp_path / "b"), shapes.SPACE, {})


def test_first_weights_of_the_released_encoder(tmp_path: Path) -> None:
    """`resnet50_v1c.pth` names the encoder alone, its stem by numbers."""
    donor = build_encoder("resnet10t", "random", output_stride=8, out_indices=(3, 4))
    file = {mmseg_name(f"encoder.{key}").removeprefix("backbone."): v for key, v in donor.state_dict().items()}
    torch.save({"state_dict": file}, tmp_path / "resnet50_v1c.pth")
    model = build_segmenter(SegmenterConfig.model_validate({**SMALL, "weights": str(tmp_path / "resnet50_v1c.pth")}), 4)
    assert isinstance(model, ReleasedDeepLab)
    for key, value in donor.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[key], value), key
