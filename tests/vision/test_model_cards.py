"""What a model folder says of itself: licence, bytes, the side of its input; and where that is told."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maskmill.labelers import get_labeler, labeler_models
from maskmill.vision.model_cards import (
    NOT_STATED,
    ModelFacts,
    input_side,
    licence_of,
    memory_bytes,
    model_facts,
    weights_bytes,
)
from maskmill.vision.pretrained import local_folder, model_fingerprint


def folder(place: Path, card: str | None = None) -> Path:
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    (place / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 512, "width": 512}}))
    weights = {
        "a": torch.zeros(10, 10),
        "b": torch.zeros(6, dtype=torch.float16),
        "n": torch.zeros(3, dtype=torch.int64),
    }
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    if card is not None:
        (place / "README.md").write_text(card)
    return place


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: sam-license\n---\n", "sam-license"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: []\n---\nlicense: mit\n", NOT_STATED),
        ("# no head\nlicense: mit\n", NOT_STATED),
        ("---\nlicense: [a\n---\n", NOT_STATED),
        ("---\n- a\n---\n", NOT_STATED),
        (None, NOT_STATED),
    ],
)
def test_a_licence_is_what_the_card_states(tmp_path: Path, card: str | None, licence: str) -> None:
    assert licence_of(folder(tmp_path / "m", card)) == licence


def test_weights_are_counted_at_their_precision(tmp_path: Path) -> None:
    place = folder(tmp_path / "m")
    assert weights_bytes(place, "fp32") == 100 * 4 + 6 * 4 + 3 * 8
    assert weights_bytes(place, "bf16") == 100 * 2 + 6 * 2 + 3 * 8


def test_a_card_changes_no_fingerprint(tmp_path: Path) -> None:
    before = model_fingerprint(str(folder(tmp_path / "m")))
    assert before == model_fingerprint(str(folder(tmp_path / "n", "---\nlicense: mit\n---\n")))


def test_memory_grows_with_area_and_batch() -> None:
    facts = ModelFacts("m", "sam2", "mit", 10**8)
    assert memory_bytes(facts, 1024) == 10**8 + 900_000_000
    assert memory_bytes(facts, 512) == 10**8 + 225_000_000
    assert memory_bytes(facts, 1024, 3) == 10**8 + 1_500_000_000


def test_the_side_is_that_of_the_processor(tmp_path: Path) -> None:
    place = folder(tmp_path / "m")
    assert input_side(place) == 512
    (place / "preprocessor_config.json").unlink()
    assert input_side(place) == 1024


def test_a_labeler_names_its_models_and_its_refiners(tmp_path: Path) -> None:
    one = str(folder(tmp_path / "one", "---\nlicense: mit\n---\n"))
    two = str(folder(tmp_path / "two"))
    config = get_labeler("promptable").Config.model_validate(
        {"model": one, "detector": {"model": two, "precision": "bf16"}, "refiner": {"kind": "promptable", "model": one}}
    )
    found = labeler_models("promptable", config)
    assert [(facts.model, facts.licence) for facts in found] == [(one, "mit"), (two, NOT_STATED), (one, "mit")]
    assert found[1].weights_bytes < found[0].weights_bytes
    assert found[0] == model_facts(one)
    assert labeler_models("clip_cam", get_labeler("clip_cam").Config()) == []


def test_a_model_that_is_not_here_is_none_and_a_wrong_path_is_said(tmp_path: Path) -> None:
    assert local_folder("owner/a-model-that-nobody-has") is None
    with pytest.raises(FileNotFoundError, match="no such folder"):
        local_folder(str(tmp_path / "nothing"))
