"""clip_cam by exact values: defaults, sizes and resampling, which option reaches which step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.labelers import LabelItem
from maskmill.labelers.clip_cam import ClipCam, Config, labeler, load
from maskmill.labelers.clip_cam.labeler import decide, with_background
from maskmill.vision.clip import ClipBackbone, DenseFeatures, box_masks, clip_response
from maskmill.vision.crf_options import CrfOptions
from maskmill.vision.refine import par
from tests.trainers import shapes

TINY = str(Path(__file__).parents[1] / "data" / "tiny_clip")

torch.set_num_threads(1)

STARTER = {  # what differs from the release
    "image_side": 416,
    "rounding": "nearest",
    "cam_layer": "output",
    "affinity": True,
    "n_attention": 8,
    "edge_fix": True,
    "background_power": 1.5,
    "refine": "par",
    "par_iterations": 10,
    "crf_iterations": 10,
    "confidence": 0.0,
    "min_decided": 0.05,
    "tag_threshold": 0.1,
    "find_tags": "missing",
}


def engine(space: LabelSpace = shapes.SPACE, **settings: Any) -> ClipCam:
    given = {"model": TINY, "image_side": 96, "temperature": 0.07, "min_decided": 0.0, "refine": "none"}
    return load(Config.model_validate({**given, **settings}), space)


def test_defaults_as_a_table() -> None:
    found = Config().model_dump()
    assert {key: found[key] for key in STARTER} == STARTER


@pytest.mark.parametrize(("side", "rounding", "size"), [(96, "nearest", (80, 96)), (96, "up", (96, 96))])
def test_sides_and_resampling_of_the_input(side: int, rounding: str, size: tuple[int, int]) -> None:
    image = shapes.draw_scene(0, 50, 60)[0]  # 80 and 96 pixels; 50 * 1.6 / 16 = 5 patches, or just above
    image = image if rounding == "nearest" else shapes.draw_scene(0, 51, 60)[0]
    found = engine(image_side=side, rounding=rounding).resize(image)
    wanted = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), wanted)


def test_tags_in_order_and_never_asked_for_where_that_is_wanted() -> None:
    built = engine(load_label_space("voc"), find_tags="never", tag_threshold=1e-9)
    images = torch.stack([built.resize(shapes.draw_scene(n, 64, 64)[0]) for n in range(1)])
    assert built.class_maps(images, [(8, 1, 8)])[0] == [(1, 8)]
    assert built.class_maps(images, [()])[0] == [()]


def test_classes_that_are_looked_for_compete_with_background_words() -> None:
    """The threshold is the config's, the probability that of all texts together."""
    space = load_label_space("voc")
    built = engine(space, find_tags="missing")
    image = built.resize(shapes.draw_scene(3, 64, 64)[0])[None]
    dense = built.backbone.encode(built.backbone.normalise(image), 0)
    everything = torch.ones(1, len(built.bank.texts), dtype=torch.bool)
    embeddings = built.backbone.tail(dense.last_input)
    p = built.bank.log_probabilities(embeddings, everything, 1 / 0.07).exp()[0, :20]
    cut = float(p.sort().values[-4:-2].mean())  # between the third and the fourth
    wanted = tuple(sorted(built.bank.class_ids[i] for i in p.topk(3).indices.tolist()))
    assert engine(space, tag_threshold=cut).class_maps(image, [()])[0] == [wanted]


def test_a_forward_always_holds_a_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    encode = ClipBackbone.encode

    def counted(self: ClipBackbone, images: torch.Tensor, n_attention: int = 8, **more: Any) -> DenseFeatures:
        seen.append((len(images), n_attention))
        return encode(self, images, n_attention, **more)

    monkeypatch.setattr(ClipBackbone, "encode", counted)
    items = [LabelItem(str(n), shapes.draw_scene(n, 64, 64)[0], class_ids=(1,)) for n in range(3)]
    engine(batch=2, n_attention=2).label(items)
    engine(batch=4, affinity=False).label(items)
    assert seen == [(2, 2), (2, 2), (4, 0)]


