"""Embeddings by a model of the user's choice: the library's own numbers, and a scorer that stores them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from maskmill.curation.base import Scorer
from maskmill.curation.embedded import Embedded
from maskmill.curation.registry import load_scorer, scorer_identity
from maskmill.data_contracts import FOR_HASH
from maskmill.vision.batches import Batches
from maskmill.vision.clip import load_clip
from maskmill.vision.clip.opening import open_clip_model
from maskmill.vision.embed_options import EmbedOptions
from maskmill.vision.embedders import embed_stamps, is_library_model, load_embedder
from maskmill.vision.pretrained import ModelError
from tests.curation.sds_samples import SPACE, TINY, config, image_of, table

torch.set_num_threads(1)
tf: Any = transformers
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CONV = str(Path(TINY).parent / "tiny_clip_conv")


def dino(kind: str, folder: Path) -> Any:
    model, settings, processor = {
        "dinov2": (tf.Dinov2Model, tf.Dinov2Config(**SMALL, image_size=28, patch_size=14), tf.BitImageProcessor),
        "dinov2_with_registers": (
            tf.Dinov2WithRegistersModel,
            tf.Dinov2WithRegistersConfig(**SMALL, image_size=28, patch_size=14),
            tf.BitImageProcessor,
        ),
        "dinov3_vit": (
            tf.DINOv3ViTModel,
            tf.DINOv3ViTConfig(**SMALL, image_size=32, patch_size=16),
            tf.DINOv3ViTImageProcessor,
        ),
        "dinov3_convnext": (
            tf.DINOv3ConvNextModel,
            tf.DINOv3ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], image_size=32),
            tf.DINOv3ViTImageProcessor,
        ),
    }[kind]
    made = model(settings)
    sizes = {"size": {"height": 32, "width": 32}} if "dinov3" in kind else {
        "size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}
    }  # fmt: skip
    made.save_pretrained(folder)
    processor(**sizes).save_pretrained(folder)
    return made


def siglip(kind: str, folder: Path) -> Any:
    """The whole two-towered folder, as it lies on the hub."""
    text = {**SMALL, "vocab_size": 20, "max_position_embeddings": 8}
    if kind == "siglip":
        made = tf.SiglipModel(
            tf.SiglipConfig(text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 8})
        )
        processor = tf.SiglipImageProcessor(size={"height": 32, "width": 32})
    else:
        vision = {**SMALL, "num_patches": 16, "patch_size": 8}
        made = tf.Siglip2Model(tf.Siglip2Config(text_config=text, vision_config=vision))
        processor = tf.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    made.save_pretrained(folder)
    processor.save_pretrained(folder)
    return made.vision_model


MAKERS = {
    **dict.fromkeys(("dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext"), dino),
    **dict.fromkeys(("siglip", "siglip2"), siglip),
}


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_a_vector_is_the_librarys_pooled_output(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MAKERS[kind](kind, tmp_path).eval()
    embedder = load_embedder(EmbedOptions(model=str(tmp_path)))
    processor = tf.AutoImageProcessor.from_pretrained(str(tmp_path))
    for height, width in ((48, 40), (20, 90)):
        image = image_of(1, height, width)
        read = processor(images=image, return_tensors="pt")
        with torch.no_grad():
            pooled = model(**read).pooler_output[0].numpy()
        (found,) = embedder.embed([image])
        assert found.dtype == np.float32
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-3)
        assert np.allclose(found, pooled / np.linalg.norm(pooled), atol=2e-3)


@pytest.mark.parametrize("model", [TINY, CONV])
def test_any_open_clip_model_embeds_as_itself(model: str) -> None:
    embedder = load_embedder(EmbedOptions(model=model))
    image = image_of(2, 50, 70)
    clip = load_clip(model).model  # random weights of the same seed
    _, preprocess = open_clip_model(model)
    with torch.no_grad():
        found = clip.encode_image(preprocess(Image.fromarray(image))[None], normalize=True)[0].numpy()
    assert np.allclose(embedder.embed([image])[0], found, atol=2e-3)


def test_a_scorer_stores_the_other_models_vectors(tmp_path: Path) -> None:
    MAKERS["dinov2"]("dinov2", tmp_path)
    options = config(embed={"model": str(tmp_path)}, mask_score="asf")
    samples = table([(image_of(1), (1,)), (image_of(2), (2, 3)), (image_of(3), ())], prompts=[None, None, None])
    plain = load_scorer(config(mask_score="asf"), SPACE).score(samples, 0).to_pylist()
    scorer = load_scorer(options, SPACE)
    assert isinstance(scorer, Embedded)
    found = scorer.score(samples, 0).to_pylist()
    embedder = load_embedder(EmbedOptions(model=str(tmp_path)))
    for number, (one, other) in enumerate(zip(found, plain, strict=True)):
        assert {k: v for k, v in one.items() if k != "embedding"} == {
            k: v for k, v in other.items() if k != "embedding"
        }
        if other["embedding"] is None:
            assert one["embedding"] is None
        else:
            assert np.array_equal(np.float32(one["embedding"]), embedder.embed([image_of(number + 1)])[0])
    assert scorer.fits(scorer.score(samples, 0)) == [], "its vectors are not in the space of the texts"


@pytest.mark.parametrize("kind", ["dinov2", "siglip2"])
def test_a_vector_does_not_depend_on_its_companions(kind: str, tmp_path: Path) -> None:
    MAKERS[kind](kind, tmp_path)
    embedder = load_embedder(EmbedOptions(model=str(tmp_path)))
    images = [image_of(number, 30 + number, 90 - number) for number in range(7)]
    for size in (1, 3):
        batched = replace(embedder, batches=Batches(size, kind))
        alone = np.stack([batched.embed([image])[0] for image in images])
        assert np.array_equal(batched.embed(images), alone)
        assert np.array_equal(batched.embed(images[::-1])[::-1], alone)


def test_inputs_of_several_sizes_keep_their_places(tmp_path: Path) -> None:
    MAKERS["dinov2"]("dinov2", tmp_path)
    embedder = load_embedder(EmbedOptions(model=str(tmp_path)))
    free = {"do_resize": False, "do_center_crop": False, "do_normalize": False}
    whole = replace(embedder, processor=tf.BitImageProcessor(**free), batches=Batches(2, "dinov2"))
    images = [image_of(number, 28, 28 if number % 2 else 42) for number in range(5)]
    assert np.array_equal(whole.embed(images), np.stack([whole.embed([image])[0] for image in images]))


def test_pictures_are_decoded_once_and_embedded_in_full_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKERS["dinov2"]("dinov2", tmp_path)
    given: list[int] = []
    embedder = replace(load_embedder(EmbedOptions(model=str(tmp_path))), batches=Batches(2, "dinov2"))
    whole = type(embedder).embed
    monkeypatch.setattr(type(embedder), "embed", lambda self, images: given.append(len(images)) or whole(self, images))
    shapes: list[tuple[int, tuple[int, ...]]] = []
    samples = table(
        [(image_of(1), (1,)), (image_of(2), ()), *((image_of(n), (2,)) for n in (3, 4, 5, 6))], prompts=[None] * 6
    )
    inner = load_scorer(config(mask_score="asf"), SPACE)
    again = Embedded(inner, embedder).score(samples, 0)
    assert given == [2, 2, 1], "the row without classes has no embedding"
    monkeypatch.setattr("maskmill.curation.base.open_pair", lambda row: pytest.fail("decoded a second time"))
    seen = Embedded(inner, embedder).score_and_show(samples, 0, lambda n, image: shapes.append((n, image.shape)))
    assert seen.equals(again)
    assert [number for number, _ in shapes] == [0, 2, 3, 4, 5]
    monkeypatch.undo()
    shown: list[int] = []
    plain = Scorer.score_and_show(
        inner, samples, 0, lambda number, _: shown.append(number)
    )  # of scorers without their own
    assert shown == [0, 2, 3, 4, 5]
    assert plain.equals(inner.score(samples, 0))


def test_the_bare_rate_is_that_of_both_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    MAKERS["dinov2"]("dinov2", tmp_path)
    embedder = load_embedder(EmbedOptions(model=str(tmp_path)))
    scorer = Embedded(load_scorer(config(mask_score="asf"), SPACE), embedder)
    samples = table([(image_of(1), (1,))], prompts=[None])
    found = scorer.bare_rate(samples)
    assert found is not None
    assert found > 0
    monkeypatch.setattr(type(embedder), "bare_rate", lambda self, image: 6.0)
    monkeypatch.setattr("maskmill.curation.sds.scorer.bare_rate", lambda samples, engine: 3.0)
    assert scorer.bare_rate(samples) == pytest.approx(2.0)
    monkeypatch.setattr("maskmill.curation.sds.scorer.bare_rate", lambda samples, engine: None)
    assert scorer.bare_rate(samples) is None


def test_a_hash_holds_the_embedder_where_there_is_one(tmp_path: Path) -> None:
    MAKERS["dinov2"]("dinov2", tmp_path)
    assert "embed" not in config().model_dump(mode="json", context=FOR_HASH)
    assert "embed" not in scorer_identity(config())
    there = scorer_identity(config(embed=str(tmp_path)))
    assert there["embed"][1:] == embed_stamps(EmbedOptions(model=str(tmp_path)))


def test_names_and_folders_are_told_apart(tmp_path: Path) -> None:
    MAKERS["dinov2"]("dinov2", tmp_path)
    assert is_library_model(str(tmp_path))
    assert is_library_model("facebook/dinov2-small")
    assert not is_library_model("ViT-B-16")
    assert not is_library_model("starter")
    assert not is_library_model("hf-hub:timm/ViT-B-16-SigLIP2")
    assert not is_library_model(TINY)


def test_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="expected a model for embeddings of images"):
        load_embedder(EmbedOptions(model=str(tmp_path)))
