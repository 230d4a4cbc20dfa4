"""PI-CLIP against numbers of its release: texts, VVP of one and two shots, Grad-CAM, boxes, PIR, VTP at the grid."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from maskmill.data_contracts import Uint8Array, load_label_space
from maskmill.trainers.engine import lr_factor, make_optimizer
from maskmill.trainers.few_shot import Config
from maskmill.trainers.few_shot.episodes import PI_CLIP_SEEDS
from maskmill.trainers.few_shot.model import FewShotNet
from maskmill.trainers.few_shot.priors import ClipPriors, ClipView, PriorConfig, refine
from maskmill.trainers.few_shot.train import optimizer_groups
from maskmill.vision.clip import box_masks, min_max
from tests.golden import golden, picture, uniform
from tests.golden.test_sds import backbone

torch.set_num_threads(1)

NUMBERS = golden("pi_clip", "priors")
SIDE, GRID, PHOTO = 113, 15, (125, 167)
NAMES = {"bird": 3, "person": 15}
SHOWN = (3, 15)


@cache
def priors(space: str = "voc", preset: str = "faithful") -> ClipPriors:
    config = PriorConfig.model_validate({"preset": preset, "match_side": SIDE})
    classes = load_label_space(space).classes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maskmill.trainers.few_shot.priors.clip.load_clip", lambda *_: backbone(12))
        return ClipPriors(config, {c.id: config.words.get(c.name, c.text) for c in classes})


def image(name: str) -> Uint8Array:
    return picture(f"pi_clip {name}", SIDE, SIDE)


def mask(name: str) -> Uint8Array:
    down, across = uniform(name, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    out = ((rows - (50 + 20 * down)) ** 2 + (columns - (50 + 20 * across)) ** 2 < 30**2).astype(np.uint8)
    out[:5] = 255
    return out


@cache
def query() -> ClipView:
    return priors().encode(image("query"), photo=PHOTO)


def test_texts() -> None:
    """Sharpened names, what is there and what is not; the release's spelling of COCO's."""
    bank = priors().bank.matrix.numpy()
    np.testing.assert_allclose(bank[:20], NUMBERS["text/fg"], atol=2e-6)
    np.testing.assert_allclose(bank[20:], NUMBERS["text/bg"], atol=2e-6)
    coco = priors("coco", "faithful_coco").bank.matrix.numpy()
    np.testing.assert_allclose(coco[:80], NUMBERS["text/coco"], atol=2e-6)


@pytest.mark.parametrize(("names", "record"), [(("s1",), "vvp"), (("s1", "s2"), "vvp2")])
def test_vvp(names: tuple[str, ...], record: str) -> None:
    """Block 12 of every shot, then block 11, on CLIP's grid and on the decoder's."""
    shots = [(priors().encode(image(name), mask(name), text=False), mask(name)) for name in names]
    found = priors().vvp(query(), shots)
    np.testing.assert_allclose(found.numpy(), NUMBERS[f"{record}/raw"], atol=1e-5)
    grid = F.interpolate(found[None], (GRID, GRID), mode="bilinear", align_corners=True)[0]
    np.testing.assert_allclose(grid.numpy(), NUMBERS[f"{record}/grid"], atol=1e-5)


def test_input_of_the_class_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """The squashed image at the photo's size again, sides up to multiples of 16, bicubic."""
    seen: list[torch.Tensor] = []
    plain = priors().backbone.encode

    def encode(pixels: torch.Tensor, *given: Any, **options: Any) -> Any:
        seen.append(pixels)
        return plain(pixels, *given, **options)

    monkeypatch.setattr(priors().backbone, "encode", encode)
    priors()._text_view(image("query"), PHOTO)
    assert tuple(seen[0].shape[2:]) == (128, 176)
    np.testing.assert_allclose(seen[0][0, :, 5::16, 7::16].numpy(), NUMBERS["vtp/input"], atol=1e-5)


@pytest.mark.parametrize("name", list(NAMES))
def test_cam(name: str) -> None:
    """The target among the classes that the query shows, as the release has it at test time, too."""
    found = priors().cam(query(), NAMES[name], SHOWN)
    np.testing.assert_allclose(found.numpy(), NUMBERS[f"vtp/{name}/cam"], atol=2e-4)


@pytest.mark.parametrize("name", list(NAMES))
def test_boxes_and_refinement(name: str) -> None:
    """On the release's own map: its last bits decide over cells of the boxes."""
    cam = torch.from_numpy(NUMBERS[f"vtp/{name}/cam"])
    wanted = torch.zeros_like(cam)
    for left, top, right, bottom in NUMBERS[f"vtp/{name}/boxes"].tolist():
        wanted[top:bottom, left:right] = 1
    config = priors().config
    peak = min_max(cam[None])[0].clamp(max=(config.box_peak + 0.5) / 255)
    assert torch.equal(box_masks(peak[None], config.box_threshold, config.edge_fix)[0], wanted)
    dense = query().dense
    assert dense is not None
    assert dense.attention is not None
    options = {"box_threshold": config.box_threshold, "box_peak": config.box_peak, "edge_fix": config.edge_fix}
    found = refine(dense.attention[0], cam, **options)  # type: ignore[arg-type]
    released = min_max(torch.from_numpy(NUMBERS[f"vtp/{name}/refined"])[None])[0]
    np.testing.assert_allclose(found.numpy(), released.numpy(), atol=5e-4)


@pytest.mark.parametrize("name", list(NAMES))
def test_vtp_at_the_grid(name: str) -> None:
    """By way of the photo's own size."""
    full = priors().spread_out(priors().vtp(query(), NAMES[name], SHOWN), query())
    assert full.shape == PHOTO
    grid = F.interpolate(full[None, None], (GRID, GRID), mode="bilinear", align_corners=True)[0, 0]
    np.testing.assert_allclose(grid.numpy(), NUMBERS[f"vtp/{name}/grid"], atol=2e-3)


