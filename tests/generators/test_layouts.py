"""Control maps, rectified attention and FreeMask's filter as plain functions."""

import numpy as np
import pytest
from small_pipelines import full_clip_tokenizer

from maskmill.data_contracts import load_label_space
from maskmill.generators.ade20k import ADE20K, ade20k_colours
from maskmill.generators.layouts import ControlPalette, rectification, resize_nearest
from maskmill.generators.region_filter import (
    choose_images,
    class_mean_losses,
    filter_regions,
    hardness,
    images_per_mask,
    pixel_losses,
)
from maskmill.generators.spans import Window, occurrences

VOC = load_label_space("voc")


def scene(height=48, width=64):
    mask = np.zeros((height, width), np.uint8)
    mask[8:30, 6:28] = 12
    mask[20:44, 34:60] = 8
    mask[0:4] = 255
    return mask


@pytest.mark.parametrize("space_name", ["voc", "coco"])
def test_control_map_round_trip_is_exact(space_name):
    space = load_label_space(space_name)
    palette = ControlPalette.for_space(space)
    mask = np.random.default_rng(0).choice([0, *space.ids], size=(40, 56)).astype(np.uint8)
    assert np.array_equal(palette.read(palette.paint(mask)), mask)


def test_resized_control_maps_hold_palette_colours_only():
    palette = ControlPalette.for_space(VOC, {"dog": (200, 10, 30)})
    painted = palette.paint(resize_nearest(scene(), (128, 96)))
    assert painted.shape == (128, 96, 3)
    assert set(np.unique(palette.read(painted))) == {0, 8, 12}
    assert (painted == (200, 10, 30)).all(axis=2).any()
    with pytest.raises(ValueError, match="outside the palette"):
        palette.read(painted // 2 + 60)


def test_colours_must_differ_and_cover_the_mask():
    with pytest.raises(ValueError, match="are both"):
        ControlPalette.for_space(VOC, {"dog": (1, 2, 3), "cat": (1, 2, 3)})
    with pytest.raises(ValueError, match=r"no colour for classes \[77\]"):
        ControlPalette.for_space(VOC).paint(np.full((4, 4), 77, np.uint8))


def test_ade20ks_colours_by_name_and_none_for_what_it_does_not_tell_apart():
    assert len(ADE20K) == 150
    assert (ADE20K["wall"], ADE20K["person"], ADE20K["flag"]) == ((120, 120, 120), (150, 5, 61), (92, 0, 255))
    assert len(set(ADE20K.values())) == 149  # road and skyscraper
    found = ade20k_colours(VOC)
    known = {VOC.by_id[i].name for i in found}
    assert {VOC.find(n).id for n in ("aeroplane", "person", "sofa", "boat")} <= set(found)
    assert not known & {"cat", "dog", "horse", "sheep", "cow", "bird", "train"}
    assert found[VOC.find("aeroplane").id] == ADE20K["airplane"]
    palette = ControlPalette.for_space(VOC, {"dog": (1, 2, 3)}, palette="ade20k")
    assert palette.colours[12] == (1, 2, 3)
    assert palette.colours[15] == (150, 5, 61)
    with pytest.raises(ValueError, match=r"no colour for classes \[8\]"):
        palette.paint(scene())


def test_nearest_resize_keeps_ids_and_is_exact_for_whole_factors():
    mask = scene()
    assert np.array_equal(resize_nearest(mask, (96, 128))[::2, ::2], mask)
    assert np.array_equal(resize_nearest(mask, mask.shape), mask)
    assert set(np.unique(resize_nearest(mask, (31, 17)))) <= set(np.unique(mask))


def test_every_mention_of_a_class_is_found_and_long_names_come_first():
    clip = full_clip_tokenizer()
    prompt = "a photo of a hot dog and a dog; hot dog dog"
    tokens = clip(prompt).input_ids
    dog, hot_dog = occurrences(Window.clip(clip), prompt, ["dog", "hot dog"])
    assert [clip.decode(tokens[p]).strip() for p in hot_dog] == ["hot", "dog", "hot", "dog"]
    assert [clip.decode(tokens[p]).strip() for p in dog] == ["dog", "dog"]
    assert not set(dog) & set(hot_dog)


def test_rectified_tokens_are_closed_outside_their_region_and_rows_sum_to_one():
    layout = scene()
    added = rectification(layout, (12, 16), [[5, 9], [7]], [12, 8], length=20)
    logits = np.random.default_rng(1).normal(size=added.shape) + added
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    cells = resize_nearest(layout, (12, 16)).reshape(-1)
    assert (weights[cells != 12][:, [5, 9]] == 0).all()
    assert (weights[cells == 12][:, [5, 9]] > 0).all()
    assert (weights[cells != 8][:, 7] == 0).all()
    assert np.allclose(weights.sum(axis=1), 1)
    # a row of background keeps the special tokens and the rest of the caption
    assert (weights[cells == 0][:, 0] > 0).all()


def test_pixel_losses_are_cross_entropy():
    import torch

    rng = np.random.default_rng(0)
    logits, mask = rng.normal(size=(21, 48, 64)).astype(np.float32) * 3, scene()
    wanted = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits)[None],
        torch.from_numpy(mask.astype(np.int64))[None],
        ignore_index=255,
        reduction="none",
    )[0].numpy()
    assert np.allclose(pixel_losses(logits, mask), wanted, atol=1e-5)


