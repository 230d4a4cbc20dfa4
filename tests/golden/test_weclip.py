"""WeCLIP against numbers of its release: logits, affinity, maps, PAR, losses, gradients, schedule, test recipe."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskmill.data_contracts import load_label_space
from maskmill.trainers.engine import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AugmentConfig,
    PredictConfig,
    lr_factor,
    make_optimizer,
    param_groups,
)
from maskmill.trainers.weclip import Config
from maskmill.trainers.weclip.decoder import affinity_logits
from maskmill.trainers.weclip.labels import PseudoLabeler
from maskmill.trainers.weclip.losses import affinity_loss, affinity_targets, segmentation_loss
from maskmill.trainers.weclip.model import Weclip
from maskmill.trainers.weclip.predict import WeclipPredictor
from maskmill.trainers.weclip.refine import plain_attention, pseudo_labels, refined_attention
from maskmill.trainers.weclip.released import own_name
from maskmill.vision.clip import (
    DenseFeatures,
    attention_affinity,
    box_masks,
    build_text_bank,
    clip_response,
    min_max,
    spread,
)
from maskmill.vision.refine import par
from tests.golden import bars, fill, golden, picture
from tests.golden.test_sds import backbone

torch.set_num_threads(1)

NAMES, TAGS, SIDE = ("a", "b"), ((8,), (3, 15)), 160
TRAIN = golden("weclip", "train")
RELEASED = Config.model_validate({"preset": "faithful", "crf": {"backend": "mean_field"}})
MAP = 1e-3  # of a class map in [0, 1]


@cache
def model() -> Weclip:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maskmill.trainers.weclip.model.load_clip", lambda *_: backbone(12))
        built = Weclip(RELEASED, 21, torch.device("cpu"))
    built.decoder.load_state_dict(fill(built.decoder.state_dict()))
    return built.eval()


@cache
def images() -> Tensor:
    rgb = np.stack([picture(f"weclip {name}", SIDE, SIDE) for name in NAMES])
    return model().normalisation(torch.from_numpy(rgb).permute(0, 3, 1, 2))


@cache
def dense() -> DenseFeatures:
    return model().encode(images(), 12)


@cache
def decoded() -> tuple[Tensor, Tensor]:
    """Logits and affinity logits, with a graph behind them."""
    found = model().decode(dense(), images())
    return found.logits, affinity_logits(found.features)


def labeler() -> PseudoLabeler:
    space = load_label_space("voc")
    return PseudoLabeler(model(), build_text_bank(space, model().backbone), space, RELEASED)


def test_released_checkpoints_hold_the_decoders_weights() -> None:
    """Every name of the release has its place, and the other way round; shapes agree."""
    shapes = dict(zip(TRAIN["keys"].tolist(), TRAIN["shapes"].tolist(), strict=True))
    named = {own_name(key): shape for key, shape in shapes.items() if not key.startswith("par.")}
    assert named == {key: str(tuple(value.shape)) for key, value in model().decoder.state_dict().items()}


def test_decoder_logits_and_affinity() -> None:
    logits, affinity = decoded()
    np.testing.assert_allclose(logits.detach().numpy(), TRAIN["logits"], atol=1e-4)
    np.testing.assert_allclose(affinity.sigmoid().detach().numpy(), TRAIN["affinity"], atol=1e-3)


@pytest.mark.parametrize("state", ["before", "after"])
def test_spread_maps_before_and_after_the_kick_in(state: str) -> None:
    """Plain mean of eight maps; then RFM's six, its signed filter, times the decoder's affinity."""
    maps = dense().block_attention
    attention = plain_attention(maps)
    if state == "after":
        attention, _ = refined_attention(maps, decoded()[1], RELEASED.candidates, RELEASED.filter)
    cams = torch.from_numpy(TRAIN["cams"])  # as for SDS: the last bits of a Grad-CAM decide over cells of its boxes
    found = spread(attention_affinity(attention), cams * box_masks(cams, 0.4), [0, 1, 1])
    released = np.concatenate([TRAIN[f"{state}/spread/{name}"] for name in NAMES])
    np.testing.assert_allclose(found.numpy(), min_max(torch.from_numpy(released)).numpy(), atol=MAP)


def test_class_maps() -> None:
    response = clip_response(model().backbone, dense(), labeler().bank, TAGS, box_threshold=0.4)
    np.testing.assert_allclose(response.cams.numpy(), TRAIN["cams"], atol=1e-4)


@pytest.mark.parametrize("state", ["before", "after"])
def test_labels(state: str) -> None:
    rgb = torch.from_numpy(np.stack([picture(f"weclip {name}", SIDE, SIDE) for name in NAMES])).permute(0, 3, 1, 2)
    released = np.concatenate([TRAIN[f"{state}/spread/{name}"] for name in NAMES])
    maps = min_max(torch.from_numpy(released))
    labels = pseudo_labels(maps, [0, 1, 1], [8, 3, 15], rgb.float(), 0, iterations=20, dilations=RELEASED.par_dilations)
    assert (labels.numpy() == TRAIN[f"{state}/labels"]).mean() > 0.999


def test_par() -> None:
    """Twenty rounds over 48 neighbours, on the maps that the release had."""
    for place, name in enumerate(NAMES):
        maps = min_max(torch.from_numpy(TRAIN[f"before/spread/{name}"]))
        full = torch.nn.functional.interpolate(maps[None], (SIDE, SIDE), mode="bilinear", align_corners=False)
        stack = torch.cat([1 - full.amax(dim=1, keepdim=True), full], dim=1)
        found = par(images()[place : place + 1], stack, iterations=20)[0, :, 1::8, 3::8]
        np.testing.assert_allclose(found.numpy(), TRAIN[f"before/par/{name}"], atol=5e-4)


def truth() -> Tensor:
    masks = torch.from_numpy(np.stack([bars(tags, SIDE, SIDE) for tags in TAGS])).long()
    return masks.masked_fill(masks == 255, 0)


def test_losses_and_their_gradients() -> None:
    decoder = model().decoder
    decoder.zero_grad()
    logits, affinity = decoded()
    segmentation = segmentation_loss(logits, truth(), 0)
    alike, differ = affinity_targets(truth(), (10, 10), 2)
    narrow = 0.5 * ((1 - affinity.sigmoid()) * alike).sum() / (alike.sum() + 1)
    narrow = narrow + 0.5 * (affinity.sigmoid() * differ).sum() / (differ.sum() + 1)
    assert [int(alike.sum()) + 1, int(differ.sum()) + 1] == TRAIN["counts"].tolist()
    assert float(segmentation.detach()) == pytest.approx(float(TRAIN["seg_loss"]), abs=1e-5)
    assert float(narrow.detach()) == pytest.approx(float(TRAIN["aff_loss"]), abs=1e-5)
    assert float(affinity_loss(affinity, truth(), (10, 10)).detach()) == pytest.approx(
        float(TRAIN["aff_loss_radius_8"]), abs=1e-5
    )
    loss = segmentation + RELEASED.affinity_weight * narrow
    assert float(loss.detach()) == pytest.approx(float(TRAIN["loss"]), abs=1e-5)
    loss.backward(retain_graph=True)
    own = dict(decoder.named_parameters())
    for name in (key.removeprefix("grad/") for key in TRAIN if key.startswith("grad/")):
        gradient = own[own_name(name)].grad
        assert gradient is not None
        assert float(gradient.norm()) == pytest.approx(float(TRAIN[f"gradnorm/{name}"]), rel=0.01)
        some = gradient.flatten()[:: max(1, gradient.numel() // 257)][:257].numpy()
        scale = float(np.abs(TRAIN[f"grad/{name}"]).max())
        np.testing.assert_allclose(some / scale, TRAIN[f"grad/{name}"] / scale, atol=0.02)


def test_learning_rates_of_every_group() -> None:
    """Only the decoder's group holds parameters: the release's three others are empty."""
    sizes = TRAIN["group_sizes"].tolist()
    (group,) = param_groups(model().decoder)
    assert sizes == [0, 0, 0, sum(p.numel() for p in group.params)]
    optimizer = make_optimizer(RELEASED, [group])
    assert optimizer.param_groups[0]["weight_decay"] == 0.01
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    for step, rates in zip(TRAIN["lr/steps"].tolist(), TRAIN["lr/groups"].tolist(), strict=True):
        assert RELEASED.lr * lr_factor(RELEASED, step) == pytest.approx(rates[3], rel=1e-9)


RECIPE = {  # constants of the release's scripts and configs, by our names
    "preset": "faithful",
    "seed": 1,
    "steps": 30_000,
    "epochs": None,
    "processes": 1,
    "batch": 4,
    "optimizer": "adamw",
    "lr": 2e-3,  # 2e-4, ten times that for the decoder, which alone is trained
    "weight_decay": 0.01,
    "betas": (0.9, 0.999),
    "schedule": "linear",
    "warmup_steps": 50,
    "warmup_factor": 1e-6,
    "lr_floor": 0.0,
    "grad_clip": None,
    "precision": "fp32",
    "clip_precision": "fp32",
    "model": "ViT-B-16-quickgelu",
    "pretrained": "openai",
    "second": None,
    "normalisation": "imagenet",
    "templates": ("a clean origami {}.",),
    "synonyms": False,
    "temperature": None,
    "views": None,
    "cam_layer": "norm",
    "supervision": "tags",
    "rfm_start": 9_144,
    "candidates": 6,
    "filter": "signed",
    "box_threshold": None,
    "edge_fix": False,
    "presence_gate": None,
    "background_power": 1.0,
    "par_iterations": 20,
    "par_dilations": (1, 2, 4, 8, 12, 24),
    "par_stride": 1,
    "ignore_below": None,
    "ignore_padding": False,
    "loss_stride": 1,
    "affinity": "inner",
    "affinity_weight": 0.1,
    "affinity_loss": "linear",
    "test_size": 512,
    "test_scales": (1.0, 0.75),
    "test_flip": True,
    "test_resize": "input",
    "test_crf": True,
    "tag_weight": 0.0,  # ours, as the next three
    "test_tags": 0.0,
    "test_maps": 0.0,
    "contrast": 0.0,
    "crf": {
        "iterations": 10,
        "gaussian_sxy": 3,
        "gaussian_weight": 3,
        "bilateral_sxy": 64,
        "bilateral_srgb": 5,
        "bilateral_weight": 4,
        "backend": "pydensecrf",
        "image": "rgb",
    },
}
NOT_USED = {"momentum", "nesterov", "poly_power", "second_weights"}
NO_RESULT = {"eval_every", "runtime", "measure_labels"}


def test_presets_as_whole_tables() -> None:
    found = Config(preset="faithful").model_dump()
    crop = found.pop("augment")
    assert {key: value for key, value in found.items() if key not in NOT_USED | NO_RESULT} == RECIPE
    plain = AugmentConfig(size=320, fit="native", scale=(0.5, 2.0), flip=0.5).model_dump()
    assert crop == plain
    coco = Config(preset="faithful_coco").model_dump()
    differ = {key: value for key, value in coco.items() if key != "augment" and value != found[key]}
    assert differ == {"preset": "faithful_coco", "steps": 80_000, "rfm_start": 40_000, "candidates": 10}


def test_first_step_with_rfm() -> None:
    assert RELEASED.kick_in == int(TRAIN["first_rfm_step"])


def test_the_test_recipe() -> None:
    """Long side, both scales, mirror, logits on the first scale's grid: sides that do not divide by 16."""
    numbers = golden("weclip", "test")
    config = PredictConfig(fit="long", size=int(numbers["resize_long"]), scales=(1.0, 0.75), flip=True, multiple=1)
    given: dict[str, Any] = {"resize": RELEASED.test_resize}
    space, image = load_label_space("voc"), picture("weclip test", 167, 250)
    predictor = WeclipPredictor(model(), space, IMAGENET_MEAN, IMAGENET_STD, config, torch.device("cpu"), **given)
    with torch.no_grad():
        found = predictor._logits([image], config)[0].numpy()
    assert found.shape == numbers["msc"].shape
    np.testing.assert_allclose(found, numbers["msc"], atol=1e-4)
    assert (predictor.predict([image])[0].labels == numbers["labels"]).mean() > 0.999
    plain = WeclipPredictor(model(), space, IMAGENET_MEAN, IMAGENET_STD, config, torch.device("cpu"))
    with torch.no_grad():
        assert np.abs(plain._logits([image], config)[0].numpy() - numbers["msc"]).max() > 1e-3  # the other way differs
