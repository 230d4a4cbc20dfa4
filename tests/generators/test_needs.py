"""Memory and disk by arithmetic: folders are counted, published models stand in a table, options move the sum."""

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UNet2DConditionModel,
)

from maskmill.generators.config import GeneratorConfig, MaskConfig
from maskmill.generators.needs import PUBLISHED, VAES, model_at, needs, needs_of
from maskmill.pipelines.run.config import load_run_config
from maskmill.pipelines.run.plan import resources
from tests.generators.small_families import save_sd3

FLUX, SDXL = "black-forest-labs/FLUX.1-dev", "stabilityai/stable-diffusion-xl-base-1.0"


def parameters(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def test_a_folders_parts_are_counted_as_they_are_loaded(tmp_path: Path) -> None:
    folder = save_sd3(tmp_path)
    found = model_at(folder)
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder)
    held = {"text_encoder": pipeline.text_encoder, "text_encoder_2": pipeline.text_encoder_2, "vae": pipeline.vae}
    for part, module in held.items():
        assert found.parts[part] == parameters(module)
    assert found.disk == sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))
    assert (found.side, found.token) == (32, 4)


def test_the_table_holds_what_published_configs_give() -> None:
    with torch.device("meta"):
        flux = FluxTransformer2DModel(guidance_embeds=True)
        sd3 = SD3Transformer2DModel(
            num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192
        )
        sd1 = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        levels = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4, (128, 256, 512, 512)
        qwen = {"transformer": QwenImageTransformer2DModel(), "vae": AutoencoderKLQwenImage()}
        vae = AutoencoderKL(3, 3, *levels, layers_per_block=2, latent_channels=4)
    assert PUBLISHED[FLUX].parts["transformer"] == parameters(flux)
    assert PUBLISHED["stabilityai/stable-diffusion-3-medium-diffusers"].parts["transformer"] == parameters(sd3)
    assert PUBLISHED["stable-diffusion-v1-5/stable-diffusion-v1-5"].parts["unet"] == parameters(sd1)
    assert VAES["unet"] == parameters(vae)
    assert {part: PUBLISHED["Qwen/Qwen-Image"].parts[part] for part in qwen} == {
        part: parameters(model) for part, model in qwen.items()
    }


def test_every_option_that_saves_memory_does() -> None:
    model, plain = PUBLISHED[FLUX], GeneratorConfig(model=FLUX, batch_size=4, dtype="bfloat16")
    whole = needs(plain, model)
    for change in (
        {"offload": "model"},
        {"offload": "sequential"},
        {"text_encoders": "free"},
        {"vae_slicing": True},
        {"vae_tiling": True},
        {"quantize": "bitsandbytes_4bit"},
        {"height": 512, "width": 512},
        {"mask": MaskConfig(power=0)},
    ):
        assert needs(plain.model_copy(update=change), model).memory < whole.memory, change
    assert needs(plain.model_copy(update={"dtype": "float32"}), model).weights == 2 * whole.weights
    # Stable Diffusion XL decodes in float32
    xl = GeneratorConfig(model=SDXL)
    assert (
        needs(xl, PUBLISHED[SDXL]).memory
        > needs(xl.model_copy(update={"vae_dtype": "float16"}), PUBLISHED[SDXL]).memory
    )


@pytest.mark.parametrize("preset", ["sd15-voc", "sdxl-voc", "sd35-voc", "flux-voc"])
def test_a_plan_says_what_a_preset_wants_before_it_is_fetched(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    config = load_run_config(preset, {})
    assert config.generate is not None
    told = resources(config)
    found = needs_of(config.generate.generator, None)
    assert told is not None
    assert found is not None
    assert "arithmetic" in told
    assert f"{found.memory / 1e9:.1f} GB" in told
    head = (Path(__file__).resolve().parents[2] / "configs" / f"{preset}.yaml").read_text().split("name:")[0]
    if preset != "sd15-voc":
        assert f"{found.memory / 1e9:.0f} GB of memory and {found.disk / 1e9:.0f} GB of disk" in head


def test_nothing_is_said_of_models_that_nobody_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    assert resources(load_run_config("sd15-voc", {"generate.generator.model": "somebody/elses"})) is None
    assert resources(load_run_config("folder", {"source.root": "/data"})) is None
