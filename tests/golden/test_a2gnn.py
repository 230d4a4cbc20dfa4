"""A2GNN against numbers of its release: cells, nodes, seeds, the training of one image, walk, affinity network."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskmill.data_contracts import IGNORE, Uint8Array, load_label_space
from maskmill.labelers import LabelItem
from maskmill.labelers.a2gnn import A2gnn, Config
from maskmill.labelers.a2gnn import cam_seeds as cams
from maskmill.labelers.a2gnn.problem import make_problem
from maskmill.labelers.a2gnn.seeds import Seeds
from maskmill.labelers.a2gnn.solver import Problem, Solution, Stack
from maskmill.labelers.a2gnn.view import Task, View
from maskmill.labelers.a2gnn.walk import walked_maps
from maskmill.trainers.affinity import Config as AffinityConfig
from maskmill.trainers.affinity import ImageGraph
from maskmill.trainers.affinity.cells import cell_targets
from maskmill.trainers.affinity.model import AffinityHead
from maskmill.trainers.affinity.pairs import feature_distance, pairs_inside, to_window
from maskmill.trainers.affinity.train import build, embedding_losses, groups
from maskmill.trainers.engine import lr_factor, make_optimizer
from maskmill.trainers.engine.optim import set_lr
from tests.golden import fill, golden, picture, uniform

TRAIN, WALK, SEEDS, AFFINITY = (golden("a2gnn", name) for name in ("train", "walk", "seeds", "affinity"))
HEIGHT, WIDTH, GRID = 52, 70, (7, 9)
DOG, PERSON = 12, 15
SPACE = load_label_space("voc")
SMALL: dict[str, Any] = {"preset": "faithful", "radius": 2, "dropout": 0.0, "crf": None}

torch.set_num_threads(1)


def numbers(values: Any) -> Tensor:
    return torch.from_numpy(np.asarray(values)).float()


def seed_map() -> Uint8Array:
    seeds = np.zeros((HEIGHT, WIDTH), np.uint8)
    seeds[8:40, 8:33] = IGNORE
    seeds[14:34, 14:27] = DOG
    seeds[20:48, 40:66] = IGNORE
    seeds[26:42, 46:60] = PERSON
    return seeds


class Given:
    """Graphs as they were given to the release."""

    def predict(self, images: Any) -> list[ImageGraph]:
        nodes = numbers(np.abs(uniform("a2gnn levels", 40, *GRID)))
        embedding = numbers(uniform("a2gnn embedding", 1, 12, *GRID)) * 2
        inside = pairs_inside(torch.ones_like(embedding[:, 0], dtype=torch.bool), 2)
        affinity = to_window(torch.exp(-feature_distance(embedding, 2)) * inside, 2, 1.0)[0]
        return [ImageGraph(nodes, affinity, nodes[:0]) for _ in images]


def engine(**options: Any) -> A2gnn:
    return A2gnn(Config.model_validate({**SMALL, **options}), SPACE, 0, Given(), torch.device("cpu"))


def view(model: A2gnn, *, boxed: bool, maps: Any = None) -> View:
    boxes = np.array([[DOG, 8, 8, 33, 40], [PERSON, 40, 20, 66, 48]], np.float32)
    image = picture("a2gnn", HEIGHT, WIDTH)
    item = (
        LabelItem("golden", image, (DOG, PERSON), boxes=boxes) if boxed else LabelItem("golden", image, (DOG, PERSON))
    )
    task = model.task(LabelItem("golden", image, boxes=boxes, scribble=seed_map()))
    assert task is not None
    own = task.boxes if boxed else ()
    task = Task(item, own, (DOG, PERSON), SPACE.ids, Seeds(seed_map(), maps=maps))
    return View(task, model.graphs.predict([image])[0], image)


def problem(*, boxed: bool) -> Problem:
    model = engine(seeds={"ready": True})
    return make_problem(view(model, boxed=boxed), model.config, 0)


def trained(steps: tuple[int, int], *, boxed: bool) -> tuple[list[float], Solution]:
    """Losses step by step and the answer, from first weights by formula."""
    name = "steps" if boxed else "other_steps"
    stack = Stack([problem(boxed=boxed)], engine(**{name: steps}).config, torch.device("cpu"))
    with torch.no_grad():
        stack.embed.copy_(numbers(uniform("a2gnn embed", 40, 256)) * (6 / 296) ** 0.5)
        stack.out[:, :, :21].copy_(numbers(uniform("a2gnn out", 256, 21)) * (6 / 277) ** 0.5)
        stack.beta.copy_(torch.tensor([[0.3, 0.5, 0.7]]))
    losses: list[float] = []
    plain = stack.loss

    def recorded(*args: Any, **options: Any) -> Any:
        loss, points = plain(*args, **options)
        losses.append(float(loss.detach()))
        return loss, points

    stack.loss = recorded  # type: ignore[method-assign]
    return losses, stack.run()[0]


def test_cells_colours_and_kernel() -> None:
    """Zeros beyond the photo, bilinear at stride 8; the release's kernel has pairs beyond the grid besides."""
    from maskmill.trainers.affinity.pairs import colour_kernel

    found = problem(boxed=True)
    np.testing.assert_allclose(found.rgb.numpy(), TRAIN["cells"], atol=1e-5)
    kernel = to_window(colour_kernel(found.rgb[None], 5), 5, 0.0)[0]
    np.testing.assert_allclose(kernel.numpy(), TRAIN["kernel"], rtol=2e-3, atol=1e-5)


