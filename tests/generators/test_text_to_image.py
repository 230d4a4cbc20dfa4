"""Drawing and capturing on random-weight pipelines: a small one, and one of Stable Diffusion 1.x's whole topology."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_pipelines import save_pipeline, sd1_unet, small_unet

from maskmill.data_contracts import ContractError, load_label_space
from maskmill.generators.capture import AttentionStore, FrugalStore, attention_layers, choose_grid, watching
from maskmill.generators.config import MaskConfig
from maskmill.generators.loading import load_pipeline, model_fingerprint, resolve_model
from maskmill.generators.text_to_image import GeneratorConfig, Request, TextToImage, generators_for, request_from_row

NAMES = {12: "dog", 8: "cat", 16: "potted plant", 6: "bus", 15: "person"}


def request(ids, seed):
    names = tuple(NAMES[i] for i in ids)
    return Request(f"a photo of {' and '.join(names)}, grass; {' '.join(names)}", names, tuple(ids), seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return save_pipeline(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def engine(folder):
    return TextToImage(GeneratorConfig(model=str(folder), steps=3, batch_size=3, device="cpu"))


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("sd1"), sd1_unet(), levels=4)


REQUESTS = [request([12], 1), request([8, 16], 2), request([6, 15, 12], 3), request([16], 4)]


def run_captured(engine, requests, guidance=5.0, steps=3):
    store = AttentionStore()
    pipe = engine.pipeline
    with torch.no_grad(), watching(pipe.unet, store, engine.family.cross_layers, engine.family.self_layers):
        embeds, _ = pipe.encode_prompt([r.class_prompt for r in requests], "cpu", 1, False)
        store.begin(embeds, guided=guidance > 1)
        images = plain(pipe, requests, guidance, steps)
    return images, store


def plain(pipe, requests, guidance=5.0, steps=3):
    return pipe(
        prompt=[r.prompt for r in requests],
        negative_prompt=[""] * len(requests),
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=generators_for(requests),
        output_type="np",
    ).images


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_rows_of_averaged_attention_sum_to_one(engine, guidance):
    _, store = run_captured(engine, REQUESTS[:2], guidance)
    own, cross = store.averages()
    assert own.shape == (2, 64, 64)
    assert cross.shape == (2, 64, 32)
    for power in (own, torch.linalg.matrix_power(own, 4), cross):
        assert float((power.sum(-1) - 1).abs().max()) < 1e-5


def test_a_frugal_store_sees_the_same(engine):
    pipe, found = engine.pipeline, []
    for store in (AttentionStore(), FrugalStore()):
        with torch.no_grad(), watching(pipe.unet, store, engine.family.cross_layers, engine.family.self_layers):
            embeds, _ = pipe.encode_prompt([r.class_prompt for r in REQUESTS[:2]], "cpu", 1, False)
            store.begin(embeds, guided=True)
            images = plain(pipe, REQUESTS[:2])
        found.append((images, *store.averages()))
    assert np.array_equal(found[0][0], found[1][0])
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert not [m for m in pipe.unet.modules() if m._forward_hooks]


def test_capturing_does_not_change_the_image(engine):
    captured, _ = run_captured(engine, REQUESTS[:2])
    assert np.array_equal(captured, plain(engine.pipeline, REQUESTS[:2]))


def test_processors_are_given_back(engine):
    unet = engine.pipeline.unet
    before = {name: type(p).__name__ for name, p in unet.attn_processors.items()}
    with watching(unet, AttentionStore(), engine.family.cross_layers, engine.family.self_layers):
        assert sum(type(p).__name__ == "Watch" for p in unet.attn_processors.values()) == 6
        # nobody called begin()
        with pytest.raises(RuntimeError, match="call begin"):
            plain(engine.pipeline, REQUESTS[:1])
    assert {name: type(p).__name__ for name, p in unet.attn_processors.items()} == before


def test_conditional_half_and_class_prompt_make_the_cross_map(engine):
    """Another class prompt moves the map and not the image; another negative prompt may move the image, not which
    half is read.
    """
    pipe = engine.pipeline
    maps = []
    for class_prompt in ("dog", "bus"):
        store = AttentionStore()
        with torch.no_grad(), watching(pipe.unet, store, engine.family.cross_layers, engine.family.self_layers):
            embeds, _ = pipe.encode_prompt([class_prompt], "cpu", 1, False)
            store.begin(embeds, guided=True)
            image = plain(pipe, REQUESTS[:1])
        maps.append((image, store.averages()))
    assert np.array_equal(maps[0][0], maps[1][0])
    assert torch.equal(maps[0][1][0], maps[1][1][0])
    assert not torch.allclose(maps[0][1][1], maps[1][1][1])


def test_store_memory_does_not_grow_with_steps(engine):
    sizes = []
    for steps in (1, 4):
        _, store = run_captured(engine, REQUESTS[:2], steps=steps)
        tensors = [v for v in vars(store).values() if torch.is_tensor(v)]
        sizes.append(sum(t.numel() * t.element_size() for t in tensors))
        assert store.self_count == 3 * steps
    assert sizes[0] == sizes[1]


def test_a_sample_does_not_depend_on_its_batch(engine):
    together = engine.draw(REQUESTS)
    for k, one in enumerate(REQUESTS):
        (alone,) = engine.draw([one])
        assert np.array_equal(alone.image, together[k].image)
        assert np.array_equal(alone.mask, together[k].mask)
        assert alone.peaks == together[k].peaks
    swapped = engine.draw([REQUESTS[3], REQUESTS[1], REQUESTS[0]])
    assert np.array_equal(swapped[0].image, together[3].image)
    assert np.array_equal(swapped[2].mask, together[0].mask)


def test_batch_size_changes_nothing_beyond_rounding(folder, engine):
    single = TextToImage(GeneratorConfig(model=str(folder), steps=3, batch_size=1, device="cpu"))
    for one, other in zip(single.draw(REQUESTS), engine.draw(REQUESTS), strict=True):
        assert np.abs(one.image.astype(int) - other.image).max() <= 1
        assert (one.mask != other.mask).mean() < 0.005


def test_seeds_make_images_differ(engine):
    first, second = engine.draw([request([12], 1), request([12], 2)])
    assert not np.array_equal(first.image, second.image)


def test_masks_hold_background_prompted_classes_and_ignore_only(engine):
    for drawn in engine.draw(REQUESTS):
        assert drawn.mask.dtype == np.uint8
        assert drawn.mask.shape == drawn.image.shape[:2] == (16, 16)
        assert set(np.unique(drawn.mask)) <= {0, 255, *drawn.request.class_ids}
        assert sorted(drawn.class_ids + drawn.lost_ids) == sorted(drawn.request.class_ids)
        assert set(drawn.peaks) == set(drawn.request.class_ids)


def test_a_class_that_loses_everywhere_is_listed_as_lost(engine):
    drawn = engine.draw([REQUESTS[0]])[0]
    gone = type(drawn)(drawn.request, drawn.image, np.zeros_like(drawn.mask))
    assert (gone.class_ids, gone.lost_ids) == ([], [12])


def test_sd1_topology_loads_from_disk_and_maps_come_from_16_and_32(sd1):
    engine = TextToImage(GeneratorConfig(model=str(sd1), steps=1, batch_size=1, device="cpu"))
    layers = attention_layers(engine.pipeline.unet, (32, 32))
    assert len(layers) == 32
    counts = {
        (kind, g): sum(la.kind == kind and la.grid == (g, g) for la in layers)
        for kind in ("self", "cross")
        for g in (32, 16, 8, 4)
    }
    assert [counts["cross", g] for g in (32, 16, 8, 4)] == [5, 5, 5, 1]
    assert engine.family.grids == ((16, 16), (32, 32))
    assert (len(engine.family.cross_layers), len(engine.family.self_layers)) == (5, 5)
    _, store = run_captured(engine, REQUESTS[:1], steps=1)
    own, cross = store.averages()
    assert own.shape == (1, 1024, 1024)
    assert cross.shape == (1, 256, 32)
    assert float((own.sum(-1) - 1).abs().max()) < 1e-5
    (drawn,) = engine.draw(REQUESTS[1:2])
    assert drawn.image.shape == (256, 256, 3)


def test_sd2_topology_has_heads_by_width_and_linear_projections(tmp_path):
    unet = small_unet(
        sample_size=32,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=2,
        attention_head_dim=(1, 2, 4, 4),
        use_linear_projection=True,
    )
    engine = TextToImage(
        GeneratorConfig(model=str(save_pipeline(tmp_path, unet, levels=4)), steps=1, batch_size=1, device="cpu")
    )
    assert engine.family.grids == ((16, 16), (32, 32))
    (drawn,) = engine.draw(REQUESTS[1:2])
    assert drawn.mask.shape == (256, 256)


def test_sd1_layers_at_512_pixels_have_the_published_grids(sd1):
    unet = load_pipeline(str(sd1)).unet
    layers = attention_layers(unet, (64, 64))
    assert [sum(la.kind == "self" and la.grid == (g, g) for la in layers) for g in (64, 32, 16, 8)] == [5, 5, 5, 1]
    assert choose_grid(layers, "cross", None, 16) == (16, 16)
    assert choose_grid(layers, "self", None, 32) == (32, 32)


def test_watched_layers_see_the_grid_that_their_name_promises(sd1):
    engine = TextToImage(GeneratorConfig(model=str(sd1), height=192, width=256, steps=1, batch_size=1, device="cpu"))
    assert engine.family.grids == ((12, 16), (24, 32))
    (drawn,) = engine.draw(REQUESTS[:1])
    assert drawn.mask.shape == drawn.image.shape[:2] == (192, 256)


def test_unknown_resolution_scheduler_size_and_model_say_what_there_is(folder):
    bad = MaskConfig(cross_resolution=7)
    with pytest.raises(ValueError, match="this UNet has 4, 8"):
        TextToImage(GeneratorConfig(model=str(folder), mask=bad, device="cpu"))
    with pytest.raises(ValueError, match="UniPCMultistepScheduler"):
        TextToImage(GeneratorConfig(model=str(folder), scheduler="NoScheduler", device="cpu"))
    with pytest.raises(ValueError, match="multiples of 2"):
        TextToImage(GeneratorConfig(model=str(folder), height=17, device="cpu"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        resolve_model("/nowhere/model")


def test_another_scheduler_runs(folder):
    config = GeneratorConfig(
        model=str(folder), scheduler="UniPCMultistepScheduler", steps=3, batch_size=1, device="cpu"
    )
    engine = TextToImage(config)
    assert engine.scheduler_name == "UniPCMultistepScheduler"
    assert engine.draw(REQUESTS[:1])[0].image.std() > 0


def test_leaving_out_noisy_steps_changes_the_mask_only(folder, engine):
    late = TextToImage(
        GeneratorConfig(model=str(folder), steps=3, batch_size=3, device="cpu", mask=MaskConfig(first_step=0.7))
    )
    one, other = late.draw(REQUESTS[1:2])[0], engine.draw(REQUESTS[1:2])[0]
    assert np.array_equal(one.image, other.image)
    assert one.peaks != other.peaks


def test_fingerprint_follows_the_weights(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    assert model_fingerprint(str(copy)) == model_fingerprint(str(folder))
    weights = next((copy / "unet").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    model_fingerprint.cache_clear()
    assert model_fingerprint(str(copy)) != model_fingerprint(str(folder))


def test_requests_come_from_prompt_rows():
    voc = load_label_space("voc")
    row = {"sample_id": "p", "prompt": "x; potted plant dog", "class_prompt": "potted plant dog", "class_ids": [16, 12]}
    found = request_from_row(row | {"negative_prompt": None, "seed": 5}, voc)
    assert found.names == ("potted plant", "dog")
    assert (found.seed, found.prompt_id) == (5, "p")


def test_too_long_class_prompts_are_refused(engine):
    with pytest.raises(ContractError, match="at most 30 tokens"):
        engine.draw([Request("x", ("dog " * 40,), (12,), 0)])


def test_one_drawing_is_read_in_several_ways(folder, engine):
    masks = {
        "plain": MaskConfig(),
        "late": MaskConfig(first_step=0.5),
        "sharp": MaskConfig(power=0, foreground=0.9, uncertain=0.2),
        "lineup": MaskConfig(lineup=True),
    }
    requests = [replace(one, others=("horse", "boat")) for one in REQUESTS]
    read = engine.compare(requests, masks)
    for name, mask in masks.items():
        alone = TextToImage(engine.config.model_copy(update={"mask": mask}), engine.pipeline).draw(requests)
        assert len(read[name]) == len(alone) == 4
        for one, other in zip(read[name], alone, strict=True):
            assert np.array_equal(one.image, other.image)
            assert np.array_equal(one.mask, other.mask)
            assert (one.peaks, one.signs) == (other.peaks, other.signs)
    assert engine.compare(requests, {}) == {}
    assert all("share" in signs for one in read["lineup"] for signs in one.signs.values())
    assert not any(one.signs for one in read["plain"])


def test_comparing_halves_its_batches_where_memory_runs_out(folder, monkeypatch):
    engine = TextToImage(GeneratorConfig(model=str(folder), steps=1, batch_size=4, device="cpu"))
    run = TextToImage._run

    def small(self, batch, watches):
        if len(batch.requests) > 2:
            raise torch.OutOfMemoryError("full")
        return run(self, batch, watches)

    monkeypatch.setattr(TextToImage, "_run", small)
    read = engine.compare(REQUESTS, {"plain": MaskConfig(), "sharp": MaskConfig(power=0)})
    assert [one.request for one in read["sharp"]] == REQUESTS
    assert {one.batch_size for one in read["plain"]} == {2}


def test_the_first_step_that_is_read_is_the_nearest(engine):
    """Of three steps 0.4 leaves one out and 0.6 two."""
    read = engine.compare(REQUESTS[:1], {str(share): MaskConfig(first_step=share) for share in (0.4, 0.6, 0.7)})
    (early,), (late,), (same,) = read.values()
    assert early.peaks != late.peaks
    assert late.peaks == same.peaks
