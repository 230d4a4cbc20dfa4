"""Training the starter generator: closed-form encoder, lessons, resuming, export through the common loader."""

import numpy as np
import pytest
import torch

from maskmill.data_contracts import load_label_space
from maskmill.generators.text_to_image import GeneratorConfig, Request, TextToImage
from maskmill.generators.words import class_words
from maskmill.pipelines.run.config import load_run_config
from maskmill.starter.drawn.drawings import KNOWN_STYLES, UNSEEN_STYLES
from maskmill.starter.drawn.scenes import render_scene
from maskmill.starter.generator_training import autoencoder, diffusion
from maskmill.starter.generator_training.__main__ import main
from maskmill.starter.generator_training.export import export
from maskmill.starter.generator_training.loop import Turn
from maskmill.starter.generator_training.models import LATENT_CHANNELS, make_tokenizer
from maskmill.starter.generator_training.muon import Muon, orthogonalised
from maskmill.starter.generator_training.world import (
    STYLE_WORDS,
    TYPICAL,
    VARIED,
    called,
    kinds_of,
    load_world,
    render_world,
    scene_config,
)

VOC = load_label_space("voc")


@pytest.fixture(scope="module")
def world():
    torch.set_num_threads(1)
    return render_world(0, 60)


def test_the_unseen_style_is_never_drawn():
    drawn = {style for index in range(40) for style in scene_config(index).styles}
    assert drawn == set(KNOWN_STYLES)
    assert not drawn & set(UNSEEN_STYLES)


def test_the_first_words_of_a_caption_name_its_style(world):
    for index, caption in enumerate(world.captions):
        (style,) = scene_config(index).styles
        assert caption.startswith(f"a {STYLE_WORDS[style]} of ") or " of " not in caption


def test_captions_end_with_the_classes_of_the_mask(world):
    words = class_words(VOC)
    for mask, caption, class_prompt in zip(world.masks, world.captions, world.class_prompts, strict=True):
        assert caption.endswith(class_prompt)
        present = {words[int(c)] for c in np.unique(mask) if c in words}
        assert all(word in class_prompt for word in present)
        assert len(class_prompt) == len(" ".join(present))


def test_a_stored_world_is_the_rendered_world(world, tmp_path):
    for _ in range(2):
        stored = load_world(tmp_path, 30, part=15)
        assert np.array_equal(stored.images, world.images[:30])
        assert stored.captions == world.captions[:30]


def test_varied_scenes_show_more_drawings_poses_and_pairs_than_typical_ones():
    drawn = {
        manner: [render_scene(scene_config(index, manner), index) for index in range(60)]
        for manner in (TYPICAL, VARIED)
    }
    kinds = {
        manner: {(one.class_name, one.style, one.emoji) for scene in scenes for one in scene.instances}
        for manner, scenes in drawn.items()
    }
    of_class = {manner: len(found) / len({kind[:2] for kind in found}) for manner, found in kinds.items()}
    assert of_class[TYPICAL] == 1 < of_class[VARIED]
    pairs = {manner: sum(len(scene.instances) > 1 for scene in scenes) for manner, scenes in drawn.items()}
    assert pairs == {TYPICAL: 12, VARIED: 18}
    posed = scene_config(1, VARIED)
    assert posed.mirror == 0.4
    assert posed.turn == 8
    assert scene_config(2, VARIED) == scene_config(2), "every other scene is typical"


def test_captions_name_what_is_not_the_first_drawing_as_it_was_drawn():
    world = render_world(0, 80, VARIED)
    said = set()
    for index, caption in enumerate(world.captions):
        scene = render_scene(scene_config(index, VARIED), index)
        names = [called(one.class_name, one.style, one.emoji, one.mirrored) for one in scene.instances]
        plain = all(name in class_words(VOC).values() for name in names)
        assert all(name in caption for name in names)
        assert plain or ";" in caption, "the class words alone are any style's first drawing"
        said.update(names)
    assert {"mirrored speedboat", "parrot", "dog"} <= said
    assert called("train", "noto", "locomotive") == "train"
    assert called("train", "noto", "train", mirrored=True) == "mirrored oncoming train"
    kinds = kinds_of()
    assert kinds["bird"] == ("", "parrot")
    assert kinds["boat"] == ("", "speedboat", "canoe")
    assert "bicycle" not in kinds, "it has one drawing"


def test_scenes_of_another_manner_are_kept_apart(tmp_path):
    for _ in range(2):
        stored = load_world(tmp_path, 6, VARIED, part=6)
        assert np.array_equal(stored.images, render_world(0, 6, VARIED).images)
    assert not np.array_equal(stored.images, render_world(0, 6).images)


@pytest.mark.parametrize(("there", "flags"), [("scenes", ["--varied"]), ("varied", [])])
def test_a_folder_holds_one_manner_of_scenes(tmp_path, monkeypatch, capsys, there, flags):
    (tmp_path / there).mkdir()
    monkeypatch.setattr("sys.argv", ["generator_training", "flow", "--work", str(tmp_path), *flags])
    with pytest.raises(SystemExit):
        main()
    assert f"found {there}; give another --work" in capsys.readouterr().err


