"""Captions of a file as the prompts of a run: lines, BLIP's rows, Dataset Diffusion's rows."""

import json
from pathlib import Path

import pytest

from maskmill.data_contracts import load_label_space
from maskmill.generators.prompts import PromptConfig
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.run.captions import caption_prompts
from maskmill.pipelines.run.rounds import GenerateConfig

VOC = load_label_space("voc")


def rows_of(path: Path) -> list[dict[str, object]]:
    return caption_prompts(str(path), VOC, PromptConfig(negative_prompt="blurry"), seed=0)


def test_rows_of_dataset_diffusion(tmp_path: Path) -> None:
    path = tmp_path / "voc_prompts.json"
    captions = [
        {"filename": "0.jpg", "caption": "a man at a table; person diningtable", "class_prompt": "person dining table"},
        {"filename": "1.jpg", "caption": "a photo", "class_prompt": "cat"},
    ]
    path.write_text(json.dumps(captions))
    first, second = rows_of(path)
    assert first["class_ids"] == [15, 11]
    assert str(first["prompt"]).startswith("a man at a table; person diningtable; person dining")
    assert second["class_ids"] == [8]
    assert second["negative_prompt"] == "blurry"
    assert first["seed"] != second["seed"]
    assert rows_of(path) == [first, second]


def test_rows_without_a_class_prompt_and_plain_lines(tmp_path: Path) -> None:
    blip = tmp_path / "blip.jsonl"
    blip.write_text(
        '{"image": "1.jpg", "caption": "a dog on grass"}\n{"image": "2.jpg", "caption": "an empty street"}\n'
    )
    assert [row["class_ids"] for row in rows_of(blip)] == [[12]]
    lines = tmp_path / "captions.txt"
    lines.write_text("a cat and a dog\n\nnothing here\n")
    assert [row["class_ids"] for row in rows_of(lines)] == [[8, 12]]


def test_files_that_hold_no_captions_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"captions: .*none\.txt"):
        rows_of(tmp_path / "none.txt")
    empty = tmp_path / "empty.txt"
    empty.write_text("nothing\n")
    with pytest.raises(ConfigError, match="found none"):
        rows_of(empty)
    rows = tmp_path / "rows.json"
    rows.write_text('[{"text": "a cat"}]')
    with pytest.raises(ConfigError, match="expected rows with a caption each"):
        rows_of(rows)


def test_captions_are_one_round() -> None:
    with pytest.raises(ValueError, match="drop one"):
        GenerateConfig(captions="x.txt", quota=3)
    assert "captions" not in GenerateConfig().model_dump()
    assert GenerateConfig(captions="x.txt").model_dump()["captions"] == "x.txt"