def test_class_means_are_over_all_pixels_of_all_images_and_skip_ignore():
    a, b = np.zeros((2, 2), np.uint8), np.array([[0, 12], [12, 255]], np.uint8)
    means = class_mean_losses([(np.full((2, 2), 1.0, np.float32), a), (np.array([[6, 2], [4, 99]], np.float32), b)])
    assert means == {0: pytest.approx(2.0), 12: pytest.approx(3.0)}


def test_filtering_only_writes_ignore_and_is_monotone_in_the_tolerance():
    rng = np.random.default_rng(2)
    mask, losses = scene(), rng.exponential(size=(48, 64)).astype(np.float32)
    means = {0: 1.0, 12: 0.8, 8: 1.2}
    before = None
    for tolerance in (0.0, 0.5, 1.25, 3.0, np.inf):
        filtered = filter_regions(mask, losses, means, tolerance)
        changed = filtered != mask
        assert set(np.unique(filtered[changed])) <= {255}
        assert before is None or not (changed & ~before).any()
        before = changed
    assert not before.any()
    strict = filter_regions(mask, losses, means, 0.0)
    assert (strict[losses > 0] == 255).all()


def test_pixels_of_a_class_are_ignored_exactly_beyond_the_limit():
    mask = np.full((1, 4), 12, np.uint8)
    losses = np.array([[1.0, 1.24, 1.26, 9.0]], np.float32)
    assert filter_regions(mask, losses, {12: 1.0}).tolist() == [[12, 12, 255, 255]]


def test_classes_absent_from_real_data_are_left_alone():
    mask = scene()
    losses = np.full(mask.shape, 5.0, np.float32)
    filtered = filter_regions(mask, losses, {0: 0.1})
    assert np.array_equal(filtered == 12, mask == 12)
    assert (filtered[mask == 0] == 255).all()
    assert hardness(mask, {}) == 0.0
    assert class_mean_losses([]) == {}
    with pytest.raises(ValueError, match="tolerance"):
        filter_regions(mask, losses, {}, -1.0)


def test_hardness_weighs_classes_by_pixels():
    mask = np.array([[0, 0, 0, 12]], np.uint8)
    assert hardness(mask, {0: 1.0, 12: 5.0}) == pytest.approx(2.0)


def test_hardness_counts_follow_the_formula():
    counts = images_per_mask({f"m{i:02d}": float(i) for i in range(20)}, per_mask=20)
    assert (counts["m00"], counts["m19"]) == (2, 20)
    assert list(counts.values()) == [min(1 + round(20 * i / 20), 20) for i in range(1, 21)]
    ranked = images_per_mask({"easy": 0.1, "hard": 2.0, "middle": 0.5}, per_mask=6)
    assert ranked["easy"] <= ranked["middle"] <= ranked["hard"] == 6
    assert images_per_mask({}, 20) == {}


def test_chosen_images_depend_on_seed_and_mask_only():
    images = [f"i{k}" for k in range(20)]
    first = choose_images("m", images, 7, seed=0)
    assert len(first) == 7
    assert set(choose_images("m", images[::-1], 7, seed=0)) == set(first)
    assert set(choose_images("m", images, 9, seed=0)) > set(first)
    assert choose_images("m", images, 7, seed=1) != first
    assert choose_images("other", images, 7, seed=0) != first
