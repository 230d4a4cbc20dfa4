"""Training the joint-attention starter: lessons, the block that takes concepts along, resuming, export."""

import numpy as np
import pytest
import torch

from maskmill.data_contracts import load_label_space
from maskmill.generators.config import BACKGROUND, GeneratorConfig, MaskConfig
from maskmill.generators.requests import Request
from maskmill.generators.text_to_image import TextToImage
from maskmill.generators.words import class_words
from maskmill.starter.generator_training import flow, models
from maskmill.starter.generator_training.export import export_flow, trained_flow_pipeline
from maskmill.starter.generator_training.models import make_tokenizer
from maskmill.starter.generator_training.world import render_world

VOC = load_label_space("voc")


@pytest.fixture(scope="module")
def world():
    torch.set_num_threads(1)
    return render_world(0, 24)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def lesson(world, tokenizer):
    latents = torch.from_numpy(np.random.default_rng(0).normal(size=(24, 8, 16, 16)).astype(np.float32))
    return flow.make_flow_lesson(world, tokenizer, latents)


@pytest.fixture(scope="module")
def trainer(tokenizer, tmp_path_factory):
    """Weights as if trained: modulation begins at zero and would hide every fault."""
    found = flow.FlowTrainer(tokenizer, tmp_path_factory.mktemp("flow") / "flow.pt", compiled=False)
    torch.manual_seed(1)
    for module in found.modules.values():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.08)
        module.eval()
    return found


def inputs(trainer, lesson, count=3):
    """Texts, concepts and noisy latents of the first scenes."""
    text, pooled = flow.encoded(trainer.encoders, lesson.tokens[:count])
    rows = lesson.concepts[:count]
    words = (flow.encoded(trainer.encoders, lesson.words)[0] * lesson.pieces[:, :, None]).sum(dim=1)
    return lesson.latents[:count], torch.linspace(0.2, 0.9, count), text, pooled, words[rows.clamp_min(0)], rows >= 0


def test_lessons_name_classes_first_and_their_rivals_behind(world, lesson, tokenizer):
    named = list(dict.fromkeys(class_words(VOC).values()))
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in lesson.words]
    for i, class_prompt in enumerate(world.class_prompts):
        own = [texts[row] for row in lesson.concepts[i, : flow.CLASSES] if row >= 0]
        rivals = [texts[row] for row in lesson.concepts[i, flow.CLASSES :] if row >= 0]
        assert sorted(" ".join(own)) == sorted(class_prompt)
        assert set(own) <= set(named)
        assert set(BACKGROUND) <= set(rivals)
        assert len(rivals) == len(set(rivals))
        assert all(rival in world.captions[i] for rival in rivals if rival not in BACKGROUND)
        for k in range(len(own)):
            class_id = next(c for c, word in class_words(VOC).items() if word == own[k])
            assert float(lesson.shares[i, k].mean()) == pytest.approx(
                float((world.masks[i] == class_id).mean()), abs=1e-6
            )
    assert torch.equal(lesson.pieces.sum(dim=1), torch.ones(len(lesson.words)))


@torch.no_grad()
def test_concepts_travel_along_without_changing_the_flow(trainer, lesson):
    noisy, sigmas, text, pooled, concepts, real = inputs(trainer, lesson)
    found, shares = trainer.forward(noisy, sigmas, text, pooled, concepts, real)
    padded = torch.cat([text, torch.zeros_like(text)], dim=1)
    wanted = trainer.transformer(noisy, padded, pooled, 1000 * sigmas).sample
    assert wanted.std() > 0.1
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(shares.sum(dim=-1), torch.ones(3, 256), atol=1e-5)
    assert float(shares.transpose(1, 2)[~real].abs().max()) == 0


