"""The starter CLIP that ships with the project: an ordinary open_clip model that names photos."""

import copy
import csv
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import maskmill.vision.clip.towers  # noqa: F401  (registers the tower)
from maskmill.vision.clip.folding import folded
from maskmill.vision.clip.towers import POSITION_CHANNELS, LiteTrunk, position_channels
from maskmill.vision.starter import starter_path

MAX_BYTES = 30_000_000
BACKGROUND = (
    "ground,land,grass,tree,building,wall,sky,lake,water,river,sea,railway,railroad,keyboard,helmet,cloud,house,"
    "mountain,ocean,road,rock,street,valley,bridge,sign"
)


@pytest.fixture(scope="module")
def starter() -> tuple[Any, Any]:
    import open_clip

    address = f"local-dir:{starter_path('clip')}"
    model, _, _ = open_clip.create_model_and_transforms(address)
    return model.eval(), open_clip.get_tokenizer(address)


def texts(starter: tuple[Any, Any], names: list[str], template: str = "a photo of a {}.") -> Tensor:
    model, tokenizer = starter
    with torch.inference_mode():
        out: Tensor = model.encode_text(tokenizer([template.format(name) for name in names]), normalize=True)
    return out


def nearest(rows: Tensor, names: list[str], index: int) -> str:
    similar = rows @ rows[index]
    similar[index] = -1
    return names[int(similar.argmax())]


def test_folder_is_small_and_complete() -> None:
    folder = starter_path("clip")
    assert {"open_clip_config.json", "open_clip_model.safetensors", "README.md"} <= {f.name for f in folder.iterdir()}
    assert sum(f.stat().st_size for f in folder.iterdir()) <= MAX_BYTES


def test_unknown_starter_names_those_that_exist() -> None:
    with pytest.raises(FileNotFoundError, match="clip"):
        starter_path("no-such-model")
    with pytest.raises(FileNotFoundError):
        starter_path("../vision")


