"""The shipped joint-attention starter: size, files, and that it draws by the common path and is read three ways."""

import json

import numpy as np
import pytest
import torch

from maskmill.data_contracts import load_label_space
from maskmill.generators.config import GeneratorConfig, MaskConfig
from maskmill.generators.loading import local_model, model_fingerprint, resolve_model
from maskmill.generators.prompts import PromptConfig, prompts_from_classes
from maskmill.generators.text_to_image import TextToImage, request_from_row
from maskmill.starter.drawn.drawings import DRAWN_CLASSES

VOC = load_label_space("voc")
READINGS = {
    "concept": MaskConfig(reading="concept", power=0),
    "cross": MaskConfig(reading="cross"),
    "anchor": MaskConfig(reading="anchor"),
}


@pytest.fixture(scope="module")
def engine():
    torch.set_num_threads(1)
    return TextToImage(GeneratorConfig(model="starter-mmdit", steps=8, batch_size=4, device="cpu"))


def test_folder_is_a_small_complete_stable_diffusion_3_folder():
    folder = resolve_model("starter-mmdit")
    files = [path for path in folder.rglob("*") if path.is_file()]
    both = [*files, *(path for path in resolve_model("starter").rglob("*") if path.is_file())]
    assert sum(path.stat().st_size for path in both) <= 40e6
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "StableDiffusion3Pipeline"
    for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "vae", "scheduler"):
        assert (folder / part).is_dir()
    assert {path.suffix for path in files} <= {".json", ".txt", ".md", ".safetensors"}
    assert (folder / "README.md").is_file()
    assert not [path for path in files if path.suffix == ".json" and '_path": "/' in path.read_text()]
    assert local_model("starter-mmdit") == folder
    assert model_fingerprint("starter-mmdit") != model_fingerprint("starter")


def test_pairs_show_their_class_and_are_the_same_bytes_again(engine):
    config = PromptConfig(classes=DRAWN_CLASSES[:4], scenes=("grass", "sky"))
    requests = [request_from_row(row, VOC) for row in prompts_from_classes(VOC, config, 1, seed=0)]
    read = engine.compare(requests, READINGS)
    assert engine.family.name == "stable_diffusion_3"
    assert engine.family.reading == "concept"
    for drawn in read["concept"]:
        assert drawn.image.shape == (64, 64, 3)
        assert drawn.image.std() > 10
        assert 0.02 < (drawn.mask == drawn.request.class_ids[0]).mean() < 0.9
    for other in (read["cross"], read["anchor"]):
        for one, same in zip(other, read["concept"], strict=True):
            assert np.array_equal(one.image, same.image)
    again = TextToImage(engine.config.model_copy(update={"mask": READINGS["concept"]}), engine.pipeline)
    for one, same in zip(again.draw(requests[::-1])[::-1], read["concept"], strict=True):
        assert np.array_equal(one.image, same.image)
        assert np.array_equal(one.mask, same.mask)