@torch.no_grad()
def test_what_is_taught_is_what_the_reading_reads(trainer, tokenizer, lesson, world, tmp_path):
    """The maps of training equal those that `mask.reading: concept` reads of the exported folder, at one step."""
    trainer.path = tmp_path / "flow.pt"
    trainer.average.values = [p.detach().clone() for p in trainer.average.parameters]
    trainer.save()
    trained_flow_pipeline(tmp_path).save_pretrained(tmp_path / "folder")
    mask = MaskConfig(reading="concept", power=0)
    engine = TextToImage(
        GeneratorConfig(model=str(tmp_path / "folder"), steps=1, guidance=1, batch_size=1, device="cpu", mask=mask)
    )
    named = class_words(VOC)
    ids = tuple(c for c in named if named[c] in world.class_prompts[0])
    request = Request(world.captions[0], tuple(named[c] for c in ids), ids, seed=5)
    batch = engine._encode([request])
    with engine.family.watch(batch.encoded) as watched:
        engine._run(batch, [(watched, mask)])
    (read,) = watched.maps()
    noise = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(5))
    text, pooled = flow.encoded(trainer.encoders, lesson.tokens[:1])
    vocabulary = [tokenizer.decode(row, skip_special_tokens=True) for row in lesson.words]
    rows = torch.tensor([[vocabulary.index(word) for word in (*request.names, *BACKGROUND)]])
    words = (flow.encoded(trainer.encoders, lesson.words)[0] * lesson.pieces[:, :, None]).sum(dim=1)
    _, shares = trainer.forward(noise, torch.ones(1), text, pooled, words[rows], rows >= 0)
    wanted = shares[0, :, : len(ids)].T.reshape(-1, 16, 16)
    assert wanted.std() > 1e-3
    assert torch.allclose(read.maps, wanted, atol=1e-4)
    several = {"concept": mask, "cross": MaskConfig(reading="cross"), "anchor": MaskConfig(reading="anchor")}
    together = engine.compare([request], several)
    for name, one in several.items():
        alone = TextToImage(engine.config.model_copy(update={"mask": one}), engine.pipeline).draw([request])[0]
        assert together[name][0].peaks == alone.peaks
        assert np.array_equal(together[name][0].mask, alone.mask)