def test_learning_rates_of_every_group() -> None:
    """The decoder at the nominal rate, all others at ten times that. The release counts steps from 1."""
    config = Config.model_validate({"preset": "pi_clip", "width": 16})
    assert config.steps == int(NUMBERS["lr/total"])
    net = FewShotNet(config, 8, config.prior_channels)
    slow, fast = make_optimizer(config, optimizer_groups(net, config)).param_groups
    merges = (net.down_query, net.down_support, net.decoder.query_merge, net.decoder.support_merge)
    assert {id(p) for p in fast["params"]} == {id(p) for part in merges for p in part.parameters()}
    for step, (first, *others) in zip(NUMBERS["lr/steps"].tolist(), NUMBERS["lr/groups"].tolist(), strict=True):
        assert slow["lr"] * lr_factor(config, step + 1) == pytest.approx(first, rel=1e-9)
        assert {round(fast["lr"] * lr_factor(config, step + 1), 12)} == {round(rate, 12) for rate in others}


RECIPE = {  # constants of the release's code and of its config for PASCAL, by our names
    "preset": "pi_clip",
    "seed": 321,
    "steps": 30 * 5_953 // 8,  # the README's 30 epochs
    "epochs": None,
    "processes": 1,
    "batch": 8,
    "optimizer": "adamw",
    "lr": 1e-4,
    "lr_parity": 10.0,
    "betas": (0.9, 0.999),
    "weight_decay": 0.01,
    "schedule": "poly",
    "poly_power": 0.9,
    "warmup_steps": 0,
    "lr_floor": 0.0,
    "grad_clip": None,
    "precision": "fp32",
    "shots": 1,
    "test_shots": 1,
    "test_episodes": 1_000,
    "test_seeds": PI_CLIP_SEEDS,
    "encoder": "resnet50s",
    "encoder_weights": "hub",
    "released_dilation": True,
    "output_stride": 8,
    "size": 473,
    "test_fit": "squash",
    "canvas_logits": True,
    "scale_levels": False,
    "mask_support": True,
    "area_masks": False,
    "binary_masks": True,
    "base": "hdmnet_released",
    "width": 256,
    "dropout": 0.5,
    "prior": "pi_clip",
    "scl": False,
    "inner_weight": 1.0,
    "object_weight": 1.0,
    "target_stride": 1,
    "cached": False,
    "base_learner": None,  # the artifact of a fold's own; recipes name it
    "gram_shots": "pi_clip",
    "canvas_masks": True,
    "encoder_norms": "stored",
}
PRIORS = {
    "preset": "faithful",
    "model": "ViT-B-16-quickgelu",
    "pretrained": "openai",
    "match_side": 473,
    "match_fit": "squash",
    "match_normalisation": "imagenet",
    "match_blocks": (-1, -2),
    "mask_image": True,
    "centre": False,
    "contrast": False,
    "neighbours": 1,
    "shots": "concat",
    "text_side": None,
    "text_source": "canvas",
    "through_photo": True,
    "prompts": "oracle",
    "templates": ("a photo of {}.",),
    "without": "a photo without {}.",
    "background_words": False,
    "temperature": None,
    "cam_layer": "norm",
    "n_attention": 8,
    "box_threshold": 0.4,
    "box_peak": 254,
    "edge_fix": False,
    "product_blocks": 0,
    "product_text": False,
}
EPISODES = {
    "folds": 4,
    "fold": 0,
    "split": "blocks",
    "held_out": None,
    "min_pixels": 2 * 32 * 32,
    "min_share": 0.0,
    "drop_held_out": True,
    "held_out_pixels": "background",
    "pick": "raw",
}
VIEWS = {"size": 473, "fit": "squash", "scale": (1.0, 1.0), "rotate": 10.0, "flip": 0.5, "blur": 0.5}
NOT_USED = {
    "momentum",
    "nesterov",
    "warmup_factor",
    "cache_mb",
    "start",
    "start_seed",
}  # sgd's, and what changes no result here
NOT_USED |= {"scales", "prior_gain", "mask_stage", "through_grid", "inter_scale_source"}  # pfenet's
NOT_USED |= {
    "support_weight",
    "cross_iou",
    "support_object_weight",
    "split",
    "support_detached",
    "support_from",
}  # SCL's
NO_RESULT = {"eval_every", "runtime"}


def test_the_preset_as_a_whole_table() -> None:
    found = Config(preset="pi_clip").model_dump()
    views, episodes, own = found.pop("augment"), found.pop("episodes"), found.pop("priors")
    assert {key: value for key, value in found.items() if key not in NOT_USED | NO_RESULT} == RECIPE
    assert episodes == EPISODES
    assert {key: value for key, value in views.items() if value} == VIEWS
    words = own.pop("words")
    assert {key: value for key, value in own.items() if key != "contrast_temperature"} == PRIORS
    assert (words["chair"], words["tvmonitor"], words["diningtable"]) == (
        "chair seat",
        "tvmonitor screen",
        "diningtable",
    )
    coco = Config(preset="pi_clip_coco").model_dump()
    differ = {key: value for key, value in coco.items() if value != Config(preset="pi_clip").model_dump()[key]}
    theirs = {key: value for key, value in differ.pop("priors").items() if key != "words"}
    assert theirs == {
        **PRIORS,
        "contrast_temperature": 0.1,
        "preset": "faithful_coco",
        "text_source": "canvas_as_it_is",
    }
    assert differ.pop("episodes") == {**EPISODES, "split": "interleaved"}
    assert differ == {"preset": "pi_clip_coco", "steps": 30 * 82_081 // 8, "test_episodes": 5_000}
