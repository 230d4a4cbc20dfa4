"""Affinity network: conformance, and the card's properties of affinities, pair losses and the gated regulariser."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from maskmill.data_contracts import IGNORE, PSEUDO_LABEL, Uint8Array, encode_mask, foreground_ids
from maskmill.trainers.affinity import Config
from maskmill.trainers.affinity.losses import class_loss, gated_loss, pair_kinds, pair_loss
from maskmill.trainers.affinity.model import AffinityNet
from maskmill.trainers.affinity.pairs import colour_kernel, feature_distance, half_offsets, pairs_inside, to_window
from maskmill.trainers.engine import DataConfig
from tests.trainers import shapes
from tests.trainers.conformance import TrainerConformance

torch.set_num_threads(1)


def write_seeds(folder: Path, samples: list[shapes.Row]) -> str:
    """True masks with every third column undecided: what a seed map looks like to the trainer."""
    rows: list[shapes.Row] = []
    for row in samples:
        number = int(str(row["provenance"]["source_path"]).removesuffix(".png"))  # type: ignore[index]
        _, mask = shapes.draw_scene(number)
        mask[:, ::3] = IGNORE
        ids = foreground_ids(mask, shapes.SPACE)
        png = {"bytes": encode_mask(mask), "path": None}
        rows.append(
            {"sample_id": row["sample_id"], "mask": png, "class_ids": ids, "labeler": "x", "labeler_version": "1"}
        )
    return shapes.write_rows(folder, rows, PSEUDO_LABEL)


class TestAffinity(TrainerConformance):
    name = "affinity"
    settings: ClassVar[dict[str, Any]] = {
        "weights": "random",
        "widths": (4, 4, 4),
        "augment": {"size": 32},
        "radius": 2,
    }

    def write_data(self, folder: Path, shards: int) -> DataConfig:
        rows = [shapes.sample_row(number) for number in range(6)]
        samples = shapes.write_rows(folder / "samples", rows, shapes.SAMPLE, shards)
        return DataConfig(samples=(samples,), labels=(write_seeds(folder / "seeds", rows),))

    def check_prediction(self, predictor: Any, images: list[Uint8Array]) -> list[np.ndarray[Any, Any]]:
        graphs = predictor.predict(images)
        assert len(graphs) == len(images)
        for image, graph in zip(images, graphs, strict=True):
            grid = tuple(-(-side // 8) for side in image.shape[:2])
            assert graph.grid == grid == tuple(graph.affinity.shape[1:]) == tuple(graph.prior.shape[1:])
            assert graph.radius == 2
            assert (graph.nodes >= 0).all()
            assert torch.isfinite(graph.nodes).all()
            assert graph.affinity.min() >= 0
            assert graph.affinity.max() <= 1
        return [torch.cat([g.nodes.flatten(), g.affinity.flatten()]).numpy() for g in graphs]


def window(features: Tensor, radius: int) -> Tensor:
    inside = pairs_inside(torch.ones_like(features[:, 0], dtype=torch.bool), radius)
    return to_window(torch.exp(-feature_distance(features, radius)) * inside, radius, 1.0)


def reference(features: Tensor, radius: int) -> Tensor:
    """a_ij by loops over cells and neighbours."""
    _, height, width = features.shape
    side = 2 * radius + 1
    out = torch.zeros(side * side, height, width)
    for y in range(height):
        for x in range(width):
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        distance = (features[:, y, x] - features[:, y + dy, x + dx]).abs().mean()
                        out[(dy + radius) * side + dx + radius, y, x] = torch.exp(-distance)
    return out


@pytest.mark.parametrize(("height", "width", "radius"), [(5, 7, 2), (3, 2, 4), (1, 6, 1)])
def test_affinity_equals_a_loop_and_is_symmetric(height: int, width: int, radius: int) -> None:
    features = torch.randn(1, 6, height, width)
    found = window(features, radius)[0]
    torch.testing.assert_close(found, reference(features[0], radius))
    side = 2 * radius + 1
    assert (found[side * side // 2] == 1).all()
    for n, (dy, dx) in enumerate((n // side - radius, n % side - radius) for n in range(side * side)):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    assert 0 < found[n, y, x] <= 1
                    assert found[n, y, x] == found[side * side - 1 - n, y + dy, x + dx]
                else:
                    assert found[n, y, x] == 0


def test_constant_features_are_wholly_alike() -> None:
    found = window(torch.full((1, 3, 6, 6), 0.7), 2)[0]
    inside = window(torch.zeros(1, 1, 6, 6), 2)[0]
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(found, inside)


def test_gradients_of_the_losses_match_finite_differences() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([[[0, 0, 1, 1], [0, 2, 1, IGNORE], [0, 2, 2, 1]]])
    features = torch.rand(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    kernel = colour_kernel(torch.rand(1, 3, 3, 4, dtype=torch.float64) / 5, 2)
    inside = pairs_inside(torch.tensor([[[True] * 4, [True] * 4, [True, True, False, False]]]), 2)
    assert torch.autograd.gradcheck(lambda f: pair_loss(feature_distance(f, 2), labels, 2), (features,))
    assert torch.autograd.gradcheck(lambda f: gated_loss(feature_distance(f, 2), kernel, inside), (features,))


def test_pair_kinds_follow_the_labels() -> None:
    labels = torch.tensor([[[0, 0, 1], [IGNORE, 1, 2]]])
    behind, same, other = pair_kinds(labels, 1, 0)
    at = {offset: number for number, offset in enumerate(half_offsets(1))}
    assert behind[0, at[0, 1], 0, 0]
    assert same[0, at[1, -1], 0, 2], "class 1 above and below left"
    assert other[0, at[0, 1], 0, 1]
    assert other[0, at[0, 1], 1, 1], "two foreground classes differ as well"
    assert not (behind | same | other)[0, :, 1, 0].any(), "255 makes no pair"
    assert (behind.int() + same.int() + other.int()).max() == 1
    assert int((behind | same | other).sum()) == 8


def test_pair_loss_weighs_its_kinds_and_survives_their_absence() -> None:
    distance = torch.full((1, 4, 2, 3), 0.3)
    a = float(np.exp(-0.3))
    mixed = torch.tensor([[[0, 0, 1], [IGNORE, 1, 2]]])
    expected = -np.log(a) / 4 - np.log(a) / 4 - np.log(1 - a) / 2
    assert float(pair_loss(distance, mixed, 1)) == pytest.approx(expected, rel=1e-3)
    assert float(pair_loss(distance, torch.zeros(1, 2, 3).long(), 1)) == pytest.approx(-np.log(a) / 4, rel=1e-3)
    assert float(pair_loss(distance, torch.full((1, 2, 3), IGNORE), 1)) == 0


def test_gated_loss_is_the_kernels_weighted_distance_without_padding() -> None:
    torch.manual_seed(1)
    rgb, features = torch.rand(1, 3, 3, 3) / 4, torch.rand(1, 2, 3, 3)
    valid = torch.ones(1, 3, 3, dtype=torch.bool)
    valid[0, 2, 2] = False
    total, count = 0.0, 0
    cells = [(y, x) for y in range(3) for x in range(3) if valid[0, y, x]]
    for i in cells:
        for j in cells:
            if i != j and max(abs(i[0] - j[0]), abs(i[1] - j[1])) <= 1:
                colour = float((rgb[0, :, i[0], i[1]] - rgb[0, :, j[0], j[1]]).square().sum())
                place = (i[0] - j[0]) ** 2 + (i[1] - j[1]) ** 2
                k = np.exp(-0.5 * (place / 36 + colour / 0.01))
                total += k * float((features[0, :, i[0], i[1]] - features[0, :, j[0], j[1]]).abs().mean())
                count += 1
    found = gated_loss(feature_distance(features, 1), colour_kernel(rgb, 1), pairs_inside(valid, 1))
    assert float(found) == pytest.approx(total / count, rel=1e-5)


def test_class_loss_weighs_a_class_by_the_root_of_its_cells() -> None:
    logits = torch.zeros(1, 3, 1, 11)
    logits[0, 1, 0, 10] = 5.0
    labels = torch.tensor([[[0] * 9 + [IGNORE, 1]]])
    own = float(-torch.tensor([0.0, 5.0, 0.0]).log_softmax(0)[1])
    assert float(class_loss(logits, labels)) == pytest.approx((3 * np.log(3) + own) / 4, rel=1e-4)
    assert float(class_loss(logits, torch.full_like(labels, IGNORE))) == 0


def test_a_frozen_encoder_is_asked_once_a_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    encode = AffinityNet.encode

    def counted(net: AffinityNet, images: Tensor) -> list[Tensor]:
        asked.append(len(images))
        return encode(net, images)

    monkeypatch.setattr(AffinityNet, "encode", counted)
    case = TestAffinity()
    config = case.run_config(case.write_data(tmp_path, 1))
    settings = {**config.settings, "steps": 12, "batch": 4, "views": 2}
    from maskmill.pipelines.stages.train import train

    train(config.model_copy(update={"settings": settings}), str(tmp_path / "run"), str(tmp_path / "artifact"))
    assert sum(asked) == 2 * 6, "two views of six samples, though 48 went through the head"
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert min(line["pairs"], line["gated"], line["classes"]) > 0
    assert line["loss"] == pytest.approx(line["pairs"] + 3 * line["gated"] + line["classes"], rel=1e-3)


def test_a_frozen_encoder_stays_and_its_norms_never_move() -> None:
    net = AffinityNet("tf_efficientnet_lite0", "random", (2, 2, 2), 2, frozen=True).train()
    before = {name: value.clone() for name, value in net.encoder.state_dict().items()}
    levels, embedding, logits = net(torch.rand(2, 3, 32, 40))
    (embedding.sum() + logits.sum()).backward()
    assert all(torch.equal(before[name], value) for name, value in net.encoder.state_dict().items())
    assert all(p.grad is None for p in net.encoder.parameters())
    assert {tuple(level.shape[2:]) for level in levels} == {(4, 5)}, "every level lies at stride 8"
    assert all((level >= 0).all() for level in levels)
    thawed = AffinityNet("tf_efficientnet_lite0", "random", (2, 2, 2), 2, frozen=False).train()
    thawed(torch.rand(1, 3, 32, 32))[1].sum().backward()
    assert any(p.grad is not None for p in thawed.encoder.parameters())
    assert thawed.head.training
    assert not thawed.encoder.training
    assert not thawed.eval().head.training


def test_what_is_given_is_laid_over_the_preset() -> None:
    config = Config(preset="faithful", lr=0.3, augment={"size": 64})
    assert (config.lr, config.augment.size, config.augment.hue) == (0.3, 64, 0.1)
    assert (Config().lr, Config(preset="faithful").lr) == (0.002, 0.1), "as the page says"


def test_parts_that_the_release_freezes_stay_as_they_are(tmp_path: Path) -> None:
    """A short faithful training: the stem and all norms keep their weights, late stages and the head learn."""
    case = TestAffinity()
    data = case.write_data(tmp_path, 1)
    small = {"preset": "faithful", "weights": "auto", "widths": (4, 4, 4), "steps": 2, "augment": {"size": 32}}
    config = case.run_config(data).model_copy(update={"settings": {**small, "radius": 2}})
    from maskmill.pipelines.stages.train import train
    from maskmill.trainers.affinity.train import build
    from maskmill.trainers.registry import load_artifact

    torch.manual_seed(0)
    before = build(Config(**small, radius=2), "auto", shapes.SPACE.size)
    predictor = load_artifact(train(config, str(tmp_path / "run"), str(tmp_path / "artifact")))
    start, end = dict(before.named_parameters()), dict(predictor.model.named_parameters())
    same = {name for name in start if torch.equal(start[name], end[name])}
    batch_norms = [name for name, part in before.named_modules() if isinstance(part, torch.nn.BatchNorm2d)]
    norms = {f"{name}.{kind}" for name in batch_norms for kind in ("weight", "bias")}
    assert norms <= same
    assert "encoder.conv_stem.weight" in same
    assert any(name.startswith("encoder.blocks") for name in set(start) - same)
    assert not any(name.startswith("encoder.blocks.0") for name in set(start) - same), "it has stride 2"
    assert {"head.mix.weight", "head.reduce.0.weight"} & same == set()
    graph = predictor.predict([shapes.draw_scene(0)[0]])[0]
    assert graph.prior.shape[0] == 0, "nothing was learnt of the classes"
    assert graph.nodes.shape[0] == sum(before.channels), "levels alone, no colours"


def test_crops_that_are_no_multiple_of_the_stride_are_refused(tmp_path: Path) -> None:
    case = TestAffinity()
    data = case.write_data(tmp_path, 1)
    config = case.run_config(data).model_copy(update={"settings": {"weights": "random", "augment": {"size": 36}}})
    from maskmill.pipelines.stages.train import train

    with pytest.raises(ValueError, match="multiple of 8"):
        train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
