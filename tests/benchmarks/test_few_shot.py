"""The few-shot benchmark: coarse garments from photos of that layout, balanced choices, scenes; nothing is trained."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import few_shot, few_shot_worlds
from benchmarks.common import Record, is_train_key, parse_options
from maskmill.data_contracts import encode_image, encode_mask
from maskmill.trainers.engine import DataConfig, Samples
from maskmill.trainers.few_shot.base import PyramidDecoder
from maskmill.trainers.few_shot.config import Config
from maskmill.trainers.few_shot.model import FewShotNet
from maskmill.trainers.few_shot.predict import FewShotPredictor
from maskmill.trainers.few_shot.train import featurizer_of
from tests.trainers import shapes

COARSE = ["background", "skin", "hair", "top", "bag", "hat", "footwear"]
FINE_TO_COARSE = [0, 1, 2, 3, 3, 4, 5, 6]
SIZE = few_shot_worlds.Size(4, 4, 6, 6, steps=1, episodes={1: 1, 5: 1})


def write_ccp(root: Path, count: int = 30) -> None:
    """Photos 32 x 24: fine class 3 or 4 (top) on each, 5 (bag) on every tenth, skin everywhere."""
    for name in ("images", "masks"):
        (root / "ccp" / name).mkdir(parents=True)
    (root / "ccp" / "classes.json").write_text(
        json.dumps({"classes": ["x"] * 8, "coarse_classes": COARSE, "fine_to_coarse": FINE_TO_COARSE})
    )
    rng = np.random.default_rng(0)
    for number in range(count):
        mask = np.zeros((32, 24), np.uint8)
        mask[:4], mask[8:20, 4:20] = 1, 3 + number % 2
        if number % 10 == 0:
            mask[22:30, 2:8] = 5
        image = rng.integers(0, 255, (32, 24, 3)).astype(np.uint8)
        (root / "ccp" / "images" / f"{number:04d}.jpg").write_bytes(encode_image(image))
        (root / "ccp" / "masks" / f"{number:04d}.png").write_bytes(encode_mask(mask))


def options(root: Path, folder: Path) -> few_shot.Options:
    return parse_options("few_shot", None, ["--data", str(root), "--json", str(folder / "result.json")])


def test_photos_become_garments_and_no_stem_is_on_both_sides(tmp_path: Path) -> None:
    write_ccp(tmp_path)
    world = few_shot_worlds.ccp_world(options(tmp_path, tmp_path), SIZE, tmp_path / "work")
    assert world is not None
    assert [c.name for c in world.space.classes] == ["top", "bag", "hat", "footwear"], "skin and hair are no garments"
    learnt, tested = (Samples.open(config, str(tmp_path / "cache")) for config in (world.data, world.test))
    assert len(learnt) == len(tested) == 6
    assert not set(learnt.ids) & set(tested.ids)
    for samples in (learnt, tested):
        values = {int(v) for p in range(len(samples)) for v in np.unique(np.asarray(samples.example(p).mask))}
        assert values <= {0, 3, 4}


def test_rare_classes_are_chosen_first(tmp_path: Path) -> None:
    write_ccp(tmp_path)
    photos = [photo for photo in few_shot_worlds.read_photos(tmp_path) if is_train_key(photo.key)]
    space = few_shot_worlds.garments(tmp_path / "ccp")
    bags = [p for p in photos if (p.mask() == space.find("bag").id).any()]
    chosen = few_shot_worlds.spread(photos, 2 * len(bags), space)
    assert set(bags) <= set(chosen)
    assert len(chosen) == len(set(chosen)) == 2 * len(bags)


def test_a_folder_without_photos_is_said(tmp_path: Path) -> None:
    assert few_shot_worlds.ccp_world(options(tmp_path, tmp_path), SIZE, tmp_path / "work") is None


def test_scenes_of_tested_styles_are_not_those_of_training(tmp_path: Path) -> None:
    world = few_shot_worlds.drawn_world(SIZE, tmp_path)
    learnt, tested = (Samples.open(config, str(tmp_path / "cache")) for config in (world.data, world.test))
    assert (len(learnt), len(tested)) == (4, 4)
    assert not set(learnt.ids) & set(tested.ids)
    assert len(world.space.classes) == 19


def test_gains_are_differences_to_the_arm_without_the_last_part(tmp_path: Path) -> None:
    record = Record.open(options(tmp_path, tmp_path))
    for arm, value in (("base", 0.2), ("base+scl", 0.3)):
        few_shot.add(record, arm, 0, {"ccp": {"miou_1shot": value}, "drawn": {"miou_1shot": value + 0.2}})
    assert "gain_1shot" not in record.values["base"]["0"]
    found = record.values["base+scl"]["0"]
    assert found["miou_1shot"] == pytest.approx(0.4)
    assert [found[f"gain_1shot{world}"] for world in ("", "@ccp", "@drawn")] == pytest.approx([0.1] * 3)


def test_gains_are_paired_by_start_and_say_what_they_can_see(tmp_path: Path) -> None:
    record = Record.open(options(tmp_path, tmp_path))
    for arm, values in (("base", (0.2, 0.4, 0.3)), ("base+ours", (0.25, 0.41, 0.36))):
        runs = {f"miou_1shot#{start}": value for start, value in enumerate(values)}
        few_shot.add(record, arm, 0, {"drawn": {"miou_1shot": float(np.mean(values)), **runs}})
    found = record.values["base+ours"]["0"]
    assert found["gain_1shot"] == pytest.approx(0.04)
    assert (
        found["sees_1shot"] == found["sees_1shot@drawn"] == pytest.approx(2 * np.std([5, 1, 6], ddof=1) / 173.2, 1e-3)
    )
    assert not any(name.startswith("gain") and "#" in name for name in found)


def test_arms_see_and_begin_alike_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every arm from two starts on scenes, at a size that learns nothing."""
    size = few_shot_worlds.Size(24, 24, 1, 1, steps=1, episodes={1: 2, 5: 1}, starts=2)
    small = {"size": 64, "batch": 2, "width": 8, "encoder": "test_efficientnet", "encoder_weights": "random"}
    plain = few_shot.settings_of

    def settings_of(*given: Any) -> dict[str, Any]:
        return {**plain(*given), **small, "episodes": {"held_out": (), "min_share": 0.0}}

    monkeypatch.setattr(few_shot, "settings_of", settings_of)
    monkeypatch.setattr(few_shot, "PAPER", few_shot.PAPER)
    tiny = {"model": str(Path(__file__).parents[1] / "data" / "tiny_clip"), "match_side": 64, "text_side": 64}
    monkeypatch.setitem(few_shot.NETWORKS["base+pi_clip"], "priors", {**few_shot.PAPER, **tiny})
    world = few_shot_worlds.World(
        "shapes", shapes.SPACE, *[DataConfig(samples=(shapes.write_scenes(tmp_path / "s", 24),))] * 2, {}
    )
    runs = {a: few_shot.all_starts(world, a, size, 0, [0], tmp_path) for a in ("base", "base+pi_clip", "base+scl")}
    for found in runs.values():
        assert {"miou_1shot", "miou_1shot#0", "miou_1shot#1", "miou_5shot#1", "fbiou_5shot"} <= set(found)
        assert found["miou_1shot"] == pytest.approx((found["miou_1shot#0"] + found["miou_1shot#1"]) / 2)
    assert {"missed", "cross_gain"} <= set(runs["base+scl"])


