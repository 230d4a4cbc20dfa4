"""The trainer dfr: conformance, the kernel's claims in miniature, the head's collapse and its cure, and settings."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from maskmill.data_contracts import IGNORE, SAMPLE
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.dfr import Config
from maskmill.trainers.dfr.consistency import (
    PairSets,
    affinity_means,
    draw_labelled,
    long_pair_loss,
    merged_targets,
    near_pairs,
    pair_loss,
    smoothness,
)
from maskmill.trainers.dfr.kernel import KernelRule
from maskmill.trainers.dfr.model import FeatureConsistencyHead, level_channels, segment
from maskmill.trainers.dfr.train import Grid, Regulariser
from maskmill.trainers.engine import DataConfig, read_artifact
from maskmill.trainers.scribbles import partial_ce
from maskmill.vision.segmenters import SegmenterConfig, build_segmenter
from maskmill.vision.windows import colour_kernel, feature_distances, potts_energy
from tests.trainers import shapes
from tests.trainers.conformance import TrainerConformance
from tests.trainers.scribble_data import write_scribbled

TINY: dict[str, Any] = {
    "architecture": "fpn",
    "encoder": "mobilenetv3_small_050",
    "weights": "random",
    "options": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
}
SETTINGS: dict[str, Any] = {
    "segmenter": TINY,
    "augment": {"size": 32, "brightness": 0.1},
    "reg_delay": 0.0,
    "target_start": 0.5,
    "target_threshold": 0.3,
    "long_pairs": 16,
    "radius": 2,
    "pair_radius": 2,
    "head_dim": 8,
    "head_widths": (4, 4, 8, 8),
}


class TestDfr(TrainerConformance):
    name = "dfr"
    settings: ClassVar = SETTINGS

    def write_data(self, folder: Path, shards: int) -> DataConfig:
        return write_scribbled(folder, 6, self.space, shards)


def rule(combination: Any, **changes: Any) -> KernelRule:
    return KernelRule(**{"combination": combination, "window": 3, "xy_sigma": 6.0, "colour_sigma": 0.1, **changes})


def kernel_of(made: KernelRule, image: Tensor, embedding: Tensor | None = None) -> Tensor:
    """The kernel of an image and an embedding, valid everywhere."""
    distances = None if embedding is None else feature_distances(embedding, made.window)
    return made(made.static(image), distances, everywhere(image))


def everywhere(like: Tensor) -> Tensor:
    return torch.ones(len(like), *like.shape[2:], dtype=torch.bool)


def halves(channels: int, left: float, right: float) -> Tensor:
    """(1, channels, 12, 12): `left` in the left half, `right` in the right."""
    out = torch.full((1, channels, 12, 12), left)
    out[..., 6:] = right
    return out


def pull_at_step(combination: Any, image: Tensor, embedding: Tensor) -> float:
    """Gradient on a step in P between the halves."""
    p = torch.cat([halves(1, 1.0, 0.0), halves(1, 0.0, 1.0)], dim=1).requires_grad_()
    energy = potts_energy(p, kernel_of(rule(combination), image, embedding), 3, 1.0)
    # Towards the other side: the pull on the class that the pixel does not have.
    return float(torch.autograd.grad(energy, p)[0][0, 1, 6, 5].abs())


def test_the_claim_in_miniature() -> None:
    flat, edge = torch.zeros(1, 3, 12, 12), halves(3, 0.0, 1.0)
    alike, apart = torch.zeros(1, 4, 12, 12), halves(4, 0.0, 20.0)
    full = pull_at_step("static", flat, alike)
    assert pull_at_step("static", edge, alike) < 0.01 * full, "a colour edge is an edge for all"
    assert pull_at_step("product", flat, apart) < 0.01 * full, "a learned edge is one where colours agree"
    assert pull_at_step("static", flat, apart) == pytest.approx(full)
    assert pull_at_step("sum", edge, alike) > 0.4 * full, "alike features join what colours part"
    assert pull_at_step("product", edge, alike) < 0.01 * full


def test_gamma_0_is_the_static_kernel_to_the_bit() -> None:
    image, embedding = torch.randn(2, 3, 9, 8), torch.randn(2, 5, 9, 8)
    product = kernel_of(rule("product", gamma=0.0), image, embedding)
    assert torch.equal(product, kernel_of(rule("static"), image))
    dynamic = kernel_of(rule("product"), image, embedding)
    assert float(dynamic.min()) >= 0
    assert float(dynamic.max()) <= 1
    twice = kernel_of(rule("product"), image, torch.cat([embedding, embedding], dim=1))
    torch.testing.assert_close(twice, dynamic)


def test_the_regulariser_moves_labels_and_nothing_else() -> None:
    image, embedding = torch.randn(1, 3, 8, 8).requires_grad_(), torch.randn(1, 5, 8, 8).requires_grad_()
    p = torch.randn(1, 3, 8, 8).softmax(dim=1).requires_grad_()
    for combination in ("product", "sum", "static"):
        energy = potts_energy(p, kernel_of(rule(combination), image, embedding), 3, 1.0)
        grads = torch.autograd.grad(energy, [p, image, embedding], allow_unused=True)
        assert grads[0].any()
        assert grads[1] is None
        assert grads[2] is None


@pytest.mark.parametrize(("detach", "collapses"), [(True, False), (False, True)])
def test_a_kernel_that_is_not_detached_flattens_itself(detach: bool, collapses: bool) -> None:
    torch.manual_seed(0)
    p, image = torch.randn(1, 3, 10, 10).softmax(dim=1), torch.zeros(1, 3, 10, 10)
    embedding = (0.1 * torch.randn(1, 4, 10, 10)).requires_grad_()
    optimizer = torch.optim.Adam([embedding], lr=0.1)
    before = float(embedding.detach().std())
    for _ in range(100):
        energy = potts_energy(p, kernel_of(rule("product", detach=detach), image, embedding), 3, 1.0)
        if energy.requires_grad:
            optimizer.zero_grad()
            energy.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert (float(embedding.detach().std()) > 5 * before) == collapses


def test_the_dynamic_kernel_follows_the_head_and_the_static_one_does_not() -> None:
    head = FeatureConsistencyHead([3], [4], 8)
    features, image = [torch.randn(1, 3, 6, 6)], torch.randn(1, 3, 12, 12)
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    kernels: dict[str, list[Tensor]] = {"product": [], "static": []}
    for _ in range(2):
        embedding = head(features, (12, 12))
        for name, seen in kernels.items():
            seen.append(kernel_of(rule(name, colour_sigma=2.0), image, embedding))
        optimizer.zero_grad()
        embedding.square().mean().backward()
        optimizer.step()
    assert torch.equal(*kernels["static"])
    assert not torch.allclose(kernels["product"][0], kernels["product"][1])


def test_mass_normalised_kernels_have_mean_mass_1() -> None:
    image = torch.randn(2, 3, 9, 9)
    kernel = kernel_of(rule("product", mass_normalised=True, colour_sigma=2.0), image, 3 * torch.randn(2, 4, 9, 9))
    assert 2 * float(kernel.sum()) / (2 * 81) == pytest.approx(1.0, rel=1e-4)
    with pytest.raises(ValueError, match="expected distances of an embedding"):
        kernel_of(rule("sum"), image)


# --- the head's losses


def labels_of(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows)[None]


def test_pair_loss_reaches_0_is_balanced_and_deaf_to_unlabelled_pixels() -> None:
    labels = labels_of([[0, 0, IGNORE, 1, 1]])
    perfect = torch.where(labels == 1, 100.0, 0.0)[:, None]
    pairs = near_pairs(labels, 4, 0)
    assert float(pair_loss(feature_distances(perfect, 4), pairs)) == pytest.approx(0.0, abs=2e-4)
    embedding = torch.tensor([[[[0.0, 0.3, 9.0, 0.5, 0.9]]]]).requires_grad_()
    loss = pair_loss(feature_distances(embedding, 4), pairs)
    grad = torch.autograd.grad(loss, embedding)[0][0, 0, 0]
    assert grad[2] == 0
    assert grad[[0, 1, 3, 4]].all()
    # More background pairs at the same distance change nothing.
    d = torch.tensor([0.3, 0.4, 0.8])
    few = PairSets(*(torch.tensor(m) for m in ([True, False, False], [False, True, False], [False, False, True])))
    doubled = PairSets(*(torch.cat([m, m[:1]]) for m in (few.background, few.foreground, few.different)))
    many = pair_loss(torch.cat([d, d[:1]]), doubled)
    assert float(many) == pytest.approx(float(pair_loss(d, few)), rel=1e-4)


@pytest.mark.parametrize("rows", [[[IGNORE] * 4], [[0] * 4], [[1] * 4], [[0, IGNORE, IGNORE, IGNORE]]])
def test_empty_sets_of_pairs_count_0(rows: list[list[int]]) -> None:
    labels = labels_of(rows)
    embedding = torch.randn(1, 3, 1, 4).requires_grad_()
    total = pair_loss(feature_distances(embedding, 2), near_pairs(labels, 2, 0)) + long_pair_loss(
        embedding, labels, 8, 0
    )
    assert torch.isfinite(total)
    assert torch.isfinite(torch.autograd.grad(total, embedding, allow_unused=True)[0]).all()


def test_long_pairs_are_drawn_evenly_over_the_classes_present() -> None:
    labels = torch.full((1000,), IGNORE)
    labels[:900], labels[950:] = 0, 2
    drawn = labels[draw_labelled(labels, 20)]
    assert drawn.bincount().tolist() == [10, 0, 10]
    assert len(draw_labelled(torch.full((5,), IGNORE), 20)) == 0


def test_smoothness_counts_valid_pairs_only() -> None:
    image, embedding = torch.zeros(1, 3, 6, 6), torch.randn(1, 2, 6, 6)
    valid = everywhere(image)
    valid[..., 4:] = False
    colour = colour_kernel(image, 2, 6.0, 0.1)
    value = smoothness(feature_distances(embedding, 2), colour, valid, 2)
    embedding[..., 4:] = 50
    torch.testing.assert_close(smoothness(feature_distances(embedding, 2), colour, valid, 2), value)
    inner = smoothness(
        feature_distances(embedding[..., :4], 2), colour_kernel(image[..., :4], 2, 6.0, 0.1), valid[..., :4], 2
    )
    torch.testing.assert_close(value, inner)


def test_targets_are_strokes_first_then_sure_predictions() -> None:
    strokes = labels_of([[1, IGNORE, IGNORE]])
    p = torch.tensor([[0.95, 0.05], [0.92, 0.08], [0.6, 0.4]]).T.reshape(1, 2, 1, 3)
    assert merged_targets(strokes, p, 0.9).tolist() == [[[1, 0, IGNORE]]]


@pytest.mark.parametrize("long_pairs", [128, 0])
def test_long_pairs_keep_the_head_from_collapsing(long_pairs: int) -> None:
    """Two regions whose strokes never come near each other: without long pairs everything ends up alike."""
    torch.manual_seed(0)
    size, radius = 24, 2
    image = torch.zeros(1, 3, size, size)
    image[..., size // 2 :] = 0.3
    image += 0.03 * torch.randn(1, 3, size, size)
    labels = torch.full((1, size, size), IGNORE)
    labels[0, 4:20, 4], labels[0, 4:20, 19] = 0, 1
    head = FeatureConsistencyHead([3], [16], 16)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    colour = colour_kernel(image, radius, 6.0, 0.1)
    drawn = near_pairs(labels, radius, 0)
    for _ in range(200):
        embedding = head([image], (size, size))
        distances = feature_distances(embedding, radius)
        loss = pair_loss(distances, drawn) + 3 * smoothness(distances, colour, everywhere(image), radius)
        if long_pairs:
            loss = loss + long_pair_loss(embedding, labels, long_pairs, 0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    truth = (torch.arange(size) >= size // 2).long().expand(1, size, size)
    points = embedding[0].flatten(1).T.detach()
    affinity = torch.exp(-torch.cdist(points, points, p=1.0) / points.shape[1])
    pairs = PairSets.of(truth.reshape(-1, 1), truth.reshape(1, -1), 0)
    same, parted = affinity[pairs.background | pairs.foreground], affinity[pairs.different]
    _, across = affinity_means(feature_distances(embedding, radius), near_pairs(truth, radius, 0))
    if long_pairs:
        auc = float((same[::701, None] > parted[None, ::701]).float().mean())
        assert float(same.mean()) > 0.8
        assert float(parted.mean()) < 0.1
        assert auc > 0.98
        assert across < 0.5, "at the border itself the head's 3x3 convolution blurs"
    else:
        assert across > 0.9, "the collapse that the log shows as affinity_across"


def test_labels_follow_features_where_colours_mislead() -> None:
    """An object of two colours, one of them the background's, and free logits: IoU pCE < static < learned kernel."""
    truth = torch.zeros(1, 16, 16, dtype=torch.long)
    truth[0, 3:13, 4:12] = 1
    colours = torch.where((truth == 1) & (torch.arange(16) >= 8), 1.0, 0.0)[:, None].expand(1, 3, 16, 16)
    strokes = torch.full((1, 16, 16), IGNORE)
    strokes[0, 1, 2:14], strokes[0, 8, 9:11], strokes[0, 8, 5:7] = 0, 1, 1
    embedding = 5.0 * truth[:, None].float().expand(1, 4, 16, 16)

    def iou(combination: Any, weight: float) -> float:
        logits = torch.zeros(1, 2, 16, 16).requires_grad_()
        kernel = kernel_of(rule(combination, window=2), colours, embedding)
        optimizer = torch.optim.SGD([logits], lr=0.1, momentum=0.9)
        for _ in range(60):
            energy = potts_energy(logits.softmax(dim=1), kernel, 2, 1.0)
            optimizer.zero_grad()
            (30 * partial_ce(logits, strokes) + weight * energy).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        found = logits.argmax(dim=1) == 1
        return float((found & (truth == 1)).sum() / (found | (truth == 1)).sum())

    alone, static, learned = iou("static", 0.0), iou("static", 0.3), iou("product", 0.3)
    assert alone + 0.2 < static
    assert static + 0.2 < learned


