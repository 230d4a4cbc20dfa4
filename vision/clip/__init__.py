"""CLIP models: backbones, text banks and class responses."""

from typing import TYPE_CHECKING

from maskmill.data_contracts.lazy import lazily

if TYPE_CHECKING:
    from maskmill.vision.clip.backbone import ClipBackbone, DenseFeatures, load_clip
    from maskmill.vision.clip.opening import clip_fingerprint
    from maskmill.vision.clip.options import CamLayer
    from maskmill.vision.clip.response import (
        ClassResponse,
        Tail,
        attention_affinity,
        box_masks,
        class_cams,
        clip_response,
        min_max,
        patch_maps,
        run_tail,
        spread,
        with_background,
    )
    from maskmill.vision.clip.text import ORIGAMI, TextBank, build_text_bank

__all__ = [
    "ORIGAMI",
    "CamLayer",
    "ClassResponse",
    "ClipBackbone",
    "DenseFeatures",
    "Tail",
    "TextBank",
    "attention_affinity",
    "box_masks",
    "build_text_bank",
    "class_cams",
    "clip_fingerprint",
    "clip_response",
    "load_clip",
    "min_max",
    "patch_maps",
    "run_tail",
    "spread",
    "with_background",
]

__getattr__ = lazily(__name__, "options", "opening", "backbone", "text", "response")
