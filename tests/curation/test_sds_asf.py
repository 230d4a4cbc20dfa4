"""ASF: the overlap score and the pseudo-label (properties C4 and A1-A5 of the method)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskmill.curation.sds import asf_score, pseudo_label
from maskmill.data_contracts import Uint8Array
from tests.curation.sds_samples import image_of, mask_of, score, table

MASKS = hnp.arrays(np.uint8, (12, 14), elements=st.sampled_from([0, 1, 2, 3, 255]))


def classes(mask: Uint8Array) -> list[int]:
    return [int(i) for i in np.unique(mask) if i not in (0, 255)]


def slow_pooled(mask: Uint8Array, pseudo: Uint8Array) -> float:
    both = either = 0
    for class_id in classes(mask):
        both += int(((mask == class_id) & (pseudo == class_id)).sum())
        either += int(((mask == class_id) | (pseudo == class_id)).sum())
    return both / either


def area(*counts: tuple[int, int]) -> Uint8Array:
    """A mask (1, n) of runs (value, length)."""
    return np.concatenate([np.full(length, value, np.uint8) for value, length in counts])[None]


def test_equal_masks_score_one_and_disjoint_ones_zero() -> None:  # A1
    mask = mask_of((1, 2))
    assert asf_score(mask, mask, [1, 2]).pooled == 1.0
    assert asf_score(mask, np.zeros_like(mask), [1, 2]).pooled == 0.0


def test_pooled_iou_is_not_the_mean_iou() -> None:  # A1: the worked example, 91 / 110
    mask = area((1, 95), (0, 5), (2, 5), (0, 5), (0, 10))
    pseudo = area((1, 90), (0, 5), (1, 5), (0, 4), (2, 6), (0, 10))
    found = asf_score(mask, pseudo, [1, 2])
    assert found.per_class == {1: 90 / 100, 2: 1 / 10}
    assert found.pooled == pytest.approx(91 / 110)


@given(mask=MASKS, pseudo=MASKS)
def test_single_pass_equals_the_definition(mask: Uint8Array, pseudo: Uint8Array) -> None:
    if classes(mask):
        assert asf_score(mask, pseudo, classes(mask)).pooled == pytest.approx(slow_pooled(mask, pseudo))


@given(mask=MASKS, pseudo=MASKS, order=st.permutations([1, 2, 3]))
def test_relabelling_both_masks_changes_nothing(mask: Uint8Array, pseudo: Uint8Array, order: list[int]) -> None:  # A5
    if not classes(mask):
        return
    lookup = np.arange(256, dtype=np.uint8)
    lookup[1:4] = order
    plain = asf_score(mask, pseudo, classes(mask))
    renamed = asf_score(lookup[mask], lookup[pseudo], classes(lookup[mask]))
    assert renamed.pooled == plain.pooled
    assert sorted(renamed.per_class.values()) == sorted(plain.per_class.values())


@given(mask=MASKS, pseudo=MASKS)
def test_excluding_undecided_pixels_never_lowers_the_score(mask: Uint8Array, pseudo: Uint8Array) -> None:  # A4
    mask = np.where(mask == 255, 0, mask).astype(np.uint8)  # 255 occurs only in the pseudo-mask
    if classes(mask):
        authors = asf_score(mask, pseudo, classes(mask), "authors")
        assert asf_score(mask, pseudo, classes(mask), "exclude").pooled >= authors.pooled
        assert authors.ignore_fraction == pytest.approx(float((pseudo == 255).mean()))


def test_ignore_in_the_annotation_counts_against_only_under_the_authors_policy() -> None:  # A4
    mask, pseudo = area((1, 10), (255, 10)), area((1, 20))
    assert asf_score(mask, pseudo, [1], "authors").pooled == 0.5
    assert asf_score(mask, pseudo, [1], "exclude").pooled == 1.0


def test_a_mask_without_classes_is_an_error_not_a_division_by_zero() -> None:
    with pytest.raises(ValueError, match="expected classes"):
        asf_score(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), [])


@settings(deadline=None)
@given(seed=st.integers(0, 1000), low=st.floats(0, 1), high=st.floats(0, 1))
def test_pseudo_labels_hold_given_classes_and_doubt_grows_with_confidence(
    seed: int, low: float, high: float
) -> None:  # C4
    low, high = sorted((low, high))
    maps = np.random.default_rng(seed).random((3, 6, 7)).astype(np.float32)
    lax, strict = pseudo_label(maps, (4, 9), 0, low), pseudo_label(maps, (4, 9), 0, high)
    assert set(np.unique(lax)) <= {0, 4, 9, 255}
    assert bool(((lax == 255) <= (strict == 255)).all())
    assert bool((lax[strict != 255] == strict[strict != 255]).all())


def test_ties_go_to_the_background_and_no_background_means_none() -> None:
    maps = np.full((2, 1, 1), 0.5, np.float32)
    assert pseudo_label(maps, (7,), 0, 0.0)[0, 0] == 0
    assert pseudo_label(maps, (7, 8), None, 0.0)[0, 0] == 7
    with pytest.raises(ValueError, match="one map for each"):
        pseudo_label(maps, (7, 8), 0, 0.0)


def test_a_swapped_class_scores_zero_with_prompt_labels() -> None:  # A2
    image = image_of(1)
    clean, swapped = mask_of((1,)), mask_of((2,))
    rows = score(table([(image, clean), (image, swapped)], prompts=[[1], [1]]), labels="prompt").to_pylist()
    assert rows[1]["asf"] == 0.0
    assert rows[1]["per_class"] == [{"class_id": 2, "iou": 0.0}]
    assert rows[0]["asf"] > 0.0
    both = score(table([(image, mask_of((1, 2)))], prompts=[[1]]), labels="prompt").to_pylist()[0]
    assert {c["class_id"]: c["iou"] for c in both["per_class"]}[2] == 0.0


def test_a_swapped_class_goes_unseen_with_mask_labels() -> None:  # A2: what the authors' VOC script cannot see
    rows = score(table([(image_of(1), mask_of((2,)))], prompts=[[1]]), labels="mask").to_pylist()
    assert rows[0]["label_ids"] == [2]
    assert rows[0]["asf"] > 0.0
