"""What a step of `dfr` adds up, what its optimiser holds, and each option of the kernel to the last digit."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskmill.data_contracts import IGNORE
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.dfr import Config
from maskmill.trainers.dfr.consistency import affinity_means, merged_targets, near_pairs
from maskmill.trainers.dfr.kernel import KernelRule, mean_mass
from maskmill.trainers.dfr.model import FeatureConsistencyHead
from maskmill.trainers.engine import DataConfig, ParamGroup, param_groups, read_artifact
from maskmill.trainers.scribbles import ScribbleRun
from maskmill.trainers.supervised.losses import dice_loss
from maskmill.vision.windows import spatial_kernel
from tests.trainers import shapes
from tests.trainers.scribble_data import write_scribbled
from tests.trainers.test_dfr import SETTINGS

torch.set_num_threads(1)

STEPS = 6
module: Any = importlib.import_module("maskmill.trainers.dfr.train")  # the package gives its function this name
Learn = tuple[float, dict[str, float]]


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[list[Learn], list[int], Config]:
    """Loss and notes of every step, and at which steps predictions joined the head's targets."""
    learnt: list[Learn] = []
    merged: list[int] = []
    learn: Callable[..., None] = ScribbleRun.learn

    def noted(self: ScribbleRun, loss: Tensor, **notes: Any) -> None:
        learnt.append((float(loss.detach()), {key: float(value) for key, value in notes.items()}))
        learn(self, loss, **notes)

    def merging(*args: Any) -> Tensor:
        merged.append(len(learnt))
        return merged_targets(*args)

    monkeypatch.setattr(ScribbleRun, "learn", noted)
    monkeypatch.setattr(module, "merged_targets", merging)
    runtime = {"device": "cpu", "threads": 1, "progress": False}
    settings = {**SETTINGS, "steps": STEPS, "batch": 2, "precision": "fp32", "runtime": runtime, **changes}
    data = write_scribbled(folder / "data", 4, shapes.SPACE)
    if changes.get("supervision") == "masks":
        data = DataConfig(samples=data.samples)
    config = TrainConfig(trainer="dfr", label_space=shapes.SPACE, data=data, settings=settings)
    train(config, str(folder / "run"), str(folder / "artifact"))
    return learnt, merged, Config.model_validate(settings)


def test_a_step_is_the_sum_of_its_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"reg_weight": 2.0, "fc_weight": 0.5, "reg_delay": 0.2, "reg_ramp": 0.7}
    learnt, merged, config = run(tmp_path, monkeypatch, **given)
    for step, (loss, notes) in enumerate(learnt):
        weight = config.reg_at(step)
        assert ("regulariser" in notes) == (weight > 0)
        assert notes["consistency"] > 0
        expected = notes["pce"] + config.fc_weight * notes["consistency"] + weight * notes.get("regulariser", 0.0)
        assert loss == pytest.approx(expected, rel=1e-5)
    assert [config.reg_at(step) for step in range(STEPS)] == pytest.approx(
        [0, 0, 4 / 15 * 2, 0.6 * 2, 14 / 15 * 2, 2.0]
    )
    assert learnt[4][1]["kernel_mass"] > 0
    assert merged == [3, 4, 5], "predictions are targets from half of the steps on"


