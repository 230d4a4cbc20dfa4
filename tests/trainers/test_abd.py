"""abd: conformance in all hosts, losses and weights as published, gradients, views, mixing, teacher, presets."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from maskmill.data_contracts import IGNORE, SAMPLE
from maskmill.pipelines.stages.train import TrainConfig, plan_job, train
from maskmill.trainers.abd import Config
from maskmill.trainers.abd.hosts import (
    Networks,
    acts_on_labelled,
    bcp_step,
    consistency,
    cross_teaching_step,
    labelled_loss,
    teach,
    unlabelled_loss,
)
from maskmill.trainers.abd.losses import cross_entropy, cross_pseudo_loss, dice_loss, mixed_loss, ramp
from maskmill.trainers.abd.mixing import follow, keep_largest, largest_components, mix, paste_region
from maskmill.trainers.abd.networks import build_networks, freeze, hold, trim
from maskmill.trainers.abd.train import begin_self_training, ema, fuse, predict_config, split, teacher_steps
from maskmill.trainers.engine import (
    DataConfig,
    make_optimizer,
    param_groups,
    read_info,
)
from maskmill.trainers.registry import load_artifact
from maskmill.vision.segmenters import SegmenterConfig, build_segmenter
from tests.trainers import shapes
from tests.trainers.conformance import TrainerConformance

torch.set_num_threads(1)
CNN = {
    "architecture": "unet",
    "encoder": "lcnet_035",
    "weights": "random",
    "options": {"encoder_depth": 2, "decoder_channels": [16, 8]},
}
LITE = {"architecture": "unet", "options": {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}}
TRANSFORMER = {
    "architecture": "segformer",
    "encoder": "mit_b0",
    "weights": "random",
    "options": {"decoder_segmentation_channels": 16},
}
COMMON: dict[str, Any] = {
    "network": CNN,
    "partner": CNN,
    "augment": {"size": 32, "scale": (0.9, 1.2), "rotate": 10},
    "unlabelled_batch": 2,
    "labelled_groups": ["group 0"],
}


class AbdConformance(TrainerConformance):
    name = "abd"

    def write_data(self, folder: Path, shards: int) -> DataConfig:
        return DataConfig(samples=(shapes.write_scenes(folder / "samples", 6, shards=shards, group_size=2),))


class TestCrossTeaching(AbdConformance):
    settings: ClassVar = {**COMMON, "partner": {**CNN, "options": {"encoder_depth": 2, "decoder_channels": [8, 8]}}}


class TestBcp(AbdConformance):
    batch: ClassVar = 4
    settings: ClassVar = {**COMMON, "unlabelled_batch": 4, "host": "bcp", "coin": 0.5, "pretrain_share": 0.25}


def image_net(seed: int, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 3, padding=1))


def views(count: int, seed: int, size: int = 16, same: bool = False) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    weak = torch.randn(count, 3, size, size, generator=rng)
    strong = weak if same else weak + 0.5 * torch.randn(weak.shape, generator=rng)
    mask = torch.randint(0, 4, (count, size, size), generator=rng)
    return {
        "weak": weak,
        "strong": strong,
        "mask": mask,
        "mask_strong": mask,
        "hole": torch.zeros(count, size, size).bool(),
    }


def options(**changes: Any) -> Config:
    return Config.model_validate({"network": CNN, "partner": CNN, "augment": {"size": 16}, **changes})


def batch(same: bool = False, labelled: int = 4, unlabelled: int = 4) -> dict[str, Any]:
    return {"labelled": views(labelled, 1, same=same), "unlabelled": views(unlabelled, 2, same=same)}


# --- losses and weights


def test_ramp_and_weights_are_the_published_numbers() -> None:
    assert ramp(0, 30_000) == pytest.approx(np.exp(-5))
    assert ramp(29_999, 30_000) == pytest.approx(np.exp(-5 / 200**2))
    assert ramp(30_000, 30_000) == ramp(99_999, 30_000) == 1.0
    values = [ramp(step, 30_000) for step in range(0, 30_001, 50)]
    assert values == sorted(values)
    assert all(ramp(150 * k, 30_000) == ramp(150 * k + 149, 30_000) for k in range(200))
    for step, wanted in ((5_000, 0.0031), (10_000, 0.0106), (15_000, 0.0287), (20_000, 0.0571), (25_000, 0.0865)):
        assert 0.1 * ramp(step, 30_000) == pytest.approx(wanted, abs=5e-5)


def test_faithful_preset_switches_and_schedules() -> None:
    config = Config(preset="faithful")
    assert (config.batch, config.unlabelled_batch, config.steps, config.augment.size) == (8, 8, 30_000, 224)
    assert acts_on_labelled(config, 20_000)
    assert not acts_on_labelled(config, 20_001)
    assert config.inverse_weight == 2.0
    assert consistency(config, 0) == pytest.approx(0.1 * np.exp(-5))
    bcp = Config(preset="faithful_bcp")
    assert (bcp.steps, bcp.pretrain_steps, bcp.schedule, bcp.coin) == (40_000, 10_000, "constant", 0.5)
    assert consistency(bcp, 12_000) == 1.0
    assert not acts_on_labelled(bcp, 12_000)
    assert Config(preset="faithful", steps=10).steps == 10


def test_dice_by_hand_over_all_classes() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(0, 2, (2, 4, 4))
    p = logits.softmax(1)
    terms = []
    for c in range(3):
        y = (target == c).float()
        terms.append(1 - (2 * (p[:, c] * y).sum() + 1e-5) / (p[:, c].square().sum() + y.sum() + 1e-5))
    assert dice_loss(logits, target) == pytest.approx(float(sum(terms)) / 3, rel=1e-6)


def test_ignored_pixels_and_other_regions_do_not_count() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    region = torch.zeros(2, 4, 4, dtype=torch.bool)
    region[:, :2] = True
    other = logits.clone()
    other[:, :, 2:] += torch.randn(2, 3, 2, 4)
    hidden = target.masked_fill(~region, IGNORE)
    for loss in (dice_loss, cross_entropy):
        assert torch.equal(loss(logits, target, region), loss(other, target, region))
        assert torch.equal(loss(logits, hidden), loss(other, hidden))
        assert torch.allclose(loss(logits, target, region), loss(logits, hidden))
    quirk = dice_loss(logits, target, region, whole_background=True)
    assert not torch.allclose(quirk, dice_loss(other, target, region, whole_background=True))
    assert cross_entropy(logits, torch.full_like(target, IGNORE)) == 0


def test_mixed_loss_with_equal_labels_splits_into_regions() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6))
    outside = paste_region(6, 6, np.random.default_rng(0))
    regions = [outside.expand(2, 6, 6), ~outside.expand(2, 6, 6)]
    wanted = sum(
        w * 0.5 * (dice_loss(logits, label, r) + cross_entropy(logits, label, r))
        for w, r in zip((0.5, 1.0), regions, strict=True)
    )
    assert torch.allclose(mixed_loss(logits, label, label, outside, 0.5, 1.0), torch.as_tensor(wanted))


# --- hosts


def test_without_abd_it_is_plain_cross_teaching() -> None:
    config = options(
        strong_view=False, displace_labelled=False, displace_unlabelled=False, consistency=0.1, pretrain_share=0.0
    )
    networks, data = Networks(image_net(0), image_net(1)), batch(same=True)
    found = cross_teaching_step(networks, data, config, 700, np.random.default_rng(0), 0)
    x = torch.cat([data["labelled"]["weak"], data["unlabelled"]["weak"]])
    y = data["labelled"]["mask"]
    a, b = networks.pair[0](x), networks.pair[1](x)
    wanted = sum(0.5 * (nn.functional.cross_entropy(o[:4], y) + dice_loss(o[:4], y)) for o in (a, b))
    crossed = dice_loss(a[4:], b[4:].argmax(1)) + dice_loss(b[4:], a[4:].argmax(1))
    wanted = wanted + 0.1 * ramp(700, config.steps) * crossed
    assert torch.allclose(found.loss, torch.as_tensor(wanted), rtol=1e-6)


@pytest.mark.parametrize("unlabelled", [2, 4, 6])
def test_all_terms_add_up_and_batches_may_differ_in_size(unlabelled: int) -> None:
    config = options(unlabelled_batch=unlabelled, consistency=0.3, inverse_weight=2.0)
    networks = Networks(image_net(0), image_net(1))
    found = cross_teaching_step(networks, batch(unlabelled=unlabelled), config, 500, np.random.default_rng(0), 0)
    n = {name: float(torch.as_tensor(value).detach()) for name, value in found.notes.items()}
    wanted = n["supervised"] + 2 * n["inverse"] + n["consistency"] * (n["cross"] + n["reliable"])
    assert float(found.loss.detach()) == pytest.approx(wanted, rel=1e-5)
    assert 0 <= n["lent_foreground"] <= 1
    assert n["in_hole"] == 0


def test_each_network_learns_from_the_other_but_not_through_it() -> None:
    config = options()
    networks, data = Networks(image_net(0), image_net(1)), views(4, 3)
    first, second = networks.pair
    out = first(data["weak"]), second(data["strong"])
    cross_pseudo_loss(out[0], out[1]).backward()
    assert all(p.grad is not None for p in first.parameters())
    assert all(p.grad is None for p in second.parameters())
    first.zero_grad()
    with torch.no_grad():
        scores = first(data["weak"]), second(data["strong"])
    loss, _ = unlabelled_loss(networks, data, *scores, config, np.random.default_rng(0), 0)
    loss.backward()
    assert all(p.grad is not None for net in networks.pair for p in net.parameters())


def test_inverse_displacement_without_a_coin_is_the_supervised_loss() -> None:
    networks, data = Networks(image_net(0), image_net(1)), views(4, 3)
    logits = networks.first(data["weak"]), networks.pair[1](data["strong"])
    found = labelled_loss(networks, data, *logits, options(inverse_probability=0.0), np.random.default_rng(0))
    x, y = torch.cat([data["weak"], data["strong"]]), torch.cat([data["mask"], data["mask_strong"]])
    wanted = sum(0.5 * (cross_entropy(net(x), y) + dice_loss(net(x), y)) for net in networks.pair)
    assert torch.allclose(found, torch.as_tensor(wanted), rtol=1e-6)
    acted = labelled_loss(networks, data, *logits, options(inverse_probability=1.0), np.random.default_rng(0))
    assert not torch.allclose(found, acted)


def test_bcp_without_a_second_network_is_the_plain_host() -> None:
    config = options(host="bcp", strong_view=False, displace_labelled=False, displace_unlabelled=False)
    assert not config.two_networks
    student, teacher, data = image_net(0), image_net(5), batch()
    found = bcp_step(Networks(student, None, teacher), data, config, 0, np.random.default_rng(4), 0)
    outside = paste_region(16, 16, np.random.default_rng(4))
    known, unknown = data["labelled"], data["unlabelled"]
    pseudo = largest_components(teacher(unknown["weak"]).argmax(1))
    out = student(mix(unknown["weak"][:2], known["weak"][:2], outside))
    into = student(mix(known["weak"][2:], unknown["weak"][2:], outside))
    wanted = mixed_loss(out, pseudo[:2], known["mask"][:2], outside, 0.5, 1.0)
    wanted = wanted + mixed_loss(into, known["mask"][2:], pseudo[2:], outside, 1.0, 0.5)
    assert torch.allclose(found.loss, wanted, rtol=1e-5)


def test_bcp_with_both_displacements_logs_its_terms() -> None:
    config = options(host="bcp", ramp=False, consistency=1.0)
    networks = Networks(image_net(0), image_net(1), image_net(2))
    notes = bcp_step(networks, batch(), config, 500, np.random.default_rng(0), 0).notes
    assert {"bcp", "cross", "reliable", "inverse", "in_hole"} <= notes.keys()


# --- mixing and teacher


def test_pasted_region_is_two_thirds_wide_and_inside() -> None:
    for seed in range(20):
        outside = paste_region(256, 96, np.random.default_rng(seed))
        rows, columns = (~outside).any(1), (~outside).any(0)
        assert (int(rows.sum()), int(columns.sum())) == (170, 64)
        assert int((~outside).sum()) == 170 * 64


def test_only_the_largest_blob_of_each_class_stays() -> None:
    labels = np.zeros((12, 12), np.uint8)
    labels[1:4, 1:4], labels[8:10, 8:10], labels[0, 11], labels[6, 0:3] = 1, 1, 2, 2
    cleaned = keep_largest(labels)
    wanted = labels.copy()
    wanted[8:10, 8:10], wanted[0, 11] = 0, 0
    assert np.array_equal(cleaned, wanted)
    labels[4, 4] = 1  # touches by a corner
    assert keep_largest(labels)[4, 4] == 1
    assert torch.equal(largest_components(torch.from_numpy(wanted[None]).long()), torch.from_numpy(wanted[None]).long())


def test_teacher_follows_student_one_with_its_statistics() -> None:
    teacher, student = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    student(torch.randn(4, 3, 5, 5))
    student.weight.data.fill_(3.0)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    follow(teacher, student, 0.99)
    for name, value in teacher.state_dict().items():
        new = student.state_dict()[name]
        wanted = new if name == "num_batches_tracked" else 0.99 * before[name] + 0.01 * new
        assert torch.allclose(value.float(), wanted.float())
    assert ema(options(ema=0.99, ema_warm_up=False), 0) == 0.99
    assert ema(options(ema=0.99), 0) == 0.5
    assert ema(options(ema=0.99), 10_000) == 0.99


def test_teacher_gives_no_gradient_and_keeps_its_mode() -> None:
    teacher = nn.Sequential(image_net(0), nn.BatchNorm2d(4)).train()
    statistics = teacher[1].running_mean.clone()  # type: ignore[union-attr,operator]
    labels = teach(teacher, views(2, 0)["weak"], options(), 0)
    assert teacher.training
    assert torch.equal(teacher[1].running_mean, statistics)  # type: ignore[arg-type]
    assert labels.dtype == torch.int64
    teach(teacher, views(2, 0)["weak"], options(teacher_mode="train"), 0)
    assert not torch.equal(teacher[1].running_mean, statistics)  # type: ignore[arg-type]


def test_second_phase_begins_with_copies_and_the_same_optimiser_state() -> None:
    config = options(host="bcp", teacher_start="student")
    networks = build_networks(config, 4)
    assert networks.second is not None
    assert networks.teacher is not None
    optimizers = {name: make_optimizer(config, getattr(networks, name).parameters()) for name in ("first", "second")}
    networks.first(torch.randn(2, 3, 32, 32)).mean().backward()
    optimizers["first"].step()
    begin_self_training(config, networks, optimizers)
    for other in (networks.second, networks.teacher):
        assert all(
            torch.equal(a, b)
            for a, b in zip(networks.first.state_dict().values(), other.state_dict().values(), strict=True)
        )
    own, copied = (list(optimizers[name].state.values()) for name in ("first", "second"))
    assert all(torch.equal(a["exp_avg"], b["exp_avg"]) for a, b in zip(own, copied, strict=True))
    assert own[0]["exp_avg"].data_ptr() != copied[0]["exp_avg"].data_ptr()
    assert [teacher_steps(config, step) for step in (0, 299, 300, 301)] == [None, None, 0, 1]
    averaged = options(host="bcp", teacher_start="average")
    assert [teacher_steps(averaged, step) for step in (0, 300)] == [0, 300]
    old = [value.clone() for value in networks.teacher.state_dict().values()]
    networks.first.state_dict()["segmentation_head.0.bias"].add_(1.0)
    begin_self_training(averaged, networks, optimizers)
    assert all(torch.equal(a, b) for a, b in zip(old, networks.teacher.state_dict().values(), strict=True))
    different = build_networks(options(host="bcp", students="different"), 4)
    assert any(
        not torch.equal(a, b) for a, b in zip(different.first.parameters(), different.pair[1].parameters(), strict=True)
    )


def test_prediction_runs_at_the_middle_scale_of_training() -> None:
    networks = build_networks(options(augment={"size": 32}), 4)
    config = options(augment={"size": 32, "scale": (1.0, 1.44)}, displace_labelled=False)
    found = predict_config(config, networks)
    assert (found.size, found.fit, found.multiple) == (round(32 * 1.2), "short", 4)
    assert predict_config(Config(preset="faithful"), networks).size == 224


# --- networks


def test_frozen_stages_and_depthwise_filters_stay_and_the_rest_learns() -> None:
    frozen = {
        **{"network": LITE, "partner": {**LITE, "weights": "random"}, "augment": {"size": 32}},
        **{"frozen_stages": 2, "frozen_depthwise": True},
    }
    config = options(**frozen)
    networks = build_networks(config, 4)
    first, second = networks.pair
    assert all(p.requires_grad for p in second.parameters()), "random weights learn, all of them"
    first.train()
    hold(config, first, None)
    before = {name: value.clone() for name, value in first.state_dict().items()}
    optimizer = make_optimizer(config, param_groups(first))
    fuse(optimizer)
    first(torch.randn(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    held = ("encoder.model.conv_stem", "encoder.model.bn1", "encoder.model.blocks.0")
    for name, value in first.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        depthwise = name.startswith("encoder.") and name.endswith("conv_dw.weight")
        assert torch.equal(value, before[name]) == (name.startswith(held) or depthwise), name
    with pytest.raises(
        ValueError, match="expected an encoder of timm's EfficientNet kind, found one without conv_stem"
    ):
        freeze(build_segmenter(SegmenterConfig(encoder="resnet10t", weights="random"), 4), 1, depthwise=False)


def test_fused_adam_goes_on_as_the_plain_one() -> None:
    weights = [nn.Parameter(torch.randn(3, 4)) for _ in range(2)]
    weights[1].data.copy_(weights[0].data)
    plain, fused = (make_optimizer(options(), [weight]) for weight in weights)
    fuse(fused)
    for step in range(5):
        for weight, optimizer in zip(weights, (plain, fused), strict=True):
            weight.grad = torch.full_like(weight, 0.1 * step - 0.2)
            optimizer.step()
    assert torch.allclose(weights[0], weights[1], atol=1e-6)
    sgd = torch.optim.SGD([weights[0]])
    fuse(sgd)
    assert not sgd.param_groups[0].get("fused")


# --- data


def test_masks_outside_the_labelled_groups_change_nothing(tmp_path: Path) -> None:
    """The masks of unlabelled groups are never used: whatever they hold, the weights are the same."""
    rows = [shapes.sample_row(n, group=f"group {n // 2}", index=n % 2) for n in range(6)]
    bare = [{**row, "mask": None} if row["group"] != "group 0" else row for row in rows]
    settings = {**COMMON, "steps": 2, "batch": 2, "runtime": {"threads": 1, "progress": False}}
    found = []
    for name, given in (("full", rows), ("bare", bare)):
        data = DataConfig(samples=(shapes.write_rows(tmp_path / name, given, SAMPLE),))
        config = TrainConfig(trainer="abd", label_space=shapes.SPACE, data=data, settings=settings)
        path = train(config, str(tmp_path / f"{name}-run"), str(tmp_path / f"{name}-artifact"))
        found.append(read_info(path))
    assert found[0].weights == found[1].weights
    assert found[0].model["labelled_groups"] == ["group 0"]
    predictor = load_artifact(str(tmp_path / "full-artifact"), "cpu")
    assert predictor.labelled_groups == ("group 0",)
    image = shapes.draw_scene(9)[0]
    one, both = predictor.predict([image])[0], predictor.predict_both([image])[0]
    assert one.labels.shape == both.labels.shape
    assert np.allclose(both.probabilities.sum(0), 1, atol=1e-5)
    assert not np.allclose(one.probabilities, both.probabilities)


def test_groups_that_are_not_there_and_nothing_unlabelled_are_refused(tmp_path: Path) -> None:
    samples = shapes.write_scenes(tmp_path / "samples", 4, group_size=2)
    config = TrainConfig(trainer="abd", label_space=shapes.SPACE, data=DataConfig(samples=(samples,)))
    data = plan_job(config, str(tmp_path / "run"), str(tmp_path / "out")).data
    with pytest.raises(ValueError, match=r"none called patient9; there are group 0, group 1"):
        split(data, options(labelled_groups=("patient9",)))
    with pytest.raises(ValueError, match="expected unlabelled samples beside the 4 labelled ones"):
        split(data, options())
    labelled, unlabelled = split(data, options(labelled_groups=("group 1",)))
    assert {info.group for info in labelled.infos} == {"group 1"}
    assert {info.group for info in unlabelled.infos} == {"group 0"}
    assert all(unlabelled.example(i).mask is None for i in range(len(unlabelled)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"size": 30}}, "expected a multiple of grid=4, found 30"),
        ({"candidates": 16}, "expected fewer than the 16 patches, found 16"),
        ({"host": "bcp", "batch": 3, "unlabelled_batch": 3}, "an even number, found 3 and 3"),
        ({"host": "bcp", "partner": TRANSFORMER}, "students: same needs network = partner"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        options(**changes)


def test_stages_that_no_decoder_reads_are_dropped_and_change_nothing() -> None:
    torch.manual_seed(0)
    whole = build_segmenter(SegmenterConfig.model_validate(CNN), 4).eval()
    weights = sum(p.numel() for p in whole.parameters())
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = whole(image)
        after = trim(whole)(image)
    assert torch.equal(before, after)
    assert sum(p.numel() for p in whole.parameters()) < weights / 2
    assert trim(image_net(0)) is not None, "networks of other kinds stay as they are"


def test_a_transformer_may_be_the_partner(tmp_path: Path) -> None:
    config = options(partner=TRANSFORMER, augment={"size": 32})
    networks = build_networks(config, 4)
    assert networks.pair[1](torch.randn(1, 3, 32, 32)).shape == (1, 4, 32, 32)
    with pytest.raises(
        ValueError, match=r"augment.size: expected a multiple of 32 for the networks, found 16; take 32"
    ):
        build_networks(options(partner=TRANSFORMER), 4)
