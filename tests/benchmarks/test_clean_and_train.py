"""The benchmark `clean_and_train`: faults of labels, arms, and what is counted."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import clean_and_train
from benchmarks.clean_and_train import Spoilt, account, by_arm, conditions, overlap, side_by_side
from benchmarks.clean_arms import ARMS, at_random, confident, losses
from benchmarks.clean_learn import Cells, miou, train
from benchmarks.clean_sets import (
    KINDS,
    CleanSet,
    coarse_polygons,
    deal_kinds,
    grabcut,
    in_kinds,
    load_clean_sets,
    spoil,
)
from benchmarks.common import Options, Record
from benchmarks.keep_sets import Photo, PhotoSet
from benchmarks.pictures.when_it_pays import gains, main, shares
from maskmill.data_contracts import (
    IGNORE,
    LabelSpace,
    Uint8Array,
    decode_image,
    encode_image,
    encode_mask,
    foreground_ids,
)

SPACE = LabelSpace.from_names(["cat", "dog", "horse", "bus"])
ROAD = LabelSpace(name="road", background_id=None, classes=LabelSpace.from_names(["sky", "road", "car"]).classes)


def clean_set(folder: Path, space: LabelSpace = SPACE, two: bool = False) -> tuple[CleanSet, list[Uint8Array]]:
    """Six photos of an L-shaped cat, with `two` of a dog beside it; without background all of the rest is a bus."""
    photos = []
    for i in range(6):
        rng = np.random.default_rng(i)
        mask = np.full((60, 80), 0 if space.background_id == 0 else 3, np.uint8)
        mask[10:50, 10 + i : 20 + i] = 1
        mask[40:50, 10 + i : 40 + i] = 1
        if two:
            mask[5:25, 50:70] = 2
        image = np.clip(rng.normal(100, 5, (60, 80, 3)) + 50.0 * mask[..., None], 0, 255).astype(np.uint8)
        paths = folder / f"{i}.png", folder / f"{i}-mask.png"
        paths[0].write_bytes(encode_image(image))
        paths[1].write_bytes(encode_mask(mask))
        photos.append(Photo(paths[0], f"{i}", None, paths[1], np.arange(256, dtype=np.uint8)))
    masks = [m for p in photos if (m := p.mask()) is not None]
    return CleanSet("made", space, tuple(photos), tuple(photos[:2]), (2, 3)), masks


def test_faults_grow_with_the_rate_and_kinds_take_turns() -> None:
    few, many = deal_kinds(60, 10, 0), deal_kinds(60, 50, 0)
    assert (len(few), len(many)) == (6, 30)
    assert few.items() <= many.items()
    assert {kind: list(many.values()).count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 5)
    assert deal_kinds(60, 10, 1) != few


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_the_mask_as_it_says(kind: str, two: bool, tmp_path: Path) -> None:
    one, masks = clean_set(tmp_path, two=two)
    found, mask = spoil(kind, 2, masks, one, 7), masks[2]
    assert found.shape == mask.shape
    assert found.dtype == np.uint8
    assert not np.array_equal(found, mask)
    assert np.array_equal(found, spoil(kind, 2, masks, one, 7))
    same_outline = np.array_equal(found > 0, mask > 0)
    if kind == "wrong_class":
        assert same_outline
        assert set(foreground_ids(found, SPACE)) - set(foreground_ids(mask, SPACE))
    if kind == "foreign_mask":
        assert any(np.array_equal(found, m) for i, m in enumerate(masks) if i != 2)
    if kind == "shifted":
        assert np.array_equal(found[7:, 10:], mask[:-7, :-10]) or not same_outline
    if kind == "missing_object":
        assert len(foreground_ids(found, SPACE)) == len(foreground_ids(mask, SPACE)) - 1
    if kind == "merged_object" and two:
        assert same_outline
        assert len(foreground_ids(found, SPACE)) == 1
    if kind == "merged_object" and not two:
        assert (found[mask == 1] == 1).all()
        assert (found == 1).sum() > (mask == 1).sum()


def test_without_a_background_nothing_is_left_bare(tmp_path: Path) -> None:
    one, masks = clean_set(tmp_path, ROAD)
    for seed in range(4):
        found = spoil("missing_object", 1, masks, one, seed)
        assert len(foreground_ids(found, ROAD)) == 1
        assert IGNORE not in found
    assert conditions(one) == ["10", "25", "50"]


def test_coarse_polygons_keep_the_place_and_lose_corners(tmp_path: Path) -> None:
    y, x = np.mgrid[:80, :80]
    disc = ((y - 40) ** 2 + (x - 40) ** 2 < 30**2).astype(np.uint8)
    found = coarse_polygons(disc, SPACE)
    inside = (found & disc).sum() / (found | disc).sum()
    assert 0.7 < inside < 0.99
    assert set(np.unique(found)) == {0, 1}


def test_grabcut_finds_what_its_box_holds(tmp_path: Path) -> None:
    one, masks = clean_set(tmp_path)
    image = np.full((60, 80, 3), 40, np.uint8)
    image[masks[0] > 0] = (220, 40, 40)
    found = grabcut(image, masks[0], SPACE)
    assert overlap(masks[0], found, one) > 0.8
    assert overlap(masks[0], np.zeros_like(found), one) == 0


def test_davis_comes_in_three_kinds() -> None:
    fine = LabelSpace.from_names(
        [
            *("bird", "bicycle", "boat", "bus", "car", "cow", "dog", "horse", "motorbike", "person", "train", "camel"),
            *("ball", "bear", "elephant", "goat", "rhinoceros"),
        ],
        "davis",
    )
    own = fine.find("camel").id
    lookup = np.full(256, own, np.uint8)
    lookup[0] = 0
    photo = Photo(Path("x.jpg"), "camel", (own,), Path("x.png"), lookup, "camel", 0)
    found = in_kinds(PhotoSet("davis", fine, (photo,)))
    assert [c.name for c in found.space.classes] == ["animal", "vehicle", "person"]
    assert found.photos[0].lookup is not None
    assert set(found.photos[0].lookup) == {0, 1}
    assert found.photos[0].tags == (1,)


def test_parts_do_not_meet(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / "weizmann_horses" / name).mkdir(parents=True)
    for i in range(30):
        image, mask = np.zeros((8, 8, 3), np.uint8), np.eye(8, dtype=np.uint8)
        (tmp_path / "weizmann_horses" / "images" / f"h{i}.jpg").write_bytes(encode_image(image))
        (tmp_path / "weizmann_horses" / "masks" / f"h{i}.png").write_bytes(encode_mask(mask))
    keys = {}
    for dev in (True, False):
        options = Options("x", tmp_path, None, (0,), "small", tmp_path / "x.json", dev)
        (one,) = load_clean_sets(options)
        assert one.rivals == tuple(one.space.find(n).id for n in ("cow", "dog"))
        keys[dev] = {p.key for p in one.trained}, {p.key for p in one.tested}
        assert not keys[dev][0] & keys[dev][1]
    assert keys[True][1] <= keys[False][0]
    assert not keys[False][1] & (keys[True][0] | keys[True][1])
    other = Options("x", tmp_path, tmp_path, (0,), "small", tmp_path / "x.json")
    (one,) = load_clean_sets(other)
    assert len(one.trained) == len(one.tested) == 30
    with pytest.raises(FileNotFoundError, match="expected horses"):
        load_clean_sets(Options("x", tmp_path / "weizmann_horses", None, (0,), "small", tmp_path / "x.json"))


def cells(count: int = 12, seed: int = 0) -> tuple[Cells, CleanSet]:
    """Cells whose first feature says whether they show a cat."""
    rng = np.random.default_rng(seed)
    features = rng.integers(-16, 17, (count, 64, 5)).astype(np.int8)
    masks = []
    for own in features:
        shown = rng.random(64) < 0.4
        own[:, 0] = np.where(shown, 40, -40)
        masks.append(np.kron(shown.reshape(8, 8), np.ones((4, 4))).astype(np.uint8))
    return Cells(features, masks), CleanSet("made", SPACE, (), (), (2,))


def test_the_segmenter_learns_and_is_measured(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    own, _ = cells()
    learnt = train(own, (0, 1, 2), 60, 0)
    assert miou(learnt, own) > 80
    assert miou(train(own, (0, 1, 2), 60, 0), own) == miou(learnt, own)
    labels = own.labels().astype(np.int64)
    wrong = labels.copy()
    wrong[3] = 1 - wrong[3]
    assert losses(learnt, own, wrong).argmax() == 3
    assert losses(learnt, own, np.full_like(labels, -1)).tolist() == [0.0] * 12
    swapped = own.with_masks([1 - m for m in own.masks])
    assert miou(learnt, swapped) < 10
    one, _ = clean_set(tmp_path)
    assert one.ids == (0, 1, 2, 3)


def test_confident_learning_by_thresholds_of_each_class() -> None:
    labels = np.repeat([[0, 0, 1, 1]], 4, axis=0)
    sure = np.where(labels[..., None] == np.arange(3), 0.8, 0.1).astype(np.float32)
    assert confident(sure, labels) == {0, 1, 2, 3}
    wrong = sure.copy()
    wrong[2, 2:] = [0.8, 0.1, 0.1]  # labelled 1, and as sure as cells of label 0 are that they are 0
    assert confident(wrong, labels) == {0, 1, 3}
    half = sure.copy()
    half[2, 2] = [0.8, 0.1, 0.1]
    assert confident(half, labels) == {0, 1, 2, 3}
    unsure = sure.copy()
    unsure[2, 2:] = [0.5, 0.4, 0.1]  # class 0 is the likelier, but less than where it is labelled
    assert confident(unsure, labels) == {0, 1, 2, 3}
    blank = labels.copy()
    blank[1] = -1
    assert confident(sure, blank) == {0, 2, 3}


def test_random_takes_as_many_and_other_ones_by_seed() -> None:
    assert len(at_random(50, 20, 0)) == 20
    assert at_random(50, 20, 0) != at_random(50, 20, 1)
    assert at_random(50, 10, 0) < at_random(50, 20, 0)


def test_accounts_and_means_over_sets(tmp_path: Path) -> None:
    assert account(range(4), {0, 1}, {1, 2}) == {"clean_kept": 0.5, "faults_caught": 0.5}
    assert account(range(2), set(), {0}) == {"clean_kept": 0.5}
    first, _ = clean_set(tmp_path)
    second = CleanSet("other", ROAD, first.trained, first.tested, (1,))
    record = Record(Options("x", tmp_path, None, (0,), "small", tmp_path / "x.json"))
    for one, base in ((first, 10.0), (second, 30.0)):
        for condition in conditions(one):
            values = {"all.miou": base, "all.clean_kept": 1.0, "all.faults_caught": base / 100}
            record.add(f"{one.name}@{condition}", 0, values)
    found = by_arm(record, 0, [first, second], ["all"])["all"]
    assert found["miou@25"] == 20
    assert found["miou@grabcut"] == 10
    assert found["faults_caught"] == pytest.approx(0.2)
    assert found["miou@25.made"] == 10
    assert found["faults_caught@25.other"] == pytest.approx(0.3)


def test_who_is_told_to_drop_all_drops_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, masks = clean_set(tmp_path)
    own, _ = cells()
    scene = SimpleNamespace(masks=masks, cells=own, one=one, steps=1, seed=0)
    kept = {"all": frozenset(range(6)), "cleanlab": frozenset(), "oracle": frozenset({2, 1})}
    trained: list[int] = []

    def learnt(some: Cells, *_: object) -> float:
        trained.append(len(some.masks))
        return float(len(some.masks))

    monkeypatch.setattr(clean_and_train, "choose", lambda arm, *_: kept[arm])
    monkeypatch.setattr(clean_and_train, "train_and_test", learnt)
    found = clean_and_train.measure(scene, Spoilt(masks, frozenset({0})), own, tuple(kept))  # type: ignore[arg-type]
    assert found["cleanlab"] == {"miou": 6.0, "clean_kept": 0.0, "faults_caught": 1.0}
    assert found["oracle"] == {"miou": 2.0, "clean_kept": 0.4, "faults_caught": 1.0}
    assert trained == [6, 2]


def test_the_picture_shows_gains_over_everything(tmp_path: Path) -> None:
    def arm(rates: tuple[int, ...], *values: float) -> dict[str, dict[str, list[float]]]:
        return {f"miou@{rate}": {"per_seed": list(values)} for rate in rates}

    photos, pairs = (10, 25, 50), (10, 25, 40)
    metrics = {"all": arm(photos, 50, 60), "sds_gate": arm(photos, 53, 61), "oracle": arm(photos, 55, 65)}
    assert gains(metrics, "sds_gate")[0] == pytest.approx((2.0, 2**0.5))
    assert gains(metrics, "oracle")[2] == (5.0, 0.0)
    assert shares(metrics, photos) == list(photos)
    faulty = {f"faulty@{rate}": {"per_seed": [rate + 4.0, rate + 6.0]} for rate in pairs}
    loop = {"all": arm(pairs, 12, 14) | faulty, "sds_half": arm(pairs, 13, 15) | faulty}
    assert shares(loop, pairs) == [15, 30, 45]
    assert gains(loop, "sds_half", pairs) == [(1.0, 0.0)] * 3
    for name, values in (("photos", metrics), ("loop", loop)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"metrics": values}))
    widths = []
    for more in ([], ["--loop", str(tmp_path / "loop.json")]):
        out = tmp_path / "a" / f"{len(more)}.png"
        main([str(tmp_path / "photos.json"), *more, "--out", str(out)])
        widths.append(decode_image(out.read_bytes(), "picture").shape[1])
    assert widths[1] > 1.5 * widths[0]


def test_sets_go_side_by_side_and_a_set_s_conditions_one_after_the_other() -> None:
    running: list[str] = []
    most: list[int] = []

    def task(name: str, condition: str, seed: int) -> dict[str, dict[str, float]]:
        assert name not in running
        running.append(name)
        most.append(len(running))
        if name == "a" and condition == "10":
            both.wait(30)
        elif name == "b":
            both.set()
        running.remove(name)
        return {"all": {"miou": float(seed)}}

    both = Event()
    left = {"a": [("10", 0), ("25", 1)], "b": [("10", 0)], "c": []}
    with ThreadPoolExecutor(3) as pool:
        found = list(side_by_side(pool, left, task))
    assert sorted(one[:3] for one in found) == [("a", "10", 0), ("a", "25", 1), ("b", "10", 0)]
    assert all(one[3]["all"]["miou"] == one[2] for one in found)
    assert max(most) == 2


def test_the_command_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = clean_set(tmp_path)
    options = Options("x", tmp_path, None, (0, 1), "small", tmp_path / "x.json")
    asked: list[tuple[str, int]] = []

    def measured(_: Options, arms: tuple[str, ...], name: str, condition: str, seed: int) -> object:
        asked.append((condition, seed))
        return {arm: {"miou": float(condition == "10"), "clean_kept": 1.0, "faults_caught": 0.0} for arm in arms}

    monkeypatch.setattr(clean_and_train, "_sets", lambda _: {one.name: one})
    monkeypatch.setattr(clean_and_train, "measure_condition", measured)
    monkeypatch.setattr(clean_and_train, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    begun = Record(options)
    begun.add("made@10", 0, {f"{arm}.miou": 7.0 for arm in ARMS})
    result = clean_and_train.run(options)
    assert asked == [(c, s) for s in (0, 1) for c in conditions(one) if (c, s) != ("10", 0)]
    metrics = result["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["all"]["miou@10"]["per_seed"] == [7.0, 1.0]
    assert set(metrics) <= set(ARMS)