@pytest.mark.parametrize("size", [(224, 224), (320, 176), (64, 96)])
def test_tower_takes_any_multiple_of_sixteen(starter: tuple[Any, Any], size: tuple[int, int]) -> None:
    model, _ = starter
    with torch.inference_mode():
        image = torch.rand(1, 3, *size) * 2 - 1
        seen = model.visual.forward_intermediates(image, intermediates_only=True)["image_intermediates"]
        assert model.encode_image(image).shape == (1, 161)
    assert [tuple(x.shape) for x in seen] == [(1, 320, size[0] // 16, size[1] // 16)] * 4


def test_image_embedding_is_linear_in_the_mean_patch(starter: tuple[Any, Any]) -> None:
    visual = starter[0].visual
    image = torch.rand(2, 3, 96, 128) * 2 - 1
    with torch.inference_mode():
        patches = visual.head(visual.trunk.forward_features(image))
        torch.testing.assert_close(patches.mean(1), visual(image), atol=1e-4, rtol=1e-4)


def test_trunk_statistics_never_move() -> None:
    trunk = LiteTrunk().train()
    before = {name: value.clone() for name, value in trunk.state_dict().items() if "running" in name}
    trunk(torch.rand(2, 3, 64, 64))
    assert not any(module.training for module in trunk.net.modules())
    assert all(torch.equal(before[name], trunk.state_dict()[name]) for name in before)


def test_position_channels_depend_on_distance_only() -> None:
    flat = position_channels(6, 8, torch.zeros(1)).reshape(POSITION_CHANNELS, 6, 8)
    first = (flat[:, 1, 2] * flat[:, 3, 5]).sum()
    moved = (flat[:, 2, 4] * flat[:, 4, 7]).sum()
    torch.testing.assert_close(first, moved)
    assert (flat[:, 1, 2] * flat[:, 1, 3]).sum() > (flat[:, 1, 2] * flat[:, 4, 7]).sum()


def test_words_lie_near_words_of_their_kind(starter: tuple[Any, Any]) -> None:
    names = ["dog", "wolf", "sports car", "taxi", "violin", "cello", "lake", "river", "sofa", "armchair"]
    rows = texts(starter, names)
    for first in range(0, len(names), 2):
        assert nearest(rows, names, first) == names[first + 1]


@pytest.mark.parametrize("template", ["{}", "a clean origami {}.", "a cropped photo of the {}."])
def test_templates_do_not_change_what_is_meant(starter: tuple[Any, Any], template: str) -> None:
    names = ["horse", "bus", "cat", "person", "bottle", "train", "sheep", *BACKGROUND.split(",")]
    plain, prompted = texts(starter, names), texts(starter, names, template)
    assert (plain * prompted).sum(1).min() > 0.8


def test_long_voc_prompt_means_person(starter: tuple[Any, Any]) -> None:
    rows = texts(starter, ["person with clothes,people,human", "person", "dog", "car"], "a clean origami {}.")
    assert (rows[0] @ rows[1:].T).argmax() == 0


def photo_tensor(path: Path) -> Tensor:
    photo = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 127.5 - 1


def scrambled(image: Tensor) -> Tensor:
    tiles = image.unfold(2, 56, 56).unfold(3, 56, 56).permute(2, 3, 0, 1, 4, 5).reshape(16, 1, 3, 56, 56)
    tiles = tiles[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    rows = [torch.cat(list(tiles[4 * i : 4 * i + 4]), dim=3) for i in range(4)]
    return torch.cat(rows, dim=2)


@pytest.mark.skipif("MASKMILL_DATA" not in os.environ, reason="MASKMILL_DATA is not set: no photos to scramble")
def test_scrambled_photos_lose_evidence(starter: tuple[Any, Any]) -> None:
    model, _ = starter
    folder = Path(os.environ["MASKMILL_DATA"]) / "weizmann_horses" / "images"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    horse = texts(starter, ["horse"])[0]
    photos = [photo_tensor(path) for path in sorted(folder.glob("*.jpg"))[:60:5]]
    with torch.inference_mode():
        pairs = [
            (model.encode_image(x, normalize=True) @ horse, model.encode_image(scrambled(x), normalize=True) @ horse)
            for x in photos
        ]
    assert sum(bool(clean > mixed) for clean, mixed in pairs) >= 0.9 * len(pairs)


@pytest.mark.skipif("MASKMILL_DATA" not in os.environ, reason="MASKMILL_DATA is not set: no photos to name")
def test_names_photos(starter: tuple[Any, Any]) -> None:
    model, _ = starter
    folder = Path(os.environ["MASKMILL_DATA"]) / "imagenet_one_per_class"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    rows = list(csv.DictReader((folder / "labels.csv").open(encoding="utf-8")))
    names = sorted({row["name"] for row in rows})
    text = texts(starter, names)
    right = 0
    for row in rows[::25]:
        with torch.inference_mode():
            image = model.encode_image(photo_tensor(folder / row["file"]), normalize=True)
        right += names[int((image @ text.T).argmax())] == row["name"]
    assert right / len(rows[::25]) > 0.5


def unfolded(trunk, images):
    """What the trunk gives with its batch norms as they stand: while a weight learns they are not folded."""
    weight = trunk.net.conv_stem.weight.requires_grad_(True)
    with torch.no_grad():
        found = trunk(images)
    weight.requires_grad_(False)
    return found


@pytest.fixture
def trunk():
    """A frozen trunk with statistics as if trained."""
    torch.manual_seed(0)
    found = LiteTrunk().requires_grad_(False)
    for norm in (m for m in found.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_(std=0.1)
    return found


def test_a_frozen_trunk_runs_with_folded_batch_norms(trunk):
    images = torch.rand(2, 3, 64, 96) * 2 - 1
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    run = trunk.frozen.of(trunk.net)
    assert run is not trunk.net
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in run.modules())
    assert sum(isinstance(m, torch.nn.ReLU6) for m in run.modules()) == sum(
        isinstance(m, torch.nn.ReLU6) for m in trunk.net.modules()
    )
    assert trunk.frozen.of(trunk.net) is run
    with torch.inference_mode():
        found = trunk(images)
    wanted = unfolded(trunk, images)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    trunk(images.requires_grad_()).sum().backward()  # gradients of the images, as explanations want them
    assert float(images.grad.abs().max()) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.state_dict().items())


@pytest.mark.parametrize("change", ["load", "in_place", "copy", "dtype"])
def test_folding_follows_the_weights(trunk, change):
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    first = trunk(images)
    if change == "load":
        trunk.load_state_dict({name: tensor * 1.01 for name, tensor in trunk.state_dict().items()})
    elif change == "in_place":
        trunk.net.bn2.bias.add_(0.5)
    elif change == "copy":
        trunk = copy.deepcopy(trunk)
        trunk.net.bn2.bias.add_(0.5)
    else:
        trunk, images = trunk.double(), images.double()
    found, wanted = trunk(images), unfolded(trunk, images)
    assert found.dtype == wanted.dtype
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert change == "dtype" or not torch.allclose(found, first, rtol=1e-4, atol=1e-4)


def test_a_batch_norm_without_its_convolution_is_refused():
    with pytest.raises(ValueError, match=r"Sequential\.1: no convolution of its size"):
        folded(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(5)))


def test_folded_trunks_go_to_other_processes_and_devices(trunk):
    trunk(torch.rand(1, 3, 64, 64))
    other = pickle.loads(pickle.dumps(trunk))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(other(images), trunk(images))
    assert trunk.to("meta")(images.to("meta")).device.type == "meta"


def test_a_compiler_sees_the_trunk_as_it_stands(trunk):
    images = torch.rand(1, 3, 64, 64)
    found = torch.export.export(trunk, (images,)).module()(images)
    wanted = trunk(images)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
