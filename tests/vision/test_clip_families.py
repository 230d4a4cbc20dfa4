"""Which image towers of open_clip SDS and the class maps take: a tiny model of each family, taken with the numbers that
open_clip itself gives, or refused by name. The table of docs/curation.md is this one.
"""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from maskmill.vision.clip.adapters import adapt

torch.set_num_threads(1)
DOCS = Path(__file__).parents[2] / "docs" / "curation.md"
SIDE = 160  # of timm's test models: positions are not resized


def vit(**changes: Any) -> dict[str, Any]:
    """open_clip's own transformer."""
    return {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": SIDE, **changes}


def timm(name: str, pool: str, proj: str | None = "linear", side: int = SIDE) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": side}


# family: (models of it, tower config, adapter or words of the refusal, does it pool as the model itself does)
FAMILIES: dict[str, tuple[str, dict[str, Any], str, bool]] = {
    "ViT with class token": ("OpenAI, LAION, DataComp, MetaCLIP, DFN", vit(), "NativeVit", False),
    "ViT with mean pooling": ("CLIPA", vit(pool_type="avg", pos_embed_type="learnable"), "NativeVit", False),
    "timm ViT, class token": ("ViT of timm", timm("test_vit", "token"), "TimmVit", False),
    "timm ViT, mean pooling": ("the starter, ViTamin", timm("test_vit", "avg"), "TimmVit", True),
    "timm ViT, attention pooling": ("SigLIP, SigLIP 2", timm("test_vit", "map", None), "TimmVit", True),
    "ConvNeXt": ("ConvNeXt of LAION", timm("test_convnext", "", "linear"), "ConvTower", True),
    "other convolutions, mean pooling": ("FastViT of MobileCLIP", timm("test_efficientnet", "avg"), "ConvTower", True),
    "ViT with attentional pooling": (
        "CoCa",
        vit(attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=2),
        "with attentional pooling",
        False,
    ),
    "ResNet": (
        "RN50, RN101 of OpenAI",
        {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "head_width": 16},
        "unknown image tower ModifiedResNet",
        False,
    ),
    "rotary positions": ("EVA02", timm("eva02_tiny_patch14_224", "token", side=28), "rotary positions", False),
    "Swin": ("Swin of timm", timm("swin_tiny_patch4_window7_224", "avg", side=224), "unknown tower Swin", False),
}
TAKEN = ("NativeVit", "TimmVit", "ConvTower")


def tower(config: dict[str, Any]) -> Any:
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _build_vision_tower(16, CLIPVisionCfg(**config)).eval()
    finally:
        logging.disable(before)


@pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if row[2] in TAKEN])
def test_a_family_is_taken_with_open_clips_own_numbers(family: str) -> None:
    _, config, adapter, pools_alike = FAMILIES[family]
    visual = tower(config)
    adapted = adapt(visual)
    assert type(adapted).__name__ == adapter
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x, grid = adapted.tokens(images)
        for block in adapted.blocks:
            x = adapted.from_norm(block, adapted.norm_in(block, x), x)
        found = adapted.embed(x)
        assert found.shape == (2, 16)
        assert adapted.embed_patches(x).shape == (2, grid[0] * grid[1], 16)
        if pools_alike:
            assert torch.allclose(found, visual(images), atol=1e-5)


@pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if row[2] not in TAKEN])
def test_a_family_is_refused_by_name(family: str) -> None:
    _, config, words, _ = FAMILIES[family]
    with pytest.raises(ValueError, match=words):
        adapt(tower(config))


def test_the_page_holds_this_table() -> None:
    page = DOCS.read_text()
    for family, (models, _, answer, _) in FAMILIES.items():
        taken = {"ConvTower": "as convolutions"}.get(answer, "yes") if answer in TAKEN else "refused"
        assert f"| {family} | {models} | {taken} |" in page
