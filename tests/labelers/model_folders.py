"""Model folders of transformers' families at small width: the real modules, seeded random numbers, written by
`save_pretrained` as the hub's folders are.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf

SIDE = 64  # of the models' square input
DECODER: dict[str, Any] = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
PADDED: dict[str, Any] = {
    "size": {"longest_edge": SIDE},
    "pad_size": {"height": SIDE, "width": SIDE},
    "mask_size": {"longest_edge": 32},
    "mask_pad_size": {"height": 32, "width": 32},
}


def _randomised(model: Any, seed: int, spread: float = 1.5) -> Any:
    """Weights from a seeded generator, of a size that makes masks neither empty nor full."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() < 2:
                seen = 2.0 if "pred_obj_score_head.proj_out.bias" in name else 0.0  # objects are there, mostly
                parameter.copy_(0.1 * drawn + (1.0 if name.endswith("weight") else seen))
            else:
                parameter.copy_(drawn * spread * parameter.shape[1:].numel() ** -0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(1.0)
    return model.eval()


def _prompts(patch: int) -> dict[str, Any]:
    return {"hidden_size": 16, "image_size": SIDE, "patch_size": patch, "mask_input_channels": 8}


def _vision() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 8,
        "mlp_dim": 32,
        "window_size": 4,
        "global_attn_indexes": [1],
        "num_pos_feats": 8,
    }


def sam(folder: Path) -> Path:
    config = tf.SamConfig(vision_config=_vision(), prompt_encoder_config=_prompts(8), mask_decoder_config=DECODER)
    return _saved(folder, _randomised(tf.SamModel(config), 1), tf.SamImageProcessor(**PADDED))


def sam_hq(folder: Path) -> Path:
    decoder = {**DECODER, "vit_dim": 16}
    config = tf.SamHQConfig(vision_config=_vision(), prompt_encoder_config=_prompts(8), mask_decoder_config=decoder)
    return _saved(folder, _randomised(tf.SamHQModel(config), 2), tf.SamImageProcessor(**PADDED))


def _square() -> dict[str, Any]:
    return {"size": {"height": SIDE, "width": SIDE}, "mask_size": {"height": 16, "width": 16}}


HIERA: dict[str, Any] = {
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 4, 2],
        "global_attention_blocks": [3],
    },
    "backbone_channel_list": [64, 32, 16, 8],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 16,
}
TIMM: dict[str, Any] = {
    "backbone_config": {
        "model_type": "timm_wrapper",
        "architecture": "test_efficientnet",
        "num_classes": 2,
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [1, 2, 3, 4]},
    },
    "backbone_channel_list": [64, 48, 32, 24],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 16,
}
VIT: dict[str, Any] = {
    "backbone_config": {
        "model_type": "sam3_vit_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "pretrain_image_size": 32,
        "patch_size": 16,
        "window_size": 2,
        "global_attn_indexes": [1],
    },
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 16,
}


def sam2(folder: Path) -> Path:
    config = tf.Sam2Config(vision_config=HIERA, prompt_encoder_config=_prompts(16), mask_decoder_config=DECODER)
    return _saved(folder, _randomised(tf.Sam2Model(config), 3), tf.Sam2ImageProcessor(**_square()))


def edgetam(folder: Path) -> Path:
    config = tf.EdgeTamConfig(vision_config=TIMM, prompt_encoder_config=_prompts(16), mask_decoder_config=DECODER)
    return _saved(folder, _randomised(tf.EdgeTamModel(config), 4), tf.Sam2ImageProcessor(**_square()))


def sam3_tracker(folder: Path) -> Path:
    config = tf.Sam3TrackerConfig(vision_config=VIT, prompt_encoder_config=_prompts(16), mask_decoder_config=DECODER)
    return _saved(folder, _randomised(tf.Sam3TrackerModel(config), 15), tf.Sam3ImageProcessor(**_square()))


PROMPTABLE: dict[str, Callable[[Path], Path]] = {
    "sam": sam,
    "sam_hq": sam_hq,
    "sam2": sam2,
    "edgetam": edgetam,
    "sam3_tracker": sam3_tracker,
}


BERT_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
"""Grounding DINO knows the ids of dots and specials by heart, so a vocabulary needs them where BERT has them."""


def bert_tokenizer(words: tuple[str, ...] = ("red", "box", "green", "disc", "blue", "bar", "##s")) -> Any:
    return tf.BertTokenizer(vocab={**BERT_IDS, **{word: 200 + i for i, word in enumerate(words)}})


def clip_tokenizer() -> Any:
    """Letters for words: no merges."""
    letters = [chr(i) for i in range(33, 127)]
    names = ["!pad", *letters[1:], *[f"{letter}</w>" for letter in letters]]
    vocab = {name: i for i, name in enumerate([*names, "<|startoftext|>", "<|endoftext|>"])}
    return tf.CLIPTokenizer(vocab=vocab, merges=[])


SWIN: dict[str, Any] = {
    "model_type": "swin",
    "image_size": 32,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
    "out_indices": [2, 3, 4],
}


