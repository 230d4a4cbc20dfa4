"""The parts of WeCLIP against its method card: decoder, refinement module, spreading, labels, losses."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskmill.trainers.weclip.decoder import Decoder, affinity_logits
from maskmill.trainers.weclip.losses import affinity_loss, affinity_targets, segmentation_loss, window
from maskmill.trainers.weclip.refine import Filter, kept_maps, plain_attention, pseudo_labels, refined_attention
from maskmill.vision.clip import attention_affinity, load_clip
from maskmill.vision.refine import par

TINY = str(Path(__file__).parents[1] / "data" / "tiny_clip")
DILATIONS = (1, 2, 4)

torch.set_num_threads(1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def attention_maps(levels: int, n: int = 16, batch: int = 2) -> list[Tensor]:
    """Softmax attention whose last column (the class token's) is cut off, as the backbone gives it."""
    return [(9 * noise(batch, n, n + 1, seed=level)).softmax(dim=-1)[:, :, :n] for level in range(levels)]


# --- decoder


@pytest.mark.parametrize(("classes", "parameters"), [(21, 5_985_045), (81, 6_000_465)])
def test_decoder_has_the_published_number_of_parameters(classes: int, parameters: int) -> None:
    decoder = Decoder(levels=11, width=768, classes=classes)
    assert sum(p.numel() for p in decoder.parameters() if p.requires_grad) == parameters


def test_decoder_shapes_and_second_branch() -> None:
    torch.manual_seed(0)
    levels = [noise(2, 12, 24, seed=level) for level in range(3)]
    plain = Decoder(3, 24, 5).eval()(levels, (3, 4))
    assert plain.logits.shape == (2, 5, 3, 4)
    assert plain.features.shape == (2, 256, 3, 4)
    double = Decoder(3, 24, 5, second=40).eval()
    second = noise(2, 40, 6, 8, seed=9)
    both = double(levels, (3, 4), second)
    assert both.logits.shape == (2, 5, 3, 4)
    assert both.features.shape == (2, 512, 3, 4)
    assert not torch.allclose(both.logits, double(levels, (3, 4), second + 1).logits)
    with pytest.raises(ValueError, match="second encoder's features"):
        double(levels, (3, 4))


def test_the_tower_keeps_one_feature_less_than_maps() -> None:
    backbone = load_clip(TINY)
    dense = backbone.encode(noise(1, 3, 64, 80), n_attention=8, per_block=True, block_outputs=True)
    assert len(dense.block_outputs) == backbone.n_blocks - 1
    assert len(dense.block_attention) == backbone.n_blocks
    assert dense.block_attention[0].shape == (1, 20, 20)


def test_affinity_is_symmetric_and_its_diagonal_saturates_with_length() -> None:
    features = 3 * torch.randn(2, 64, 3, 4, generator=torch.Generator().manual_seed(0))
    affinity = affinity_logits(features).sigmoid()
    torch.testing.assert_close(affinity, affinity.transpose(1, 2))
    assert affinity.diagonal(dim1=1, dim2=2).min() > 0.99


# --- refinement module and spreading


def test_before_the_kick_in_the_last_eight_maps_are_averaged() -> None:
    maps = attention_maps(12)
    torch.testing.assert_close(plain_attention(maps), sum(maps[4:]) / 8)
    torch.testing.assert_close(plain_attention(maps[:3]), sum(maps[:3]) / 3)


def test_signed_filter_ignores_the_decoder_and_the_absolute_one_does_not() -> None:
    n = 16
    block = torch.zeros(1, n, n)
    block[:, :8, :8] = block[:, 8:, 8:] = 0.98
    good, noisy = block / 8, torch.full((1, n, n), 1 / n)
    maps = torch.stack([good, good, noisy], dim=1)
    others = [block, 1 - block, noise(1, n, n, seed=5)]
    signed = [kept_maps(maps, other, "signed").tolist() for other in others]
    assert signed[0] == signed[1] == signed[2]
    absolute = [kept_maps(maps, other, "absolute")[0].tolist() for other in others]
    assert absolute[0] == [True, True, False]
    assert absolute[1] == [False, False, True]
    assert kept_maps(maps, block, "none").all()


def test_signed_filter_is_the_released_formula() -> None:
    maps, affinity = torch.stack(attention_maps(6), dim=1).double(), noise(2, 16, 16, seed=7).double()
    d = (affinity[:, None] - maps).sum(dim=(2, 3))
    assert torch.equal(kept_maps(maps, affinity, "signed"), d <= d.mean(dim=1, keepdim=True))


@pytest.mark.parametrize("filter", ["signed", "absolute", "none"])
def test_refined_attention_is_the_affinity_times_the_mean_of_kept_maps(filter: Filter) -> None:
    maps, logits = attention_maps(8), torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1))
    refined, kept = refined_attention(maps, logits, 6, filter)
    assert kept.shape == (2, 6)
    for image in range(2):
        chosen = [maps[2 + level][image] for level in range(6) if kept[image, level]]
        torch.testing.assert_close(
            refined[image], logits[image].sigmoid() * sum(chosen) / len(chosen), rtol=1e-4, atol=0
        )


