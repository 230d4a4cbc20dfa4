"""The scores that go beyond the published ones: other readings of a shuffle, border fit, and the swap check."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.curation.faults import shift_mask
from maskmill.curation.sds.boundary import boundary_score, edge_percentiles
from maskmill.curation.sds.model import make_engine, swapped_classes
from maskmill.curation.sds.pcs import ImageScore, Readings, image_scores
from maskmill.data_contracts import Uint8Array
from maskmill.vision.clip import DenseFeatures, load_clip
from tests.curation.sds_samples import SPACE, TINY, config, image_of, mask_of, score, table

KINDS: tuple[ImageScore, ...] = ("pcs", "drop", "divergence", "shift", "evidence")
OURS = {"labels": "prompt", "image_score": "evidence", "mask_score": "both", "swap_check": True, "permutations": 2}

torch.set_num_threads(1)


def readings(seed: int, shuffles: int = 3, same: bool = False) -> Readings:
    """Random readings of two images over six texts, two of which do not compete for the first."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize
    embeddings = unit(torch.randn(2, 8, generator=generator), dim=-1)
    mixed = (
        embeddings.expand(shuffles, 2, 8) if same else unit(torch.randn(shuffles, 2, 8, generator=generator), dim=-1)
    )
    texts = unit(torch.randn(6, 8, generator=generator), dim=-1)
    hidden = torch.tensor([[False, True, True, False, False, False], [False] * 6])

    def log_p(e: torch.Tensor) -> torch.Tensor:
        return (10 * e @ texts.T).masked_fill(hidden, float("-inf")).log_softmax(dim=-1)

    own = torch.tensor([[True, False, False, False, False, False], [True, True, False, False, False, False]])
    return Readings(embeddings, log_p(embeddings), mixed, log_p(mixed), own)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unchanged_reading_scores_exactly_zero(kind: ImageScore) -> None:
    assert image_scores(kind, readings(0, same=True)).tolist() == [0.0, 0.0]


