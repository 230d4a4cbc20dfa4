"""Values of the presets of `few_shot`: the releases of SCL and PI-CLIP, on PASCAL-5i and on COCO-20i."""

from typing import Any

from maskmill.trainers.engine import AugmentConfig
from maskmill.trainers.few_shot.episodes import PI_CLIP_SEEDS, SCL_SEEDS, EpisodeConfig
from maskmill.trainers.few_shot.priors import PriorConfig

_RELEASES: dict[str, Any] = {
    "encoder": "resnet50s",  # the stem of three convolutions
    "encoder_weights": "hub",
    "released_dilation": True,
    "size": 473,
    "canvas_logits": True,
    "dropout": 0.5,
    "width": 256,
    "scale_levels": False,
    "area_masks": False,
    "target_stride": 1,
    "object_weight": 1.0,
    "support_weight": 1.0,
    "prior_gain": 1.0,
    "cached": False,
    "schedule": "poly",
    "precision": "fp32",
    "seed": 321,
}
SCL: dict[str, Any] = {
    **_RELEASES,
    "base": "pfenet",
    "encoder_norms": "batch",
    "prior": "plain",
    "mask_stage": True,
    "scl": True,
    "split": "hard",
    "support_from": 0.0,
    "scales": (60, 30, 15, 8),
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "lr": 0.0025,
    "lr_parity": 10.0,
    "batch": 4,
    "steps": 200 * 5_953 // 4,
    "inter_scale_source": "initial",
    "through_grid": True,
    "test_fit": "corner",
    "augment": AugmentConfig(size=473, fit="native", scale=(0.9, 1.1), rotate=10.0, flip=0.5, blur=0.5),
    "episodes": EpisodeConfig(min_pixels=2_048, min_share=0.0, drop_held_out=False, pick="raw"),
    "test_episodes": 5_000,
    "test_seeds": SCL_SEEDS,
}
SCL_COCO: dict[str, Any] = {
    **SCL,
    "encoder": "resnet101s",
    "size": 641,
    "scales": (1.0, 0.5, 0.25, 0.125),
    "lr": 0.005,
    "batch": 8,
    "steps": 50 * 82_081 // 8,
    "augment": AugmentConfig(size=641, fit="native", scale=(0.8, 1.25), rotate=10.0, flip=0.5, blur=0.5),
    "episodes": EpisodeConfig(split="interleaved", min_pixels=2_048, min_share=0.0, drop_held_out=False, pick="raw"),
    "test_episodes": 20_000,
}
PI_CLIP: dict[str, Any] = {
    **_RELEASES,
    "base": "hdmnet_released",
    "prior": "pi_clip",
    "priors": PriorConfig(preset="faithful"),
    "mask_support": True,
    "canvas_masks": True,
    "gram_shots": "pi_clip",
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "lr": 1e-4,
    "lr_parity": 10.0,
    "batch": 8,
    "steps": 30 * 5_953 // 8,
    "augment": AugmentConfig(size=473, fit="squash", scale=(1.0, 1.0), rotate=10.0, flip=0.5, blur=0.5),
    "episodes": EpisodeConfig(min_pixels=2_048, min_share=0.0, drop_held_out=True, pick="raw"),
    "test_episodes": 1_000,
    "test_seeds": PI_CLIP_SEEDS,
}
PI_CLIP_COCO: dict[str, Any] = {
    **PI_CLIP,
    "priors": PriorConfig(preset="faithful_coco"),
    "steps": 30 * 82_081 // 8,
    "episodes": EpisodeConfig(split="interleaved", min_pixels=2_048, min_share=0.0, drop_held_out=True, pick="raw"),
    "test_episodes": 5_000,
}
PRESETS: dict[str, dict[str, Any]] = {
    "starter": {},
    "scl": SCL,
    "scl_coco": SCL_COCO,
    "pi_clip": PI_CLIP,
    "pi_clip_coco": PI_CLIP_COCO,
}
