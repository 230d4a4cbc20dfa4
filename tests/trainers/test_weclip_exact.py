"""WeCLIP by exact values: the decoder against a plain version of it, losses on maps whose answer can be told, and that
what is logged as the loss holds all of its terms.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig
from maskmill.trainers.weclip import Config
from maskmill.trainers.weclip import decoder as decoders
from maskmill.trainers.weclip.decoder import Decoder, QuickGelu, TransformerBlock, affinity_logits
from maskmill.trainers.weclip.losses import affinity_loss, affinity_targets, segmentation_loss, window
from maskmill.trainers.weclip.model import Normalisation
from maskmill.trainers.weclip.refine import plain_attention, refined_attention
from tests.trainers import shapes
from tests.trainers.test_weclip import SMALL

torch.set_num_threads(1)


def filled(module: nn.Module) -> nn.Module:
    """Weights by formula: small, all different."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            count = torch.arange(parameter.numel(), dtype=torch.float64)
            parameter.copy_((torch.sin(count * 0.37 + number) * 0.08).reshape(parameter.shape).float())
    return module.eval()


def slow_block(block: TransformerBlock, x: torch.Tensor, heads: int) -> torch.Tensor:
    """Pre-norm attention and MLP, head by head."""
    z = F.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias)
    q, k, v = (z @ block.attention.in_proj_weight.T + block.attention.in_proj_bias).chunk(3, dim=-1)
    width = x.shape[-1] // heads
    parts = []
    for h in range(heads):
        own = slice(h * width, (h + 1) * width)
        weights = (q[..., own] @ k[..., own].transpose(1, 2) / width**0.5).softmax(dim=-1)
        parts.append(weights @ v[..., own])
    x = x + block.attention.out_proj(torch.cat(parts, dim=-1))
    z = F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias)
    hidden = block.mlp[0](z)
    return x + block.mlp[2](hidden * torch.sigmoid(1.702 * hidden))


def test_sizes_of_the_decoder() -> None:
    assert (decoders.WIDTH, decoders.HEADS, decoders.LAYERS, decoders.DROPOUT) == (256, 8, 3, 0.1)
    found = Decoder(2, 16, 3)
    assert isinstance(found.dropout, nn.Dropout2d)
    assert found.dropout.p == 0.1
    assert [block.attention.num_heads for block in found.blocks] == [8, 8, 8]


def test_the_activation_is_that_of_clip() -> None:
    x = torch.tensor([-2.0, 0.0, 1.0])
    assert QuickGelu()(x).tolist() == pytest.approx([-0.0643, 0.0, 0.8458], abs=1e-4)


