"""Weight files of the real names, shapes and formats: read without running them, and said where they do not fit."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from maskmill.vision.clip import clip_fingerprint, load_clip
from maskmill.vision.model_folders import UnsafeModelError
from maskmill.vision.segmenters import build_encoder
from maskmill.vision.weights import WeightsError, code_mentions, is_torchscript, read_state
from tests.golden import fill

torch.set_num_threads(1)

SMALL = {  # ViT-B/16's keys and number of blocks, narrow
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 12, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 12},
}


@pytest.fixture(scope="module", autouse=True)
def _known(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The small model under two names, as ViT-B-16 has: with QuickGELU and with GELU."""
    import json

    folder = tmp_path_factory.mktemp("models")
    (folder / "narrow-quickgelu.json").write_text(json.dumps(SMALL))
    (folder / "narrow.json").write_text(json.dumps({**SMALL, "quick_gelu": False}))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def weights(_known: None) -> dict[str, torch.Tensor]:
    return fill(open_clip.create_model("narrow-quickgelu").state_dict())


class Quick(nn.Module):
    """Stands for the activation in the archive's code."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class Plain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(x)


@pytest.fixture(scope="module")
def openai_file(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, torch.Tensor]) -> str:
    """`ViT-B-16.pt` as OpenAI ships it: a TorchScript archive in half precision whose names are open_clip's."""
    path = tmp_path_factory.mktemp("openai") / "ViT-B-16.pt"
    root = Quick()
    for name, tensor in weights.items():
        place: Any = root
        *parents, last = name.split(".")
        for part in parents:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place._modules[part]
        place.register_parameter(last, nn.Parameter(tensor.half(), requires_grad=False))
    root.input_resolution = 32
    torch.jit.save(torch.jit.script(root), str(path))
    return str(path)


def test_openais_archive_is_read_without_its_code(openai_file: str, weights: dict[str, torch.Tensor]) -> None:
    assert is_torchscript(openai_file)
    assert code_mentions(openai_file, "1.702")
    found = read_state(openai_file)
    assert set(found) == set(weights)
    for name, tensor in weights.items():
        torch.testing.assert_close(found[name], tensor.half(), rtol=0, atol=0)


def test_load_clip_takes_openais_archive(openai_file: str, weights: dict[str, torch.Tensor]) -> None:
    backbone = load_clip("narrow-quickgelu", openai_file)
    for name, tensor in backbone.model.state_dict().items():
        if name in weights:
            torch.testing.assert_close(tensor, weights[name].half().float(), rtol=0, atol=0)
    assert clip_fingerprint("narrow-quickgelu", openai_file) != clip_fingerprint("narrow-quickgelu")
    with pytest.raises(ValueError, match=r"expected a QuickGELU model.*narrow-quickgelu"):
        load_clip("narrow", openai_file)


def test_an_archive_without_quickgelu_is_not_taken_for_one(tmp_path: Path) -> None:
    path = str(tmp_path / "other.pt")
    torch.jit.save(torch.jit.script(Plain()), path)
    with pytest.raises(ValueError, match="has no QuickGELU"):
        load_clip("narrow-quickgelu", path)


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.pt", "nested.pth"])
def test_load_clip_takes_safetensors_and_checkpoints(
    tmp_path: Path, weights: dict[str, torch.Tensor], name: str
) -> None:
    path = str(tmp_path / name)
    if name.endswith("safetensors"):
        save_file(weights, path)
    else:
        torch.save(
            {"state_dict": {f"module.{k}": v for k, v in weights.items()}, "epoch": 3} if "nested" in name else weights,
            path,
        )
    found = load_clip("narrow", path).model.state_dict()
    torch.testing.assert_close(found["visual.proj"], weights["visual.proj"])


def test_half_matching_weights_are_counted_with_examples(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = str(tmp_path / "half.safetensors")
    half = {k: v for k, v in weights.items() if "resblocks.1." not in k}
    half["visual.proj"] = torch.zeros(3, 3)
    half["visual.head.weight"] = torch.zeros(2)
    save_file(half, path)
    with pytest.raises(WeightsError) as error:
        load_clip("narrow", path)
    said = str(error.value)
    assert f"of {len(weights)} weights fit" in said
    assert "24 missing (" in said
    assert "1 of another shape (visual.proj (3, 3) for (32, 16))" in said
    assert "1 left over (visual.head.weight)" in said


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_files_that_would_run_code_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(2), "other": Evil()}, tmp_path / "evil.pth")
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as file:
        file.writestr("evil/constants.pkl", b"")
        file.writestr("evil/data.pkl", pickle.dumps(Evil()))
    for name in ("evil.pth", "evil.pt"):
        with pytest.raises(UnsafeModelError, match=name):
            read_state(str(tmp_path / name))
    assert "run" not in capsys.readouterr().out
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pt.*expected tensors"):
        read_state(str(tmp_path / "text.pt"))
    with pytest.raises(WeightsError, match="no such file"):
        read_state(str(tmp_path / "none.pt"))


def halves(model: nn.Module) -> dict[str, torch.Tensor]:
    """A state with the model's names and shapes, all 0.5 in half precision; classifier heads, which no encoder takes,
    are kept small.
    """
    heads = ("classifier", "head", "fc", "pre_logits")
    return {
        key: torch.full((1,) if key.startswith(heads) else value.shape, 0.5, dtype=torch.float16)
        for key, value in model.state_dict().items()
        if value.is_floating_point()
    }


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "swin_tiny_patch4_window7_224"])
def test_timms_files_reach_the_encoders_of_the_presets(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    path = str(tmp_path / f"{name}.safetensors")
    save_file(halves(model), path)
    encoder = build_encoder(name, path)
    known = {k: v for k, v in encoder.state_dict().items() if v.is_floating_point()}
    assert [k for k, v in known.items() if not (v == 0.5).all()] == []


@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_torchvisions_checkpoints_reach_the_same_encoders(tmp_path: Path, name: str) -> None:
    import torchvision

    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None)
    path = str(tmp_path / f"{name}-397923af.pth")
    torch.save(halves(model), path)
    assert (next(iter(build_encoder(name, path).state_dict().values())) == 0.5).all()


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "resnet18.safetensors")
    with torch.device("meta"):
        model = timm.create_model("resnet18", pretrained=False)
    save_file(halves(model), path)
    with pytest.raises(WeightsError, match=r"\d+ of \d+ weights fit; \d+ missing \(layer1"):
        build_encoder("resnet50", path)
