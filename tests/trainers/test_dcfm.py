"""The trainer dcfm: conformance, groups, gradients, that it finds what a group shares, and memory."""

import json
import resource
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from maskmill.data_contracts import SAMPLE, LabelSpace
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.dcfm import Config
from maskmill.trainers.dcfm.model import Dcfm
from maskmill.trainers.dcfm.predict import GroupPredictor
from maskmill.trainers.dcfm.train import compute_losses, optimised
from maskmill.trainers.engine import (
    DataConfig,
    Example,
    GroupSource,
    Info,
    Item,
    PredictConfig,
    Samples,
    SegmentationView,
)
from maskmill.trainers.registry import load_artifact
from maskmill.vision.segmenters import IMAGENET
from tests.trainers import shapes
from tests.trainers.conformance import TrainerConformance

torch.set_num_threads(1)

TINY: dict[str, Any] = {
    "encoder_weights": "random",
    "channels": 16,
    "width": 8,
    "members": 3,
    "augment": {"size": 32, "fit": "squash"},
}


class TestDcfm(TrainerConformance):
    name = "dcfm"
    settings: ClassVar = TINY

    def write_data(self, folder: Path, shards: int) -> DataConfig:
        return DataConfig(samples=(shapes.write_scenes(folder / "samples", 6, shards=shards, group_size=3),))


def network(**settings: Any) -> Dcfm:
    torch.manual_seed(0)
    return Dcfm(Config.model_validate({**TINY, **settings}))


def pictures(count: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def mates(*groups: int) -> torch.Tensor:
    numbers = torch.tensor(groups)
    return numbers[:, None] == numbers[None]


# --- the network


@pytest.mark.parametrize("count", [1, 2, 16])
def test_shapes_for_any_group_size(count: int) -> None:
    model = network().eval()
    output = model(pictures(count), mates(*[0] * count))
    assert [tuple(one.shape) for one in output.logits] == [(count, 1, 8, 8), (count, 1, 4, 4), (count, 1, 2, 2)]
    assert output.mined is not None
    assert output.mined.response.shape == (count, 1, 2, 2)
    assert output.mined.prototype.shape == (count, 16)


def test_the_faithful_network_is_the_released_one() -> None:
    config = Config(preset="faithful", encoder_weights="random")
    with torch.device("meta"):
        model = Dcfm(config)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == 6_315_396
    assert {name for name in trained if name.startswith("encoder")} == {
        "encoder.features_28.weight",
        "encoder.features_28.bias",
    }
    assert model.generation is not None
    untaught = [*model.generation.query.parameters(), *model.generation.key.parameters()]
    assert sum(p.numel() for p in untaught) == 525_312
    assert (config.batch, config.members, config.lr, config.betas, config.schedule) == (
        1,
        16,
        1e-4,
        (0.9, 0.99),
        "constant",
    )
    assert not config.response_channel
    assert (config.seeds, config.clip, config.enhancement, config.norm, config.response_weight) == (
        "fixed",
        "eval",
        "raw",
        "none",
        0,
    )
    assert Config(preset="faithful", seeds="trained").seeds == "trained"
    found = [tuple(f.shape[1:]) for f in model.encode(torch.empty(1, 3, 32, 32, device="meta"))]
    assert found == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]


def test_gradients_reach_what_is_trained_and_nothing_else() -> None:
    model = network(seeds="fixed", response_weight=0.0, enhancement="raw").train()
    config, x, group = model.config, pictures(4), mates(0, 0, 1, 1)
    mask = torch.zeros(4, 32, 32, dtype=torch.long)
    mask[:, 8:20, 8:24] = 1
    features = model.encode(x)
    losses = compute_losses(config, model, features, model.decode(features, group), mask, 0, group)
    assert losses.keys() == {"loss", "iou", "scl"}
    losses["loss"].backward()
    assert model.generation is not None
    assert model.enhancement is not None
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert not any("generation.query" in name or "generation.key" in name for name in moved)
    for part in ("generation.residual", "enhancement.entry", "enhancement.value", "decoder.top", "encoder.blocks.6"):
        assert any(name.startswith(part) for name in moved), part
    assert not any(name.startswith(("encoder.conv_stem", "encoder.blocks.0", "encoder.blocks.4")) for name in moved)
    grouped = {id(p) for group in optimised(model, 0.1) for p in group.params}
    assert grouped == {id(p) for p in model.parameters() if p.requires_grad}


