"""Readings of a joint attention against plain references with explicit matrices, and on a planted model."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.models.attention import JointTransformerBlock
from torch import Tensor, nn

from maskmill.generators.attention_masks import mask_of
from maskmill.generators.config import GeneratorConfig, MaskConfig
from maskmill.generators.joint_attention import JointWatch, Plan, Wanted
from maskmill.generators.joint_readings import anchored, concept_shares, graph, quadrants
from maskmill.generators.text_to_image import TextToImage
from tests.generators.small_families import save_flux, save_sd3, save_sdxl
from tests.generators.small_pipelines import WORDS

GRID, TEXT, WIDTH = (4, 4), 5, 16
ALL = frozenset({0, 1})
CONCEPTS = torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(5))  # 2 images, 4 concepts: 2 classes
POSITIONS = ((1, 2), (4,))


@pytest.fixture(scope="module")
def sd3() -> SD3Transformer2DModel:
    """Two blocks: one with a second image attention and a text stream, one that ends the text stream."""
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=64,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    ).eval()


@pytest.fixture(scope="module")
def flux() -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=64,
        pooled_projection_dim=32,
        axes_dims_rope=(2, 2, 4),
    ).eval()


def call(model: Any) -> dict[str, Any]:
    """Arguments of one call with two images."""
    noise = torch.Generator().manual_seed(1)
    texts = {
        "encoder_hidden_states": torch.randn(2, TEXT, 64, generator=noise),
        "pooled_projections": torch.randn(2, 32, generator=noise),
        "timestep": torch.tensor([0.4, 0.7]),
    }
    if isinstance(model, SD3Transformer2DModel):
        return {**texts, "hidden_states": torch.randn(2, 4, 8, 8, generator=noise)}
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    places = torch.stack([torch.zeros(16), rows.flatten(), columns.flatten()], dim=1)
    return {
        **texts,
        "hidden_states": torch.randn(2, 16, 16, generator=noise),
        "txt_ids": torch.zeros(TEXT, 3),
        "img_ids": places,
    }


def watched(model: Any, reading: Any, guided: bool = False, concepts: Tensor = CONCEPTS) -> list[Any]:
    plan = Plan(reading, ALL, ALL, GRID)
    wanted = [Wanted(own, 2, POSITIONS) for own in (concepts[1:] if guided else concepts)]
    watch = JointWatch(model, plan, wanted, guided)
    with torch.no_grad(), watch.watching():
        model(**call(model))
    return watch.maps()


# ------------------------------------------------------------------------------------------------ a plain reference


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def centred(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-6)


def modulated(norm: Any, x: Tensor, temb: Tensor) -> tuple[Tensor, ...]:
    """AdaLN: the attention's input, then its gate and the MLP's shift, scale and gate."""
    parts = linear(norm.linear, temb * torch.sigmoid(temb))
    if norm.linear.out_features == 2 * WIDTH:  # the last text stream of Stable Diffusion 3
        scale, shift = parts.chunk(2)
        return (centred(x) * (1 + scale) + shift,)
    shift, scale, *rest = parts.split(WIDTH)
    return (centred(x) * (1 + scale) + shift, *rest[:4])


def rms(norm: Any, x: Tensor) -> Tensor:
    return x if norm is None else x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6) * norm.weight


def turned(x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
    """Rotary positions: pairs of neighbours are turned."""
    if angles is None:
        return x
    cos, sin = (a[-x.shape[0] :, None] for a in angles)
    even, odd = x[..., 0::2], x[..., 1::2]
    return x * cos + torch.stack([-odd, even], dim=-1).flatten(-2) * sin


def heads(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], 2, 8)


def attend(query: Tensor, key: Tensor) -> Tensor:
    """(heads, queries, keys)."""
    return torch.softmax(torch.einsum("qhd,khd->hqk", query, key) / 8**0.5, dim=-1)


def weighted(weights: Tensor, value: Tensor) -> Tensor:
    return torch.einsum("hqk,khd->qhd", weights, value).flatten(1)


def reference(model: Any, image: int, concepts: Tensor) -> dict[str, Tensor]:
    """Both blocks by hand for one image, from the inputs that the model gives them."""
    seen: list[dict[str, Any]] = []
    hooks = [
        b.register_forward_pre_hook(lambda m, a, k: seen.append(k), with_kwargs=True) for b in model.transformer_blocks
    ]
    with torch.no_grad():
        model(**call(model))
    for hook in hooks:
        hook.remove()
    stream = linear(model.context_embedder, concepts)
    shares, text, own, gated = [], [], [], []
    for block, given in zip(model.transformer_blocks, seen, strict=True):
        attn, temb, angles = block.attn, given["temb"][image], given.get("image_rotary_emb")
        x = modulated(block.norm1, given["hidden_states"][image], temb)[0]
        p = modulated(block.norm1_context, given["encoder_hidden_states"][image], temb)[0]
        c, *gates = modulated(block.norm1_context, stream, temb)
        qx = turned(rms(attn.norm_q, heads(linear(attn.to_q, x))), angles)
        kx, vx = turned(rms(attn.norm_k, heads(linear(attn.to_k, x))), angles), heads(linear(attn.to_v, x))
        kp, vp = rms(attn.norm_added_k, heads(linear(attn.add_k_proj, p))), heads(linear(attn.add_v_proj, p))
        qc = rms(attn.norm_added_q, heads(linear(attn.add_q_proj, c)))
        kc, vc = rms(attn.norm_added_k, heads(linear(attn.add_k_proj, c))), heads(linear(attn.add_v_proj, c))
        joint = attend(qx, torch.cat([kx, kp]))
        ox = weighted(joint, torch.cat([vx, vp]))
        oc = weighted(attend(qc, torch.cat([kx, kc])), torch.cat([vx, vc]))
        shares.append(torch.softmax(ox @ (oc / oc.norm(dim=1, keepdim=True)).T, dim=1))
        mean = joint.mean(0)
        text.append(torch.stack([mean[:, 16 + torch.tensor(w)].mean(1) for w in POSITIONS], dim=1))
        own.append(mean[:, :16])
        unit = ox / ox.norm(dim=1, keepdim=True)
        gated.append(mean[:, :16] * (unit @ unit.T).clamp_min(0))
        if gates:
            gate, shift, scale, gate_mlp = gates
            stream = stream + gate * linear(attn.to_add_out, oc)
            up, down = block.ff_context.net[0].proj, block.ff_context.net[2]
            inner = F.gelu(linear(up, centred(stream) * (1 + scale) + shift), approximate="tanh")
            stream = stream + gate_mlp * linear(down, inner)
    found = {"shares": shares, "text": text, "own": own, "gated": gated}
    return {name: torch.stack(parts).mean(0) for name, parts in found.items()}


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("image", [0, 1])
def test_every_reading_equals_explicit_matrices(family: str, image: int, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(family)
    with torch.no_grad():
        wanted = reference(model, image, CONCEPTS[image])
    concept, cross, anchor = (watched(model, reading)[image] for reading in ("concept", "cross", "anchor"))
    assert torch.allclose(concept.maps.flatten(1).T, wanted["shares"][:, :2], atol=1e-5)
    assert torch.allclose(cross.maps.flatten(1).T, wanted["text"], atol=1e-5)
    assert torch.allclose(cross.affinity, wanted["own"] / wanted["own"].sum(1, keepdim=True), atol=1e-5)
    assert torch.allclose(anchor.affinity, wanted["gated"] / wanted["gated"].sum(1, keepdim=True), atol=1e-5)
    assert torch.equal(anchor.maps.flatten(1).argmax(1), wanted["shares"][:, :2].argmax(0))
    assert float(anchor.maps.sum()) == 2


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_swapping_two_concepts_swaps_their_maps(family: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(family)
    first = watched(model, "concept")
    second = watched(model, "concept", concepts=CONCEPTS[:, [1, 0, 2, 3]])
    for one, other in zip(first, second, strict=True):
        assert torch.allclose(one.maps, other.maps[[1, 0]], atol=1e-6)
    rivals = watched(model, "concept", concepts=CONCEPTS[:, [0, 1, 3, 2]])
    assert torch.allclose(first[0].maps, rivals[0].maps, atol=1e-6)


def test_with_guidance_the_second_half_is_read(sd3: SD3Transformer2DModel) -> None:
    (half,) = watched(sd3, "concept", guided=True)
    assert torch.equal(half.maps, watched(sd3, "concept")[1].maps)


def test_only_the_chosen_blocks_count(sd3: SD3Transformer2DModel) -> None:
    maps = []
    for blocks in ({0}, {1}, {0, 1}):
        plan = Plan("concept", frozenset(blocks), frozenset(), GRID)
        watch = JointWatch(sd3, plan, [Wanted(own, 4) for own in CONCEPTS], guided=False)
        with torch.no_grad(), watch.watching():
            sd3(**call(sd3))
        maps.append(watch.maps()[0].maps)
        assert torch.allclose(maps[-1].sum(0), torch.ones(GRID), atol=1e-5)
    assert torch.allclose((maps[0] + maps[1]) / 2, maps[2], atol=1e-6)
    assert not torch.allclose(maps[0], maps[1], atol=1e-3)


def test_shares_sum_to_one_and_a_long_concept_weighs_no_more() -> None:
    image, concepts = torch.randn(9, 6), torch.randn(4, 6)
    shares = concept_shares(image, concepts)
    assert torch.allclose(shares.sum(1), torch.ones(9))
    assert torch.allclose(concept_shares(image, concepts * torch.tensor([[9.0], [1], [1], [1]])), shares, atol=1e-6)


def test_quadrants_in_pieces_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, text = torch.randn(30, 2, 8), torch.randn(30, 2, 8), torch.randn(7, 2, 8)
    whole = quadrants(query, key, text, POSITIONS)
    monkeypatch.setattr("maskmill.generators.joint_readings.CELLS", 200)
    for one, other in zip(whole, quadrants(query, key, text, POSITIONS), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert quadrants(query, key, text, ((), (1,)))[0][:, 0].abs().max() == 0  # a word that the prompt lost


def planted() -> tuple[Any, Tensor]:
    """A last block in which tokens attend to their like; its image holds two kinds, u inside a region and v outside."""
    block = JointTransformerBlock(WIDTH, 1, WIDTH, context_pre_only=True)
    with torch.no_grad():
        for part in block.parameters():
            part.zero_()
        for layer in (block.attn.to_q, block.attn.to_k, block.attn.add_q_proj, block.attn.add_k_proj):
            layer.weight.copy_(3 * torch.eye(WIDTH))
        for layer in (block.attn.to_v, block.attn.add_v_proj):
            layer.weight.copy_(torch.eye(WIDTH))
    model = nn.Module()
    model.transformer_blocks, model.context_embedder = nn.ModuleList([block]), nn.Identity()
    region = torch.zeros(4, 4, dtype=torch.bool)
    region[1:3, 0:2] = True
    return model, region


@pytest.mark.parametrize("reading", ["concept", "anchor"])
def test_a_concept_that_points_where_the_region_points_gives_the_region(reading: Any) -> None:
    model, region = planted()
    u, v = F.one_hot(torch.tensor([2, 9]), WIDTH).float()
    image = torch.where(region.flatten()[:, None], u, v)[None]
    wanted = [Wanted(torch.stack([u, v]), 1, ((0,),))]  # the class, and a rival for all the rest
    watch = JointWatch(model, Plan(reading, frozenset({0}), frozenset({0}), GRID), wanted, guided=False)
    with torch.no_grad(), watch.watching():
        model.transformer_blocks[0](
            hidden_states=image, encoder_hidden_states=torch.randn(1, 3, WIDTH), temb=torch.zeros(1, WIDTH)
        )
    (read,) = watch.maps()
    labels, peaks = mask_of(read, (12,), GRID, MaskConfig(power=1))
    assert torch.equal(labels == 12, region)
    assert peaks[12] > (0.5 if reading == "concept" else 0)


def test_an_anchor_is_one_token_and_edges_need_likeness() -> None:
    maps = torch.tensor([[0.1, 0.7], [0.9, 0.7], [0.9, 0.2]])
    assert anchored(maps).tolist() == [[0, 1], [1, 0], [0, 0]]
    outputs = torch.tensor([[1.0, 0], [-1, 0], [1, 1]])
    edges = graph(torch.full((3, 3), 1 / 3), outputs)
    assert edges[0, 1] == 0
    assert edges[0, 2] == pytest.approx(0.5**0.5 / 3)


def test_maps_need_a_run() -> None:
    model, _ = planted()
    with pytest.raises(RuntimeError, match="no map was read"):
        JointWatch(
            model, Plan("concept", frozenset({0}), frozenset(), GRID), [Wanted(torch.ones(1, WIDTH), 1)], False
        ).maps()


# ------------------------------------------------------------------------------------- the real depths, small widths


@pytest.mark.parametrize(
    ("save", "blocks", "affinity"),
    [
        (lambda folder: save_sd3(folder, 24, ()), range(24), [12]),  # 3 medium
        (lambda folder: save_sd3(folder, 24, tuple(range(13)), t5=False), range(24), [12]),  # 3.5 medium, without T5
        (lambda folder: save_flux(folder, 19, 38), range(15, 19), [9]),  # FLUX.1-dev
    ],
    ids=["sd3-medium", "sd35-medium", "flux-dev"],
)
def test_transformers_of_real_depth_are_read_where_the_papers_read_them(
    save: Any, blocks: range, affinity: list[int], tmp_path: Path
) -> None:
    config = GeneratorConfig(model=str(save(tmp_path)), height=16, width=32, steps=1, batch_size=1, device="cpu")
    engine = TextToImage(config)
    account = engine.family.account()
    assert (account["blocks"], account["affinity_blocks"]) == (list(blocks), affinity)
    assert account["grids"] == {"tokens": (4, 8)}
    (drawn,) = engine.draw([_request()])
    assert drawn.mask.shape == (16, 32)


def test_sdxl_of_real_depth_is_read_at_a_quarter_of_its_latents(tmp_path: Path) -> None:
    engine = TextToImage(
        GeneratorConfig(model=str(save_sdxl(tmp_path, (1, 2, 10), 32)), steps=1, batch_size=1, device="cpu")
    )
    family: Any = engine.family
    assert engine.size == (64, 64)
    assert family.grids == ((8, 8), (8, 8))
    assert len(family.cross_layers) == len(family.self_layers) == 10 * 2 + 10 + 10 * 3
    (drawn,) = engine.draw([_request()])
    assert drawn.mask.shape == (64, 64)


def _request() -> Any:
    from maskmill.generators.requests import Request

    assert {"dog", "cat"} <= set(WORDS)
    return Request("a photo of a dog and a cat; dog cat", ("dog", "cat"), (12, 8), 1)


def test_real_widths_go_through_a_block_without_weights() -> None:
    """FLUX.1's own width on the meta device: shapes and dtypes alone."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=1, num_single_layers=0, guidance_embeds=True).to(torch.bfloat16)
        plan = Plan("anchor", frozenset({0}), frozenset({0}), (8, 8))
        wanted = [Wanted(torch.empty(6, 4096, dtype=torch.bfloat16), 2, ((1,), (2,)))]
        watch = JointWatch(model, plan, wanted, guided=False)
        half = {"dtype": torch.bfloat16}
        with torch.no_grad(), watch.watching():
            model(
                hidden_states=torch.empty(1, 64, 64, **half),
                encoder_hidden_states=torch.empty(1, 512, 4096, **half),
                pooled_projections=torch.empty(1, 768, **half),
                timestep=torch.empty(1, **half),
                guidance=torch.empty(1, **half),
                txt_ids=torch.empty(512, 3, **half),
                img_ids=torch.empty(64, 3, **half),
            )
        (read,) = watch.maps()
    assert (read.maps.shape, read.affinity.shape) == ((2, 8, 8), (64, 64))
    assert read.maps.dtype == torch.float32
