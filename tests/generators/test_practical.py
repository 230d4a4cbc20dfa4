"""What makes a model fit changes nothing in its results, or says so."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from maskmill.data_contracts import load_label_space
from maskmill.generators.config import GeneratorConfig, Lora, PracticalConfig, settings_for_hash
from maskmill.generators.families.flux import FAMILY as FLUX
from maskmill.generators.families.stable_diffusion import FAMILY as SD
from maskmill.generators.families.stable_diffusion_xl import FAMILY as SDXL
from maskmill.generators.loading import load_pipeline
from maskmill.generators.practical import (
    add_loras,
    compile_parts,
    dtypes,
    lora_file,
    lora_fingerprint,
    quantization,
    settle,
    without_text_encoders,
)
from maskmill.generators.records import regenerate, revision, sample_row
from maskmill.generators.requests import Request
from maskmill.generators.text_to_image import TextToImage
from maskmill.pipelines.stages.generate import generate_stage
from maskmill.vision.model_folders import UnsafeModelError
from tests.generators.small_families import save_sd3

VOC = load_label_space("voc")
REQUESTS = [Request(f"a photo of a {w}; {w}", (w,), (i,), k) for k, (w, i) in enumerate([("dog", 12), ("cat", 8)] * 2)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> GeneratorConfig:
    torch.set_num_threads(1)
    folder = save_sd3(tmp_path_factory.mktemp("sd3"))
    return GeneratorConfig(model=str(folder), steps=2, batch_size=4, device="cpu")


@pytest.fixture(scope="module")
def engine(config: GeneratorConfig) -> TextToImage:
    return TextToImage(config)


@pytest.fixture(scope="module")
def drawn(engine: TextToImage) -> list[Any]:
    return engine.draw(REQUESTS)


@pytest.fixture
def fresh(config: GeneratorConfig) -> Any:
    """A pipeline that a test may change."""
    return load_pipeline(config.model)


def same(one: list[Any], other: list[Any]) -> bool:
    return all(
        np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask) and a.peaks == b.peaks
        for a, b in zip(one, other, strict=True)
    )


def test_freed_text_encoders_change_nothing_and_come_back(engine: TextToImage, drawn: list[Any]) -> None:
    free = TextToImage(engine.config.model_copy(update={"text_encoders": "free"}), engine.pipeline)
    seen: list[Any] = []
    run = free._run
    free._run = lambda *args: (seen.append(engine.pipeline.text_encoder_3), run(*args))[1]  # type: ignore[method-assign]
    assert same(free.draw(REQUESTS), drawn)
    assert seen == [None]
    assert engine.pipeline.text_encoder_3 is not None
    with pytest.raises(KeyError), without_text_encoders(engine.pipeline, type(engine.family)):
        raise KeyError
    assert engine.pipeline.text_encoder is not None


def test_weights_that_are_fetched_layer_by_layer_draw_the_same(
    config: GeneratorConfig, fresh: Any, drawn: list[Any]
) -> None:
    """What sequential offloading does, with the CPU as its own device: weights lie elsewhere between calls."""
    from accelerate import cpu_offload

    cpu_offload(fresh.transformer, torch.device("cpu"))
    assert next(fresh.transformer.parameters()).device.type == "meta"
    assert same(TextToImage(config, fresh).draw(REQUESTS), drawn)


def test_offloading_is_asked_of_the_pipeline(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    for name in ("enable_model_cpu_offload", "enable_sequential_cpu_offload"):
        monkeypatch.setattr(fresh, name, lambda device, name=name: asked.append((name, device)))
    settle(fresh, PracticalConfig(offload="model"), "cuda")
    settle(fresh, PracticalConfig(offload="sequential"), "cuda")
    assert asked == [("enable_model_cpu_offload", "cuda"), ("enable_sequential_cpu_offload", "cuda")]
    assert settle(fresh, PracticalConfig(offload="model"), "cpu") is fresh  # nothing to offload from
    assert len(asked) == 2


def test_slicing_draws_the_same_and_tiling_does_where_one_tile_holds_the_image(
    config: GeneratorConfig, fresh: Any, drawn: list[Any]
) -> None:
    settle(fresh, PracticalConfig(vae_slicing=True, vae_tiling=True), "cpu")
    assert fresh.vae.use_slicing
    assert fresh.vae.use_tiling
    for one, other in zip(TextToImage(config, fresh).draw(REQUESTS), drawn, strict=True):
        assert np.abs(one.image.astype(int) - other.image).max() <= 1  # the decoder's batch is another
        assert np.array_equal(one.mask, other.mask)


def test_dtypes_of_the_autoencoder() -> None:
    half, full, auto = torch.float16, torch.float32, PracticalConfig()
    assert dtypes(SDXL, auto, half) == {"vae": full, "default": half}
    assert dtypes(SDXL, auto, full) == full
    assert dtypes(SD, auto, half) == dtypes(FLUX, auto, half) == half
    assert dtypes(SD, PracticalConfig(vae_dtype="float32"), half) == {"vae": full, "default": half}


def test_a_decoder_of_full_precision_takes_latents_of_half(config: GeneratorConfig) -> None:
    options = config.model_copy(update={"dtype": "bfloat16", "vae_dtype": "float32"})
    engine = TextToImage(options)
    assert (engine.pipeline.vae.dtype, engine.pipeline.transformer.dtype) == (torch.float32, torch.bfloat16)
    assert engine.draw(REQUESTS[:1])[0].problem is None


def test_batches_are_halved_where_memory_runs_out(
    engine: TextToImage, drawn: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tight = TextToImage(engine.config, engine.pipeline)
    run = tight._run

    calls: list[int] = []

    def short(batch: Any, watched: Any) -> Any:
        calls.append(len(batch.requests))
        if len(batch.requests) > 2 and len(calls) > 1:
            raise torch.OutOfMemoryError("tried to allocate 9 GiB")
        return run(batch, watched)

    monkeypatch.setattr(tight, "_run", short)
    with caplog.at_level(logging.WARNING, "maskmill"):
        first, halved = (lambda found: (found[:4], found[4:]))(tight.draw(REQUESTS * 2))
    assert calls == [4, 4, 2, 2]
    assert same(first, drawn)  # what was drawn already is not drawn again
    assert "drawing 2 images at a time" in caplog.text
    small = TextToImage(engine.config.model_copy(update={"batch_size": 2}), engine.pipeline).draw(REQUESTS)
    assert same(halved, small)
    for one, other in zip(halved, drawn, strict=True):
        assert np.abs(one.image.astype(int) - other.image).max() <= 1
    row = sample_row(halved[0], tight, VOC)
    assert json.loads(row["provenance"]["extra"])["batch_size"] == 2
    assert regenerate(row, VOC).same
    monkeypatch.setattr(tight, "_run", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(MemoryError, match="set offload: model"):
        tight.draw(REQUESTS[:1])


def save_lora(path: Path, pipeline: Any, seed: int = 3) -> Path:
    """A LoRA of rank 2 on the queries of every block."""
    noise = torch.Generator().manual_seed(seed)
    weights = {}
    for number in range(len(pipeline.transformer.transformer_blocks)):
        layer = f"transformer.transformer_blocks.{number}.attn.to_q"
        weights[f"{layer}.lora_A.weight"] = torch.randn(2, 16, generator=noise)
        weights[f"{layer}.lora_B.weight"] = torch.randn(16, 2, generator=noise)
    save_file(weights, path)
    return path


def test_loras_act_by_their_scale_and_are_told_by_their_bytes(
    config: GeneratorConfig, engine: TextToImage, drawn: list[Any], tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="LoRAs need peft (extra: lora)")
    path = save_lora(tmp_path / "style.safetensors", engine.pipeline)
    none = TextToImage(config.model_copy(update={"loras": (Lora(path=str(path), scale=0.0),)}))
    assert same(none.draw(REQUESTS), drawn)
    config_one = config.model_copy(update={"loras": (Lora(path=str(tmp_path)),)})
    one = TextToImage(config_one)
    (first,) = one.draw(REQUESTS[:1])
    assert not np.array_equal(first.image, drawn[0].image)
    row = sample_row(first, one, VOC)
    extra = json.loads(row["provenance"]["extra"])
    assert extra["loras"] == [{"path": str(tmp_path), "scale": 1.0, "hash": lora_fingerprint(config_one.loras[0])}]
    assert row["provenance"]["model_revision"] == revision(config_one) != revision(config)
    assert regenerate(row, VOC).same
    before = generate_stage(config_one, VOC, 0).config_hash
    save_lora(path, engine.pipeline, seed=4)
    assert generate_stage(config_one, VOC, 0).config_hash != before
    assert row["provenance"]["model_revision"] != revision(config_one)


def test_loras_are_safetensors_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(UnsafeModelError, match=r"expected .safetensors, found .bin"):
        lora_file(Lora(path=str(tmp_path / "a.bin")))
    with pytest.raises(FileNotFoundError, match=r"one .safetensors file, found none"):
        lora_file(Lora(path=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="no such file"):
        lora_file(Lora(path=str(tmp_path / "b.safetensors")))
    monkeypatch.setattr("maskmill.generators.practical._installed", lambda package: False)
    with pytest.raises(ImportError, match="maskmill\\[lora\\]"):
        add_loras(None, (Lora(path="x"),))


def test_quantisation_names_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskmill.generators.practical._installed", lambda package: False)
    with pytest.raises(ImportError, match=r"needs the package optimum.quanto.*pip install optimum-quanto"):
        quantization("quanto_int8", "transformer", torch.float16)


def test_only_what_is_not_watched_is_compiled(engine: TextToImage, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    compile_parts(engine.pipeline, engine.family)
    assert compiled == [engine.pipeline.vae.decoder]  # concepts are read in every block
    early = engine.config.mask.model_copy(update={"blocks": (0,), "affinity_blocks": (0,)})
    late = TextToImage(engine.config.model_copy(update={"mask": early, "compile": True}), engine.pipeline)
    assert compiled[1:] == [engine.pipeline.vae.decoder, *engine.pipeline.transformer.transformer_blocks[1:]]
    assert late.family.account()["blocks"] == [0]


def test_hashes_leave_out_where_weights_lie_and_what_came_later() -> None:
    before = {"model": "m", "mask": {"power": 4}}
    later = {**before, "offload": "model", "text_encoders": "free", "loras": [], "mask": {"power": 4, "reading": None}}
    assert settings_for_hash(later) == before
    assert settings_for_hash({**before, "loras": [{"path": "a"}]}) != before
