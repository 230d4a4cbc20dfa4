"""The starter CLIP's last lesson: what is stored of pictures, how scenes are restyled, and what learns."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from maskmill.starter.clip_training.adapt import Lessons, n_patches, raw_patches, upper_tokens
from maskmill.starter.clip_training.drawings import DrawnLessons, Scenes, Words, as_drawn, drawn_lessons, patch_cover
from maskmill.starter.clip_training.upper import (
    UpperAdaptation,
    UpperSchedule,
    _fix_depthwise,
    _upper,
    restyle,
    stored_middle,
)
from maskmill.starter.drawn import SceneConfig, load_drawings, render_scene, store
from maskmill.starter.drawn.drawings import add_styles, known_styles
from maskmill.vision.starter import starter_path

torch.set_num_threads(1)


def load() -> Any:
    import open_clip

    import maskmill.vision.clip.towers  # noqa: F401  (registers the tower)

    return open_clip.create_model(f"local-dir:{starter_path('clip')}").eval()


def test_stored_middle_maps_go_on_as_the_tower_does(tmp_path: Path) -> None:
    clip = load()
    pictures = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    middle = stored_middle(clip, tmp_path)("some", iter(pictures))
    assert middle.shape == (3, 112, 6, 6)
    assert n_patches(middle) == 36
    with torch.no_grad():
        tokens = upper_tokens(clip, middle.float())
        wanted = clip.visual.trunk.patch_embed(pictures * 2 - 1).flatten(1, -2)
        assert (tokens - wanted).abs().max() < 0.02 * wanted.abs().max()
        torch.testing.assert_close(raw_patches(clip, middle)[0], raw_patches(clip, tokens)[0], atol=1e-4, rtol=1e-4)
    again = stored_middle(clip, tmp_path)("some", iter(()))
    assert torch.equal(again, middle)


def test_restyled_scenes_keep_their_size_and_differ() -> None:
    scenes = np.stack([render_scene(SceneConfig(size=64), index).image for index in range(12)])
    restyled = list(restyle(scenes, random.Random(0)))
    assert all(one.shape == (64, 64, 3) and one.dtype == np.uint8 for one in restyled)
    moved = [np.abs(one.astype(int) - scene.astype(int)).mean() for one, scene in zip(restyled, scenes, strict=True)]
    assert sum(value > 3 for value in moved) >= 8
    assert np.array_equal(restyled, list(restyle(scenes, random.Random(0))))


def further_styles(folder: Path) -> Path:
    """A folder of one style that can draw cats alone."""
    folder.mkdir()
    Image.fromarray(np.full((128, 128, 4), 200, np.uint8)).save(folder / "plain.png")
    row = '{"style": "plain", "class_name": "cat", "name": "cat", "codepoint": null, "rect": [0, 0, 128, 128]}'
    (folder / "index.json").write_text(f"[{row}]")
    return folder


def test_further_styles_draw_what_they_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maskmill.starter.drawn import drawings

    monkeypatch.setattr(drawings, "_FOLDERS", dict(drawings._FOLDERS))
    assert add_styles(further_styles(tmp_path / "more")) == ("plain",)
    assert "plain" in known_styles()
    assert set(load_drawings(("plain",)).by_class) == {"cat"}
    both = SceneConfig(size=64, styles=("noto", "plain"), classes=("cat", "dog"), max_objects=1)
    seen = {(one.class_name, one.style) for i in range(40) for one in render_scene(both, i).instances}
    assert seen == {("cat", "noto"), ("cat", "plain"), ("dog", "noto")}
    with pytest.raises(ValueError, match="already drawn from"):
        add_styles(further_styles(tmp_path / "other"))
    monkeypatch.setattr(store, "COUNTS", {64: 2})
    store.main(["--out", str(tmp_path / "scenes"), "--styles", str(tmp_path / "more")])
    with np.load(tmp_path / "scenes" / "plain-64.npz") as stored:
        assert set(np.unique(stored["masks"])) == {0, 8}


def test_every_manner_of_a_scene_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    monkeypatch.setattr(store, "COUNTS", {64: 5})
    monkeypatch.setattr(store, "KNOWN_STYLES", ("noto",))
    store.main(["--out", str(tmp_path / "scenes")])
    clip, tokenizer = load(), open_clip.get_tokenizer(f"local-dir:{starter_path('clip')}")
    names: list[str] = []

    def stored(name: str, images: Any) -> Tensor:
        names.append(name)
        return torch.stack(list(images))

    found = drawn_lessons(clip, tokenizer, tmp_path / "scenes", stored, {"": as_drawn, ".restyled": restyle})
    assert set(found.scenes) == {f"noto-64.{side}{how}" for side in (160, 256) for how in ("", ".restyled")}
    assert len(names) == len(set(names)) == 4 + 6
    plain, restyled = found.scenes["noto-64.160"], found.scenes["noto-64.160.restyled"]
    assert torch.equal(plain.cover, restyled.cover)
    assert not torch.equal(plain.tokens, restyled.tokens)


def lessons(clip: Any) -> tuple[Lessons, DrawnLessons]:
    generator = torch.Generator().manual_seed(1)

    def maps(n: int) -> Tensor:
        return torch.randn(n, 112, 4, 4, generator=generator).half()

    masks = np.zeros((6, 64, 64), np.uint8)
    masks[:, :32, :32] = 1 + np.arange(6)[:, None, None] % 2
    unit = functional.normalize(torch.randn(2, 4, 161, generator=generator), dim=-1)
    scenes = Scenes(maps(6), patch_cover(masks, 2, 4), torch.arange(6) % 2)
    labels = torch.zeros(4, 16, dtype=torch.int64)
    photos = Lessons({"a": maps(5)}, {"a.blur": maps(3)}, {"b": (maps(4), labels)}, {"b.scramble": maps(3)})
    return photos, DrawnLessons({"s": scenes}, {"s.blur": maps(3)}, Words(unit, 2, ("sky", "road")))


def test_the_last_stages_learn_with_the_blocks() -> None:
    from maskmill.starter.clip_training.__main__ import WORDS

    clip = load()
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    generator = torch.Generator().manual_seed(3)
    rows = functional.normalize(torch.randn(20, 160, generator=generator), dim=1)
    words = {word: rows[i % 20] for i, word in enumerate(WORDS)}
    adaptation = UpperAdaptation(clip, rows, words, *lessons(clip), scale=23.4, seed=0)
    schedule = UpperSchedule(steps=8, clean=3, spoilt=2, labelled=2, labelled_spoilt=1, drawn_tokens=64)
    seen: list[int] = []
    adaptation.watch = lambda step, losses: seen.append(step)
    assert {"named", "agreed", "maps", "place", "within"} <= set(adaptation.run(schedule))
    assert seen == list(range(8))
    changed = {n for n, tensor in clip.state_dict().items() if not torch.equal(tensor, before[n])}
    trunk = "visual.trunk.patch_embed.backbone.net"
    parts = {name.removeprefix(f"{trunk}.blocks.")[0] for name in changed if name.startswith(f"{trunk}.blocks.")}
    assert parts == {"5", "6"}
    assert {f"{trunk}.conv_head.weight", "visual.trunk.patch_embed.proj.weight"} <= changed
    assert not any("bn" in name or "running" in name for name in changed if name.startswith(trunk))
    assert not any(name.startswith(("transformer", "token_embedding", "visual.head")) for name in changed)
    assert torch.equal(
        clip.state_dict()["visual.trunk.blocks.3.attn.qkv.weight"][640:],
        before["visual.trunk.blocks.3.attn.qkv.weight"][640:],
    )


def test_fixed_depthwise_kernels_give_the_same_maps_and_gradients() -> None:
    clip = load()
    middle = torch.randn(2, 112, 12, 12, generator=torch.Generator().manual_seed(0)).requires_grad_(True)

    def both() -> tuple[Tensor, Tensor]:
        tokens = upper_tokens(clip, middle)
        return tokens.detach(), torch.autograd.grad(tokens.square().sum(), middle)[0]

    tokens, gradient = both()
    for part in _upper(clip):
        _fix_depthwise(part)
    again, flipped = both()
    assert torch.equal(again, tokens)
    torch.testing.assert_close(flipped, gradient, atol=1e-4, rtol=1e-4)


def test_the_lesson_needs_its_schedule() -> None:
    from maskmill.starter.clip_training.drawings import DrawnSchedule

    with pytest.raises(TypeError, match="UpperSchedule"):
        UpperAdaptation._groups(UpperAdaptation.__new__(UpperAdaptation), DrawnSchedule())