def test_equal_maps_are_all_kept() -> None:
    maps = torch.stack([attention_maps(1)[0]] * 5, dim=1)
    for filter in ("signed", "absolute"):
        assert kept_maps(maps, noise(2, 16, 16), filter).all()


def test_spreading_matrix_is_symmetric_nearly_stochastic_and_free_of_scale() -> None:
    r = plain_attention(attention_maps(12, n=100))
    d = attention_affinity(r)
    t = d @ d
    torch.testing.assert_close(t, t.transpose(1, 2))
    assert (t.sum(dim=-1) - 1).abs().max() < 0.02
    torch.testing.assert_close(attention_affinity(1000 * r), d)
    m, b = noise(100, seed=2), (noise(100, seed=3) > 0.5).float()
    torch.testing.assert_close(t[0] @ torch.diag(b) @ m, t[0] @ (b * m))
    by_hand = r.clone()
    for _ in range(3):
        by_hand = by_hand / by_hand.sum(dim=1, keepdim=True)
        by_hand = by_hand / by_hand.sum(dim=2, keepdim=True)
    torch.testing.assert_close(d, (by_hand + by_hand.transpose(1, 2)) / 2)


# --- labels


def test_before_par_a_pixel_is_foreground_where_its_best_map_is_above_one_half() -> None:
    maps = torch.tensor([[[0.2, 0.6], [0.51, 0.49]], [[0.9, 0.1], [0.3, 0.2]]])
    labels = pseudo_labels(maps, [0, 0], [3, 7], torch.zeros(1, 3, 2, 2), 0, iterations=0, dilations=DILATIONS)
    assert labels.tolist() == [[[7, 3], [3, 0]]]


def test_labels_are_a_subset_of_the_images_classes_and_do_not_depend_on_companions() -> None:
    images, maps = 255 * noise(3, 3, 20, 24), noise(4, 5, 6, seed=1)
    owners, classes = [0, 2, 2, 2], [5, 1, 2, 9]
    labels = pseudo_labels(maps, owners, classes, images, 0, iterations=3, dilations=DILATIONS)
    assert labels.shape == (3, 20, 24)
    for image, ids in enumerate([{5}, set(), {1, 2, 9}]):
        assert set(labels[image].unique().tolist()) <= {0, *ids}
        rows = [row for row, owner in enumerate(owners) if owner == image]
        alone = pseudo_labels(
            maps[rows],
            [0] * len(rows),
            [classes[row] for row in rows],
            images[image : image + 1],
            0,
            iterations=3,
            dilations=DILATIONS,
        )
        assert torch.equal(alone[0], labels[image])
    assert not labels[1].any()


def test_undecided_pixels_are_ignored_only_where_asked_for() -> None:
    images, maps = 255 * noise(1, 3, 16, 16), noise(1, 4, 4, seed=2)
    plain = pseudo_labels(maps, [0], [4], images, 0, iterations=1, dilations=DILATIONS)
    banded = pseudo_labels(maps, [0], [4], images, 0, iterations=1, dilations=DILATIONS, ignore_below=0.6)
    assert 255 not in plain
    assert 0 < (banded == 255).float().mean() < 1
    assert torch.equal(banded[banded != 255], plain[banded != 255])


