"""PCS: what shuffling tiles may and may not do to the score (properties P1-P8 of the method)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.curation.sds import entropy, shuffle_tiles, tile_permutations
from maskmill.curation.sds import model as sds_model
from maskmill.curation.sds.images import Prepared
from maskmill.curation.sds.model import Engine, make_engine, read_samples
from maskmill.curation.sds.pcs import channel_permutations, draw_orders, perturb
from maskmill.data_contracts import Uint8Array
from maskmill.vision.clip import load_clip
from tests.curation.sds_samples import SPACE, TINY, config, image_of, score, table

torch.set_num_threads(1)


def engine(**options: object) -> Engine:
    return make_engine(config(**options), SPACE, load_clip(TINY))


def prepared(image: Uint8Array, labels: tuple[int, ...] = (1,), sample_id: str = "a") -> Prepared:
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return Prepared(sample_id, labels, labels, image, None, pixels)


def test_constant_and_tile_periodic_images_score_exactly_zero() -> None:  # P1
    flat = np.full((64, 64, 3), 90, np.uint8)
    periodic = np.tile(image_of(1, 16, 16), (4, 4, 1))
    for image in (flat, periodic):
        (reading,) = read_samples([prepared(image)], engine(), 0)
        assert reading.pcs == 0.0
        assert reading.image_score == 0.0
    (reading,) = read_samples([prepared(image_of(1))], engine(), 0)
    assert reading.pcs > 0


def test_identity_permutation_changes_nothing() -> None:  # P1
    pixels = prepared(image_of(3)).pixels
    assert torch.equal(shuffle_tiles(pixels, np.arange(16)), pixels)


@given(seed=st.integers(0, 2**32), grid=st.integers(2, 5), tile=st.integers(1, 6))
def test_shuffling_is_a_bijection(seed: int, grid: int, tile: int) -> None:  # P2
    image = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, grid * tile, grid * tile)))
    permutation = tile_permutations(seed, "x", 1, grid)[0]
    shuffled = shuffle_tiles(image, permutation)
    assert torch.equal(shuffled.flatten(1).sort().values, image.flatten(1).sort().values)
    assert torch.equal(shuffle_tiles(shuffled, np.argsort(permutation)), image)


def test_tiles_move_as_the_permutation_says() -> None:
    image = torch.arange(4).reshape(1, 2, 2)
    assert shuffle_tiles(image, np.array([3, 0, 1, 2])).flatten().tolist() == [3, 0, 1, 2]
    with pytest.raises(ValueError, match="do not divide"):
        shuffle_tiles(torch.zeros(1, 6, 6), np.arange(16))


def test_pixel_shuffle_equals_token_block_permutation_before_positions() -> None:  # P3
    visual = load_clip(TINY).model.visual
    image = torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(0))
    permutation = tile_permutations(0, "a", 1, 4)[0]
    with torch.no_grad():
        tokens = visual.conv1(image[None])[0]  # (D, 8, 8): tiles of 2 x 2 patches
        from_pixels = visual.conv1(shuffle_tiles(image, permutation)[None])[0]
    torch.testing.assert_close(from_pixels, shuffle_tiles(tokens, permutation), atol=1e-6, rtol=0)


@given(logits=st.lists(st.floats(-50, 50), min_size=2, max_size=12), hidden=st.integers(0, 3))
def test_entropy_bounds(logits: list[float], hidden: int) -> None:  # P4
    values = torch.tensor(logits + [float("-inf")] * hidden)
    h = float(entropy(values.log_softmax(dim=0)))
    assert -1e-5 <= h <= math.log(len(logits)) + 1e-5


def test_entropy_extremes_and_order() -> None:  # P4
    assert float(entropy(torch.tensor([0.0, float("-inf"), float("-inf")]))) == 0.0
    assert float(entropy(torch.zeros(7).log_softmax(0))) == pytest.approx(math.log(7), abs=1e-6)
    values = torch.randn(9).log_softmax(0)
    assert float(entropy(values)) == pytest.approx(float(entropy(values.flip(0))), abs=1e-6)


def test_order_of_labels_does_not_matter() -> None:  # P4
    one = read_samples([prepared(image_of(1), (1, 2))], engine(), 0)[0]
    two = read_samples([prepared(image_of(1), (2, 1))], engine(), 0)[0]
    assert one.pcs == two.pcs


def test_swapping_original_and_shuffled_leaves_the_gap_unchanged() -> None:  # P5
    permutation = tile_permutations(0, "a", 1, 4)[0]
    eng = engine()

    def h(image: torch.Tensor) -> float:
        embedding = eng.backbone.embed(eng.backbone.normalise(image[None]))
        return float(entropy(eng.bank.log_probabilities(embedding, eng.bank.allowed([[1]]), eng.scale)))

    pixels = prepared(image_of(5)).pixels
    (reading,) = read_samples([prepared(image_of(5))], eng, 0)
    assert reading.pcs == pytest.approx(abs(h(shuffle_tiles(pixels, permutation)) - h(pixels)), abs=1e-6)


def test_a_sample_of_several_classes_gives_one_row() -> None:  # P5
    rows = score(table([(image_of(1), (1, 2, 3))])).to_pylist()
    assert len(rows) == 1
    assert rows[0]["label_ids"] == [1, 2, 3]
    assert rows[0]["n_classes"] == 3


def test_kept_sets_shrink_with_tau_and_equality_is_rejected() -> None:  # P6, at the gate that scoring itself applies
    samples = table([(image_of(i), (1,)) for i in range(12)])
    gaps = [row["pcs"] for row in score(samples).to_pylist()]
    kept = [
        {i for i, row in enumerate(score(samples, asf_gate=tau).to_pylist()) if row["asf"] is not None}
        for tau in sorted(gaps)
    ]
    for smaller, larger in zip(kept[1:], kept[:-1], strict=True):
        assert smaller < larger
    for tau, found in zip(sorted(gaps), kept, strict=True):
        assert found == {i for i, gap in enumerate(gaps) if gap > tau}


def test_seed_and_id_decide_the_permutation() -> None:  # P7
    first = tile_permutations(0, "a", 2, 4)
    assert np.array_equal(first, tile_permutations(0, "a", 2, 4))
    assert np.array_equal(first[:1], tile_permutations(0, "a", 1, 4))  # more rounds only append
    assert not np.array_equal(first, tile_permutations(1, "a", 2, 4))
    assert not np.array_equal(first, tile_permutations(0, "b", 2, 4))


def test_another_seed_moves_the_score() -> None:  # P7
    samples = table([(image_of(1), (1,))])
    assert score(samples).column("pcs") == score(samples).column("pcs")
    assert score(samples).column("pcs") != score(samples, seed=1).column("pcs")


@settings(deadline=None, max_examples=5)
@given(micro_batch=st.integers(2, 5), count=st.integers(1, 5))
def test_batched_forwards_agree_with_single_ones(micro_batch: int, count: int) -> None:  # P8
    samples = table([(image_of(i), (1 + i % 3,)) for i in range(count)])
    one = score(samples)
    many = score(samples, micro_batch=micro_batch)
    for name in ("pcs", "h_orig", "h_mix"):
        np.testing.assert_allclose(one.column(name).to_numpy(), many.column(name).to_numpy(), atol=1e-4)


def test_more_permutations_scatter_less() -> None:  # P10: the mean over R permutations, over seeds
    samples = table([(image_of(2), (1,))])
    spread = {
        rounds: np.std([score(samples, seed=s, permutations=rounds)["pcs"][0].as_py() for s in range(12)])
        for rounds in (1, 8)
    }
    assert spread[8] < 0.7 * spread[1]


def test_channels_move_after_normalisation_as_the_permutation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    eng = engine(perturbation="channels")
    sample, order = prepared(image_of(1)), np.array([2, 0, 1])
    monkeypatch.setattr(sds_model, "draw_orders", lambda *_: order[None])
    (reading,) = read_samples([sample], eng, 0)
    normalised = eng.backbone.normalise(sample.pixels[None])
    assert torch.equal(perturb("channels", normalised[0], order), normalised[0][[2, 0, 1]])
    embedding = eng.backbone.embed(normalised[:, [2, 0, 1]])
    h = entropy(eng.bank.log_probabilities(embedding, eng.bank.allowed([[1]]), eng.scale))
    assert reading.h_mix == pytest.approx(float(h), abs=1e-6)
    monkeypatch.setattr(sds_model, "draw_orders", lambda *_: np.arange(3)[None])
    assert read_samples([sample], eng, 0)[0].pcs == 0.0  # the identity, which the release draws one time in six


def test_the_identity_is_drawn_among_channels_and_never_among_tiles() -> None:
    channels = [tuple(channel_permutations(0, str(i), 1)[0]) for i in range(300)]
    assert len(set(channels)) == 6
    assert channels.count((0, 1, 2)) == pytest.approx(50, abs=20)
    tiles = [tuple(tile_permutations(0, str(i), 1, 2)[0]) for i in range(300)]
    assert len(set(tiles)) == 23
    assert (0, 1, 2, 3) not in tiles
    assert draw_orders("channels", 0, "a", 2, 4).shape == (2, 3)
    assert draw_orders("tiles", 0, "a", 2, 4).shape == (2, 16)


def test_channels_need_no_whole_tiles() -> None:
    image = image_of(1, 70, 100)
    assert score(table([(image, (1,))]), perturbation="channels", image_side=80).num_rows == 1
    assert engine(perturbation="channels").multiple == 16
    assert engine(perturbation="tiles").multiple == 64
