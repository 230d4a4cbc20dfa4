"""The parts of the starter generator, from their configs: sizes that two CPU cores can train within the hour.

64 px pictures, 4x autoencoder, latents 8 x 16 x 16. Cross- and self-attention at 16 and 8, so that attention masks
have a useful grid.
"""

from pathlib import Path
from typing import Any

from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.generators.words import NUMBERS, class_words, plural
from maskmill.starter.drawn.backgrounds import BACKGROUND_WORDS
from maskmill.starter.drawn.drawings import KNOWN_STYLES, load_drawings
from maskmill.starter.generator_training.tokenizer import write_tokenizer

IMAGE_SIZE = 64
LATENT_SIZE = 16
LATENT_CHANNELS = 8
PATCH_VALUES = 48  # red, green and blue of a 4 x 4 patch
TEXT_WIDTH = 128
MAX_TOKENS = 32
MIRRORED = "mirrored"


def drawing_words(name: str) -> str:
    """What a caption calls a drawing: "motor-scooter" is "motor scooter"."""
    return name.replace("-", " ")


def known_words() -> list[str]:
    """Words kept whole by the starter's tokenizer: of classes of VOC and COCO, of drawings and of backgrounds, and what
    prompts say.
    """
    spaces: list[LabelSpace] = [load_label_space("voc"), load_label_space("coco")]
    names = [w for space in spaces for w in class_words(space).values()]
    names += [label.name for space in spaces for label in space.classes]
    names += [s for space in spaces for label in space.classes for s in label.synonyms]
    said = [
        "a",
        "an",
        "photo",
        "picture",
        "drawing",
        "image",
        "of",
        "the",
        "and",
        "with",
        "in",
        "on",
        "at",
        "near",
        "small",
    ]
    said += ["large", "big", "background", MIRRORED]
    drawings = load_drawings(KNOWN_STYLES).by_class.values()
    names += [drawing_words(one.name) for styles in drawings for found in styles.values() for one in found]
    phrases = [*names, *(plural(n) for n in names), *BACKGROUND_WORDS, *NUMBERS.values(), *said, ",", ".", ";"]
    return sorted({word for phrase in phrases for word in phrase.lower().split()})


def make_tokenizer(folder: Path) -> Any:
    """Write the starter's tokenizer to `folder` and load it."""
    from transformers import CLIPTokenizer

    write_tokenizer(folder, known_words(), MAX_TOKENS)
    return CLIPTokenizer.from_pretrained(folder)


def clip_config(tokenizer: Any, width: int, layers: int, heads: int) -> Any:
    """A causal text encoder of the starter's vocabulary."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_text_encoder(tokenizer: Any) -> Any:
    """Two causal layers, width 128."""
    from transformers import CLIPTextModel

    return CLIPTextModel(clip_config(tokenizer, TEXT_WIDTH, 2, 4))


def make_autoencoder() -> Any:
    """Convolutional autoencoder without normalisation layers, 4x smaller. Its encoder is linear and is not trained."""
    import diffusers

    make: Any = diffusers.AutoencoderTiny  # its constructor carries no types
    return make(
        encoder_block_out_channels=(PATCH_VALUES,) * 3,
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 0, 0),
        num_decoder_blocks=(2, 1, 0),
        latent_channels=LATENT_CHANNELS,
        upsampling_scaling_factor=2,
    )


def make_unet() -> Any:
    """UNet with cross- and self-attention at 16 (on the way up alone), 8 and, in the middle, 4.

    One, two and four heads: attention over 256 places costs by the head, and capture reads every head.
    """
    import diffusers

    make: Any = diffusers.UNet2DConditionModel  # its constructor carries no types
    return make(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 128, 256),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(1, 2, 4),  # diffusers reads this as the number of heads in UNets of this family
    )


def make_scheduler() -> Any:
    """Deterministic DDIM on velocities, noise schedule rescaled to end in pure noise."""
    import diffusers

    make: Any = diffusers.DDIMScheduler  # its constructor carries no types
    return make(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # not used with trailing spacing; diffusers warns of any other value
    )


def make_flow_text_encoders(tokenizer: Any) -> tuple[Any, Any]:
    """The two CLIPs of a Stable Diffusion 3 folder, widths 96 and 32: side by side they give 128."""
    from transformers import CLIPTextModelWithProjection

    wide, narrow = clip_config(tokenizer, 96, 3, 4), clip_config(tokenizer, 32, 2, 2)
    return CLIPTextModelWithProjection(wide), CLIPTextModelWithProjection(narrow)


def make_transformer() -> Any:
    """Stable Diffusion 3's, one latent a token, six blocks of width 144. Blocks begin as identities (adaLN-Zero)."""
    import diffusers
    import torch

    make: Any = diffusers.SD3Transformer2DModel  # its constructor carries no types
    model = make(
        sample_size=LATENT_SIZE,
        patch_size=1,
        in_channels=LATENT_CHANNELS,
        num_layers=6,
        attention_head_dim=48,
        num_attention_heads=3,
        joint_attention_dim=TEXT_WIDTH,
        caption_projection_dim=144,
        pooled_projection_dim=TEXT_WIDTH,
        out_channels=LATENT_CHANNELS,
        pos_embed_max_size=LATENT_SIZE,
        qk_norm="rms_norm",
    )
    modulations = [norm.linear for block in model.transformer_blocks for norm in (block.norm1, block.norm1_context)]
    for layer in (*modulations, model.norm_out.linear, model.proj_out):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return model


def make_flow_scheduler() -> Any:
    """Euler steps along the flow, evenly spaced."""
    import diffusers

    make: Any = diffusers.FlowMatchEulerDiscreteScheduler  # its constructor carries no types
    return make(num_train_timesteps=1000, shift=1.0)
