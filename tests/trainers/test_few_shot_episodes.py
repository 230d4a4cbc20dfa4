"""Episodes: folds, lists, filters, seeds; and metrics that are accumulated before they are divided."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskmill.data_contracts import load_label_space
from maskmill.trainers.engine import DataConfig, Samples
from maskmill.trainers.few_shot.config import Config
from maskmill.trainers.few_shot.episodes import (
    PI_CLIP_SEEDS,
    ClassIndex,
    EpisodeConfig,
    Episodes,
    binary_mask,
    split_classes,
)
from maskmill.trainers.few_shot.features import canvas_target
from maskmill.trainers.few_shot.metrics import EpisodeMetrics
from maskmill.trainers.few_shot.source import EpisodeSource
from maskmill.trainers.few_shot.train import featurizer_of, held_out, training_episodes
from maskmill.trainers.few_shot.train import test_episodes as held_out_episodes
from tests.trainers import shapes

ANY = EpisodeConfig(folds=3, min_share=0.0)


def index(images: int = 12, classes: int = 4, seed: int = 0) -> ClassIndex:
    pixels = np.random.default_rng(seed).integers(0, 500, (images, classes)).astype(np.int64)
    pixels[pixels < 200] = 0
    ids = tuple(f"{n:03d}" for n in range(images))
    return ClassIndex(ids, tuple(range(1, classes + 1)), pixels, np.full(images, 1000))


def open_scenes(folder: Path, count: int, shards: int = 1) -> Samples:
    data = DataConfig(samples=(shapes.write_scenes(folder / "samples", count, shards=shards),))
    return Samples.open(data, str(folder / "cache"))


def test_folds_are_those_of_the_papers() -> None:
    voc, coco = load_label_space("voc"), load_label_space("coco")
    pascal, twenty = split_classes(voc.ids, 4), split_classes(coco.ids, 4, "interleaved")
    for folds, size in ((pascal, 20), (twenty, 80)):
        assert sorted(i for fold in folds for i in fold) == list(range(1, size + 1))
    names = [[voc.by_id[i].name for i in fold] for fold in pascal]
    assert names[0] == ["aeroplane", "bicycle", "bird", "boat", "bottle"]
    assert names[2][0] == "diningtable"
    assert names[3][0] == "pottedplant"
    first = [coco.by_id[i].name for i in twenty[0]]
    assert (first[0], first[1], first[-1], len(first)) == ("person", "airplane", "scissors", 20)
    with pytest.raises(ValueError, match="5 folds for 3 classes"):
        split_classes([1, 2, 3], 5)


@given(st.lists(st.integers(1, 254), min_size=4, max_size=40, unique=True), st.integers(1, 4))
def test_any_folds_are_disjoint_and_complete(ids: list[int], folds: int) -> None:
    for split in ("blocks", "interleaved"):
        parts = split_classes(ids, folds, split)
        assert sorted(i for part in parts for i in part) == sorted(ids)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("shots", [1, 3])
def test_supports_differ_from_the_query_and_from_each_other(shots: int) -> None:
    episodes = Episodes(index(), (1, 2, 3), shots, ANY, seed=3)
    drawn = episodes.take(100)
    assert [e.number for e in drawn] == list(range(100)), "exactly so many, none off by one"
    for e in drawn:
        assert len({e.query, *e.supports}) == 1 + shots
        column = e.class_id - 1
        assert all(index().pixels[int(i), column] > 0 for i in (e.query, *e.supports))
    turn = {e.query for e in drawn[: len(episodes.queries)]}
    assert turn == set(episodes.queries), "every listed image is a query once a turn"


def test_same_seed_same_episodes_whatever_the_order_or_the_worker() -> None:
    episodes = Episodes(index(), (1, 2), 2, ANY, seed=3)
    assert episodes.take(30) == [Episodes(index(), (1, 2), 2, ANY, seed=3).episode(n) for n in range(30)]
    assert [episodes.episode(n) for n in reversed(range(30))] == episodes.take(30)[::-1]
    assert episodes.take(30) != Episodes(index(), (1, 2), 2, ANY, seed=4).take(30)
    assert len(set(PI_CLIP_SEEDS)) == 10


def test_shards_do_not_change_episodes(tmp_path: Path) -> None:
    config = Config(episodes=EpisodeConfig(held_out=("blue bar",), min_share=0.0))
    drawn = [
        training_episodes(open_scenes(tmp_path / str(n), 9, shards=n), shapes.SPACE, config).take(8) for n in (1, 3)
    ]
    assert drawn[0] == drawn[1]


def test_filters_of_both_papers(tmp_path: Path) -> None:
    """PI-CLIP's list holds no image with a held-out class; SCL's may, and shows it as background."""
    samples = open_scenes(tmp_path, 12)
    shown = {i: set(np.unique(samples.example(p).mask).tolist()) for p, i in enumerate(samples.ids)}
    held = {"held_out": ("blue bar",), "min_share": 0.0}
    strict = training_episodes(samples, shapes.SPACE, Config(episodes=EpisodeConfig(**held)))
    loose = training_episodes(samples, shapes.SPACE, Config(episodes=EpisodeConfig(**held, drop_held_out=False)))
    assert all(3 not in shown[i] for e in strict.take(40) for i in (e.query, *e.supports))
    assert any(3 in shown[e.query] for e in loose.take(40))
    assert {e.class_id for e in loose.take(40)} == {1, 2}
    tested, classes = held_out_episodes(samples, shapes.SPACE, EpisodeConfig(**held), 1, 20, 0)
    assert (classes, {e.class_id for e in tested}, len(tested)) == ((3,), {3}, 20)


def test_lists_take_images_with_enough_of_a_class() -> None:
    many = EpisodeConfig(min_pixels=400, min_share=0.0)
    found = index().listed(many)
    assert (found == (index().pixels >= 400)).all()
    assert (index().listed(EpisodeConfig(min_share=0.3)) == (index().pixels >= 300)).all()
    raw = EpisodeConfig(min_pixels=400, min_share=0.0, pick="raw")
    listed_only = {(e.query, e.class_id) for e in Episodes(index(30), (1, 2, 3), 1, many, 0).take(200)}
    any_shown = {(e.query, e.class_id) for e in Episodes(index(30), (1, 2, 3), 1, raw, 0).take(200)}
    assert all(index(30).pixels[int(q), c - 1] >= 400 for q, c in listed_only)
    assert any(index(30).pixels[int(q), c - 1] < 400 for q, c in any_shown), "the pick looks at raw labels"


def test_too_few_images_are_said() -> None:
    with pytest.raises(ValueError, match="more than 20 images"):
        Episodes(index(), (1, 2), 20, ANY, 0)
    with pytest.raises(ValueError, match=r"0\.\.2, found 3"):
        held_out(shapes.SPACE, EpisodeConfig(folds=3, fold=3))
    with pytest.raises(ValueError, match="no class of label space"):
        held_out(shapes.SPACE, EpisodeConfig(held_out=("zebra",)))


def test_binary_masks_keep_ignore() -> None:
    mask = np.array([[0, 1, 2, 255]], np.uint8)
    assert binary_mask(mask, 2).tolist() == [[0, 0, 1, 255]]
    assert binary_mask(mask, 2, hidden=(1,)).tolist() == [[0, 255, 1, 255]]


@pytest.mark.parametrize("pixels", ["background", "ignore"])
def test_held_out_pixels_are_background_or_left_out(tmp_path: Path, pixels: str) -> None:
    """Training targets where a held-out blue bar lies: background as in the papers, or ignored."""
    samples = open_scenes(tmp_path, 12)
    given = {"held_out": ("blue bar",), "min_share": 0.0, "drop_held_out": False, "held_out_pixels": pixels}
    small = {"size": 48, "target_stride": 1, "encoder": "test_efficientnet", "encoder_weights": "random"}
    config = Config.model_validate({**small, "prior": "none", "episodes": given})
    featurizer = featurizer_of(config, shapes.SPACE, torch.device("cpu"))
    hidden = held_out(shapes.SPACE, config.episodes) if pixels == "ignore" else ()
    source = EpisodeSource(samples, training_episodes(samples, shapes.SPACE, config), featurizer, hidden)
    where = {i: p for p, i in enumerate(samples.ids)}
    shown = 0
    for episode in source.episodes.take(12):
        mask = samples.example(where[episode.query]).mask
        bar, frame = (int((canvas_target(np.asarray(mask), 48) == value).sum()) for value in (3, 255))
        ignored = int((source.item(episode)["query_target"] == 255).sum())
        assert ignored == frame + (bar if pixels == "ignore" else 0)
        shown += bar
    assert shown > 0


def test_metrics_accumulate_before_they_divide() -> None:
    """Three episodes by hand: classes 1, 1 and 2, one pixel of 255."""
    metrics = EpisodeMetrics()
    cases = [
        (1, [1, 1, 0, 0], [1, 0, 0, 0]),  # object 1/2, background 2/3
        (1, [0, 0, 0, 1], [1, 1, 1, 1]),  # object 1/4, background 0/3
        (2, [1, 1, 1, 0], [1, 1, 255, 0]),  # object 2/2, background 1/1
    ]
    for class_id, found, truth in cases:
        metrics.update(class_id, np.array([found]), np.array([truth], np.uint8))
    result = metrics.compute((1, 2, 3))
    assert result["iou"] == {1: pytest.approx(2 / 6), 2: pytest.approx(1.0), 3: 0.0}
    assert result["miou"] == pytest.approx((2 / 6 + 1 + 0) / 3), "a class never drawn counts 0"
    assert result["fbiou"] == pytest.approx((3 / 7 + 4 / 8) / 2)
    assert result["iou"][1] != pytest.approx((1 / 2 + 1 / 4) / 2), "not the mean of episodes"
    assert result["episodes"] == 3
    with pytest.raises(ValueError, match="expected a prediction"):
        metrics.update(1, np.zeros((2, 2)), np.zeros((3, 3), np.uint8))
