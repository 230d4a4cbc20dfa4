"""Random-weight pipelines built from configs and saved to disk, so that tests load them the way users load theirs."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from maskmill.starter.generator_training.tokenizer import END, START, byte_letters, clip_merges, write_tokenizer

WIDTH = 32
TEXT = "a photo of and the dog cat bus person dining table potted plant tv monitor aeroplane on grass sky ; ,"
WORDS = sorted(TEXT.split())


def full_clip_tokenizer() -> Any:
    """CLIP's whole vocabulary."""
    merges = clip_merges()
    letters = byte_letters()
    tokens = [*letters, *(x + "</w>" for x in letters), *("".join(m) for m in merges), START, END]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def small_unet(**changes: Any) -> UNet2DConditionModel:
    """Two resolutions, 8 x 8 latents."""
    settings: dict[str, Any] = {
        "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**settings | changes)


def sd1_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.x: its 4 levels, 2 layers a block, 8 heads, 16 transformer blocks; only the widths are
    small.
    """
    return small_unet(
        sample_size=32,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(16, 32, 32, 32),
        layers_per_block=2,
        attention_head_dim=8,
    )


def small_autoencoder(levels: int) -> AutoencoderKL:
    """2^(levels - 1) times smaller."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        norm_num_groups=4,
        latent_channels=4,
    )


def sharpen(unet: UNet2DConditionModel) -> None:
    """Larger queries and keys: fresh weights attend evenly everywhere, and min-max would then show rounding errors."""
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                weight.mul_(5)


def save_pipeline(folder: Path, unet: UNet2DConditionModel | None = None, levels: int = 2) -> Path:
    """A complete Stable Diffusion folder with random weights."""
    torch.manual_seed(0)
    write_tokenizer(folder / "words", WORDS, 32)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    pipeline = StableDiffusionPipeline(
        vae=small_autoencoder(levels),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet or small_unet(),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    sharpen(pipeline.unet)
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def save_controlnet(folder: Path, unet: UNet2DConditionModel) -> Path:
    """A ControlNet for that UNet whose zero convolutions are not zero, so that the control image matters."""
    torch.manual_seed(1)
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    with torch.no_grad():
        for block in (
            *control.controlnet_down_blocks,
            control.controlnet_mid_block,
            control.controlnet_cond_embedding.conv_out,
        ):
            torch.nn.init.normal_(block.weight, std=0.3)
    control.save_pretrained(folder / "control")
    return folder / "control"
