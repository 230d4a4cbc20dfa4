"""The shipped starter generator: size, files, and that it runs through the common path at the promised grids."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maskmill.data_contracts import load_label_space
from maskmill.generators.loading import load_pipeline, resolve_model
from maskmill.generators.prompts import PromptConfig, prompts_from_classes
from maskmill.generators.spans import encode
from maskmill.generators.text_to_image import GeneratorConfig, TextToImage, request_from_row
from maskmill.generators.words import class_words
from maskmill.starter.drawn.drawings import DRAWN_CLASSES

VOC = load_label_space("voc")
FOLDER = Path(__file__).resolve().parents[2] / "starter" / "generator"
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason="starter/generator is not there: train it with python -m maskmill.starter.generator_training",
)


@pytest.fixture(scope="module")
def engine():
    torch.set_num_threads(1)
    return TextToImage(GeneratorConfig(model="starter", steps=8, batch_size=4, device="cpu"))


def test_folder_is_a_small_complete_stable_diffusion_folder():
    folder = resolve_model("starter")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30e6
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    for part in ("text_encoder", "tokenizer", "unet", "vae", "scheduler"):
        assert (folder / part).is_dir()
    assert {path.suffix for path in files} <= {".json", ".txt", ".md", ".safetensors"}
    assert (folder / "README.md").is_file()


def test_every_class_word_has_few_tokens(engine):
    tokenizer = engine.pipeline.tokenizer
    assert all(len(encode(tokenizer, word)) <= 3 for word in class_words(VOC).values())


def test_pairs_have_the_prompted_class_somewhere_and_the_same_bytes_again(engine):
    config = PromptConfig(classes=DRAWN_CLASSES[:4], scenes=("grass", "sky"))
    requests = [request_from_row(row, VOC) for row in prompts_from_classes(VOC, config, 1, seed=0)]
    first = engine.draw(requests)
    assert engine.family.grids == ((16, 16), (16, 16))
    assert sum(bool(d.class_ids) for d in first) >= 3
    for drawn in first:
        assert drawn.image.shape == (64, 64, 3)
        assert drawn.image.std() > 10
        assert 0.02 < (drawn.mask == drawn.request.class_ids[0]).mean() < 0.9
    again = engine.draw(requests[::-1])[::-1]
    assert all(
        np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask) for a, b in zip(first, again, strict=True)
    )


def test_loading_prints_neither_bars_nor_advice(capfd: pytest.CaptureFixture[str]) -> None:
    load_pipeline("starter")
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