def test_a_first_turn_begins_from_the_weights_of_a_folder(trainer, tokenizer, world, tmp_path, monkeypatch):
    trainer.path = tmp_path / "old" / "flow.pt"
    trainer.path.parent.mkdir()
    trainer.average.values = [p.detach().clone() for p in trainer.average.parameters]
    trainer.save()
    trained_flow_pipeline(trainer.path.parent).save_pretrained(tmp_path / "folder")
    begun = []

    def no_turn(self, lesson, turn):
        begun.append([p.detach().clone() for p in self.average.parameters])
        self.step += 1
        self.save()

    monkeypatch.setattr(flow.FlowTrainer, "take_turn", no_turn)
    monkeypatch.setattr(flow, "shared_latents", lambda world, path: torch.zeros(24, 8, 16, 16))
    for _ in range(2):
        assert flow.train(world, tmp_path, minutes=1, last=False, start=tmp_path / "folder") == len(begun)
    assert all(torch.equal(a, b) for a, b in zip(begun[0], trainer.average.values, strict=True))
    state = torch.load(tmp_path / "flow.pt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(state["average"], trainer.average.values, strict=True))
    other = flow.FlowTrainer(tokenizer, tmp_path / "none.pt", compiled=False)
    assert not all(torch.equal(a, b) for a, b in zip(begun[0], other.average.parameters, strict=True))


def test_words_that_a_folder_has_not_keep_their_first_embedding(trainer, tokenizer, tmp_path, monkeypatch):
    """Rows of the embedding go by piece, not by number."""
    known = [word for word in models.known_words() if word not in ("parrot", "mirrored")]
    monkeypatch.setattr(models, "known_words", lambda: known)
    smaller = make_tokenizer(tmp_path / "smaller")
    old = flow.FlowTrainer(smaller, tmp_path / "old.pt", seed=3, compiled=False)
    folder = tmp_path / "folder"
    for name, part in {"transformer": "transformer", "text": "text_encoder", "text_2": "text_encoder_2"}.items():
        old.modules[name].save_pretrained(folder / part)
    smaller.save_pretrained(folder / "tokenizer")
    assert len(smaller) < len(tokenizer)
    found = flow.FlowTrainer(tokenizer, tmp_path / "new.pt", seed=4, compiled=False)
    first = found.encoders[0].get_input_embeddings().weight.detach().clone()
    found.begin_from(folder)
    rows, before = (one.encoders[0].get_input_embeddings().weight for one in (found, old))
    pieces, others = tokenizer.get_vocab(), smaller.get_vocab()
    for word in ("dog</w>", "photo</w>", "<|endoftext|>"):
        assert torch.equal(rows[pieces[word]], before[others[word]])
    assert torch.equal(rows[pieces["parrot</w>"]], first[pieces["parrot</w>"]])
    assert found.encoders[0].config.eos_token_id == tokenizer.eos_token_id


def test_every_weight_learns_by_one_optimiser(trainer):
    lists = [[id(p) for group in o.param_groups for p in group["params"]] for o in trainer.optimisers]
    every = [id(p) for module in trainer.modules.values() for p in module.parameters()]
    assert sorted(lists[0] + lists[1]) == sorted(every)
    streams = {id(p) for n, p in trainer.transformer.named_parameters() if ".ff." in n and p.ndim == 2}
    assert streams <= set(lists[0])
    modulation = {id(p) for n, p in trainer.transformer.named_parameters() if "norm1" in n}
    assert modulation <= set(lists[1])


def test_both_losses_reach_the_weights_that_make_them(trainer, lesson, monkeypatch):
    monkeypatch.setattr(flow, "BATCH", 4)
    for which, names in enumerate(
        (("proj_out.weight", "to_q.weight"), ("add_q_proj.weight", "context_embedder.weight"))
    ):
        trainer.transformer.zero_grad()
        torch.autograd.backward(trainer.losses(lesson)[which])
        for name in names:
            grads = [p.grad for n, p in trainer.transformer.named_parameters() if n.endswith(name)]
            assert any(g is not None and float(g.abs().max()) > 0 for g in grads), name


def test_flow_loss_is_zero_where_noise_less_latents_is_predicted(trainer, lesson, monkeypatch):
    monkeypatch.setattr(flow, "BATCH", 4)
    seen = {}

    def perfect(noisy, sigmas, text, pooled, concepts, real):
        rng = np.random.default_rng((trainer.seed, trainer.step))
        latents = lesson.latents[torch.from_numpy(rng.integers(len(lesson.latents), size=4))]
        s = sigmas.view(-1, 1, 1, 1)
        seen["sigmas"] = sigmas
        return (noisy - latents) / s, torch.full((4, 256, real.shape[1]), 0.5)

    monkeypatch.setattr(trainer, "forward", perfect)
    drawing, maps = trainer.losses(lesson)
    assert float(drawing) < 1e-6
    assert float(maps) == pytest.approx(np.log(2), abs=1e-5)
    assert ((seen["sigmas"] > 0) & (seen["sigmas"] < 1)).all()
    assert (seen["sigmas"].diff() > 0).all()  # stratified


def test_map_loss_is_smallest_where_shares_equal_the_cover():
    rows = torch.tensor([[3, -1, -1, 20]])
    shares = torch.zeros(1, 3, 256)
    shares[0, 0, :64] = 1
    right, wrong = shares.transpose(1, 2).clone(), 1 - shares.transpose(1, 2)
    right[:, :, 1:] = 0.7  # classes that are not there count nothing
    assert float(flow.map_loss(right, rows, shares)) < 0.001 < float(flow.map_loss(wrong, rows, shares))


@pytest.mark.slow
def test_flow_training_resumes_and_exports_a_folder_that_draws(world, tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "BATCH", 2)
    make = flow.FlowTrainer
    monkeypatch.setattr(flow, "FlowTrainer", lambda *given, **more: make(*given, **{"compiled": False} | more))
    first = flow.train(world, tmp_path, minutes=0.02, last=False)
    second = flow.train(world, tmp_path, minutes=0.02, last=True)
    assert second > first > 0
    assert export_flow(world, tmp_path, tmp_path / "folder") < 12e6
    assert f"; {second:,} on {len(world.images)}\nvaried scenes" in (tmp_path / "folder" / "README.md").read_text()
    engine = TextToImage(GeneratorConfig(model=str(tmp_path / "folder"), steps=2, batch_size=1, device="cpu"))
    assert engine.family.name == "stable_diffusion_3"
    (drawn,) = engine.draw([Request("a photo of a potted plant; potted plant", ("potted plant",), (16,), 0)])
    assert drawn.image.shape == (64, 64, 3)
    assert drawn.problem is None