def test_affinity_window_and_nodes() -> None:
    graph = Given().predict([None])[0]
    np.testing.assert_allclose(graph.affinity.view(5, 5, *GRID)[2, 2], 1)
    inside = graph.affinity.view(5, 5, *GRID).numpy() > 0
    np.testing.assert_allclose(graph.affinity.view(5, 5, *GRID).numpy()[inside], TRAIN["affinity"][inside], atol=1e-6)
    stack = Stack([problem(boxed=True)], engine(attention="dense").config, torch.device("cpu"))
    np.testing.assert_allclose(stack.nodes[0].numpy()[::7, ::3], TRAIN["nodes"], rtol=1e-5)


def test_training_of_one_image_from_boxes() -> None:
    """Every step's loss, logits and label. The release adds the kernel's pairs beyond the grid, which is a constant."""
    losses, solution = trained((12, 8), boxed=True)
    wanted = TRAIN["box_losses"].astype(float)
    wanted[12:] -= 0.01 * TRAIN["beyond"]
    np.testing.assert_allclose(losses, wanted, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(solution.logits.numpy(), TRAIN["box_logits"], rtol=1e-2, atol=2e-2)
    model = engine(seeds={"ready": True})
    shares = model.shares(view(model, boxed=True), solution)
    np.testing.assert_allclose(shares[:, ::7, ::9], TRAIN["box_probs"], atol=2e-3)
    assert (shares.argmax(0) == TRAIN["box_labels"]).mean() > 0.999


def test_training_of_one_image_without_boxes() -> None:
    losses, solution = trained((20, 10), boxed=False)
    wanted = TRAIN["other_losses"].astype(float)
    wanted[20:] -= 0.3 * TRAIN["beyond"]
    np.testing.assert_allclose(losses, wanted, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(solution.logits.numpy(), TRAIN["other_logits"], rtol=1e-2, atol=2e-2)


def class_maps() -> Any:
    maps = picture("a2gnn cams", HEIGHT, WIDTH)[..., :2].transpose(2, 0, 1).astype(np.float32)
    return (maps - maps.min((1, 2), keepdims=True)) / np.ptp(maps, axis=(1, 2), keepdims=True)


def test_random_walk_and_what_it_adds() -> None:
    """Tags and points: (1 - max)^6, cells' means, affinity^8, 2^6 steps; three times the maps beside the shares."""
    model = engine(seeds={"ready": True})
    seen = view(model, boxed=False, maps=class_maps())
    walked = walked_maps(seen, model.config)
    np.testing.assert_allclose(walked[:, ::3, ::3], WALK["walked"], rtol=1e-3, atol=1e-5)
    shares = model.shares(seen, Solution(numbers(TRAIN["other_logits"]), 0))
    np.testing.assert_allclose(shares[:, ::5, ::5], WALK["shares"], atol=1e-4)
    assert (shares.argmax(0) == WALK["labels"]).mean() > 0.999


def test_the_walk_runs_for_points_and_tags_alone() -> None:
    model = engine(seeds={"ready": True})
    logits = Solution(numbers(TRAIN["other_logits"]), 0)
    with_maps = model.shares(view(model, boxed=False, maps=class_maps()), logits)
    without = model.shares(view(model, boxed=False), logits)
    boxed = model.shares(view(model, boxed=True, maps=class_maps()), logits)
    assert np.abs(with_maps - without).max() > 0.1
    np.testing.assert_array_equal(without, boxed)


def test_seeds_of_class_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense CRF is stood in for by p^2 / sum p^2 on both sides."""

    def sharpened(pairs: Any, options: Any) -> list[Any]:
        return [p**2 / (p**2).sum(0) for _, p in pairs]

    monkeypatch.setattr(cams, "refine_many", sharpened)
    height, width = 60, 84
    maps = picture("a2gnn seeds", height, width)[..., :2].transpose(2, 0, 1).astype(np.float64)
    maps = (maps - maps.min((1, 2), keepdims=True) - 1e-5) / (np.ptp(maps, axis=(1, 2), keepdims=True) + 1e-5)
    config = Config(preset="faithful").seeds
    found = cams.confident(np.zeros((height, width, 3), np.uint8), (1.7 * maps - 0.7).clip(0, 1), (DOG, PERSON), config)
    labels = np.where(found.background, 0, found.labels)
    assert {0, DOG, PERSON, IGNORE} == set(np.unique(SEEDS["labels"]).tolist())
    np.testing.assert_array_equal(labels, SEEDS["labels"])


# --- affinity network


def released_head() -> AffinityHead:
    head = AffinityHead((512, 1024, 4096), (64, 128, 256), 1, norms=False)
    own = dict(zip(("f8_3", "f8_4", "f8_5", "f9"), (*head.reduce, head.mix), strict=True))
    weights = fill({f"{name}.weight": part.weight for name, part in own.items()})  # type: ignore[misc]
    for name, part in own.items():
        part.load_state_dict({"weight": weights[f"{name}.weight"]})
    return head


def released_levels() -> list[Tensor]:
    sizes = (("conv4", 512), ("conv5", 1024), ("conv6", 4096))
    return [numbers(np.abs(uniform(f"a2gnn {name}", 2, size, 14, 14))) for name, size in sizes]


def crops() -> dict[str, Any]:
    """Two crops as the trainer's view gives them: 255 where nothing is known, `valid` 0 on padding."""
    mask = np.full((2, 112, 112), 255, np.uint8)
    mask[0, :80, :100] = 0
    mask[0, 16:60, 20:70] = DOG
    mask[0, 60:70, 20:90] = 254
    mask[1, 10:112, 5:112] = 0
    mask[1, 30:90, 40:80] = PERSON
    mask[1, 50:112, 70:112] = DOG
    mask[1, 24:30, 40:80] = 254
    valid = torch.from_numpy(mask != 255)
    mask[mask == 254] = IGNORE
    rgb = np.stack([picture(f"a2gnn crop {i}", 112, 112) for i in range(2)]).transpose(0, 3, 1, 2)
    return {"mask": torch.from_numpy(mask), "valid": valid, "rgb": torch.from_numpy(rgb)}


def test_losses_of_the_affinity_network() -> None:
    config = AffinityConfig(preset="faithful")
    labels, valid, kernel = cell_targets(crops(), (14, 14), config.radius, config.cells)
    np.testing.assert_array_equal(labels.numpy(), AFFINITY["labels"])
    np.testing.assert_array_equal(valid.numpy(), AFFINITY["valid"] > 0)
    head, levels = released_head(), released_levels()
    embedding, _ = head(levels)
    pairs, gated = embedding_losses(config, embedding, labels, valid, kernel, 0)
    parts = AFFINITY["bg_loss"] / 4 + AFFINITY["fg_loss"] / 4 + AFFINITY["neg_loss"] / 2
    assert float(pairs.detach()) == pytest.approx(float(parts), rel=1e-5)
    assert float(config.gated_weight * gated.detach()) == pytest.approx(float(AFFINITY["crf_loss"]), rel=1e-4)
    (pairs + config.gated_weight * gated).backward()  # type: ignore[no-untyped-call]
    for name, part in zip(("f8_3", "f8_4", "f8_5", "f9"), (*head.reduce, head.mix), strict=True):
        grad = part.weight.grad  # type: ignore[union-attr]
        wanted = AFFINITY[f"grad_{name}"]
        np.testing.assert_allclose(grad.flatten()[::101].numpy(), wanted, rtol=2e-3, atol=2e-3 * np.abs(wanted).max())


def test_nodes_are_the_levels_as_they_are() -> None:
    config = AffinityConfig(preset="faithful", encoder="resnet18", weights="random", widths=(2, 2, 2))
    model = build(config, "random", 2)
    nodes = model.plain_nodes(torch.zeros(2, 3, 112, 112), released_levels())
    assert torch.equal(nodes, torch.cat(released_levels(), dim=1))
    assert Config(preset="faithful").nodes == "levels"
    rows = nodes / nodes.sum(1, keepdim=True)
    np.testing.assert_allclose(rows[0, ::97, ::3, ::4].numpy(), AFFINITY["nodes"], rtol=1e-4)


def test_learning_rates_of_every_group_and_what_is_frozen() -> None:
    """Old weights 0.01, old biases 0.02, new weights 0.1, new biases 0.2; those of biases are empty here and there."""
    config = AffinityConfig(preset="faithful", encoder="resnet18", weights="random", widths=(4, 4, 4), steps=40)
    model = build(config, "random", 2)
    optimizer = make_optimizer(config, groups(config, model))
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(float(AFFINITY["momentum"]))
    for place, step in enumerate((0, 1, 2, 39)):
        set_lr(optimizer, lr_factor(config, step))
        new, old = (group["lr"] for group in optimizer.param_groups)
        assert old == pytest.approx(AFFINITY["lr"][place, 0], rel=1e-6)
        assert new == pytest.approx(AFFINITY["lr"][place, 2], rel=1e-6)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [AFFINITY["decay"][2], AFFINITY["decay"][0]]
    assert AFFINITY["learning"][1] == AFFINITY["learning"][3] == AFFINITY["norms_learning"] == 0
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("bn" in name or name.startswith("encoder.conv1") for name in learning)
    assert {"encoder.layer1.0.conv1.weight", "encoder.layer4.1.conv2.weight", "head.mix.weight"} <= learning
    assert not any(name.startswith("head.classify") for name in learning)
    assert len(optimizer.param_groups[0]["params"]) == AFFINITY["learning"][2] == 4


# --- presets as whole tables

RELEASED: dict[str, Any] = {  # constants of train_infer_A2GNN_box.py, …_others.py and infer_SEAM.py, by our names
    "preset": "faithful",
    "output": "labels",
    "affinity": None,
    "encoder": "tf_efficientnet_lite0",  # ours; the release's ResNet38 is no timm model
    "weights": "auto",
    "radius": 4,
    "nodes": "levels",
    "cells": "released",
    "plain_sharpness": 2.0,  # not used with an artifact
    "image_side": None,
    "seeds": {
        "fusion": "cam+grabcut",
        "cam_keep": 0.4,
        "cam_floor": 0.01,
        "foreground_power": 4.0,
        "background_power": 24.0,
        "background_floor": 0.8,
        "cam_crf": True,
        "cam_rule": "released",
        "crf_floor": 0.8,
        "grabcut_iterations": 5,
        "grabcut_margin": 1.0,
        "fill_range": (0.05, 0.95),
        "tight_iou": 0.5,
        "core": 0.0,
        "groups": False,
        "overlap": "undecided",
        "hollow": False,
        "centre_area": 0.2,
        "point_radius": 2,
        "points_with_maps": True,
        "ready": False,
        "superpixels": 400,
    },
    "reseed": "none",
    "reseed_floor": 0.7,  # not used
    "prior_weight": 0.0,
    "prior_fill": (0.3, 0.75),  # not used
    "seed": 0,
    "hidden": 256,
    "layers": 3,
    "dropout": 0.5,
    "features": "l1",
    "steps": (150, 150),
    "lr": 0.035,
    "weight_decay": 5e-4,
    "mp_weight": 1.0,
    "similarity_weight": 1.0,
    "gated_weight": 0.01,
    "other_steps": (50, 50),
    "other_lr": 0.03,
    "other_gated_weight": 0.3,
    "walk_weight": 3.0,
    "walk": "raw",
    "loss_stride": 1,
    "check": "released",
    "check_threshold": 0.0,
    "check_start": 0,
    "check_every": 1,
    "gate": "released",
    "attention": "tile",
    "tile": 4,
    "batch": 8,
    "refiner": None,
    "crf": {
        "iterations": 10,
        "gaussian_sxy": 2,
        "gaussian_weight": 3,
        "bilateral_sxy": 50,
        "bilateral_srgb": 5,
        "bilateral_weight": 10,
        "backend": "auto",
        "image": "rgb",
    },
    "mask_absent_classes": False,
    "clamp_to_boxes": False,
    "ensure_box_nonempty": False,
    "instances": True,
}


def test_preset_of_the_labeler_as_a_whole_table() -> None:
    found = Config(preset="faithful").model_dump()
    assert found["seeds"].pop("cam")["preset"] == "faithful"  # CLIP-ES in place of SEAM
    assert not found.pop("prompted_weight")  # the release asks no promptable model
    del found["seeds"]["prompted"], found["seeds"]["prompted_fill"]
    assert found == RELEASED


RELEASED_AFFINITY: dict[str, Any] = {  # constants of train_gated_aff.py and resnet38_aff_gated.py, by our names
    "preset": "faithful",
    "seed": 0,
    "steps": 31_740,  # 12 epochs of 10,582 // 4
    "epochs": None,
    "batch": 4,
    "processes": 1,
    "optimizer": "sgd",
    "lr": 0.1,
    "weight_decay": 5e-4,
    "betas": (0.9, 0.999),  # not used
    "momentum": 0.0005,
    "nesterov": False,
    "schedule": "poly",
    "poly_power": 0.9,
    "warmup_steps": 0,
    "warmup_factor": 1e-6,  # not used
    "lr_floor": 0.0,
    "grad_clip": None,
    "precision": "fp32",
    "eval_every": 0,
    "encoder": "tf_efficientnet_lite0",  # ours
    "weights": "auto",
    "widths": (64, 128, 256),
    "frozen": False,
    "frozen_parts": True,
    "head_norms": False,
    "nodes": "levels",
    "cells": "released",
    "views": 3,  # not used
    "encoder_lr_factor": 0.1,
    "radius": 4,
    "gated_weight": 3.0,
    "class_weight": 0.0,
}
RELEASED_CROPS: dict[str, Any] = {"size": 448, "fit": "native", "scale": (1.0, 1.0), "flip": 0.5}


def test_preset_of_the_affinity_network_as_a_whole_table() -> None:
    found = AffinityConfig(preset="faithful").model_dump(exclude={"runtime"})
    crop = found.pop("augment")
    assert found == RELEASED_AFFINITY
    jitter = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}
    assert {key: crop[key] for key in (*RELEASED_CROPS, *jitter)} == {**RELEASED_CROPS, **jitter}
