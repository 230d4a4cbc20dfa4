"""The WeCLIP benchmark: what its arms share, its split, its picture, and the cost table's figures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import label_cost, label_words, weclip_parts
from benchmarks.common import Options, is_train_key
from benchmarks.pictures.weclip import TILE, TITLE, write_picture
from benchmarks.tag_worlds import Size, World, drawn_world, photo_world
from benchmarks.weclip import (
    CAM_ARMS,
    CAM_SETTINGS,
    DECODER_ARMS,
    DECODER_SETTINGS,
    JOINED_ARMS,
    RFM_ARMS,
    SHOWN,
    TRAINED_ARMS,
    cam_masks,
    cam_mious,
    decoder_mious,
    load_labelers,
    picture_rows,
)
from maskmill.data_contracts import encode_image, encode_mask, foreground_ids
from maskmill.labelers import LabelItem
from maskmill.starter.drawn import KNOWN_STYLES, SceneConfig, render_scene

TINY = str(Path(__file__).parents[1] / "data" / "tiny_clip")
SCENE = render_scene(SceneConfig(size=32), 0)
SIZE = Size(scenes=4, tested_scenes=2, frames=2, horses=12, tested_photos=3, steps=2)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> World:
    for settings in CAM_SETTINGS.values():
        for name, value in {"model": TINY, "image_side": 96, "par_iterations": 2, "crf_iterations": 2}.items():
            monkeypatch.setitem(settings, name, value)
    for settings in DECODER_SETTINGS.values():
        for name, value in {"model": TINY, "warmup_steps": 0, "par_iterations": 2, "batch": 2}.items():
            monkeypatch.setitem(settings, name, value)
    return drawn_world(SIZE, 0)


def test_arms_share_class_maps_and_give_what_the_labeler_gives(tiny: World) -> None:
    labelers, pair = load_labelers(tiny), tiny.test[0]
    masks = cam_masks(labelers, pair, tiny.space)
    assert list(masks) == list(CAM_ARMS)
    item = LabelItem("a", pair.image, class_ids=tuple(foreground_ids(pair.mask, tiny.space)))
    for arm, labeler in labelers.items():
        alone = labeler.label([item])[0].mask
        assert alone is not None
        assert (alone != masks[arm]).mean() < 0.02, arm
    assert all(0 < value < 1 for value in cam_mious(tiny).values())


def test_photos_are_split_by_sequence_and_share_their_classes(tmp_path: Path) -> None:
    image, mask = np.full((40, 50, 3), 90, np.uint8), np.zeros((40, 50), np.uint8)
    mask[10:30, 10:30] = 255
    space = drawn_world(SIZE, 0).space
    names = ["dog", "dog-agility", "libby", "bear", "camel", "bus", "train", "goat"]
    files = [("davis/JPEGImages", "davis/Annotations", f"{name}/{n:05d}") for name in names for n in range(3)]
    files += [("weizmann_horses/images", "weizmann_horses/masks", f"horse{n:03d}") for n in range(12)]
    for images, masks, stem in files:
        for path, content in (
            (tmp_path / images / f"{stem}.jpg", encode_image(image)),
            (tmp_path / masks / f"{stem}.png", encode_mask(mask, space.palette)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    options = Options("weclip", tmp_path, None, (0,), "small", tmp_path / "out.json")
    world = photo_world(options, SIZE, 0)
    horse = world.space.find("horse").id
    learnt = sum(is_train_key(f"horse{n:03d}") for n in range(12))
    assert sum(int((pair.mask == horse).any()) for pair in world.train) == learnt
    assert 0 < len(world.test) <= SIZE.tested_photos
    classes = [
        {i for pair in part for i in foreground_ids(pair.mask, world.space)} for part in (world.train, world.test)
    ]
    assert classes[1] <= classes[0], "only classes that both parts have are tested"


def test_decoders_train_on_a_world_and_appear_in_the_picture(tiny: World, tmp_path: Path) -> None:
    for arm in DECODER_ARMS:
        found = decoder_mious(tiny, arm, SIZE, 0, tmp_path / "work")
        assert list(found) == ["miou", "miou_tagged"]
        assert all(0 <= value < 1 for value in found.values())
    rows = picture_rows(tiny, tmp_path / "work")
    assert len(rows) == min(SHOWN, len(tiny.test))
    headings = ["image", "truth", *CAM_ARMS, *DECODER_ARMS]
    write_picture(tmp_path / "a.png", headings, rows)
    shown = Image.open(tmp_path / "a.png")
    assert shown.size == (TILE[0] * len(headings), TITLE + TILE[1] * len(rows))
    assert len(np.unique(np.asarray(shown.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_joined_arms_are_also_measured_after_the_crf(tiny: World, tmp_path: Path) -> None:
    for arm in JOINED_ARMS:
        found = decoder_mious(tiny, arm, SIZE, 0, tmp_path)
        assert list(found) == ["miou", "miou_crf", "miou_tagged", "miou_tagged_crf"]
        assert all(0 <= value < 1 for value in found.values())
    assert set(TRAINED_ARMS) == {*DECODER_ARMS, *JOINED_ARMS, *RFM_ARMS}


def test_rfm_arms_say_how_good_their_labels_were_on_the_way(tiny: World, tmp_path: Path) -> None:
    found = decoder_mious(tiny, "rfm_from_step_0", SIZE, 0, tmp_path)
    steps = [name for name in found if name.startswith("label_miou.step_")]
    assert steps[-1] == f"label_miou.step_{SIZE.steps}"
    assert found[steps[-1]] == found["label_miou"]
    unrefined = decoder_mious(tiny, "rfm_none", SIZE, 0, tmp_path)
    assert len({unrefined[name] for name in steps}) == 1, "CLIP is frozen: its own labels stay what they are"


def test_cost_of_an_arm_is_measured_without_and_with_refinement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_cost, "SIDE", 64)
    found = label_cost.measure(TINY, 2, 2)
    assert found["images_per_s@maps"] > found["images_per_s@crf"] > 0
    assert found["images_per_s@par"] > 0
    assert found["peak_mb"] > 50


def test_parts_are_measured_from_one_training(tiny: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in CAM_SETTINGS.values():
        monkeypatch.setitem(settings, "image_side", 64)
    engine = weclip_parts.opened(weclip_parts.trained(tiny, SIZE, 0, tmp_path), tiny)
    found = weclip_parts.mious(tiny, engine)
    assert list(found) == [*weclip_parts.LABELS, *weclip_parts.ANSWERS]
    assert all(set(found[arm]) == {"told"} for arm in weclip_parts.LABELS)
    assert all(set(found[arm]) == {"told", "free"} for arm in weclip_parts.ANSWERS)
    assert all(0 <= value < 1 for values in found.values() for value in values.values())
    assert found["labels"] != found["rfm_none"]


def test_words_are_compared_on_labels_alone(tiny: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = label_words.mious(tiny)
    assert list(found) == list(label_words.ARMS)
    assert all(0 <= value < 1 for value in found.values())
    assert found["contrast_1"] != found["plain"]
    styles: list[tuple[str, ...]] = []
    monkeypatch.setattr("benchmarks.tag_worlds.render_scene", lambda config, _: styles.append(config.styles) or SCENE)
    drawn_world(SIZE, 0, dev=True)
    assert styles == [KNOWN_STYLES[-1:]] * SIZE.tested_scenes + [KNOWN_STYLES[:-1]] * SIZE.scenes