def test_each_option_reaches_the_class_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, Any]] = []
    response = clip_response

    def watched(*args: Any, **options: Any) -> Any:
        found.append(options)
        return response(*args, **options)

    monkeypatch.setattr(labeler, "clip_response", watched)
    image = engine().resize(shapes.draw_scene(0, 64, 64)[0])[None]
    given: dict[str, Any] = {"box_threshold": 0.65, "edge_fix": True, "cam_layer": "output", "temperature": 0.25}
    given["contrast"] = 0.125
    engine(**given).class_maps(image, [(1,)])
    engine(edge_fix=False, cam_layer="norm", temperature=None).class_maps(image, [(1,)])
    first, second = found
    assert (first["box_threshold"], first["edge_fix"], first["layer"], first["scale"]) == (0.65, True, "output", 4.0)
    assert (second["box_threshold"], second["edge_fix"], second["layer"]) == (0.4, False, "norm")
    assert (first["contrast"], second["contrast"]) == (0.125, 0.0)
    assert second["scale"] == engine().backbone.logit_scale
    raw = engine(affinity=False).class_maps(image, [(1, 2)])[1][0]
    assert not np.allclose(raw, engine().class_maps(image, [(1, 2)])[1][0], atol=1e-2)
    assert box_masks(torch.from_numpy(raw), 0.4).shape == raw.shape


def test_maps_are_enlarged_between_cells_and_the_background_is_a_power() -> None:
    maps = np.array([[[0.0, 1.0]]], np.float32)
    stack = with_background(maps, (1, 4), Config(background_power=2.0))
    np.testing.assert_allclose(stack[1, 0], [0.0, 0.25, 0.75, 1.0], atol=1e-6)
    np.testing.assert_allclose(stack[0, 0], [1.0, 0.5625, 0.0625, 0.0], atol=1e-6)


def test_pixels_exactly_as_sure_as_asked_for_stay() -> None:
    shares = np.array([[[0.5, 0.25]], [[0.5, 0.75]]], np.float32)
    found = decide(shares, [3], 0, Config(confidence=0.75, min_decided=0.5))
    assert found.mask is not None
    assert found.mask.tolist() == [[255, 3]]


def test_refinement_by_colours_is_par_of_the_stack_with_the_configs_rounds() -> None:
    image = shapes.draw_scene(1, 40, 44)[0]
    stack = np.random.default_rng(0).random((3, 40, 44)).astype(np.float32)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float()
    wanted = par(pixels, torch.from_numpy(stack)[None], iterations=3)[0].numpy()
    (found,) = engine(refine="par", par_iterations=3)._refine([image], [stack])
    np.testing.assert_allclose(found, wanted / wanted.sum(axis=0), rtol=1e-5)
    (plain,) = engine(refine="none")._refine([image], [stack])
    np.testing.assert_allclose(plain, stack / stack.sum(axis=0), rtol=1e-5)


def test_the_crf_is_asked_with_the_configs_rounds_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[CrfOptions] = []

    def watched(items: list[Any], *, options: CrfOptions) -> list[Any]:
        asked.append(options)
        return [stack for _, stack in items]

    monkeypatch.setattr(labeler, "refine_many", watched)
    built = engine(refine="crf", crf_iterations=4, crf={"bilateral_sxy": 9.0})
    stack = np.full((2, 40, 44), 0.5, np.float32)
    built._refine([shapes.draw_scene(1, 40, 44)[0]], [stack])
    assert asked == [replace(CrfOptions(), iterations=4, bilateral_sxy=9.0)]


def test_large_images_are_refined_at_their_shape_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    built = engine(refine_side=64)
    seen: list[tuple[int, ...]] = []
    refine = ClipCam._refine

    def watched(self: ClipCam, images: Any, stacks: Any) -> Any:
        seen.extend(image.shape for image in images)
        return refine(self, images, stacks)

    monkeypatch.setattr(ClipCam, "_refine", watched)
    image = shapes.draw_scene(2, 96, 128)[0]
    (label,) = built.label([LabelItem("a", image, class_ids=(1,))])
    assert seen == [(48, 64, 3)]
    small = cv2.resize(image, (64, 48), interpolation=cv2.INTER_AREA).astype(np.uint8)
    shown = built.class_maps(built.resize(image)[None], [(1,)])[1][0]
    shares = refine(built, [small], [with_background(shown, (48, 64), built.config)])[0]
    full = np.stack([cv2.resize(s, (128, 96), interpolation=cv2.INTER_LINEAR) for s in shares])
    assert label.mask is not None
    np.testing.assert_array_equal(label.mask, np.where(full[1] > full[0], 1, 0))