# --- the trainer


def test_partial_ce_is_deaf_to_unlabelled_pixels() -> None:
    logits = torch.randn(1, 3, 4, 4).requires_grad_()
    labels = torch.full((1, 4, 4), IGNORE)
    assert partial_ce(logits, labels).item() == 0.0
    labels[0, 0, 0] = 1
    grad = torch.autograd.grad(partial_ce(logits, labels), logits)[0]
    assert grad[0, :, 0, 0].all()
    assert int(grad.count_nonzero()) == 3


def test_schedule_delays_then_ramps() -> None:
    config = Config(steps=1000, reg_delay=0.005, reg_ramp=0.05)
    assert config.reg_at(4) == 0
    assert 0 < config.reg_at(27) < config.reg_weight
    assert config.reg_at(50) == config.reg_at(999) == config.reg_weight


def test_grid_takes_plain_colours_all_strokes_and_drops_cells_with_padding() -> None:
    labels = torch.full((1, 16, 16), IGNORE)
    labels[0, 5, 3] = 2
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    valid[0, 15] = False
    plain = torch.arange(256.0).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    grid = Grid.of({"plain": plain, "labels": labels, "valid": valid}, Config())
    assert grid.labels[0, 1, 0] == 2
    assert grid.valid[0].all(dim=1).tolist() == [True, True, True, False]
    assert float(grid.image[0, 0, 0, 0]) == float(plain[0, 0, :4, :4].mean())


