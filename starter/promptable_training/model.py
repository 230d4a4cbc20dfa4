"""The starter promptable model as transformers builds it, its backbone's weights, and its forward pass for training."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskmill.vision.segmenters import IMAGENET, PACKAGED_ENCODER, build_encoder

SIDE = 320
WIDTH = 128
CHANNELS = [320, 112, 40, 24]  # of EfficientNet-Lite0's maps at strides 32, 16, 8, 4
SIZES = [2.78, 6.57, 9.56, 11.2]  # their deviations


def new_model(side: int = SIDE) -> Any:
    """An EdgeTAM with the packaged ImageNet weights in its backbone, all else at random."""
    import transformers as tf

    library: Any = tf  # carries no types
    backbone = {
        "model_type": "timm_wrapper",
        "architecture": PACKAGED_ENCODER,
        "num_classes": 1,
        "label_names": ["none"],
        "do_pooling": False,
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [1, 2, 3, 4]},
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": CHANNELS,
        "backbone_feature_sizes": [[side // 4] * 2, [side // 8] * 2, [side // 16] * 2],
        "fpn_hidden_size": WIDTH,
    }
    decoder = {"hidden_size": WIDTH, "mlp_dim": 4 * WIDTH, "iou_head_hidden_dim": WIDTH, "num_attention_heads": 4}
    prompts = {"hidden_size": WIDTH, "image_size": side}
    model = library.EdgeTamModel(
        library.EdgeTamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    )
    weights = build_encoder(PACKAGED_ENCODER, out_indices=(1, 2, 3, 4)).state_dict()
    model.vision_encoder.backbone.timm_model.load_state_dict(weights)
    _begin(model)
    return model


def _begin(model: Any) -> None:
    """First weights from which a short training gets somewhere, in place.

    The library draws all weights with a deviation of 0.02, for checkpoints that replace them: attention begins flat and
    corners alike. And the maps of an encoder without norms behind it drown what tells places apart. So: layers as torch
    draws them, tokens of unit deviation, maps of about the size of the places' waves; and waves along the sides of the
    image, slow ones among them, since left, right, above and below are what a box says.
    """
    for module in (model.mask_decoder, model.prompt_encoder, model.vision_encoder.neck):
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.LayerNorm):
                layer.reset_parameters()
            elif isinstance(layer, nn.Embedding):
                nn.init.normal_(layer.weight)
    waves = torch.logspace(math.log10(0.1), math.log10(4), WIDTH // 4)  # in cycles of half an image
    still = torch.zeros_like(waves)
    places = torch.stack([torch.cat([waves, still]), torch.cat([still, waves])])  # across, down
    for embedding in (model.prompt_encoder.shared_embedding, model.shared_image_embedding):
        embedding.positional_embedding.copy_(places)
    with torch.no_grad():
        for conv, size in zip(model.vision_encoder.neck.convs, SIZES, strict=True):
            conv.weight.mul_(1 / size)


def new_processor(side: int = SIDE) -> Any:
    """The image processor that belongs to it."""
    import transformers as tf

    library: Any = tf
    mean, std = IMAGENET
    return library.Sam2ImageProcessor(size={"height": side, "width": side}, image_mean=list(mean), image_std=list(std))


def trunk_features(model: Any, images: Tensor) -> list[Tensor]:
    """Maps of the backbone, finest first, of images uint8 (B, S, S, 3)."""
    mean, std = (torch.tensor(rgb).view(1, 3, 1, 1) for rgb in IMAGENET)
    pixels = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
    found: list[Tensor] = list(model.vision_encoder.backbone(pixels).last_hidden_state)
    return found


def embeddings(model: Any, features: list[Tensor]) -> list[Tensor]:
    """What the decoder reads, from maps of the backbone: as the library's `get_image_embeddings`, with gradients."""
    levels, _ = model.vision_encoder.neck([one.permute(0, 2, 3, 1) for one in features])
    fine, middle, coarse = levels[-3:][::-1]
    decoder = model.mask_decoder
    return [decoder.conv_s0(fine), decoder.conv_s1(middle), coarse + model.no_memory_embedding.view(1, -1, 1, 1)]


def decode(model: Any, image: list[Tensor], asked: dict[str, Tensor], *, several: bool) -> tuple[Tensor, Tensor]:
    """Logits (B, P, M, h, w) of the three readings of each prompt, or of the one answer, and the IoU (B, P, M) that the
    model expects of each.
    """
    sparse, dense = model.prompt_encoder(
        asked.get("input_points"), asked.get("input_labels"), asked.get("input_boxes"), None
    )
    places = model.get_image_wide_positional_embeddings().repeat(len(image[-1]), 1, 1, 1)
    masks, ious, _, _ = model.mask_decoder(image[-1], places, sparse, dense, several, image[:-1])
    return masks, ious


def write(model: Any, folder: Path) -> int:
    """The folder that ships: weights in half precision, batch statistics in full. Returns the weights' bytes."""
    import copy

    half = copy.deepcopy(model).half()
    for name, buffer in model.named_buffers():
        if "running_" in name:
            owner, _, own = name.rpartition(".")
            setattr(half.get_submodule(owner), own, buffer.detach().clone())
    half.save_pretrained(folder)
    new_processor(model.config.prompt_encoder_config.image_size).save_pretrained(folder)
    return (folder / "model.safetensors").stat().st_size