def test_every_prior_has_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = few_shot_worlds.Size(8, 8, 1, 1, steps=1, episodes={1: 2}, starts=1)
    plain = few_shot.settings_of
    own = {"size": 64, "encoder": "test_efficientnet", "encoder_weights": "random"}
    episodes = {"episodes": {"held_out": (), "min_share": 0.0}}
    monkeypatch.setattr(few_shot, "settings_of", lambda *given: {**plain(*given), **own, **episodes})
    data = [DataConfig(samples=(shapes.write_scenes(tmp_path / "s", 8),))] * 2
    world = few_shot_worlds.World("shapes", shapes.SPACE, *data, {})
    found = few_shot.all_priors(world, size, 0, [0], tmp_path)
    assert tuple(found) == few_shot.PRIORS
    assert all(0 < value <= 1 for value in found.values())
    assert len(set(found.values())) == len(found)


def named(world: few_shot_worlds.World, *rest: Any) -> tuple[Any, ...]:
    return world.name, *rest


def test_worlds_are_measured_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a process of its own, which stays, with its share of the cores; a lone one here."""
    made: list[Any] = []

    def pool(workers: int, context: Any, first: Any, given: Any) -> ThreadPoolExecutor:
        made.append((workers, context.get_start_method(), first, given))
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(few_shot, "ProcessPoolExecutor", pool)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    worlds = [few_shot_worlds.World(name, shapes.SPACE, *[DataConfig(samples=("x",))] * 2, {}) for name in "ab"]
    with few_shot.apart(worlds) as measured:
        for number in range(2):
            assert measured(named, number) == {"a": ("a", number), "b": ("b", number)}
    assert made == [(1, "spawn", torch.set_num_threads, (2,))] * 2
    with few_shot.apart(worlds[:1]) as measured:
        assert measured(named) == {"a": ("a",)}
    assert len(made) == 2


@pytest.mark.parametrize("found", [False, True])
def test_a_support_that_is_found_wholly_leaves_nothing_to_the_auxiliary_vector(tmp_path: Path, found: bool) -> None:
    """Decoders whose bias alone decides: all of the image is the object, or nothing is."""
    samples = Samples.open(DataConfig(samples=(shapes.write_scenes(tmp_path / "scenes", 12),)), str(tmp_path / "cache"))
    given = {"encoder": "test_efficientnet", "encoder_weights": "random", "size": 64, "width": 8, "scales": [1.0]}
    config = Config.model_validate(
        {**given, "scl": True, "prior": "none", "episodes": {"held_out": (), "min_share": 0}}
    )
    featurizer = featurizer_of(config, shapes.SPACE, torch.device("cpu"))
    net = FewShotNet(config, featurizer.channels, config.prior_channels)
    assert isinstance(net.decoder, PyramidDecoder)
    last = net.decoder.head[-1]
    assert isinstance(last, torch.nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 1.0 if found else -1.0]))
    world = few_shot_worlds.World("shapes", shapes.SPACE, samples.config, samples.config, {})
    size = few_shot_worlds.Size(1, 1, 1, 1, steps=1, episodes={1: 4})
    episodes = few_shot.tested_episodes(world, samples, size, config, 1)
    scores = few_shot.self_guidance(FewShotPredictor(net, featurizer, shapes.SPACE), samples, episodes)
    assert scores["missed"] == (0.0 if found else 1.0)
    assert scores["support_first"] == scores["support_second"]
    assert (scores["support_first"] > 0) == (scores["miou_1shot_own"] > 0) == found
