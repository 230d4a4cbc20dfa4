"""The frozen encoder against open_clip's own forward, for every kind of tower."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskmill.vision.clip import ClipBackbone, load_clip
from maskmill.vision.clip.adapters import adapt, resize_positions

DATA = Path(__file__).parents[1] / "data"
NATIVE, TIMM, REGISTERS, CONV = "tiny_clip", "tiny_clip_timm", "tiny_clip_registers", "tiny_clip_conv"
VITS = (NATIVE, TIMM, REGISTERS)

torch.set_num_threads(1)


def clip(name: str) -> ClipBackbone:
    return load_clip(str(DATA / name))


def images(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(7))


def own_side(backbone: ClipBackbone) -> int:
    return backbone.image_side


@pytest.mark.parametrize("name", VITS)
def test_blocks_equal_open_clips_own_intermediates(name: str) -> None:
    backbone = clip(name)
    x = images(own_side(backbone), own_side(backbone), batch=1)
    dense = backbone.encode(x, n_attention=0, block_outputs=True)
    with torch.no_grad():
        theirs = backbone.model.visual.forward_intermediates(
            x, indices=backbone.n_blocks, output_fmt="NLC", output_extra_tokens=True
        )
    for ours, patches, prefix in zip(
        dense.block_outputs, theirs["image_intermediates"], theirs["image_intermediates_prefix"], strict=False
    ):
        torch.testing.assert_close(ours, torch.cat([prefix, patches], dim=1), atol=1e-5, rtol=0)
    assert len(dense.block_outputs) == backbone.n_blocks - 1
    assert torch.equal(dense.last_input, dense.block_outputs[-1])


def test_vit_b16_equals_forward_intermediates_at_224() -> None:
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16-quickgelu")
    backbone = ClipBackbone(model, None, "random")
    x = images(224, 224, batch=1)
    with torch.no_grad():
        theirs = model.visual.forward_intermediates(x, indices=[10, 11], output_fmt="NLC", output_extra_tokens=True)
        last = torch.cat([theirs["image_intermediates_prefix"][1], theirs["image_intermediates"][1]], dim=1)
        pooled = model.visual.ln_post(last)[:, 1:].mean(dim=1) @ model.visual.proj
    dense = backbone.encode(x, n_attention=2)
    torch.testing.assert_close(dense.last_input[:, 1:], theirs["image_intermediates"][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone.tail(dense.last_input), pooled / pooled.norm(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [TIMM, REGISTERS, CONV])
def test_mean_pooled_towers_give_open_clips_image_embedding(name: str) -> None:
    backbone = clip(name)
    x = images(own_side(backbone), own_side(backbone))
    with torch.no_grad():
        theirs = backbone.model.encode_image(x, normalize=True)
    torch.testing.assert_close(backbone.embed(x), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize(("size", "grid"), [((320, 320), (20, 20)), ((320, 384), (20, 24)), ((333, 500), (20, 31))])
def test_any_grid(name: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    dense = clip(name).encode(images(*size, batch=1), n_attention=1)
    assert dense.grid == grid
    assert dense.last_input.shape[1] == dense.prefix + grid[0] * grid[1]
    assert dense.attention is not None
    assert dense.attention.shape == (1, grid[0] * grid[1], grid[0] * grid[1])


def test_attention_equals_torchs_head_mean_and_loses_only_the_class_token() -> None:
    backbone = clip(NATIVE)
    x = images(64, 80)
    dense = backbone.encode(x, n_attention=3, per_block=True, block_outputs=True)
    block: Any = backbone.tower.blocks[-1]
    z = backbone.last_norm(dense.last_input)
    _, weights = block.attn(z, z, z, need_weights=True, average_attn_weights=True)
    ours = backbone.tower.attention(block, z)
    torch.testing.assert_close(ours, weights, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.sum(dim=-1), torch.ones(ours.shape[:2]))
    torch.testing.assert_close(dense.block_attention[-1].sum(dim=-1), 1 - weights[:, 1:, 0])
    assert dense.attention is not None
    torch.testing.assert_close(dense.attention, torch.stack(dense.block_attention).mean(dim=0))
    assert len(dense.block_attention) == 3


def test_timm_attention_equals_its_unfused_softmax() -> None:
    backbone = clip(TIMM)
    x = backbone.encode(images(64, 64, batch=1), n_attention=0).last_input
    block: Any = backbone.tower.blocks[-1]
    z = backbone.last_norm(x)
    values = block.attn.qkv(z).reshape(1, x.shape[1], 3, block.attn.num_heads, -1)[:, :, 2]
    heads = block.attn.num_heads
    q, k, _ = block.attn.qkv(z).reshape(1, x.shape[1], 3, heads, -1).permute(2, 0, 3, 1, 4)
    per_head = (q @ k.transpose(-2, -1) * block.attn.scale).softmax(dim=-1)
    out = block.attn.proj((per_head @ values.transpose(1, 2)).transpose(1, 2).flatten(2))
    torch.testing.assert_close(out, block.attn(z), atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone.tower.attention(block, z), per_head.mean(dim=1), atol=1e-6, rtol=0)


def test_conv_tower_gives_self_similarity_in_place_of_attention() -> None:
    dense = clip(CONV).encode(images(128, 160), n_attention=8)
    assert dense.grid == (4, 5)
    assert dense.attention is not None
    torch.testing.assert_close(dense.attention.sum(dim=-1), torch.ones(2, 20))
    assert bool((dense.attention.argmax(dim=-1) == torch.arange(20)).all())  # nothing is more like a patch than itself


@pytest.mark.parametrize("name", [*VITS, CONV])
def test_patch_embeddings_are_unit_and_pool_to_the_image_embedding(name: str) -> None:
    backbone = clip(name)
    x = backbone.encode(images(96, 64), n_attention=0).last_input
    patches = backbone.patch_embeddings(x)
    torch.testing.assert_close(patches.norm(dim=-1), torch.ones(patches.shape[:2]))
    if name in (NATIVE, CONV):  # pooling and projection commute when no norm stands between them
        raw = backbone.tower.embed_patches(backbone.last_output(backbone.last_norm(x), x)).mean(dim=1)
        torch.testing.assert_close(torch.nn.functional.normalize(raw, dim=-1), backbone.tail(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [*VITS, CONV])
def test_an_image_of_a_fixed_batch_shape_has_the_same_bits_at_every_position(name: str) -> None:
    backbone = clip(name)
    x = images(96, 96, batch=4)
    results = [backbone.embed(x.roll(shift, dims=0))[shift] for shift in range(4)]
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_everything_is_frozen_and_loaded_once() -> None:
    backbone = clip(NATIVE)
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert clip(NATIVE) is backbone


def test_random_weights_are_seeded_and_fingerprinted() -> None:
    state = torch.random.get_rng_state()
    one = load_clip(str(DATA / NATIVE), None, "cpu", "fp32")
    assert torch.equal(state, torch.random.get_rng_state())  # loading leaves the global generator alone
    two = load_clip(str(DATA / NATIVE), None, "cpu", "bf16")
    with torch.no_grad():
        same = all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    assert same
    assert one.fingerprint != two.fingerprint  # precision changes results
    assert one.fingerprint != clip(TIMM).fingerprint


def test_bfloat16_stays_close_and_the_tail_is_fp32() -> None:
    x = images(96, 96)
    full, half = clip(NATIVE).embed(x), load_clip(str(DATA / NATIVE), precision="bf16").embed(x)
    assert half.dtype == torch.float32
    assert float((full * half).sum(dim=-1).min()) > 0.99


def test_openai_weights_demand_quickgelu() -> None:
    with pytest.raises(ValueError, match="ViT-B-16-quickgelu"):
        load_clip("ViT-B-16", "openai")


@pytest.mark.parametrize(
    ("model", "weights", "said"),
    [
        ("ViT-B-61", None, "did you mean 'ViT-B-16'"),
        ("laion/nothing", None, "hf-hub:OWNER/NAME"),
        ("ViT-B-16-quickgelu", "opanai", "did you mean 'openai'?; tags: "),
    ],
)
def test_models_and_tags_that_nobody_knows_are_told_in_words(model: str, weights: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        load_clip(model, weights)


@pytest.mark.parametrize("model", ["RN50", "swin_base_patch4_window7_224"])
def test_unknown_towers_are_refused(model: str) -> None:
    with pytest.raises(ValueError, match="unknown"):
        adapt(_foreign_tower(model))


def _foreign_tower(model: str) -> torch.nn.Module:
    if model == "RN50":
        from open_clip.modified_resnet import ModifiedResNet

        return ModifiedResNet(layers=[1, 1, 1, 1], output_dim=8, heads=8, image_size=64, width=16)
    from open_clip.timm_model import TimmModel

    return TimmModel("swin_tiny_patch4_window7_224", embed_dim=8, pool="avg", image_size=224)


def test_resize_positions_is_bilinear_without_antialias() -> None:
    row = torch.arange(4.0).reshape(4, 1)  # a 1 x 4 ramp
    assert resize_positions(row, (1, 4), (1, 4)) is row
    halved = resize_positions(row, (1, 4), (1, 2)).flatten()
    torch.testing.assert_close(halved, torch.tensor([0.5, 2.5]))  # pixel centres; antialias would blur further
    doubled = resize_positions(row, (1, 4), (1, 8)).flatten()
    torch.testing.assert_close(doubled[:3], torch.tensor([0.0, 0.25, 0.75]))


def test_normalise_uses_the_models_own_statistics() -> None:
    backbone = clip(NATIVE)
    grey = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor(backbone.mean)) / torch.tensor(backbone.std)
    torch.testing.assert_close(backbone.normalise(grey)[0, :, 0, 0], expected)