def test_masks_add_dice_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def noted(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(float(dice_loss(logits, labels).detach()))
        return dice_loss(logits, labels)

    monkeypatch.setattr(module, "dice_loss", noted)
    learnt, _, _ = run(tmp_path, monkeypatch, supervision="masks", mask_dice=0.5, steps=2)
    for (loss, notes), unlike in zip(learnt, seen, strict=True):
        assert loss == pytest.approx(notes["pce"] + 0.5 * unlike, rel=1e-5)
        assert set(notes) == {"pce"}


def parts() -> dict[str, nn.Module]:
    model: Any = nn.Module()
    model.encoder, model.decoder = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
    return {"model": model, "head": FeatureConsistencyHead([4] * 4, (2, 2, 2, 2), 4)}


def test_the_head_is_in_the_optimiser_and_the_encoder_has_its_own_rate() -> None:
    modules = parts()
    groups = module.optimised(Config(encoder_lr_factor=0.25), modules)
    owner = {id(p): group for group in groups for p in group.params}
    assert {id(p) for m in modules.values() for p in m.parameters()} == set(owner)
    slow = {id(p) for p in modules["model"].get_submodule("encoder").parameters()}
    assert {key for key, group in owner.items() if group.lr_factor == 0.25} == slow


def test_the_head_learns_and_is_left_out_of_the_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[str, dict[str, Any]] = {}
    real = module.optimised

    def kept(config: Config, modules: dict[str, nn.Module]) -> list[ParamGroup]:
        held["modules"] = modules
        held["before"] = {name: p.detach().clone() for name, p in modules["head"].named_parameters()}
        groups: list[ParamGroup] = real(config, modules)
        return groups

    monkeypatch.setattr(module, "optimised", kept)
    run(tmp_path, monkeypatch, steps=2, reg_delay=0.0)
    moved = dict(held["modules"]["head"].named_parameters())
    assert all(not torch.equal(moved[name], before) for name, before in held["before"].items())
    assert not any("head." in name.split("/")[1] for name in read_artifact(str(tmp_path / "artifact")).tensors)


def test_position_tables_norms_and_biases_are_not_decayed() -> None:
    """Swin's relative position tables have two axes: their names say what they are."""
    block: Any = nn.Module()
    block.attn = nn.Module()
    block.attn.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
    block.pos_embed = nn.Parameter(torch.zeros(1, 4, 2))
    block.norm, block.linear = nn.LayerNorm(2), nn.Linear(2, 2)
    decayed, spared = param_groups(block, 0.5, decay_norms=False)
    assert [id(p) for p in decayed.params] == [id(block.linear.weight)]
    assert len(spared.params) == 5
    assert (decayed.weight_decay, spared.weight_decay, spared.lr_factor) == (None, 0.0, 0.5)
    assert len(param_groups(block)) == 1


# --- the kernel, pair by pair

RADIUS = 1
VALID = torch.ones(1, 3, 3, dtype=torch.bool)


def stacks() -> tuple[Tensor, Tensor]:
    """Static kernel and distances (1, 4, 3, 3); pairs that leave the image hold 0."""
    generator = torch.Generator().manual_seed(0)
    static, far = (torch.rand(1, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    inside = spatial_kernel(torch.zeros(1, 1, 3, 3, dtype=torch.float64), RADIUS, 1.0) > 0
    return static * inside, far * inside


def made(combination: Any, **changes: Any) -> Tensor:
    static, distances = stacks()
    return KernelRule(combination, RADIUS, 2.0, 0.1, **changes)(static, distances, VALID)


def test_each_combination_by_its_formula() -> None:
    static, distances = stacks()
    torch.testing.assert_close(made("static"), static)
    torch.testing.assert_close(made("product", gamma=3.0), static * torch.exp(-3 * distances))
    spatial = spatial_kernel(static[:, :1], RADIUS, 2.0).expand_as(static)
    expected = 0.3 * static + 0.9 * spatial * torch.exp(-2 * distances)
    torch.testing.assert_close(made("sum", gamma=2.0, static_share=0.3, deep_share=0.9), expected)
    halved = made("sum")
    torch.testing.assert_close(halved, 0.5 * static + 0.5 * spatial * torch.exp(-distances))


def test_mass_is_the_mean_over_pixels_and_divides_only_when_asked() -> None:
    static, _ = stacks()
    mass = mean_mass(static, VALID)
    assert float(mass) == pytest.approx(2 * float(static.sum()) / 9)
    torch.testing.assert_close(made("static", mass_normalised=True), static / mass)
    gone = KernelRule("static", RADIUS, 2.0, 0.1, mass_normalised=True)(static * 0, None, VALID)
    assert not gone.any()
    assert float(mean_mass(static, torch.zeros_like(VALID))) == pytest.approx(2 * float(static.sum()))


def test_gradients_stay_out_of_the_kernel_unless_it_is_let_go() -> None:
    static, distances = stacks()
    for detach in (True, False):
        free = distances.clone().requires_grad_()
        kernel = KernelRule("product", RADIUS, 2.0, 0.1, detach=detach)(static, free, VALID)
        assert kernel.requires_grad != detach
    assert KernelRule("product", RADIUS, 2.0, 0.1).detach
    with pytest.raises(ValueError, match="expected distances of an embedding"):
        KernelRule("sum", RADIUS, 2.0, 0.1)(static, None, VALID)


def test_affinity_means_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 1]]])
    pairs = near_pairs(labels, 1, 0)
    distances = torch.zeros(1, 4, 1, 3)
    distances[0, 0, 0] = torch.tensor([0.5, 2.0, 0.0])  # of the offset to the right: same, different, outside
    within, across = affinity_means(distances, pairs)
    assert float(within) == pytest.approx(float(torch.exp(torch.tensor(-0.5))))
    assert float(across) == pytest.approx(float(torch.exp(torch.tensor(-2.0))))
    none = affinity_means(distances, near_pairs(torch.full((1, 1, 3), IGNORE), 1, 0))
    assert [float(v) for v in none] == [0, 0]


def test_sure_predictions_reach_the_threshold() -> None:
    strokes = torch.tensor([[[IGNORE, IGNORE, 2]]])
    p = torch.tensor([[[[0.9, 0.5, 0.9]], [[0.1, 0.5, 0.1]]]])
    assert merged_targets(strokes, p, 0.9)[0, 0].tolist() == [0, IGNORE, 2]


def test_levels_reach_the_grid_without_corners_on_corners() -> None:
    """A ramp of two cells on four: 0, 0.25, 0.75, 1 — and 0, 1/3, 2/3, 1 with corners on corners."""
    head: Any = FeatureConsistencyHead([1], (1,), 1)
    seen: list[Tensor] = []
    head.mix.register_forward_hook(lambda m, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        head.reduce[0].weight.fill_(1.0)
        head.reduce[0].bias.zero_()
        head([torch.tensor([[[[0.0, 1.0]]]])], (1, 4))
    torch.testing.assert_close(seen[0][0, 0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))
    assert head.out.weight.abs().max() > 1, "first distances lie well above 0"
    assert not head.out.bias.any()
