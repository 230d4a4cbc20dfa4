"""clip_cam: conformance, batching, tags, refinement, ignore band and abstention."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from maskmill.data_contracts import LabelSpace, Reason, load_label_space
from maskmill.labelers import LabelItem, get_labeler
from maskmill.labelers.clip_cam import ClipCam, Config, load
from maskmill.labelers.clip_cam.labeler import decide, with_background
from maskmill.vision.clip import attention_affinity, box_masks, class_cams, min_max
from tests.labelers.conformance import LabelerConformance, difference
from tests.trainers import shapes

DATA = Path(__file__).parents[1] / "data"
TINY = {"model": str(DATA / "tiny_clip"), "image_side": 96, "temperature": 0.07, "min_decided": 0.0}

torch.set_num_threads(1)


class TestPar(LabelerConformance):
    name = "clip_cam"
    settings: ClassVar = {**TINY, "refine": "par", "par_iterations": 3}


class TestCrfInBatches(LabelerConformance):
    name = "clip_cam"
    settings: ClassVar = {**TINY, "refine": "crf", "crf_iterations": 3, "batch": 3}
    tolerance: ClassVar = 0.03


class TestTimmTower(LabelerConformance):
    name = "clip_cam"
    settings: ClassVar = {**TINY, "model": str(DATA / "tiny_clip_timm"), "refine": "none", "batch": 2}
    tolerance: ClassVar = 0.02
    moved: ClassVar = 1.0  # its random weights give nearly flat maps, and min-max stretches the last bits


def engine(space: LabelSpace = shapes.SPACE, **settings: Any) -> ClipCam:
    return load(Config(**{**TINY, "refine": "none", **settings}), space)


def item(number: int, *class_ids: int) -> LabelItem:
    return LabelItem(str(number), shapes.draw_scene(number, 64, 64)[0], class_ids=class_ids)


# Random weights spread a map almost flat, and min-max then stretches the last bits of fp32.
@pytest.mark.parametrize(("affinity", "tolerance"), [(False, 1e-4), (True, 3e-4)])
def test_batched_maps_equal_a_loop_over_images_and_classes(affinity: bool, tolerance: float) -> None:
    """Ragged K with K = 1 and K = Kmax: batches of images against one at a time."""
    batched = engine(batch=4, affinity=affinity)
    serial = engine(batch=1, affinity=affinity)
    tags = [(1,), (1, 2, 3), (2, 3), (3,)]
    images = torch.stack([batched.resize(item(n).image) for n in range(4)])
    shown, together = batched.class_maps(images, tags)
    assert shown == tags
    for number in range(4):
        _, alone = serial.class_maps(images[number : number + 1], [tags[number]])
        assert together[number].shape == (len(tags[number]), 6, 6)
        np.testing.assert_allclose(together[number], alone[0], atol=tolerance)


def test_maps_are_those_of_the_published_steps() -> None:
    """CAM, box mask and double spreading by hand, from the same frozen features."""
    labeler = engine(cam_layer="norm")
    images = labeler.resize(item(0).image)[None]
    _, maps = labeler.class_maps(images, [(1, 3)])
    backbone, bank = labeler.backbone, labeler.bank
    dense = backbone.encode(backbone.normalise(images), 8)
    assert dense.attention is not None
    cams = class_cams(backbone, dense, [0, 0], bank.rows([1, 3]), bank, bank.allowed([(1, 3)]), 1 / 0.07)
    boxes = box_masks(cams, 0.4, edge_fix=True)
    d = attention_affinity(dense.attention)[0]
    spread = min_max((d @ (d @ (cams * boxes).flatten(1).T)).T.reshape(cams.shape))
    np.testing.assert_allclose(maps[0], spread.numpy(), atol=3e-4)
    raw = engine(cam_layer="norm", affinity=False).class_maps(images, [(1, 3)])[1][0]
    np.testing.assert_allclose(raw, cams.numpy(), atol=1e-4)


def test_background_and_foreground_before_refinement() -> None:
    maps = np.array([[[0.2, 0.6], [0.51, 0.49]]], np.float32)
    stack = with_background(maps, (2, 2), Config(background_power=1.0))
    assert (stack[0] < stack[1]).tolist() == [[False, True], [True, False]]
    squared = with_background(maps, (2, 2), Config(background_power=2.0))
    np.testing.assert_allclose(squared[0], stack[0] ** 2, rtol=1e-6)


def test_only_given_tags_occur_and_unknown_tags_are_dropped() -> None:
    found = engine().label([item(0, 3), item(1, 2, 1), item(2, 3, 200)])
    for label, ids in zip(found, [{3}, {1, 2}, {3}], strict=True):
        assert label.mask is not None
        assert set(np.unique(label.mask).tolist()) <= {0, *ids}


def test_images_without_tags_are_asked_of_clip_or_left_out() -> None:
    low, high = engine(tag_threshold=1e-9), engine(tag_threshold=0.999999)
    assert low.label([item(0)])[0].mask is not None
    for abstained in (high.label([item(0)])[0], engine(find_tags="never").label([item(0)])[0]):
        assert abstained.mask is None
        assert abstained.reason is Reason.NO_CLASSES
    given = low.label([item(0, 2)])[0]
    assert given.mask is not None
    assert set(np.unique(given.mask).tolist()) <= {0, 2}, "given tags are not added to"


def test_unsure_pixels_become_255_and_too_many_of_them_an_abstention() -> None:
    shares = np.array([[[0.9, 0.55]], [[0.1, 0.45]]], np.float32)
    banded = decide(shares, [7], 0, Config(confidence=0.6))
    assert banded.mask is not None
    assert banded.confidence is not None
    assert banded.mask.tolist() == [[0, 255]]
    assert banded.confidence.tolist() == [[230, 140]]
    gone = decide(shares, [7], 0, Config(confidence=0.95))
    assert gone.reason is Reason.LOW_CONFIDENCE
    assert "found 0.0%" in str(gone.detail)
    no_background = decide(shares, [7], None, Config(min_decided=0.0))
    assert no_background.mask is not None
    assert no_background.mask.tolist() == [[255, 255]]


def test_confidence_is_a_share_whatever_the_refinement() -> None:
    for refine in ("none", "par", "crf"):
        labeler = engine(refine=refine, par_iterations=2, crf_iterations=2)
        stacks = labeler._refine([item(0).image], [np.random.default_rng(0).random((3, 64, 64)).astype(np.float32)])
        np.testing.assert_allclose(stacks[0].sum(axis=0), 1, atol=1e-4)


def test_large_images_are_refined_small_and_come_back_at_their_size() -> None:
    labeler = engine(refine="par", par_iterations=1, refine_side=64)
    image = shapes.draw_scene(3, 150, 210)[0]
    label = labeler.label([LabelItem("a", image, class_ids=(1,))])[0]
    assert label.mask is not None
    assert label.mask.shape == (150, 210)


def test_faithful_preset_is_clip_es() -> None:
    config = Config(preset="faithful")
    assert (config.model, config.pretrained, config.refine) == ("ViT-B-16-quickgelu", "openai", "crf")
    assert (config.image_side, config.edge_fix, config.confidence, config.n_attention) == (None, False, 0.95, 8)
    assert Config(preset="faithful", refine="par").refine == "par"


def test_prompts_come_from_the_label_space() -> None:
    bank = engine(load_label_space("voc")).bank
    assert "person with clothes,people,human" in bank.texts
    assert bank.n_background == 25
    assert "keyboard" not in load_label_space("coco").background_prompts
    assert len(load_label_space("coco").background_prompts) == 23


def test_one_image_twice_gives_one_label() -> None:
    a, b = engine(batch=2).label([item(4, 1), item(4, 1)])
    assert difference(a, b) < 0.02


def test_registry_names_the_valid_labelers() -> None:
    with pytest.raises(ValueError, match=r"expected one of .*clip_cam"):
        get_labeler("clipcam")