def _grounding(config: Any, model: Any, folder: Path, seed: int) -> Path:
    made = config(
        backbone_config={**SWIN},
        text_config=tf.BertConfig(
            vocab_size=1100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=20,
        max_text_len=24,
    )
    size = {"shortest_edge": 96, "longest_edge": 160}
    processor = tf.GroundingDinoImageProcessor(size=size)
    return _saved(folder, _randomised(model(made), seed), processor, bert_tokenizer())


def grounding_dino(folder: Path) -> Path:
    return _grounding(tf.GroundingDinoConfig, tf.GroundingDinoForObjectDetection, folder, 6)


def mm_grounding_dino(folder: Path) -> Path:
    return _grounding(tf.MMGroundingDinoConfig, tf.MMGroundingDinoForObjectDetection, folder, 7)


def _text() -> dict[str, Any]:
    room = len(clip_tokenizer())
    ids = {"vocab_size": room, "bos_token_id": room - 2, "eos_token_id": room - 1, "pad_token_id": 0}
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {**ids, **layers, "max_position_embeddings": 32}


def owlv2(folder: Path) -> Path:
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = tf.Owlv2Config(
        text_config=_text(), vision_config={**layers, "image_size": SIDE, "patch_size": 16}, projection_dim=16
    )
    processor = tf.Owlv2ImageProcessor(size={"height": SIDE, "width": SIDE})
    return _saved(folder, _randomised(tf.Owlv2ForObjectDetection(config), 8), processor, clip_tokenizer())


def sam3(folder: Path) -> Path:
    layer = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = tf.Sam3Config(
        vision_config=VIT,
        text_config={"model_type": "clip_text_model", **_text(), "projection_dim": 16},
        geometry_encoder_config=layer,
        detr_encoder_config=layer,
        detr_decoder_config={**layer, "num_queries": 12},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2},
    )
    processor = tf.Sam3ImageProcessor(**_square())
    return _saved(folder, _randomised(tf.Sam3Model(config), 9), processor, clip_tokenizer())


DETECTORS: dict[str, Callable[[Path], Path]] = {
    "grounding-dino": grounding_dino,
    "mm-grounding-dino": mm_grounding_dino,
    "owlv2": owlv2,
    "sam3": sam3,
}


WIDE: dict[str, Any] = {  # a pointer to an object is cut into tokens of 64: it must be wider
    "prompt_encoder_config": {**_prompts(16), "hidden_size": 128},
    "mask_decoder_config": {**DECODER, "hidden_size": 128},
}
MEMORY: dict[str, Any] = {
    "image_size": SIDE,
    "num_maskmem": 3,
    "max_object_pointers_in_encoder": 4,
    "memory_attention_hidden_size": 128,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 32,
    "memory_attention_rope_feat_sizes": [4, 4],
    "memory_encoder_hidden_size": 128,
    "memory_encoder_output_channels": 64,  # the memory's attention reads no other width
    "mask_downsampler_embed_dim": 128,
    "memory_fuser_num_layers": 1,
    "memory_fuser_embed_dim": 128,
    "memory_fuser_intermediate_dim": 32,
}


def sam2_video(folder: Path) -> Path:
    parts: dict[str, Any] = {"vision_config": {**HIERA, "fpn_hidden_size": 128}, **WIDE}
    config = tf.Sam2VideoConfig(**parts, **MEMORY)
    return _saved(folder, _randomised(tf.Sam2VideoModel(config), 10), tf.Sam2ImageProcessor(**_square()))


def edgetam_video(folder: Path) -> Path:
    vision = {"model_type": "edgetam_vision_model", **TIMM}
    parts: dict[str, Any] = {"vision_config": {**vision, "fpn_hidden_size": 128}, **WIDE}
    perceiver: dict[str, Any] = {
        "perceiver_resampler_num_latents": 8,
        "perceiver_resampler_num_latents_2d": 4,
        "perceiver_resampler_mlp_intermediate_size": 32,
        "perceiver_resampler_num_layers": 1,
        "memory_attention_rope_k_sizes": [2, 2],
        "memory_attention_mlp_hidden_size": 32,
    }
    memory = {k: v for k, v in MEMORY.items() if k != "memory_attention_feed_forward_hidden_size"}
    config = tf.EdgeTamVideoConfig(**parts, **memory, **perceiver)
    return _saved(folder, _randomised(tf.EdgeTamVideoModel(config), 11), tf.Sam2ImageProcessor(**_square()))


def sam3_tracker_video(folder: Path) -> Path:
    parts: dict[str, Any] = {"vision_config": {**VIT, "fpn_hidden_size": 128}, **WIDE}
    config = tf.Sam3TrackerVideoConfig(**parts, **MEMORY)
    return _saved(folder, _randomised(tf.Sam3TrackerVideoModel(config), 12), tf.Sam3ImageProcessor(**_square()))


VIDEO: dict[str, Callable[[Path], Path]] = {
    "sam2_video": sam2_video,
    "edgetam_video": edgetam_video,
    "sam3_tracker_video": sam3_tracker_video,
}


def _saved(folder: Path, model: Any, *parts: Any) -> Path:
    model.save_pretrained(folder)
    for part in parts:
        part.save_pretrained(folder)
    return folder
