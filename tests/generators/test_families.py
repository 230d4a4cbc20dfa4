"""What every family of models must show, on random-weight pipelines of its topology loaded from disk."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from maskmill.data_contracts import SAMPLE, ContractError, check_row, load_label_space, read_shard
from maskmill.generators.config import GeneratorConfig, MaskConfig
from maskmill.generators.families import FAMILIES, UnknownFamilyError
from maskmill.generators.families.sana import LinearStore, linear_attention
from maskmill.generators.loading import load_pipeline, model_fingerprint
from maskmill.generators.prompts import PromptConfig, prompts_from_classes
from maskmill.generators.records import regenerate
from maskmill.generators.requests import Request
from maskmill.generators.text_to_image import TextToImage, generators_for
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.stages.generate import generate_stage, generate_units, write_prompts
from tests.generators.small_families import save_flux, save_pixart, save_qwen, save_sana, save_sd3, save_sdxl
from tests.generators.small_pipelines import save_pipeline

VOC = load_label_space("voc")
NAMES = {12: "dog", 8: "cat", 16: "potted plant", 6: "bus", 15: "person"}


def request(ids: list[int], seed: int, **more: Any) -> Request:
    names = tuple(NAMES[i] for i in ids)
    return Request(f"a photo of {' and '.join(names)}, grass; {' '.join(names)}", names, tuple(ids), seed, **more)


REQUESTS = [request([12], 1), request([8, 16], 2, scene="grass"), request([6, 15, 12], 3), request([16], 4)]


def tensors_in(value: Any) -> int:
    """Bytes of tensors that an object keeps."""
    if torch.is_tensor(value):
        return value.numel() * value.element_size()
    if isinstance(value, list | tuple):
        return sum(map(tensors_in, value))
    return sum(map(tensors_in, value.values())) if isinstance(value, dict) else 0


class Conformance:
    """A new family is a subclass: its name, how a small one is saved, and what its readings and sizes are."""

    name: ClassVar[str]
    readings: ClassVar[tuple[str, ...]]
    guided = True
    side: ClassVar[int] = 32
    accounted: ClassVar[frozenset[str]] = frozenset({"grids"})  # what provenance says of the reading

    @staticmethod
    def save(folder: Path) -> Path:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        torch.set_num_threads(1)
        return self.save(tmp_path_factory.mktemp(self.name))

    def config(self, folder: Path, **changes: Any) -> GeneratorConfig:
        settings = {"steps": 2, "batch_size": 3, "device": "cpu", "height": self.side, "width": self.side}
        return GeneratorConfig(model=str(folder), **settings | changes)

    @pytest.fixture(scope="class")
    def engine(self, folder: Path) -> TextToImage:
        return TextToImage(self.config(folder))

    def again(self, engine: TextToImage, **changes: Any) -> TextToImage:
        """An engine of another config over the same weights."""
        return TextToImage(engine.config.model_copy(update=changes), engine.pipeline)

    def plain(self, engine: TextToImage, requests: list[Request]) -> Any:
        """What diffusers draws by itself, unwatched."""
        texts: dict[str, Any] = {"prompt": [r.prompt for r in requests]}
        if self.guided:
            texts["negative_prompt"] = [r.negative_prompt or "" for r in requests]
        if self.name == "flux":
            texts["max_sequence_length"] = 40
        if self.name == "stable_diffusion_3":
            texts["max_sequence_length"] = 40
        if self.name in ("pixart_sigma", "sana"):
            texts |= {"max_sequence_length": 40, "clean_caption": False, "use_resolution_binning": False}
        return engine.pipeline(
            **texts,
            height=self.side,
            width=self.side,
            num_inference_steps=engine.config.steps,
            **{engine.family.guidance: engine.config.guidance},
            generator=generators_for(requests),
            output_type="np",
        ).images

    def maps(self, engine: TextToImage, requests: list[Request]) -> Any:
        """Images and what was read of them."""
        with torch.no_grad():
            batch = engine._encode(requests)
            with engine.family.watch(batch.encoded) as watched:
                images, _ = engine._run(batch, [(watched, engine.config.mask)])
                return images, watched.maps(), watched

    def test_watching_does_not_change_one_bit_of_the_image(self, engine: TextToImage) -> None:
        for reading in self.readings:
            watched, _, _ = self.maps(self.again(engine, mask=MaskConfig(reading=reading)), REQUESTS[:2])
            assert np.array_equal(watched, self.plain(engine, REQUESTS[:2]))

    def test_comparing_readings_draws_once_and_gives_what_each_gives(
        self, engine: TextToImage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        masks = {reading: MaskConfig(reading=reading, background=("sky",)) for reading in self.readings}
        masks["late"] = MaskConfig(first_step=0.5)
        alone = {name: self.again(engine, mask=mask).draw(REQUESTS) for name, mask in masks.items()}
        calls, run = [], TextToImage._run
        monkeypatch.setattr(TextToImage, "_run", lambda *given: calls.append(0) or run(*given))
        together = engine.compare(REQUESTS, masks)
        assert len(calls) == 2  # batches of three
        for name, drawn in alone.items():
            assert len(together[name]) == len(drawn)
            for one, other in zip(together[name], drawn, strict=True):
                assert np.array_equal(one.image, other.image)
                assert np.array_equal(one.mask, other.mask)
                assert one.peaks == other.peaks

    def test_the_folders_index_decides(self, engine: TextToImage) -> None:
        assert engine.family.name == self.name
        assert engine.family.readings == self.readings
        assert engine.family.reading == self.readings[0]

    def test_an_image_does_not_depend_on_its_companions(self, engine: TextToImage) -> None:
        together = engine.draw(REQUESTS)
        for reading in self.readings[1:]:
            other = self.again(engine, mask=MaskConfig(reading=reading))
            (alone,), (last,) = other.draw(REQUESTS[1:2]), other.draw(REQUESTS[:2])[1:]
            assert np.array_equal(alone.mask, last.mask)
            assert alone.peaks == last.peaks
        for k, one in enumerate(REQUESTS):
            (alone,) = engine.draw([one])
            assert np.array_equal(alone.image, together[k].image)
            assert np.array_equal(alone.mask, together[k].mask)
            assert alone.peaks == together[k].peaks
        assert np.array_equal(engine.draw(REQUESTS[::-1])[0].mask, together[3].mask)

    def test_masks_hold_prompted_classes_background_and_ignore(self, engine: TextToImage) -> None:
        for drawn in engine.draw(REQUESTS[:3]):
            assert drawn.mask.shape == drawn.image.shape[:2] == (self.side, self.side)
            assert set(np.unique(drawn.mask)) <= {0, 255, *drawn.request.class_ids}
            assert len(np.unique(drawn.mask)) > 1
            assert set(drawn.peaks) == set(drawn.request.class_ids)

    def test_the_conditional_half_is_read(self, engine: TextToImage) -> None:
        assert engine.family.guided == self.guided
        one = self.again(engine, steps=1, guidance=1.0, batch_size=1)
        two = self.again(engine, steps=1, guidance=6.0, batch_size=1)
        (first,), (second,) = self.maps(one, REQUESTS[1:2])[1], self.maps(two, REQUESTS[1:2])[1]
        if self.guided:  # in the first step the conditional half is what it is without guidance
            assert torch.allclose(first.maps, second.maps, atol=1e-4)
            negative = [request([8, 16], 2, scene="grass", negative_prompt="bus on sky")]
            assert torch.allclose(self.maps(two, negative)[1][0].maps, second.maps, atol=1e-6)
        else:
            assert not torch.equal(first.maps, second.maps)  # guidance is something that the model is told

    def test_sums_do_not_grow_with_steps(self, engine: TextToImage) -> None:
        kept = []
        for steps in (1, 3):
            watched = self.maps(self.again(engine, steps=steps), REQUESTS[:2])[2]
            kept.append(sum(tensors_in(v) for v in vars(getattr(watched, "store", watched)).values()))
        assert kept[0] == kept[1] > 0

    def test_affinity_is_row_stochastic(self, engine: TextToImage) -> None:
        for read in self.maps(engine, REQUESTS[:2])[1]:
            assert float((read.affinity.sum(1) - 1).abs().max()) < 1e-4

    def test_leaving_out_noisy_steps_changes_the_mask_only(self, engine: TextToImage) -> None:
        late = self.again(engine, mask=MaskConfig(first_step=0.5))
        one, other = late.draw(REQUESTS[1:2])[0], engine.draw(REQUESTS[1:2])[0]
        assert np.array_equal(one.image, other.image)
        assert one.peaks != other.peaks

    def test_bfloat16_draws_finite_images_with_masks(self, folder: Path) -> None:
        engine = TextToImage(self.config(folder, dtype="bfloat16", batch_size=2))
        first, second = engine.draw(REQUESTS[:2])
        assert first.problem is second.problem is None
        assert np.array_equal(engine.draw(REQUESTS[1:2])[0].mask, second.mask)
        assert all(np.isfinite(list(drawn.peaks.values())).all() for drawn in (first, second))

    def test_words_that_no_tokenizer_takes_are_refused(self, engine: TextToImage) -> None:
        with pytest.raises(ContractError, match="at most"):
            engine.draw([Request("x", ("dog " * 400,), (12,), 0)])

    def test_readings_and_sizes_that_it_has_not_are_refused(self, engine: TextToImage) -> None:
        with pytest.raises(ValueError, match="must be multiples of"):
            self.again(engine, height=self.side + 1)
        if self.readings == ("cross",):
            with pytest.raises(ValueError, match="can be read by cross"):
                self.again(engine, mask=MaskConfig(reading="concept"))
        else:
            with pytest.raises(ValueError, match=r"mask.blocks \[99\]: .* has double-stream blocks 0 to"):
                self.again(engine, mask=MaskConfig(blocks=(99,)))

    def test_the_stage_resumes_and_draws_any_sample_again(self, folder: Path, tmp_path: Path) -> None:
        config = self.config(folder, batch_size=2, mask=MaskConfig(uncertain=0.3))
        rows = prompts_from_classes(VOC, PromptConfig(classes=("dog", "bus"), scenes=("grass",)), per_class=1, seed=0)
        write_prompts(f"{tmp_path}/prompts", rows, per_shard=2)
        stage, units = generate_stage(config, VOC, seed=7), generate_units(str(tmp_path))
        assert [r.status for r in map_units(stage, units)] == ["written"]
        assert [r.status for r in map_units(stage, units)] == ["skipped"]
        samples = read_shard(units[0].outputs[0], SAMPLE).to_pylist()
        for row in samples:
            assert check_row(row, VOC) is None
            made, extra = row["provenance"], json.loads(row["provenance"]["extra"])
            assert made["model_revision"] == model_fingerprint(str(folder))
            assert (extra["family"], extra["reading"], extra["scene"]) == (self.name, self.readings[0], "grass")
            assert extra["loras"] == []
            assert self.accounted <= extra.keys()
        again = regenerate(samples[0], VOC)
        assert again.same, again.differences


class TestStableDiffusion(Conformance):
    name, readings, side = "stable_diffusion", ("cross",), 16
    save = staticmethod(save_pipeline)


class TestStableDiffusionXL(Conformance):
    name, readings = "stable_diffusion_xl", ("cross",)
    save = staticmethod(save_sdxl)

    def test_both_tokenizers_must_agree(self, engine: TextToImage, tmp_path: Path) -> None:
        from tests.generators.small_pipelines import full_clip_tokenizer

        own = engine.pipeline.tokenizer_2
        engine.pipeline.tokenizer_2 = full_clip_tokenizer()
        try:
            with pytest.raises(ContractError, match="the same tokens from both tokenizers"):
                engine.family.locate(("umbrella", "dog"), (1, 12))
        finally:
            engine.pipeline.tokenizer_2 = own

    def test_its_decoder_works_in_float32_beside_a_half_precision_unet(self, folder: Path) -> None:
        pipeline = load_pipeline(str(folder), dtype="bfloat16")
        assert (pipeline.unet.dtype, pipeline.vae.dtype) == (torch.bfloat16, torch.float32)
        assert pipeline.watermark is None


class TestStableDiffusion3(Conformance):
    name, readings = "stable_diffusion_3", ("concept", "cross", "anchor")
    accounted = frozenset({"grids", "blocks", "affinity_blocks", "background"})
    save = staticmethod(save_sd3)


class TestFlux(Conformance):
    name, readings, guided = "flux", ("concept", "cross", "anchor"), False
    accounted = frozenset({"grids", "blocks", "affinity_blocks", "background"})
    save = staticmethod(save_flux)


class TestPixArtSigma(Conformance):
    name, readings = "pixart_sigma", ("cross",)
    accounted = frozenset({"grids", "blocks", "affinity_blocks"})
    save = staticmethod(save_pixart)

    def test_padding_is_closed_where_it_is_read(self, engine: TextToImage) -> None:
        words = engine.family.words(["dog", "potted plant"])  # type: ignore[attr-defined]
        assert words.bias is not None
        with engine.family.watch(engine._encode(REQUESTS[:2]).encoded) as watched:
            store = watched.store  # type: ignore[attr-defined]
            attn = engine.pipeline.transformer.transformer_blocks[2].attn2
            store.guided = False
            store.see_cross(attn, hidden := torch.randn(2, 5, 16))
            attn.to_q(hidden)
        assert store.cross_sum.shape == (2, 5, 40)
        assert float((store.cross_sum.sum(-1) - 1).abs().max()) < 1e-5
        closed = words.bias[0, 0] < 0
        assert closed.any()
        assert float(store.cross_sum[0][:, closed].max()) == 0.0

    def test_blocks_are_chosen_and_refused_by_number(self, engine: TextToImage) -> None:
        assert engine.family.account()["blocks"] == [2, 3]
        assert engine.family.account()["affinity_blocks"] == [3]
        last = self.again(engine, mask=MaskConfig(blocks=(5,), affinity_blocks=(0, 1)))
        assert last.draw(REQUESTS[:1])[0].peaks != engine.draw(REQUESTS[:1])[0].peaks
        with pytest.raises(ValueError, match=r"mask.blocks \[6\]: .* has blocks 0 to 5"):
            self.again(engine, mask=MaskConfig(blocks=(6,)))

    def test_it_has_no_controlnet(self, folder: Path) -> None:
        with pytest.raises(UnknownFamilyError, match="no ControlNets for pixart_sigma; take a model of one of StableD"):
            load_pipeline(str(folder), controlnet=str(folder))


class TestSana(Conformance):
    name, readings = "sana", ("cross",)
    accounted = frozenset({"grids", "blocks", "affinity_blocks"})
    save = staticmethod(save_sana)

    def test_linear_attention_is_what_its_processor_computes(self, engine: TextToImage) -> None:
        attn = engine.pipeline.transformer.transformer_blocks[3].attn1
        hidden = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
        heads = attn.heads
        with torch.no_grad():
            mean = linear_attention(attn, hidden)
            attn.heads = 1  # what one head attends to decides the whole output
            try:
                alone, expected = linear_attention(attn, hidden), attn.processor(attn, hidden)
            finally:
                attn.heads = heads
            found = attn.to_out[0](alone @ attn.to_v(hidden))
        assert torch.allclose(found, expected, atol=1e-5)
        assert float((mean.sum(-1) - 1).abs().max()) < 1e-5
        assert not torch.allclose(mean, alone, atol=1e-3)

    def test_queries_and_keys_of_words_are_normed(self, engine: TextToImage) -> None:
        attn = engine.pipeline.transformer.transformer_blocks[2].attn2
        assert attn.norm_q is not None
        hidden, words = torch.randn(1, 5, 16), torch.randn(1, 4, 16)
        store = LinearStore()
        store.begin(words, guided=False)
        with torch.no_grad():
            store.see_cross(attn, hidden)
            query, key_of = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(words))
            split = [t.view(1, -1, 2, 8).transpose(1, 2) for t in (query, key_of)]
            expected = torch.softmax(split[0] @ split[1].transpose(-1, -2) / 8**0.5, dim=-1).mean(dim=1)
        assert torch.allclose(store.cross_sum, expected, atol=1e-5)

    def test_prompts_stand_behind_an_instruction_and_words_do_not(self, engine: TextToImage) -> None:
        family = engine.family
        prompt, words = family.embed(["dog"], None)["prompt_embeds"], family.words(["dog"])  # type: ignore[attr-defined]
        assert prompt.shape == words.embeds.shape
        assert not torch.allclose(prompt[0, 1], words.embeds[0, 1], atol=1e-3)
        assert (words.bias[0, 0] == 0).sum() == 2, "start-of-text and one word"


class TestQwenImage(Conformance):
    name, readings = "qwen_image", ("concept", "cross", "anchor")
    accounted = frozenset({"grids", "blocks", "affinity_blocks", "background"})
    save = staticmethod(save_qwen)

    def plain(self, engine: TextToImage, requests: list[Request]) -> Any:
        """From texts that are padded to one length; by prompts the pipeline pads them to the longest."""
        texts = [r.prompt for r in requests], [r.negative_prompt or "" for r in requests]
        shared = {"height": self.side, "width": self.side, "num_inference_steps": engine.config.steps}
        shared |= {"true_cfg_scale": engine.config.guidance, "output_type": "np"}
        prompts = {"prompt": texts[0], "negative_prompt": texts[1]}
        images, expected = (
            engine.pipeline(**given, **shared, generator=generators_for(requests)).images
            for given in (engine.family.embed(*texts), prompts)  # type: ignore[attr-defined]
        )
        assert np.abs(images - expected).max() < 1e-4
        return images

    def test_words_are_found_where_the_model_sees_them(self, engine: TextToImage) -> None:
        """States of a language model at a place depend on all tokens up to it and on none behind."""
        pipeline: Any = engine.pipeline
        text = "a photo of dog and cat; dog cat"
        positions = engine.family.encode([request([12, 8], 1)], [], [text]).classes[0].positions
        tokens = pipeline.tokenizer(text).input_ids
        assert [[tokens[place] for place in own] for own in positions] == [
            [pipeline.tokenizer(" dog").input_ids[0]] * 2,
            [pipeline.tokenizer(" cat").input_ids[0]] * 2,
        ]
        states, other = (engine.family.embed([t], None)["prompt_embeds"][0] for t in (text, "a photo of dog; cat"))  # type: ignore[attr-defined]
        assert torch.allclose(states[:4], other[:4], atol=1e-5)
        assert not torch.allclose(states[4], other[4], atol=1e-3)

    def test_padding_has_no_say_in_what_is_read(self, engine: TextToImage, monkeypatch: pytest.MonkeyPatch) -> None:
        for reading in self.readings[:2]:
            own = self.again(engine, mask=MaskConfig(reading=reading))
            maps = []
            for length in (256, 64):
                monkeypatch.setattr("maskmill.generators.families.qwen_image.TEXT_TOKENS", length)
                maps.append(self.maps(own, REQUESTS[1:3])[1])
            for one, other in zip(*maps, strict=True):
                assert torch.allclose(one.maps, other.maps, atol=1e-5)
                assert torch.allclose(one.affinity, other.affinity, atol=1e-5)


def test_every_family_of_the_table_conforms() -> None:
    tested = {kind.name for kind in Conformance.__subclasses__()}
    assert tested == set(FAMILIES.values())


def test_an_unknown_family_is_refused_by_name_with_the_list(tmp_path: Path) -> None:
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux" / "model_index.json").write_text('{"_class_name": "KolorsPipeline"}')
    with pytest.raises(UnknownFamilyError, match="found KolorsPipeline") as refused:
        TextToImage(GeneratorConfig(model=str(tmp_path / "flux"), device="cpu"))
    assert all(known in str(refused.value) for known in FAMILIES)
    (tmp_path / "none").mkdir()
    with pytest.raises(UnknownFamilyError, match="found none"):
        TextToImage(GeneratorConfig(model=str(tmp_path / "none"), device="cpu"))