@given(seed=st.integers(0, 1000))
def test_image_scores_follow_their_definitions(seed: int) -> None:
    r = readings(seed)
    for image in range(2):
        p, q = r.log_p[image].exp().double(), r.mixed_log_p[:, image].exp().double()
        cosine = (r.mixed_embeddings[:, image] @ r.embeddings[image]).double()
        keep = p > 0
        expected = {
            "drop": float((p[r.own[image]].sum() - q[:, r.own[image]].sum(dim=1)).mean()),
            "divergence": float((p[keep] * (p[keep] / q[:, keep]).log()).sum(dim=1).mean()),
            "shift": float((1 - cosine).mean()),
            "evidence": float((1 - cosine).mean() * (1 + p[r.own[image]].sum()) / 2),
        }
        for kind, value in expected.items():
            assert float(image_scores(kind, r)[image]) == pytest.approx(value, abs=2e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_scored_tables_carry_the_configured_image_score(kind: ImageScore) -> None:
    row = score(table([(image_of(1), (1,))]), image_score=kind).to_pylist()[0]
    plain = score(table([(image_of(1), (1,))])).to_pylist()[0]
    assert row["pcs"] == plain["pcs"]
    assert (row["image_score"] == row["pcs"]) == (kind == "pcs")


def scene(seed: int, height: int = 120, width: int = 160) -> tuple[Uint8Array, Uint8Array]:
    """A coloured ellipse on a mottled ground, and its mask."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(
        rng.integers(60, 120, (8, 8, 3)).astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    mask = np.zeros((height, width), np.uint8)
    centre = int(rng.integers(60, width - 60)), int(rng.integers(45, height - 45))
    cv2.ellipse(mask, centre, (int(rng.integers(20, 40)), int(rng.integers(15, 30))), 0, 0, 360, 1, -1)
    image = np.where(mask[..., None] > 0, rng.integers(160, 255, 3), ground).astype(np.uint8)
    return image, mask


def test_a_border_on_an_edge_leads_and_a_misplaced_one_does_not() -> None:  # A3
    scenes = [scene(i) for i in range(24)]
    for index, (image, mask) in enumerate(scenes):
        right = boundary_score(image, mask, [1]).pooled
        foreign = boundary_score(image, scenes[index - 1][1], [1]).pooled
        shifted = boundary_score(image, shift_mask(mask, index), [1]).pooled
        eroded = boundary_score(image, cv2.erode(mask, np.ones((15, 15), np.uint8)), [1]).pooled
        assert right > 0.8
        assert right > max(foreign, shifted, eroded)


def test_borders_need_no_size_and_no_model() -> None:
    image, mask = scene(3)
    large = cv2.resize(image, None, fx=3, fy=3), cv2.resize(mask, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    assert boundary_score(*large, [1]).pooled == pytest.approx(boundary_score(image, mask, [1]).pooled, abs=0.05)


def test_a_class_without_border_or_without_label_counts_as_chance() -> None:
    image, mask = scene(4)
    assert boundary_score(image, np.ones_like(mask), [1]).pooled == 0.0
    assert boundary_score(image, mask, [1], labels=[2]).pooled == 0.0
    two = mask.copy()
    two[:, :20] = 2
    found = boundary_score(image, two, [1, 2], labels=[1])
    assert found.per_class[2] == 0.0
    assert 0 < found.pooled < found.per_class[1]


def test_edge_percentiles_are_ranks() -> None:
    ranks = edge_percentiles(scene(5)[0])
    assert float(ranks.min()) > 0
    assert float(ranks.max()) <= 1
    assert float(ranks.mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("mask_score", ["boundary", "both"])
def test_mask_scores_fall_with_every_annotation_fault(mask_score: str) -> None:
    scenes = [scene(i) for i in range(6)]
    clean = [(image, mask) for image, mask in scenes]
    shifted = [(image, shift_mask(mask, i)) for i, (image, mask) in enumerate(scenes)]
    swapped = [(image, mask * 2) for image, mask in scenes]
    options = {"labels": "prompt", "mask_score": mask_score}
    prompts: list[list[int] | None] = [[1]] * 6
    good, moved, renamed = (
        score(table(pairs, prompts), **options).column("asf").to_numpy() for pairs in (clean, shifted, swapped)
    )
    assert bool((good > moved).all())
    assert bool((renamed == 0).all())
    assert bool((good > 0).all())


def test_both_is_the_border_weighted_by_the_overlap() -> None:
    samples = table([scene(1)], [[1]])
    overlap, border, both = (score(samples, mask_score=m).to_pylist()[0]["asf"] for m in ("asf", "boundary", "both"))
    assert both == pytest.approx(border * (1 + overlap) / 2, abs=1e-6)


@settings(deadline=None, max_examples=4)
@given(order=st.permutations(range(6)), batch_size=st.sampled_from([1, 3, 16]))
def test_our_options_do_not_depend_on_batch_or_order_either(order: list[int], batch_size: int) -> None:
    samples = table([(image_of(i), (1 + i % 2,)) for i in range(6)], [[1]] * 6)
    assert score(samples.take(order), batch_size=batch_size, **OURS).equals(score(samples, **OURS).take(order))


def test_an_absent_class_that_fits_a_region_better_is_named() -> None:
    """Patch embeddings planted on class texts: the left half looks like class 2, the right half like class 3."""
    engine = make_engine(config(swap_check=True, swap_margin=0.0), SPACE, load_clip(TINY))

    class Planted:
        """Stands in for the backbone: one patch embedding per column of the grid."""

        def patch_embeddings(self, x: torch.Tensor) -> torch.Tensor:
            left, right = engine.bank.matrix[engine.bank.rows([2, 3])]
            return torch.stack([left, left, right, right])[None].expand(len(x), -1, -1)

    planted = type(engine)(Planted(), engine.bank, engine.config, engine.space, 1)  # type: ignore[arg-type]
    dense = DenseFeatures(torch.zeros(1, 4, 8), None, (1, 4), 0)
    mask = np.zeros((16, 16), np.uint8)
    mask[:, :8] = 1
    (swap,) = swapped_classes([_prepared(mask, (1,))], dense, planted)
    assert swap == 2  # annotated as 1, looks like 2
    mask[:, :8] = 2
    assert swapped_classes([_prepared(mask, (2,))], dense, planted) == [None]
    assert swapped_classes([_prepared(mask_of((1,), 16, 16), (1, 2, 3, 4))], dense, planted) == [None]  # none absent


def _prepared(mask: Uint8Array, labels: tuple[int, ...]):  # type: ignore[no-untyped-def]
    from maskmill.curation.sds.images import Prepared

    image = image_of(0, *mask.shape)
    present = tuple(int(i) for i in np.unique(mask) if i)
    return Prepared("a", labels, present, image, mask, torch.zeros(3, 64, 64, dtype=torch.uint8))
