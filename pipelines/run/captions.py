"""Files of captions as prompts of a run: a caption a line, or rows {caption, class_prompt} as Dataset Diffusion's."""

from typing import Any

from maskmill.data_contracts import LabelSpace, read_bytes, sample_seed
from maskmill.generators.prompts import CaptionConfig, PromptConfig, prompt_row, prompts_from_captions
from maskmill.generators.words import class_words
from maskmill.pipelines.core.settings import ConfigError, read_yaml
from maskmill.pipelines.ingest.dataset_diffusion import split_class_prompt

Row = dict[str, Any]


def caption_prompts(path: str, space: LabelSpace, config: PromptConfig, seed: int) -> list[Row]:
    """Rows of the PROMPT contract for the captions of a file (local path or fsspec URL), in their order.

    Of plain lines, and of rows without `class_prompt` (BLIP's captions, COCO's), those count whose caption names a
    class of the space. Row i depends on `seed`, its caption and its number only.

    Raises:
        ConfigError: no such file, none of these forms, or not one caption that names a class.
    """
    try:
        text = read_bytes(path).decode("utf-8")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise ConfigError(f"generate.captions: {path}: expected a text file in UTF-8, found {error}") from error
    rows = _of_rows(text, path, space, config, seed) if path.endswith((".json", ".jsonl")) else None
    if rows is None:
        captions = CaptionConfig(words=config.words, negative_prompt=config.negative_prompt)
        rows, _ = prompts_from_captions(text.splitlines(), space, captions, seed)
    if not rows:
        raise ConfigError(f"generate.captions: {path}: expected captions that name classes of {space.name}, found none")
    return rows


def _of_rows(text: str, path: str, space: LabelSpace, config: PromptConfig, seed: int) -> list[Row]:
    found = read_yaml(text, path) if text.lstrip().startswith("[") else [read_yaml(x, path) for x in text.splitlines()]
    if not isinstance(found, list) or not all(isinstance(row, dict) and "caption" in row for row in found):
        raise ConfigError(f"generate.captions: {path}: expected rows with a caption each, found something else")
    words, captions = class_words(space, config.words), CaptionConfig(words=config.words)
    rows: list[Row] = []
    for number, row in enumerate(found):
        caption, named = str(row["caption"]).strip(), row.get("class_prompt")
        if named is None:
            rows += prompts_from_captions([caption], space, captions, sample_seed(seed, str(number), "caption"))[0]
            continue
        ids = [space.find(name).id for name in split_class_prompt(named, space, f"{path}#{number}")]
        noise = sample_seed(seed, f"{number}|{caption}", "noise")
        rows.append(prompt_row(caption, ids, words, noise, negative=config.negative_prompt))
    return rows
