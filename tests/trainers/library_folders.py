"""Segmenter folders of transformers' families at small width: the real modules, seeded numbers, seven classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

tf: Any = transformers  # carries no types
CLASSES = 7
SWIN = {
    "model_type": "swin",
    "image_size": 32,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


def _saved(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    tf.SegformerImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


def segformer(folder: Path) -> Path:
    torch.manual_seed(1)
    widths = {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16}
    config = tf.SegformerConfig(**widths, depths=[1, 1, 1, 1], num_labels=CLASSES)
    return _saved(folder, tf.SegformerForSemanticSegmentation(config))


def upernet(folder: Path) -> Path:
    torch.manual_seed(2)
    config = tf.UperNetConfig(
        backbone_config=SWIN, hidden_size=16, auxiliary_channels=8, auxiliary_in_channels=32, num_labels=CLASSES
    )
    return _saved(folder, tf.UperNetForSemanticSegmentation(config))


def dpt(folder: Path) -> Path:
    torch.manual_seed(3)
    config = tf.DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
        auxiliary_loss_weight=0.0,
        num_labels=CLASSES,
    )
    return _saved(folder, tf.DPTForSemanticSegmentation(config))


def mask2former(folder: Path) -> Path:
    torch.manual_seed(4)
    config = tf.Mask2FormerConfig(
        backbone_config=SWIN,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=10,
        num_labels=CLASSES,
    )
    return _saved(folder, tf.Mask2FormerForUniversalSegmentation(config))


def eomt(folder: Path) -> Path:
    torch.manual_seed(5)
    config = tf.EomtConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        num_blocks=1,
        num_upscale_blocks=1,
        num_queries=6,
        num_register_tokens=1,
        num_labels=CLASSES,
    )
    return _saved(folder, tf.EomtForUniversalSegmentation(config))


DINOV3 = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "num_register_tokens": 2,
}


def eomt_dinov3(folder: Path) -> Path:
    torch.manual_seed(6)
    queries = {"num_blocks": 1, "num_upscale_blocks": 1, "num_queries": 6}
    config = tf.EomtDinov3Config(**DINOV3, **queries, num_labels=CLASSES)
    return _saved(folder, tf.EomtDinov3ForUniversalSegmentation(config))


def upernet_dinov3(folder: Path) -> Path:
    """DINOv3 as the backbone of a plain head."""
    torch.manual_seed(7)
    stages = {"num_hidden_layers": 4, "out_features": [f"stage{i}" for i in range(1, 5)]}
    config = tf.UperNetConfig(
        backbone_config={"model_type": "dinov3_vit", **DINOV3, **stages},
        hidden_size=16,
        auxiliary_channels=8,
        auxiliary_in_channels=16,
        num_labels=CLASSES,
    )
    return _saved(folder, tf.UperNetForSemanticSegmentation(config))


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "segformer": segformer,
    "upernet": upernet,
    "dpt": dpt,
    "mask2former": mask2former,
    "eomt": eomt,
    "eomt_dinov3": eomt_dinov3,
    "upernet_dinov3": upernet_dinov3,
}
