"""Mask to image on a random-weight ControlNet pipeline loaded from disk."""

import json

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from small_pipelines import save_controlnet, save_pipeline

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    check_row,
    encode_image,
    encode_mask,
    load_label_space,
    read_shard,
    write_shard,
)
from maskmill.generators.layouts import resize_nearest
from maskmill.generators.loading import load_pipeline
from maskmill.generators.mask_to_image import ControlConfig, MaskToImage, request_from_mask
from maskmill.generators.records import layout_row, regenerate
from maskmill.generators.region_filter import filter_regions
from maskmill.generators.text_to_image import generators_for
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.stages.from_masks import FromMasksConfig
from maskmill.pipelines.stages.generate_from_masks import (
    generate_from_masks_stage,
    generate_from_masks_units,
)

VOC = load_label_space("voc")


def layout(shift=0):
    mask = np.zeros((24, 24), np.uint8)
    mask[3:12, 2 + shift : 11 + shift] = 12
    mask[12:22, 12:22] = 8
    return mask


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("control")
    model = save_pipeline(folder)
    control = save_controlnet(folder, UNet2DConditionModel.from_pretrained(model / "unet"))
    return ControlConfig(
        model=str(model), controlnet=str(control), height=16, width=16, steps=2, batch_size=2, device="cpu"
    )


@pytest.fixture(scope="module")
def engine(config):
    return MaskToImage(config, VOC)


@pytest.fixture(scope="module")
def requests(config):
    return [request_from_mask(layout(s), VOC, config, seed=s, scene="grass", mask_id=f"m{s}") for s in (0, 3, 6)]


def changed(engine, **settings):
    return MaskToImage(engine.config.model_copy(update=settings), VOC, engine.pipeline)


def test_requests_name_the_classes_of_the_mask(requests):
    assert requests[0].prompt == "a photo of a cat and a dog, grass; cat dog"
    assert requests[0].class_ids == (8, 12)
    with pytest.raises(ValueError, match="no foreground class"):
        request_from_mask(np.zeros((4, 4), np.uint8), VOC, ControlConfig(model="m", controlnet="c"), seed=0)


def test_the_controlnet_sees_the_map_pixel_by_pixel(engine, requests):
    seen = []
    hook = engine.pipeline.controlnet.controlnet_cond_embedding.register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    try:
        engine.draw(requests[:2])
    finally:
        hook.remove()
    got = (seen[0][-2:] * 255).permute(0, 2, 3, 1).numpy()
    for k, request in enumerate(requests[:2]):
        wanted = engine.control_map(request.mask)
        assert np.array_equal(np.rint(got[k]), wanted)
        assert np.array_equal(engine.palette.read(wanted), resize_nearest(request.mask, (16, 16)))


def test_the_label_is_the_mask(engine, requests):
    for drawn in engine.draw(requests):
        assert np.array_equal(drawn.mask, resize_nearest(drawn.request.mask, (16, 16)))
        assert drawn.image.shape == (16, 16, 3)
        assert drawn.problem is None


def test_scale_zero_is_plain_text_to_image(config, engine, requests):
    plain = load_pipeline(config.model)
    images = plain(
        prompt=[r.prompt for r in requests[:2]],
        negative_prompt=["", ""],
        height=16,
        width=16,
        num_inference_steps=config.steps,
        guidance_scale=config.guidance,
        generator=generators_for(requests[:2]),
        output_type="np",
    ).images
    off = changed(engine, conditioning_scale=0.0).draw(requests[:2])
    on = engine.draw(requests[:2])
    assert np.array_equal(np.stack([d.image for d in off]), np.rint(images * 255).astype(np.uint8))
    assert not np.array_equal(on[0].image, off[0].image)


def test_an_image_does_not_depend_on_its_batch(engine, requests):
    together = engine.draw(requests)
    for k in range(3):
        assert np.array_equal(engine.draw([requests[k]])[0].image, together[k].image)
    assert np.array_equal(engine.draw(requests[::-1])[0].image, together[2].image)


def test_rectified_attention_runs_changes_the_image_and_is_taken_off_again(engine, requests):
    before = engine.draw(requests[:1])[0].image
    rectified = changed(engine, rectified=True).draw(requests[:1])[0].image
    assert not np.array_equal(rectified, before)
    assert np.array_equal(engine.draw(requests[:1])[0].image, before)


def test_rectifier_equals_the_plain_processor_when_nothing_is_closed(engine):
    from maskmill.generators.mask_to_image import Rectify

    layer = engine.pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    hidden, text = torch.randn(2, 64, 16), torch.randn(2, 32, 32)
    with torch.no_grad():
        wanted = layer.processor(layer, hidden, text)
        got = Rectify(torch.zeros(2, 1, 64, 32))(layer, hidden, text)
    assert torch.allclose(got, wanted, atol=1e-6)


def test_sizes_must_fit_the_latents(config):
    with pytest.raises(ValueError, match="multiples of 8"):
        MaskToImage(config.model_copy(update={"height": 20}), VOC)


def stored_masks(folder):
    image = encode_image(np.zeros((24, 24, 3), np.uint8))
    rows = []
    for k, mask in enumerate([layout(0), layout(4), np.zeros((24, 24), np.uint8), None]):
        encoded = None if mask is None else encode_mask(mask, VOC.palette)
        row = {
            "sample_id": f"m{k}",
            "image": {"bytes": image, "path": None},
            "height": 24,
            "width": 24,
            "class_ids": [],
        }
        row["mask"] = None if encoded is None else {"bytes": encoded, "path": None}
        rows.append(row | {"provenance": {"source": "test"}})
    write_shard(f"{folder}/masks/shard-00000.parquet", SAMPLE.table(rows), SAMPLE, stage="test", fingerprint="f")


def test_the_stage_draws_every_mask_and_says_which_it_cannot(config, tmp_path):
    stored_masks(tmp_path)
    stage = generate_from_masks_stage(
        FromMasksConfig(control=config, per_mask=2, scenes=("grass", "road")), VOC, seed=3
    )
    (report,) = map_units(stage, generate_from_masks_units(str(tmp_path), f"{tmp_path}/masks"))
    assert report.counts == {"kept": 4, "empty_foreground": 1, "missing_mask": 1}
    rows = read_shard(report.unit.outputs[0], SAMPLE).to_pylist()
    assert sorted(json.loads(row["provenance"]["extra"])["mask_id"] for row in rows) == ["m0", "m0", "m1", "m1"]
    assert len({row["sample_id"] for row in rows}) == 4
    for row in rows:
        assert check_row(row, VOC) is None
        assert row["provenance"]["source"] == "controlnet"
    again = regenerate(rows[0], VOC)
    assert again.same, again.differences
    decisions = {d["sample_id"]: d["reason"] for d in read_shard(report.unit.outputs[1], DECISION).to_pylist()}
    assert decisions == {"m2": "empty_foreground", "m3": "missing_mask"}


def test_a_filtered_label_is_recorded_and_cannot_be_drawn_again(engine, requests):
    (drawn,) = engine.draw(requests[:1])
    filtered = filter_regions(drawn.mask, np.ones((16, 16), np.float32), {12: 0.5, 8: 9.0, 0: 9.0})
    row = layout_row(drawn, engine, filtered)
    assert row["class_ids"] == [8]
    assert json.loads(row["provenance"]["extra"])["filtered"]
    with pytest.raises(ValueError, match="its label was filtered"):
        regenerate(row, VOC)
