"""Qwen-Image's text stream against explicit matrices: places of its own, masked padding, guidance in two calls."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import QwenImageTransformer2DModel
from torch import Tensor

from maskmill.generators.families.qwen_image import TEXT_TOKENS, QwenImage, QwenTextStream
from maskmill.generators.joint_attention import JointWatch, Plan, Wanted
from tests.generators.test_joint_attention import (
    ALL,
    CONCEPTS,
    GRID,
    POSITIONS,
    attend,
    centred,
    heads,
    linear,
    rms,
    weighted,
)

TEXT = 5  # words; two tokens of padding stand behind them


@pytest.fixture(scope="module")
def qwen() -> QwenImageTransformer2DModel:
    torch.manual_seed(0)
    made = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 64}
    return QwenImageTransformer2DModel(in_channels=16, out_channels=4, axes_dims_rope=(4, 2, 2), **made).eval()


def call(seed: int = 1) -> dict[str, Any]:
    """Arguments of one call with two images."""
    noise = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(2, 16, 16, generator=noise),
        "encoder_hidden_states": torch.randn(2, TEXT + 2, 64, generator=noise),
        "encoder_hidden_states_mask": (torch.arange(TEXT + 2) < TEXT).expand(2, -1),
        "timestep": torch.tensor([0.4, 0.7]),
        "img_shapes": [[(1, 4, 4)]] * 2,
    }


def watched(model: Any, reading: Any, seeds: tuple[int, ...] = (1,), concepts: Tensor = CONCEPTS) -> list[Any]:
    wanted = [Wanted(own, 2, POSITIONS) for own in concepts]
    watch = JointWatch(model, Plan(reading, ALL, ALL, GRID), wanted, len(seeds) > 1, QwenTextStream())
    with torch.no_grad(), watch.watching():
        for seed in seeds:
            model(**call(seed))
    return watch.maps()


def modulated(layer: Any, x: Tensor, temb: Tensor) -> tuple[Tensor, ...]:
    """The attention's input, then its gate and the MLP's shift, scale and gate."""
    shift, scale, *rest = linear(layer[1], temb * torch.sigmoid(temb)).chunk(6)
    return (centred(x) * (1 + scale) + shift, *rest)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Pairs of neighbours as complex numbers (n, heads, d / 2)."""
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * angles[:, None]).flatten(-2)


def reference(model: Any, image: int, concepts: Tensor) -> dict[str, Tensor]:
    """Both blocks by hand for one image, from the inputs that the model gives them."""
    seen: list[dict[str, Any]] = []
    hooks = [
        b.register_forward_pre_hook(lambda m, a, k: seen.append(k), with_kwargs=True) for b in model.transformer_blocks
    ]
    model(**call())
    for hook in hooks:
        hook.remove()
    length = torch.sqrt((concepts**2).mean(-1, keepdim=True) + 1e-6)
    stream = linear(model.txt_in, concepts / length * model.txt_norm.weight)
    shares, text, own = [], [], []
    for block, given in zip(model.transformer_blocks, seen, strict=True):
        attn, temb, (places, behind) = block.attn, given["temb"][image], given["image_rotary_emb"]
        x = modulated(block.img_mod, given["hidden_states"][image], temb)[0]
        p = modulated(block.txt_mod, given["encoder_hidden_states"][image], temb)[0][:TEXT]
        c, gate, shift, scale, gate_mlp = modulated(block.txt_mod, stream, temb)
        qx, kx = (
            turned(rms(n, heads(linear(w, x))), places) for n, w in ((attn.norm_q, attn.to_q), (attn.norm_k, attn.to_k))
        )
        kp = turned(rms(attn.norm_added_k, heads(linear(attn.add_k_proj, p))), behind[:TEXT])
        first = behind[:1].expand(len(concepts), -1)
        qc = turned(rms(attn.norm_added_q, heads(linear(attn.add_q_proj, c))), first)
        kc = turned(rms(attn.norm_added_k, heads(linear(attn.add_k_proj, c))), first)
        vx, vp, vc = (heads(linear(w, t)) for w, t in ((attn.to_v, x), (attn.add_v_proj, p), (attn.add_v_proj, c)))
        joint = attend(qx, torch.cat([kx, kp]))
        ox = weighted(joint, torch.cat([vx, vp]))
        oc = weighted(attend(qc, torch.cat([kx, kc])), torch.cat([vx, vc]))
        shares.append(torch.softmax(ox @ (oc / oc.norm(dim=1, keepdim=True)).T, dim=1))
        mean = joint.mean(0)
        text.append(torch.stack([mean[:, 16 + torch.tensor(w)].mean(1) for w in POSITIONS], dim=1))
        own.append(mean[:, :16])
        stream = stream + gate * linear(attn.to_add_out, oc)
        up, down = block.txt_mlp.net[0].proj, block.txt_mlp.net[2]
        inner = F.gelu(linear(up, centred(stream) * (1 + scale) + shift), approximate="tanh")
        stream = stream + gate_mlp * linear(down, inner)
    found = {"shares": shares, "text": text, "own": own}
    return {name: torch.stack(parts).mean(0) for name, parts in found.items()}


@pytest.mark.parametrize("image", [0, 1])
def test_every_reading_equals_explicit_matrices(image: int, qwen: QwenImageTransformer2DModel) -> None:
    with torch.no_grad():
        wanted = reference(qwen, image, CONCEPTS[image])
    concept, cross = (watched(qwen, reading)[image] for reading in ("concept", "cross"))
    assert torch.allclose(concept.maps.flatten(1).T, wanted["shares"][:, :2], atol=1e-5)
    assert torch.allclose(cross.maps.flatten(1).T, wanted["text"], atol=1e-5)
    assert torch.allclose(cross.affinity, wanted["own"] / wanted["own"].sum(1, keepdim=True), atol=1e-5)


def test_swapping_two_concepts_swaps_their_maps(qwen: QwenImageTransformer2DModel) -> None:
    swapped = watched(qwen, "concept", concepts=CONCEPTS[:, [1, 0, 2, 3]])
    for one, other in zip(watched(qwen, "concept"), swapped, strict=True):
        assert torch.allclose(one.maps, other.maps[[1, 0]], atol=1e-6)


def test_with_guidance_the_first_of_two_calls_is_read(qwen: QwenImageTransformer2DModel) -> None:
    for reading in ("concept", "cross"):
        for one, other in zip(watched(qwen, reading, (1, 2, 1, 3)), watched(qwen, reading), strict=True):
            assert torch.allclose(one.maps, other.maps, atol=1e-6)
    assert not torch.allclose(watched(qwen, "concept", (2, 1))[0].maps, watched(qwen, "concept")[0].maps, atol=1e-4)


def test_qwens_instruction_ends_within_what_is_read() -> None:
    def tokenizer(text: str, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(input_ids=text.split())

    pipeline = SimpleNamespace(prompt_template_encode="say what is in {} and then stop", tokenizer=tokenizer)
    windows: Any = QwenImage.windows
    ((window, _),) = windows.fget(SimpleNamespace(pipeline=pipeline))
    assert window.room == TEXT_TOKENS - 3
