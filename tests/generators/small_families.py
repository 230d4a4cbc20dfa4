"""Random-weight pipelines of every family with the real topology at small widths, saved to disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLQwenImage,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import ByteLevelBPETokenizer
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from maskmill.starter.generator_training.tokenizer import write_tokenizer
from tests.generators.small_pipelines import WORDS

WIDTH, JOINT = 32, 64  # of CLIP's states, and of T5's


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """Whole words where the prompts of tests have them, letters elsewhere."""
    write_tokenizer(folder / "words", WORDS, 32)
    return CLIPTokenizer.from_pretrained(folder / "words")


def t5_tokenizer(first: bool = False) -> T5TokenizerFast:
    """The same words as T5 sees them, and letters; `first`: words also as they stand without a blank in front."""
    letters = [chr(code) for code in range(33, 127)]
    words = [word for word in WORDS if word.isalpha()]
    pieces = [*(f"▁{word}" for word in words), "▁", *letters, *(word for word in words if first and len(word) > 1)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *((p, -1.0 if len(p) > 2 else -9.0) for p in pieces)]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=40)


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """The same words behind a start-of-text; the first one has no blank in front."""
    inner = t5_tokenizer(first=True).backend_tokenizer
    inner.pre_tokenizer = Metaspace(prepend_scheme="never")
    inner.add_special_tokens(["<bos>"])
    start = inner.token_to_id("<bos>")
    inner.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", start)])
    names = {"bos_token": "<bos>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=40, **names)


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Each word of the prompts and of the pipeline's instruction is one token, as in Qwen's own vocabulary."""
    told = "system Describe the image by detailing color shape size texture quantity text spatial relationships of "
    words = [*(told + "objects background user assistant").split(), *filter(str.isalpha, WORDS)]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([f"{word} {word}" for word in words], vocab_size=2000, min_frequency=1)
    model = json.loads(trained.to_str())["model"]
    own = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    return Qwen2Tokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], **own)


def clip_text(tokenizer: CLIPTokenizer, kind: Any) -> Any:
    """A CLIP text encoder of two layers."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config)


def t5_text(tokenizer: T5TokenizerFast) -> T5EncoderModel:
    """A T5 encoder of two layers."""
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=JOINT, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
    )


def autoencoder(**changes: Any) -> AutoencoderKL:
    """Half of each side; four channels."""
    settings = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": 32,
    }
    return AutoencoderKL(**settings | changes)


def sharpen(model: Any, factor: float = 4.0) -> None:
    """Larger queries and keys: fresh weights attend evenly everywhere, and min-max would then show rounding errors.
    Where queries and keys are normalised it is the norms that count.
    """
    plain = ("to_q.weight", "to_k.weight", "add_q_proj.weight", "add_k_proj.weight")
    normed = ("norm_q.weight", "norm_k.weight", "norm_added_q.weight", "norm_added_k.weight")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith((*plain, *normed)):
                weight.mul_(factor)


def save_sdxl(folder: Path, depths: tuple[int, ...] = (1, 1, 2), sample: int = 16) -> Path:
    """Stable Diffusion XL: three levels, attention on the two lower ones."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    unet = UNet2DConditionModel(
        sample_size=sample,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
        cross_attention_dim=2 * WIDTH,
        attention_head_dim=(1, 2, 2),
        transformer_layers_per_block=depths,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=WIDTH + 48,
    )
    sharpen(unet)
    StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip_text(tokenizer, CLIPTextModel),
        text_encoder_2=clip_text(tokenizer, CLIPTextModelWithProjection),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    ).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def save_sd3(folder: Path, layers: int = 3, dual: tuple[int, ...] = (0,), t5: bool = True) -> Path:
    """Stable Diffusion 3 (or with `dual` blocks 3.5): the last block has no text stream behind its attention."""
    torch.manual_seed(0)
    tokenizer, tokenizer_3 = clip_tokenizer(folder), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=JOINT,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        dual_attention_layers=dual,
        qk_norm="rms_norm" if dual else None,
    )
    sharpen(transformer)
    StableDiffusion3Pipeline(
        vae=autoencoder(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(tokenizer, CLIPTextModelWithProjection),
        text_encoder_2=clip_text(tokenizer, CLIPTextModelWithProjection),
        text_encoder_3=t5_text(tokenizer_3) if t5 else None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=tokenizer_3 if t5 else None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def save_flux(folder: Path, layers: int = 3, single: int = 2, guidance: bool = True) -> Path:
    """FLUX.1: two-stream blocks, then one-stream blocks, rotary positions, T5 and a pooled CLIP vector."""
    torch.manual_seed(0)
    tokenizer, tokenizer_2 = clip_tokenizer(folder), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=layers,
        num_single_layers=single,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=JOINT,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance,
        axes_dims_rope=(2, 2, 4),
    )
    sharpen(transformer)
    FluxPipeline(
        vae=autoencoder(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(tokenizer, CLIPTextModel),
        text_encoder_2=t5_text(tokenizer_2),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    ).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def save_pixart(folder: Path, layers: int = 6, sample: int = 16) -> Path:
    """PixArt-Sigma: cross-attention to projected T5 states, learned sigma, two latents a token."""
    torch.manual_seed(0)
    tokenizer = t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=layers,
        cross_attention_dim=16,
        sample_size=sample,
        caption_channels=JOINT,
        use_additional_conditions=False,
    )
    sharpen(transformer, 8.0)
    PixArtSigmaPipeline(
        vae=autoencoder(),
        text_encoder=t5_text(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    ).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def save_sana(folder: Path, layers: int = 6, sample: int = 8) -> Path:
    """Sana: linear self-attention, cross-attention to projected and normed Gemma states, a deep autoencoder."""
    torch.manual_seed(0)
    tokenizer = gemma_tokenizer()
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=layers,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=JOINT,
        sample_size=sample,
        qk_norm="rms_norm_across_heads",
    )
    sharpen(transformer, 6.0)
    channels = (8, 8, 16)
    SanaPipeline(
        vae=AutoencoderDC(
            latent_channels=4,
            attention_head_dim=8,
            encoder_block_out_channels=channels,
            decoder_block_out_channels=channels,
            encoder_layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            encoder_qkv_multiscales=((), (), ()),
            decoder_qkv_multiscales=((), (), ()),
        ),
        text_encoder=Gemma2Model(
            Gemma2Config(
                vocab_size=len(tokenizer),
                hidden_size=JOINT,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=16,
            )
        ),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def save_qwen(folder: Path, layers: int = 3) -> Path:
    """Qwen-Image: two-stream blocks, text with places of its own, an instructed language model, a video autoencoder."""
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=JOINT,
        axes_dims_rope=(4, 2, 2),
    )
    sharpen(transformer)
    told = {
        "vocab_size": len(tokenizer),
        "hidden_size": JOINT,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e6},
    }
    seen = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": JOINT}
    QwenImagePipeline(
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.1, -0.2, 0.0, 0.3],
            latents_std=[1.2, 0.9, 1.0, 1.1],
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=told, vision_config=seen)),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    ).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


SAVE: dict[str, Callable[[Path], Path]] = {
    "stable_diffusion_xl": save_sdxl,
    "stable_diffusion_3": save_sd3,
    "flux": save_flux,
}