def test_a_step_edge_in_the_image_stops_diffusion() -> None:
    images = torch.zeros(1, 3, 16, 16)
    images[..., 8:] = 200
    images += noise(1, 3, 16, 16)
    seed = torch.zeros(1, 1, 16, 16)
    seed[..., 6:8] = 1
    out = par(images, seed, iterations=10, dilations=(1, 2, 4))
    assert out[..., 8:].mean() < 0.1 * out[..., :8].mean()
    constant = par(images, torch.ones(1, 1, 16, 16), iterations=20)
    torch.testing.assert_close(constant, torch.full_like(constant, 1.01**20))
    scale, shift = torch.tensor([0.5, 3.0, 1.7]).view(1, 3, 1, 1), torch.tensor([9.0, -4.0, 0.1]).view(1, 3, 1, 1)
    torch.testing.assert_close(
        par(images * scale + shift, seed, iterations=10), par(images, seed, iterations=10), atol=1e-4, rtol=0
    )


# --- losses


def test_segmentation_loss_is_finite_without_one_half_and_weighs_halves_equally() -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for value in (0, 1, 255):
        loss = segmentation_loss(logits, torch.full((2, 16, 16), value), 0)
        assert torch.isfinite(loss)
    assert loss == 0
    constant = torch.zeros(1, 2, 4, 4)
    constant[:, 1] = 2.0
    few, many = torch.zeros(1, 16, 16, dtype=torch.long), torch.zeros(1, 16, 16, dtype=torch.long)
    few[:, :1] = 1
    many[:, :12] = 1
    torch.testing.assert_close(segmentation_loss(constant, few, 0), segmentation_loss(constant, many, 0))


def test_strided_loss_is_the_loss_of_the_middle_pixels() -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(1))
    coarse = segmentation_loss(logits, labels[:, 2::4, 2::4], 0)
    assert torch.equal(segmentation_loss(logits, labels, 0, stride=4), coarse)


def test_attention_of_the_decoder_is_the_same_by_either_kernel() -> None:
    torch.manual_seed(0)
    decoder = Decoder(2, 8, 3).eval()
    levels = [noise(2, 20, 8), noise(2, 20, 8, seed=1)]
    plain = decoder(levels, (4, 5)).logits
    with torch.no_grad():
        torch.testing.assert_close(decoder(levels, (4, 5)).logits, plain, rtol=1e-4, atol=1e-5)


def test_window_keeps_the_published_share_of_pairs() -> None:
    near = window((20, 20), 8, torch.device("cpu"))
    assert near.float().mean().item() == pytest.approx(0.449, abs=5e-4)
    assert near.diagonal().all()


def test_affinity_targets() -> None:
    labels = torch.tensor([[[0, 0, 2], [0, 255, 2]]])
    alike, differ = affinity_targets(labels, (2, 3))
    assert alike[0, 0].tolist() == [True, True, False, True, False, False]
    assert differ[0, 0].tolist() == [False, False, True, False, False, True]
    assert not alike[0, 4].any()
    assert not differ[0, :, 4].any()
    far = affinity_targets(torch.zeros(1, 1, 12, dtype=torch.long), (1, 12))[0]
    assert far[0, 0].tolist() == [True] * 9 + [False] * 3


@pytest.mark.parametrize("kind", ["linear", "bce"])
def test_affinity_loss_is_zero_for_a_perfect_affinity(kind: str) -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, 4:] = 2
    alike, _ = affinity_targets(labels, (4, 4))
    perfect = 40.0 * (2 * alike.float() - 1)
    loss = affinity_loss(perfect, labels, (4, 4), kind)  # type: ignore[arg-type]
    assert loss < 1e-6
    assert affinity_loss(-perfect, labels, (4, 4), kind) > 0.9  # type: ignore[arg-type]
    assert affinity_loss(torch.zeros(1, 16, 16), labels, (4, 4)) == pytest.approx(0.5, abs=0.02)


def test_affinity_loss_reaches_neither_transformer_nor_head() -> None:
    decoder = Decoder(2, 8, 3).eval()
    decoded = decoder([noise(1, 16, 8), noise(1, 16, 8, seed=1)], (4, 4))
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, 4:] = 1
    affinity_loss(affinity_logits(decoded.features), labels, (4, 4)).backward()
    for name, parameter in decoder.named_parameters():
        touched = parameter.grad is not None and bool(parameter.grad.any())
        assert touched == name.startswith(("mlps", "fuse")), name
