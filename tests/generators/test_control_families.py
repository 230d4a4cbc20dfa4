"""ControlNets of the newer families: the same properties as Stable Diffusion's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    FluxControlNetModel,
    FluxTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)

from maskmill.data_contracts import SAMPLE, check_row, load_label_space
from maskmill.generators.families import UnknownFamilyError
from maskmill.generators.layouts import resize_nearest
from maskmill.generators.loading import load_pipeline
from maskmill.generators.mask_to_image import ControlConfig, MaskToImage, request_from_mask
from maskmill.generators.records import layout_row, regenerate
from maskmill.generators.text_to_image import generators_for
from tests.generators.small_families import SAVE

VOC = load_label_space("voc")


def fill(control: Any) -> Any:
    """Zero convolutions that are not zero, so that the control image matters."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in control.parameters():
            if weight.dim() > 1 and not weight.any():
                weight.copy_(0.3 * torch.randn(weight.shape, generator=noise))
    return control


def save_control(name: str, model: Path, folder: Path) -> Path:
    """A ControlNet of the family for that model."""
    torch.manual_seed(1)
    if name == "stable_diffusion_xl":
        unet = UNet2DConditionModel.from_pretrained(model / "unet")
        control: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    elif name == "stable_diffusion_3":
        joint = SD3Transformer2DModel.from_pretrained(model / "transformer")
        control = SD3ControlNetModel.from_transformer(joint, num_layers=2, num_extra_conditioning_channels=0)
    else:
        flux = FluxTransformer2DModel.from_pretrained(model / "transformer")
        control = FluxControlNetModel.from_transformer(
            flux, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2
        )
    fill(control).save_pretrained(folder / "control")
    return folder / "control"


def layout(shift: int = 0) -> Any:
    mask = np.zeros((24, 24), np.uint8)
    mask[3:12, 2 + shift : 11 + shift] = 12
    mask[12:22, 12:22] = 8
    return mask


@pytest.fixture(scope="module", params=sorted(SAVE))
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ControlConfig:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    model = SAVE[request.param](folder)
    control = save_control(request.param, model, folder)
    sizes = {"height": 32, "width": 32, "steps": 2, "batch_size": 2}
    return ControlConfig(model=str(model), controlnet=str(control), device="cpu", **sizes)


@pytest.fixture(scope="module")
def engine(config: ControlConfig) -> MaskToImage:
    return MaskToImage(config, VOC)


def test_images_follow_the_mask_and_nothing_else(config: ControlConfig, engine: MaskToImage) -> None:
    requests = [request_from_mask(layout(s), VOC, config, seed=s, scene="grass", mask_id=f"m{s}") for s in (0, 3, 6)]
    together = engine.draw(requests)
    for request, drawn in zip(requests, together, strict=True):
        assert np.array_equal(drawn.mask, resize_nearest(request.mask, (32, 32)))
        assert drawn.problem is None
    (alone,) = engine.draw(requests[1:2])
    assert np.array_equal(alone.image, together[1].image)  # noise and control maps are an image's own
    (last,) = engine.draw(requests[:2])[1:]
    assert np.array_equal(last.image, together[1].image)
    other = request_from_mask(layout(6), VOC, config, seed=3, scene="grass", mask_id="m")
    assert not np.array_equal(engine.draw([other])[0].image, alone.image)
    row = SAMPLE.table([layout_row(alone, engine)]).to_pylist()[0]
    assert check_row(row, VOC) is None
    assert f'"family": "{engine.family.name}"' in row["provenance"]["extra"]
    again = regenerate(row, VOC)
    assert again.same, again.differences


def test_scale_zero_is_plain_text_to_image(config: ControlConfig, engine: MaskToImage) -> None:
    requests = [request_from_mask(layout(s), VOC, config, seed=s) for s in (0, 3)]
    texts: dict[str, Any] = {"prompt": [r.prompt for r in requests]}
    if engine.family.control.negative:
        texts["negative_prompt"] = ["", ""]
    images = load_pipeline(config.model)(
        **texts,
        height=32,
        width=32,
        num_inference_steps=config.steps,
        guidance_scale=config.guidance,
        generator=generators_for(requests),
        output_type="np",
    ).images
    off = MaskToImage(config.model_copy(update={"conditioning_scale": 0.0}), VOC, engine.pipeline).draw(requests)
    assert np.array_equal(np.stack([d.image for d in off]), np.rint(images * 255).astype(np.uint8))


def test_what_a_family_has_not_is_refused(config: ControlConfig, engine: MaskToImage, tmp_path: Path) -> None:
    with pytest.raises(UnknownFamilyError, match=f"names {engine.family.control.model}; found none"):
        MaskToImage(config.model_copy(update={"controlnet": config.model}), VOC)
    (tmp_path / "config.json").write_text('{"_class_name": "HunyuanDiT2DControlNetModel"}')
    with pytest.raises(UnknownFamilyError, match=f"expected {engine.family.control.model}, .* found Hunyuan"):
        MaskToImage(config.model_copy(update={"controlnet": str(tmp_path)}), VOC)
    if engine.family.denoiser == "transformer":
        with pytest.raises(ValueError, match="no cross-attention to rectify"):
            MaskToImage(config.model_copy(update={"rectified": True}), VOC, engine.pipeline)