def test_scribble_runs_never_open_masks_and_say_when_there_are_no_scribbles(tmp_path: Path) -> None:
    data = write_scribbled(tmp_path / "a", 3, shapes.SPACE)
    rows = [{**shapes.sample_row(n), "mask": {"bytes": b"broken", "path": None}} for n in range(3)]
    ids = [row["sample_id"] for row in rows]
    broken = shapes.write_rows(tmp_path / "broken", rows, SAMPLE)
    weak = shapes.write_weak(tmp_path / "weak", [shapes.sample_row(n) for n in range(3)])
    settings = {**SETTINGS, "steps": 1, "batch": 2, "runtime": {"threads": 1, "progress": False}}

    def run(data: DataConfig, name: str, **changes: Any) -> str:
        config = TrainConfig(trainer="dfr", label_space=shapes.SPACE, data=data, settings={**settings, **changes})
        return train(config, str(tmp_path / name / "run"), str(tmp_path / name / "artifact"))

    run(DataConfig(samples=(broken,), weak=(weak,), ids=tuple(map(str, ids))), "blind")
    with pytest.raises(ValueError, match="expected WEAK_LABEL shards"):
        run(DataConfig(samples=data.samples), "none")
    dense = run(DataConfig(samples=data.samples), "dense", supervision="masks")
    assert not any(name.startswith("module/head/") for name in read_artifact(dense).tensors)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValidationError, match="needs the feature consistency head"):
        Config(fc_weight=0.0)
    assert not Config(fc_weight=0.0, kernel="static").uses_head
    assert Config(preset="faithful").steps == 40_000
    with pytest.raises(ValueError, match="expected 4 for this encoder"):
        FeatureConsistencyHead([1, 2, 3, 4], [8, 8], 8)