def test_encoder_weights_compute_the_principal_components(world):
    model = autoencoder.fitted_autoencoder(world.images)
    projection, offset = autoencoder.patch_components(world.images)
    with torch.no_grad():
        latents = model.encode(autoencoder.to_signal(world.images[:4])).latents.numpy()
    patches = world.images[:4].reshape(4, 16, 4, 16, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(4, 256, 48) / 255
    wanted = (patches @ projection.T + offset).transpose(0, 2, 1).reshape(4, LATENT_CHANNELS, 16, 16)
    assert np.allclose(latents, wanted, atol=1e-5)
    assert abs(latents.mean()) < 0.3
    deviations = latents.std(axis=(0, 2, 3))
    assert deviations[0] > deviations[-1] > 0.1


def test_lessons_tie_class_tokens_to_the_cells_of_their_class(world, tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    latents = torch.zeros(len(world.captions), LATENT_CHANNELS, 16, 16)
    lesson = diffusion.make_lesson(world, tokenizer, latents, 1.0)
    words = class_words(VOC)
    for i, class_prompt in enumerate(world.class_prompts[:20]):
        for k in range(int((lesson.weights[i].sum(0) > 0).sum())):
            tokens = lesson.class_tokens[i][lesson.weights[i, :, k] > 0]
            name = tokenizer.decode(tokens).strip()
            assert name in class_prompt
            class_id = next(c for c, word in words.items() if word == name)
            assert float(lesson.shares[i, k].mean()) == pytest.approx(
                float((world.masks[i] == class_id).mean()), abs=1e-6
            )


def test_attention_loss_is_smallest_where_attention_equals_the_cover():
    watch = diffusion.ClassAttention()
    shares = torch.zeros(1, 3, 256)
    shares[0, 0, :64] = 1
    weights = torch.zeros(1, 8, 3)
    weights[0, 1, 0] = 1
    right, wrong = torch.zeros(1, 256, 8), torch.zeros(1, 256, 8)
    right[0, :64, 1], right[0, 64:, 0] = 1, 1
    wrong[0, :64, 0], wrong[0, 64:, 1] = 1, 1
    losses = []
    for probabilities in (right, wrong):
        watch.seen = [probabilities]
        losses.append(float(watch.loss(weights, shares)))
    assert losses[0] < 0.001 < losses[1]


def test_cells_of_objects_weigh_more_in_the_velocity_loss():
    latents, noise = torch.zeros(1, 8, 16, 16), torch.zeros(1, 8, 16, 16)
    cover = torch.zeros(1, 16, 16)
    cover[0, :8] = 1
    alphas = torch.full((1,), 0.5)
    losses = []
    for rows in (slice(0, 8), slice(8, 16)):
        wrong = torch.zeros(1, 8, 16, 16)
        wrong[:, :, rows] = 1
        losses.append(float(diffusion.velocity_loss(wrong, latents, noise, alphas, cover)))
    assert losses[0] == pytest.approx((1 + diffusion.OBJECT_WEIGHT) * losses[1])


def test_muon_makes_singular_values_equal_and_fits_kernels():
    torch.manual_seed(0)
    for shape in ((24, 60), (60, 24)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)).float())
        assert values.min() > 0.3
        assert values.max() < 1.4
    kernel = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
    target = torch.randn(8, 4, 3, 3)
    optimiser = Muon([kernel], lr=0.06)
    errors = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (kernel - target).square().mean()
        torch.autograd.backward(loss)
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.5 * errors[0]


@pytest.mark.slow
def test_training_resumes_and_exports_a_folder_that_the_common_loader_draws_with(world, tmp_path, monkeypatch):
    monkeypatch.setattr(diffusion, "BATCH", 2)
    first = diffusion.train(world, tmp_path, minutes=0.02, last=False)
    second = diffusion.train(world, tmp_path, minutes=0.02, last=True)
    assert second > first > 0
    autoencoder.train(world.images, tmp_path / "autoencoder.pt", Turn.begin(0.01, last=True))
    assert export(world, tmp_path, tmp_path / "folder") < 30e6
    assert f"{second} steps of 2 scenes" in (tmp_path / "folder" / "README.md").read_text()
    config = GeneratorConfig(model=str(tmp_path / "folder"), steps=2, batch_size=1, device="cpu")
    engine = TextToImage(config)
    assert engine.family.grids == ((16, 16), (16, 16))
    (drawn,) = engine.draw([Request("a photo of a potted plant; potted plant", ("potted plant",), (16,), 0)])
    assert drawn.image.shape == (64, 64, 3)
    assert drawn.problem is None


def test_a_cut_off_turn_leaves_no_half_written_checkpoint(tmp_path):
    from maskmill.starter.generator_training.loop import load_checkpoint, save_checkpoint

    path = tmp_path / "state.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"step": 3})
    path.with_suffix(".part").write_bytes(b"half")
    assert load_checkpoint(path) == {"step": 3}


def test_the_preset_asks_for_all_kinds_that_were_learnt():
    config = load_run_config("starter-mmdit")
    assert config.generate is not None
    assert config.generate.prompts.kinds == kinds_of()
    assert "mirrored" in config.generate.prompts.attributes
