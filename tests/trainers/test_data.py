"""Samples, augmentation and batches: what is joined, what is drawn, and what it depends on."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.data_contracts import IGNORE, SAMPLE, ContractError, DamagedError
from maskmill.trainers.engine import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AugmentConfig,
    DataConfig,
    GroupSource,
    JointSource,
    Samples,
    SampleSource,
    SegmentationView,
    centre_geometry,
    draw_geometry,
    fitted_size,
    jitter_colours,
    shuffled,
)
from tests.trainers import shapes

BUSY = AugmentConfig(
    size=40, scale=(0.6, 1.6), rotate=20, quarter_turns=True, brightness=0.3, hue=0.1, blur=0.5, grey=0.2
)


def open_scenes(tmp_path: Path, count: int = 6, **more: object) -> Samples:
    shards = more.pop("shards", 1)
    folder = shapes.write_scenes(tmp_path / f"samples-{shards}", count, shards=shards)  # type: ignore[arg-type]
    return Samples.open(DataConfig(samples=(folder,)), str(tmp_path / "cache"), **more)  # type: ignore[arg-type]


def view(augment: AugmentConfig = BUSY, **more: object) -> SegmentationView:
    return SegmentationView(augment, IMAGENET_MEAN, IMAGENET_STD, shapes.SPACE.size, **more)  # type: ignore[arg-type]


def test_joins_labels_and_counts_every_sample(tmp_path: Path) -> None:
    rows = [shapes.sample_row(number) for number in range(6)]
    samples = shapes.write_rows(tmp_path / "samples", rows, SAMPLE)
    labels = shapes.write_pseudo(tmp_path / "labels", rows[:5], abstain=1)
    weak = shapes.write_weak(tmp_path / "weak", rows[1:])
    kept = shapes.write_decisions(tmp_path / "decisions.parquet", rows, kept=4)
    data = Samples.open(DataConfig(samples=samples, labels=labels, weak=weak, decisions=kept), str(tmp_path))  # type: ignore[arg-type]
    assert data.counts == {"samples": 6, "not_kept": 2, "not_wanted": 0, "duplicate_id": 0, "no_weak_label": 1}
    assert sum(data.counts.values()) - data.counts["samples"] + len(data) == 6
    assert list(data.ids) == sorted(str(row["sample_id"]) for row in rows[1:4])
    example = data.with_masks().example(0)
    assert example.mask is not None
    assert (example.mask == 1).all(), "the pseudo-label, not the truth"
    assert example.confidence is not None
    assert (example.confidence == 128).all()
    assert example.scribble is not None
    assert set(np.unique(example.scribble)) == {0, *example.info.class_ids, IGNORE}
    assert example.boxes.shape == (len(example.info.class_ids), 5)
    assert len(data.lineage) == 3


def test_truth_is_hidden_from_runs_on_weak_labels(tmp_path: Path) -> None:
    rows = [shapes.sample_row(number) for number in range(3)]
    samples = shapes.write_rows(tmp_path / "samples", rows, SAMPLE)
    weak = shapes.write_weak(tmp_path / "weak", rows)
    data = Samples.open(DataConfig(samples=(samples,), weak=(weak,)), str(tmp_path))
    assert all(data.example(i).mask is None for i in range(3))
    with pytest.raises(ValueError, match="found 3 samples and no mask"):
        data.with_masks()
    abstained = shapes.write_pseudo(tmp_path / "labels", rows, abstain=2)
    labelled = Samples.open(DataConfig(samples=(samples,), labels=(abstained,)), str(tmp_path))
    assert [labelled.example(i).mask is None for i in range(3)].count(True) == 2


def test_errors_name_place_and_fix(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the stage that writes them"):
        Samples.open(DataConfig(samples=(str(tmp_path / "nowhere"),)), str(tmp_path))
    folder = shapes.write_scenes(tmp_path / "samples", 2)
    with pytest.raises(ContractError, match="pseudo_label version 1"):
        Samples.open(DataConfig(samples=(folder,), labels=(folder,)), str(tmp_path))


def test_memory_mapped_rows_equal_rows_in_memory(tmp_path: Path) -> None:
    near, far = open_scenes(tmp_path), open_scenes(tmp_path, memory_mb=0)
    for position in (4, 0, 5):
        a, b = near.example(position), far.example(position)
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.mask, b.mask)
    mapped = list((tmp_path / "cache").glob("rows-*.arrow"))
    assert len(mapped) == 1
    again = open_scenes(tmp_path, memory_mb=0)
    again.example(1)
    assert list((tmp_path / "cache").iterdir()) == mapped, "the mapped file is found again, not written twice"


@pytest.mark.parametrize("memory_mb", [0, 1024])
def test_pixels_that_rotted_are_not_trained_on(tmp_path: Path, memory_mb: int) -> None:
    samples = open_scenes(tmp_path, memory_mb=memory_mb)
    (path,) = (tmp_path / "samples-1").glob("*.parquet")
    image = pq.read_table(path).column("image")[2].as_py()["bytes"]
    data = bytearray(path.read_bytes())
    data[data.find(image) + len(image) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedError, match="samples-1"):
        samples.example(0)


def test_ids_choose_samples_and_repeated_samples_count_once(tmp_path: Path) -> None:
    whole = open_scenes(tmp_path)
    folder = whole.config.samples[0]
    some = Samples.open(DataConfig(samples=(folder, folder), ids=whole.ids[1:3]), str(tmp_path))
    assert some.ids == whole.ids[1:3]
    assert some.counts["duplicate_id"] == 2
    assert some.fingerprint != whole.fingerprint


def test_batches_depend_on_seed_epoch_and_sample_only(tmp_path: Path) -> None:
    one, many = open_scenes(tmp_path), open_scenes(tmp_path, shards=3)
    a, b = SampleSource(one, view(), 4, seed=7), SampleSource(many, view(), 4, seed=7)
    for step in (2, 0, 5):  # any order of calls
        left, right = a(step), b(step)
        assert left["sample_id"] == right["sample_id"]
        assert torch.equal(left["image"], right["image"])
        assert torch.equal(left["mask"], right["mask"])
    small = SampleSource(one, view(), 2, seed=7)
    assert torch.equal(torch.cat([small(0)["image"], small(1)["image"]]), a(0)["image"]), "batch size changes no view"
    other = SampleSource(one, view(), 4, seed=8)
    assert not torch.equal(other(0)["image"], a(0)["image"])


def test_every_epoch_holds_every_sample_once_in_a_new_order(tmp_path: Path) -> None:
    data = open_scenes(tmp_path)
    source = SampleSource(data, view(), 4, seed=0)
    seen = [pair for step in range(3) for pair in source.plan(step)]  # 12 = 2 epochs of 6
    orders = [[position for position, epoch in seen if epoch == e] for e in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(6))
    assert orders[0] != orders[1]
    assert shuffled(["b", "a"], 3, 0) == [1 - i for i in shuffled(["a", "b"], 3, 0)]


def test_a_sample_looks_different_in_every_epoch(tmp_path: Path) -> None:
    data = open_scenes(tmp_path, count=1)
    source = SampleSource(data, view(), 1, seed=0)
    assert not torch.equal(source(0)["image"], source(1)["image"])
    calm = SampleSource(data, view(random=False), 1, seed=0)
    assert torch.equal(calm(0)["image"], calm(1)["image"])


def test_groups_stay_whole_and_never_repeat_a_sample(tmp_path: Path) -> None:
    folder = shapes.write_scenes(tmp_path / "groups", 9, group_size=4)  # groups of 4, 4, 1
    data = Samples.open(DataConfig(samples=(folder,)), str(tmp_path))
    source = GroupSource(data, view(AugmentConfig(size=16)), groups=2, members=3, seed=1)
    batch = source(0)
    sizes = torch.bincount(batch["group"]).tolist()
    assert all(1 <= size <= 3 for size in sizes)
    assert len(set(batch["sample_id"])) == sum(sizes) == len(batch["image"])
    by_id = {info.sample_id: info.group for info in data.infos}
    for number in range(2):
        members = [i for i, g in zip(batch["sample_id"], batch["group"].tolist(), strict=True) if g == number]
        assert len({by_id[i] for i in members}) == 1
    clips = GroupSource(data, view(AugmentConfig(size=16)), groups=1, members=2, seed=1, pick="consecutive")
    for step in range(6):
        ((positions, _),) = clips.plan(step)
        indices = [data.infos[p].index or 0 for p in positions]
        assert indices == list(range(indices[0], indices[0] + len(indices)))
    joint = JointSource(a=source, b=clips)(0)
    assert torch.equal(joint["a"]["image"], batch["image"])


def test_view_marks_padding_and_hides_it_from_the_loss(tmp_path: Path) -> None:
    data = open_scenes(tmp_path)
    wide = AugmentConfig(size=64, fit="native", flip=0.0)  # scenes are 48 x 56
    item = SampleSource(data, view(wide, extras=("confidence",)), 1, seed=0)(0)
    outside = ~item["valid"][0]
    assert int(outside.sum()) == 64 * 64 - 48 * 56
    assert (item["mask"][0][outside] == IGNORE).all()
    assert (item["confidence"][0][outside] == 0).all()
    assert item["image"][0][:, outside].abs().max() < 0.02, "padding is the mean colour"
    assert item["mask"].dtype == torch.int64
    assert item["rgb"].dtype == torch.uint8
    assert set(item["tags"][0].nonzero().flatten().tolist()) <= {1, 2, 3}


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(9, 90),
    width=st.integers(9, 90),
    seed=st.integers(0, 2**32),
    fit=st.sampled_from(["native", "short", "long", "squash"]),
    rotate=st.sampled_from([0.0, 30.0]),
)
def test_any_geometry_keeps_size_ids_and_alignment(height: int, width: int, seed: int, fit: str, rotate: float) -> None:
    config = AugmentConfig(size=24, fit=fit, scale=(0.5, 2.0), rotate=rotate, quarter_turns=True)  # type: ignore[arg-type]
    geometry = draw_geometry(np.random.default_rng(seed), height, width, config)
    mask = np.random.default_rng(seed).integers(0, 3, (height, width)).astype(np.uint8)
    label = geometry.label(mask)
    assert label.shape == (24, 24)
    assert set(np.unique(label)) <= {0, 1, 2, IGNORE}, "labels are never interpolated"
    valid = geometry.label(np.ones_like(mask), fill=0)
    np.testing.assert_array_equal(label == IGNORE, valid == 0)
    assert geometry.image(np.repeat(mask[..., None], 3, 2)).shape == (24, 24, 3)


def test_geometry_moves_image_and_mask_alike() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[15:35, 20:50] = 1
    image = np.repeat(mask[..., None] * np.uint8(255), 3, 2)
    for seed in range(12):
        geometry = draw_geometry(np.random.default_rng(seed), 60, 60, BUSY)
        seen = geometry.image(image, fill=(0, 0, 0))[..., 0] > 127
        wanted = geometry.label(mask, fill=0) == 1
        assert (seen != wanted).mean() < 0.03


def test_label_resize_is_nearest_neighbour_of_the_source() -> None:
    mask = np.random.default_rng(0).integers(0, 4, (31, 47)).astype(np.uint8)
    config = AugmentConfig(size=62, fit="squash", flip=0.0)
    label = centre_geometry(31, 47, config).label(mask)
    ys = ((np.arange(62) + 0.5) * 31 / 62).astype(int)
    xs = ((np.arange(62) + 0.5) * 47 / 62).astype(int)
    np.testing.assert_array_equal(label, mask[ys][:, xs])


def test_fit_and_jitter() -> None:
    assert fitted_size(40, 80, "short", 20) == (20, 40)
    assert fitted_size(40, 80, "long", 20) == (10, 20)
    assert fitted_size(40, 80, "squash", 20) == (20, 20)
    assert fitted_size(40, 80, "native", 20, 0.5) == (20, 40)
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    same = jitter_colours(np.random.default_rng(1), image, AugmentConfig())
    np.testing.assert_array_equal(same, image)
    grey = jitter_colours(np.random.default_rng(1), image, AugmentConfig(grey=1.0))
    assert (grey[..., 0] == grey[..., 1]).all()
    expected = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(int)
    assert np.abs(grey[..., 0].astype(int) - expected).max() <= 1
    turned = jitter_colours(np.random.default_rng(1), image, AugmentConfig(hue=0.5))
    assert (turned != image).any()