def test_a_vision_transformer_encoder_works() -> None:
    model = build_segmenter(SegmenterConfig(architecture="fpn", encoder="mit_b0", weights="random"), 3)
    logits, features = segment(model, torch.randn(1, 3, 64, 64))
    assert logits.shape == (1, 3, 64, 64)
    assert [f.shape[2] for f in features] == [16, 8, 4, 2]
    head = FeatureConsistencyHead(level_channels(model), (4, 4, 4, 4), 8)
    assert head(features, (16, 16)).shape == (1, 8, 16, 16)


def test_the_regulariser_shares_one_embedding_and_reports_what_to_watch() -> None:
    torch.manual_seed(0)
    regulariser = Regulariser(Config(radius=2, pair_radius=2, long_pairs=8), 0)
    labels = torch.full((2, 8, 8), IGNORE)
    labels[:, 1, 1:4], labels[:, 1, 5:7] = 0, 1
    grid = Grid(torch.randn(2, 3, 8, 8), labels, torch.ones(2, 8, 8, dtype=torch.bool))
    embedding = torch.randn(2, 6, 8, 8).requires_grad_()
    pairs = regulariser.pairs(grid, embedding)
    loss, watched = regulariser.consistency(embedding, grid, pairs, labels)
    assert torch.autograd.grad(loss, embedding, retain_graph=True)[0].any()
    assert {0 <= float(v) <= 1 for v in watched.values()} == {True}
    p = torch.randn(2, 3, 8, 8).softmax(dim=1)
    energy, mass = regulariser.smooth_labels(p, grid, pairs)
    assert energy >= 0
    assert mass > 0
    # A wider window for one loss changes nothing for the other.
    wide = Regulariser(Config(radius=2, pair_radius=4, long_pairs=8), 0)
    torch.testing.assert_close(wide.smooth_labels(p, grid, wide.pairs(grid, embedding))[0], energy)
