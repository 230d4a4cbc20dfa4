"""The starter CLIP's lessons on drawn scenes: what is stored, what is measured and what may move."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from maskmill.starter.clip_training.adapt import Lessons, raw_patches
from maskmill.starter.clip_training.drawings import (
    DrawnAdaptation,
    DrawnLessons,
    DrawnSchedule,
    Scenes,
    Words,
    agree_loss,
    alike,
    class_maps,
    drawn_lessons,
    map_loss,
    named_loss,
    patch_cover,
    patch_labels_of,
    soften,
    stored_tokens,
)
from maskmill.starter.clip_training.regions import IGNORE
from maskmill.starter.drawn import store
from maskmill.starter.drawn.drawings import KNOWN_STYLES
from maskmill.vision.clip import ClipBackbone, build_text_bank, load_clip
from maskmill.vision.clip.response import class_cams, min_max

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def starter() -> ClipBackbone:
    return load_clip("starter")


def test_stored_scenes_are_of_known_styles_and_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "COUNTS", {64: 2})
    store.main(["--out", str(tmp_path)])
    files = sorted(tmp_path.glob("*.npz"))
    assert [file.stem for file in files] == [f"{style}-64" for style in sorted(KNOWN_STYLES)]
    before = files[0].read_bytes()
    store.main(["--out", str(tmp_path), "--seed", "5"])
    assert files[0].read_bytes() == before
    with np.load(files[0]) as stored:
        assert stored["images"].shape == (2, 64, 64, 3)
        assert all(mask.any() for mask in stored["masks"])


def test_lessons_need_scenes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"starter\.drawn\.store"):
        drawn_lessons(None, None, tmp_path, stored_tokens)  # type: ignore[arg-type]


def test_cover_counts_pixels() -> None:
    masks = np.zeros((1, 8, 8), np.uint8)
    masks[0, :4, :2] = 3
    cover = patch_cover(masks, 3, 2).float()
    assert cover.shape == (1, 4, 4)
    torch.testing.assert_close(cover.sum(1), torch.ones(1, 4))
    assert cover[0, 3].tolist() == [0.5, 0, 0, 0]
    assert patch_labels_of(cover).tolist() == [[IGNORE, 0, 0, 0]]


def test_softening_keeps_size_and_lowers_detail() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    (sharp,), (soft,) = (list(soften(images, 96, share, random.Random(0))) for share in (0.0, 1.0))
    assert sharp.shape == soft.shape == (3, 96, 96)
    assert soft.std() < 0.8 * sharp.std()


def test_words_of_one_look_are_alike() -> None:
    assert set(alike("sea")) >= {"ocean", "water"}
    assert alike("keyboard") == ("keyboard",)
    words = Words(torch.zeros(1, 3, 4), 1, ("sea", "ocean", "keyboard"))
    assert words.right.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


@pytest.mark.parametrize("scale", [5.0, 23.4])
def test_class_maps_are_grad_cam(starter: ClipBackbone, scale: float) -> None:
    from maskmill.data_contracts import load_label_space

    bank = build_text_bank(load_label_space("voc"), starter)
    labels = [[8, 12], [15]]
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        tokens, _ = starter.tower.tokens(images)
        raw, _ = raw_patches(starter.model, tokens)
    pairs = [(image, class_id) for image, ids in enumerate(labels) for class_id in ids]
    rows, allowed = bank.rows([c for _, c in pairs]), bank.allowed(labels)
    dense = starter.encode(images, n_attention=0)
    wanted = class_cams(starter, dense, [i for i, _ in pairs], rows, bank, allowed, scale, layer="output")
    found = class_maps(raw, bank.matrix, allowed[:, :20], scale, starter.model.visual.head.proj.bias)
    ours = torch.stack([found[i, row] for (i, _), row in zip(pairs, rows, strict=True)]).view_as(wanted)
    assert wanted.amax() > 0
    torch.testing.assert_close(min_max(ours), wanted, atol=2e-3, rtol=1e-3)


def test_losses_are_least_where_everything_is_right() -> None:
    texts = torch.eye(5)  # three classes, two background words
    cover = torch.zeros(1, 4, 4)
    cover[0, 0, 2:], cover[0, 2, :2] = 1, 1
    right = torch.tensor([[True, False]])
    good = torch.stack([texts[1], texts[1], texts[3], texts[3]])[None]
    bad = torch.stack([texts[0], texts[2], texts[4], texts[1]])[None]
    for loss in (agree_loss, named_loss):
        assert loss(good, texts, cover, right, 20.0) < loss(bad, texts, cover, right, 20.0) - 1
    own = torch.tensor([[False, True, False]])
    maps = class_maps(good, texts, own, 5.0, torch.zeros(5))
    assert map_loss(maps, cover[:, 1:], own) < 1e-4
    assert map_loss(class_maps(bad, texts, own, 5.0, torch.zeros(5)), cover[:, 1:], own) > 0.9


def lessons(seed: int) -> tuple[Lessons, DrawnLessons]:
    generator = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> Tensor:
        return torch.randn(n, 16, 320, generator=generator).half()

    masks = np.zeros((6, 64, 64), np.uint8)
    masks[:, :32, :32] = 1 + np.arange(6)[:, None, None] % 2
    unit = functional.normalize(torch.randn(2, 4, 161, generator=generator), dim=-1)
    scenes = Scenes(tokens(6), patch_cover(masks, 2, 4), torch.arange(6) % 2)
    labels = torch.zeros(4, 16, dtype=torch.int64)
    photos = Lessons({"a": tokens(5)}, {"a.blur": tokens(3)}, {"b": (tokens(4), labels)}, {"b.scramble": tokens(3)})
    return photos, DrawnLessons({"s": scenes}, {"s.blur": tokens(3)}, Words(unit, 2, ("sky", "road")))


def test_only_the_blocks_learn_and_the_last_value_path_stays() -> None:
    import open_clip

    import maskmill.vision.clip.towers  # noqa: F401  (registers the tower)
    from maskmill.starter.clip_training.__main__ import WORDS
    from maskmill.vision.starter import starter_path

    clip = open_clip.create_model(f"local-dir:{starter_path('clip')}")
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    generator = torch.Generator().manual_seed(3)
    rows = functional.normalize(torch.randn(20, 160, generator=generator), dim=1)
    words = {word: rows[i % 20] for i, word in enumerate(WORDS)}
    photos, drawn = lessons(0)
    adaptation = DrawnAdaptation(clip, rows, words, photos, drawn, scale=23.4, seed=0)
    schedule = DrawnSchedule(steps=24, clean=3, spoilt=2, labelled=2, labelled_spoilt=1, drawn_tokens=64)
    first = adaptation._drawn(schedule)[0].item()
    losses = adaptation.run(schedule)
    assert {"named", "agreed", "maps", "inside", "doubt_drawn", "place", "within"} <= set(losses)
    assert adaptation._drawn(schedule)[0].item() < first
    changed = {n for n, tensor in clip.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed
    assert all(name.startswith("visual.trunk.blocks.") for name in changed)
    last = {name for name in changed if name.startswith("visual.trunk.blocks.3.")}
    assert last <= {"visual.trunk.blocks.3.attn.qkv.weight", "visual.trunk.blocks.3.attn.qkv.bias"}
    name = "visual.trunk.blocks.3.attn.qkv.weight"
    assert torch.equal(clip.state_dict()[name][640:], before[name][640:])