def test_the_decoder_is_its_plain_version() -> None:
    decoder = filled(Decoder(2, 16, 3, second=5))
    assert isinstance(decoder, Decoder)
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(1, 6, 16, generator=generator) for _ in range(2)]
    second = torch.randn(1, 5, 2, 3, generator=generator)
    with torch.no_grad():
        found = decoder(levels, (2, 3), second)
        maps = [
            mlp[2](mlp[0](x).relu()).transpose(1, 2).reshape(1, 256, 2, 3)
            for mlp, x in zip(decoder.mlps, levels, strict=True)
        ]
        features = decoder.fuse(torch.cat(maps, dim=1))
        others = decoder.second_fuse(  # type: ignore[misc]
            decoder.second_mlp(second.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(1, 256, 2, 3)  # type: ignore[misc]
        )
        logits = []
        for part in (features, others):
            tokens = part.flatten(2).transpose(1, 2)
            for block in decoder.blocks:
                tokens = slow_block(block, tokens, 8)
            logits.append(decoder.head(tokens.transpose(1, 2).reshape(1, 256, 2, 3)))
    torch.testing.assert_close(found.logits, (logits[0] + logits[1]) / 2, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.features, torch.cat([features, others], dim=1))
    flat = found.features[0].flatten(1)
    torch.testing.assert_close(affinity_logits(found.features)[0], flat.T @ flat)


def test_the_centred_affinity_does_not_care_for_the_features_length_or_mean() -> None:
    """Two tokens on either side of the mean along one channel, two along another: cosines of 1, 0 and -1, times 8."""
    features = torch.tensor([[[[3.0, 1.0], [2.0, 2.0]], [[5.0, 5.0], [9.0, 1.0]]]])
    found = affinity_logits(features, "centred")
    expected = 8 * torch.tensor([[1.0, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, -1], [0, 0, -1, 1]])
    torch.testing.assert_close(found, expected[None])
    torch.testing.assert_close(affinity_logits(40 * features + 7, "centred"), found)
    assert (affinity_logits(40 * features + 7).sigmoid() == 1).all(), "inner products saturate"


def test_half_of_the_segmentation_loss_is_over_background() -> None:
    """Two pixels of background with cross-entropy ln 2 each, one of class 1 with ln 4, one ignored."""
    logits = torch.tensor([[0.0, 0.0, 0.0, 9.0], [0.0, 0.0, -1.0986123, 0.0]]).reshape(1, 2, 1, 4)
    labels = torch.tensor([[[0, 0, 1, 255]]])
    wanted = 0.5 * 0.6931472 + 0.5 * 1.3862944
    assert float(segmentation_loss(logits, labels, 0)) == pytest.approx(wanted, abs=1e-5)
    assert float(segmentation_loss(logits[..., :2], labels[..., :2], 0)) == pytest.approx(0.5 * 0.6931472, abs=1e-5)
    small = torch.tensor([[0.0, 0.0], [-4.0, 4.0]]).reshape(1, 2, 1, 2)
    coarse = segmentation_loss(small, torch.tensor([[[1, 1, 1, 1]]]), 0)  # enlarged between pixels, not by copying
    values = torch.tensor([-4.0, -2.0, 2.0, 4.0])
    assert float(coarse) == pytest.approx(0.5 * float(F.softplus(-values).mean()), abs=1e-5)


def test_pairs_alike_and_pairs_that_differ_weigh_the_same() -> None:
    labels = torch.tensor([[[1, 1, 0, 255]]])
    alike, differ = affinity_targets(labels, (1, 4))
    assert int(alike.sum()) == 5  # three with themselves, two between the ones
    assert int(differ.sum()) == 4
    logits = torch.full((1, 4, 4), 1.0)
    sigmoid = 0.7310586
    linear = 0.5 * 5 * (1 - sigmoid) / 6 + 0.5 * 4 * sigmoid / 5
    assert float(affinity_loss(logits, labels, (1, 4))) == pytest.approx(linear, abs=1e-6)
    paper = 0.5 * 5 * 0.3132617 / 6 + 0.5 * 4 * 1.3132617 / 5
    assert float(affinity_loss(logits, labels, (1, 4), "bce")) == pytest.approx(paper, abs=1e-6)


def test_the_window_reaches_eight_rows_and_columns() -> None:
    near = window((10, 12), 8, torch.device("cpu")).reshape(10, 12, 10, 12)
    assert near[0, 0].sum() == 9 * 9
    assert near[9, 11].sum() == 9 * 9
    assert near[0, 0, 8, 8]
    assert not near[0, 0, 9, 0]
    assert not near[0, 0, 0, 9]


def test_pixels_as_the_tower_sees_them() -> None:
    one = Normalisation((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    rgb = torch.tensor([255, 0, 51], dtype=torch.uint8).reshape(1, 3, 1, 1)
    found = one(rgb)
    assert found.flatten().tolist() == pytest.approx([1.0, -1.0, 0.2])
    assert one.undo(found).flatten().tolist() == pytest.approx([255.0, 0.0, 51.0], abs=1e-3)


def test_attention_is_weighted_by_the_maps_that_agree_with_the_decoder() -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(10, 1, 4, 4, generator=generator)
    torch.testing.assert_close(plain_attention(list(maps)), maps[2:].mean(dim=0))
    logits = torch.randn(1, 4, 4, generator=generator, requires_grad=True)
    attention, kept = refined_attention(list(maps), logits, 6, "absolute")
    assert not attention.requires_grad
    last, affinity = maps[-6:, 0], logits.detach()[0].sigmoid()
    distance = (affinity - last).abs().sum(dim=(1, 2))
    near = distance < distance.mean()
    assert kept[0].tolist() == near.tolist()
    torch.testing.assert_close(attention[0], affinity * last[near].mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return DataConfig(samples=(shapes.write_scenes(tmp_path_factory.mktemp("weclip"), 4),))


def test_the_loss_holds_all_of_its_terms(tmp_path: Path, scenes: DataConfig) -> None:
    weight = 2.0
    assert Config().affinity_weight == 0.1
    settings = {**SMALL, "steps": 1, "batch": 2, "affinity_weight": weight}
    config = TrainConfig(trainer="weclip", label_space=shapes.SPACE, data=scenes, settings=settings)
    train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
    (line,) = (json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines() if "affinity" in x)
    assert line["loss"] == pytest.approx(line["segmentation"] + weight * line["affinity"], rel=1e-4)
    assert line["affinity"] > 0