def test_silent_links_learn_from_the_first_step_on_and_then_wake_the_rest() -> None:
    model = network(enhancement="normalised").train()
    assert model.enhancement is not None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    woken = []
    for _ in range(2):
        optimizer.zero_grad()
        model(pictures(4), mates(0, 0, 1, 1)).logits[0].square().mean().backward()
        woken.append({n for n, p in model.enhancement.named_parameters() if p.grad is not None and p.grad.any()})
        optimizer.step()
    assert woken[0] == {"value.1.weight", "value.1.bias"}
    assert {"entry.weight", "query.0.weight", "key.1.weight", "value.0.weight"} <= woken[1]


def test_norms_of_the_encoder_keep_their_statistics() -> None:
    model = network().train()
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    model(pictures(4), mates(0, 0, 0, 0))
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())
    assert model.decoder.training


def test_the_mask_does_not_reach_the_maps_and_masking_with_ones_changes_no_prototype() -> None:
    model = network().eval()
    features = model.encode(pictures(3))
    output = model.decode(features, mates(0, 0, 0))
    assert output.mined is not None
    inside, outside = model.prototypes(features, torch.ones(3, 1, 32, 32), mates(0, 0, 0))
    torch.testing.assert_close(inside, output.mined.prototype)
    assert (outside - inside).abs().max() > 1e-4
    again = model(pictures(3), mates(0, 0, 0))
    assert all(torch.equal(a, b) for a, b in zip(output.logits, again.logits, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_group_part_runs_in_fp32_under_autocast_and_stays_finite(dtype: torch.dtype) -> None:
    model = network(enhancement="raw", norm="none").eval()
    seen: list[torch.dtype] = []
    assert model.enhancement is not None
    model.enhancement.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        output = model(100 * pictures(2, 64), mates(0, 0))
    assert seen == [torch.float32]
    assert output.mined is not None
    assert output.mined.features.dtype == torch.float32
    assert all(torch.isfinite(one).all() for one in output.logits)


def test_arms_differ_by_their_parts_alone() -> None:
    names = {
        parts: {n.split(".")[0] for n, _ in network(parts=parts).named_parameters()}
        for parts in ("plain", "dpg", "dcfm")
    }
    assert names["plain"] == {"encoder", "neck", "decoder"}
    assert names["dpg"] - names["plain"] == {"generation"}
    assert names["dcfm"] - names["dpg"] == {"enhancement"}
    model = network(parts="dpg")
    features, mask = model.encode(pictures(2)), torch.ones(2, 32, 32, dtype=torch.long)
    losses = compute_losses(model.config, model, features, model.decode(features, mates(0, 0)), mask, 0, mates(0, 0))
    assert "scl" not in losses
    with pytest.raises(ValueError, match="plain saliency has no prototypes"):
        network(parts="plain").prototypes([torch.zeros(1, 16, 2, 2)], torch.ones(1, 1, 4, 4), mates(0))


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected prefixes of the encoder's parameters, such as conv_stem.weight"):
        network(trained_layers=("stage9",))


# --- groups in and out


def test_batches_hold_whole_groups_without_repeats(tmp_path: Path) -> None:
    rows = [shapes.sample_row(n, group=f"g{n % 3}", index=n) for n in range(14)]
    data = Samples.open(DataConfig(samples=(shapes.write_rows(tmp_path / "s", rows, SAMPLE),)), str(tmp_path))
    owner = {str(row["sample_id"]): row["group"] for row in rows}
    view = SegmentationView(Config().augment, (0.5,) * 3, (0.2,) * 3, 4)  # type: ignore[arg-type]
    source = GroupSource(data, view, groups=2, members=4, seed=0)
    visits: list[str] = []
    for step in range(6):
        batch = source(step)
        ids, numbers = batch["sample_id"], batch["group"].tolist()
        assert len(set(zip(ids, numbers, strict=True))) == len(ids), "an image came twice in one visit"
        for number in set(numbers):
            members = [i for i, n in zip(ids, numbers, strict=True) if n == number]
            assert len({owner[i] for i in members}) == 1
            assert len(members) == 4
            visits.append(str(owner[members[0]]))
    assert sorted(visits) == sorted(["g0", "g1", "g2"] * 4), "an epoch visits every group once"


def test_geometry_is_the_same_for_image_and_mask() -> None:
    """A mask drawn into the image by colour must still fit it after rotation, scale, crop and flip."""
    image, mask = shapes.draw_scene(0, 60, 80)
    image[mask == 1] = (255, 0, 0)
    image[(mask != 1)] = (0, 0, 255)
    config = Config.model_validate({"augment": {"size": 64, "scale": (0.8, 1.2), "rotate": 90.0}})
    nothing = np.zeros((0, 5), np.float32), np.zeros((0, 3), np.float32)
    example = Example(Info("a", 60, 80, (1,), "g", 0, True), image, mask, None, None, *nothing, None)
    view = SegmentationView(config.augment, (0.0,) * 3, (1.0,) * 3, 4)  # type: ignore[arg-type]
    for seed in range(8):
        item: Item = view(example, np.random.default_rng(seed))
        red, known = item["rgb"][0] > 128, item["mask"] != 255
        assert set(item["mask"].unique().tolist()) <= set(np.unique(mask).tolist()) | {255}, "masks are never blended"
        assert ((item["mask"] == 1)[known] == red[known]).float().mean() > 0.97


def trained(folder: Path, **settings: Any) -> Any:
    data = DataConfig(samples=(shapes.write_scenes(folder / "samples", 6, group_size=3),))
    runtime = {"device": "cpu", "threads": 1, "progress": False}
    full = {**TINY, "steps": 1, "precision": "fp32", "runtime": runtime, **settings}
    config = TrainConfig(trainer="dcfm", label_space=shapes.SPACE, data=data, val=data, settings=full)
    return load_artifact(train(config, str(folder / "run"), str(folder / "artifact")), "cpu")


def test_a_prediction_depends_on_its_group_only(tmp_path: Path) -> None:
    predictor = trained(tmp_path)
    images = [shapes.draw_scene(n, 40 + 4 * n, 60)[0] for n in range(5)]
    together = predictor.predict(images, groups=["a", "b", "a", "b", "a"])
    alone = predictor.predict_group([images[0], images[2], images[4]])
    for found, one in zip([together[0], together[2], together[4]], alone, strict=True):
        np.testing.assert_array_equal(found.logits[1], one.logits)
    other = predictor.predict_group([images[0], images[1], images[3]])
    assert not np.array_equal(other[0].logits, alone[0].logits), "another group, the same map"
    pieces = predictor.predict_group(images, predictor.config.model_copy(update={"batch": 2}))
    for a, b in zip(pieces, predictor.predict_group(images), strict=True):
        np.testing.assert_allclose(a.logits, b.logits, rtol=1e-3, atol=1e-3)
    assert predictor.predict_group([]) == []
    metrics = json.loads((tmp_path / "artifact" / "metrics.json").read_text())
    assert {"s", "max_e", "max_f", "mae", "images"} <= metrics.keys()


def test_plain_saliency_knows_no_group(tmp_path: Path) -> None:
    predictor = trained(tmp_path, parts="plain")
    images = [shapes.draw_scene(n)[0] for n in range(3)]
    for alone, together in zip(predictor.predict(images), predictor.predict(images, groups=[0, 0, 0]), strict=True):
        np.testing.assert_allclose(alone.logits, together.logits, rtol=1e-3, atol=1e-4)
    assert predictor.predict_group(images)[0].agreement == 1


def test_a_space_without_background_is_refused(tmp_path: Path) -> None:
    space = LabelSpace(name="bare", classes=shapes.SPACE.classes, background_id=None)
    data = DataConfig(samples=(shapes.write_scenes(tmp_path / "samples", 3, group_size=3),))
    config = TrainConfig(trainer="dcfm", label_space=space, data=data, settings=TINY)
    with pytest.raises(ValueError, match="needs a background id"):
        train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))


def test_64_images_go_through_in_one_pass_within_4_gigabytes() -> None:
    model = network(augment={"size": 128}, channels=128, width=32)
    config = PredictConfig(fit="squash", size=128)
    predictor = GroupPredictor(model, shapes.SPACE, *IMAGENET, config, torch.device("cpu"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = predictor.predict_group([np.full((60, 80, 3), 3 * n, np.uint8) for n in range(64)])
    assert len(found) == 64
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20 < 4
