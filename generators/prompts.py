"""Prompt sets: from class lists (balanced by construction) or from captions. One PROMPT row asks for one image.

A prompt is a caption followed by "; " and the class words: appending them makes sure that every wanted class is a
token of the prompt (Dataset Diffusion, NeurIPS 2023). `class_prompt` holds the class words alone; cross-attention
maps are read against it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import LabelSpace, content_id, sample_seed
from maskmill.generators.words import class_words, classes_in, counted, joined

Row = dict[str, object]
Option = TypeVar("Option")


class PromptConfig(BaseModel):
    """What prompts may say. `classes` are names of the label space; empty means all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: tuple[str, ...] = Field(
        default=(), description="names of the classes to ask for; empty = all of the label space"
    )
    words: dict[str, str] = Field(default={}, description="class name -> word that prompts use in its place")
    kinds: dict[str, tuple[str, ...]] = Field(
        default={},
        description="class name -> what captions may call it (poodle, sheepdog), one drawn for each; an empty one = "
        "its own word, which is appended to every prompt in any case",
    )
    templates: tuple[str, ...] = Field(
        default=("a photo of {objects}",),
        description="captions, one drawn for each prompt; {objects} stands for the objects",
    )
    attributes: tuple[str, ...] = Field(
        default=("",), description="said of each object, one drawn for each (small, red, …); an empty one says nothing"
    )
    scenes: tuple[str, ...] = Field(
        default=("",), description="surroundings, one drawn for each prompt; an empty one says nothing"
    )
    scene_template: str = Field(default="{prompt}, {scene}", description="how caption and scene are joined")
    counts: tuple[int, ...] = Field(default=(1,), description="objects of one class, one number drawn for each")
    classes_per_prompt: tuple[int, ...] = Field(
        default=(1,), description="classes of a prompt, taken in turn: [1, 1, 2] makes every third prompt name two"
    )
    negative_prompt: str | None = Field(default=None, description="what the picture must not show; null = nothing")

    def kinds_by_id(self, space: LabelSpace) -> dict[int, tuple[str, ...]]:
        """Kinds of each class that has any.

        Raises:
            KeyError: a name that the space does not know.
        """
        return {space.find(name).id: kinds for name, kinds in self.kinds.items() if kinds}

    def class_ids(self, space: LabelSpace) -> tuple[int, ...]:
        """Ids asked for, ascending.

        Raises:
            KeyError: a name that the space does not know.
        """
        return tuple(sorted({space.find(name).id for name in self.classes})) if self.classes else space.ids


class CaptionConfig(BaseModel):
    """How captions of a file become prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: dict[str, str] = Field(default={}, description="class name -> word that captions use for it")
    negative_prompt: str | None = Field(default=None, description="what the picture must not show; null = nothing")
    max_classes: int = Field(
        default=6, ge=1, description="captions that name more classes are left out: their masks would be crumbs"
    )


def append_classes(caption: str, class_prompt: str) -> str:
    """Class-prompt appending: "a man riding a horse; person horse". Appending twice changes nothing."""
    ending = f"; {class_prompt}"
    return caption if caption.endswith(ending) else caption.rstrip(" .;") + ending


def prompt_row(
    caption: str,
    ids: Sequence[int],
    words: Mapping[int, str],
    seed: int,
    *,
    scene: str = "",
    negative: str | None = None,
) -> Row:
    """A row of the PROMPT contract. Its id hashes everything that shapes the image, the seed included."""
    class_prompt = " ".join(words[i] for i in ids)
    prompt = append_classes(caption, class_prompt)
    return {
        "sample_id": content_id(prompt, negative, class_prompt, ",".join(map(str, ids)), str(seed)),
        "prompt": prompt,
        "negative_prompt": negative,
        "class_prompt": class_prompt,
        "class_ids": list(ids),
        "scene": scene or None,
        "seed": seed,
    }


def deal_classes(mentions: Mapping[int, int], sizes: Sequence[int], seed: int) -> list[tuple[int, ...]]:
    """Groups of distinct classes in which class c occurs exactly `mentions[c]` times.

    Classes are dealt like cards from decks that hold every class with mentions left once, so any stretch of the
    result is balanced too. `sizes` are cycled through; a group is smaller where no further class is left to fill it.
    """
    rng = np.random.default_rng(sample_seed(seed, "deal", "prompts"))
    left = {c: n for c, n in sorted(mentions.items()) if n > 0}
    deck: list[int] = []
    groups: list[tuple[int, ...]] = []
    while left or deck:
        group: list[int] = []
        wanted = sizes[len(groups) % len(sizes)]
        while len(group) < wanted:
            if not any(card not in group for card in deck):
                fresh = [c for c in left if c not in group]
                if not fresh:
                    break
                deck += [fresh[i] for i in rng.permutation(len(fresh))]
                left = {c: n - (c in fresh) for c, n in left.items() if n > (c in fresh)}
            group.append(deck.pop(next(i for i, card in enumerate(deck) if card not in group)))
        groups.append(tuple(group))
    return groups


def compose(
    ids: Sequence[int],
    words: Mapping[int, str],
    config: PromptConfig,
    rng: np.random.Generator,
    kinds: Mapping[int, Sequence[str]],
) -> tuple[str, str]:
    """A caption for these classes, and the scene it names: template, kind, count, attribute and scene are drawn from
    `config` and `kinds`.
    """
    called = {i: (_pick(kinds[i], rng) if i in kinds else "") or words[i] for i in ids}
    things = [counted(called[i], _pick(config.counts, rng), _pick(config.attributes, rng)) for i in ids]
    caption = _pick(config.templates, rng).format(objects=joined(things))
    scene = _pick(config.scenes, rng)
    return (config.scene_template.format(prompt=caption, scene=scene) if scene else caption), scene


def _pick(options: Sequence[Option], rng: np.random.Generator) -> Option:
    return options[int(rng.integers(len(options)))]


def prompts_from_mentions(
    mentions: Mapping[int, int], space: LabelSpace, config: PromptConfig, seed: int, first: int = 0
) -> list[Row]:
    """Prompt rows in which class c is asked for exactly `mentions[c]` times; `first` numbers the first row.

    Row i depends on `seed`, i and its classes only.
    """
    words, kinds = class_words(space, config.words), config.kinds_by_id(space)
    rows = []
    for index, ids in enumerate(deal_classes(mentions, config.classes_per_prompt, seed), start=first):
        rng = np.random.default_rng(sample_seed(seed, str(index), "prompt"))
        caption, scene = compose(ids, words, config, rng, kinds)
        noise = sample_seed(seed, str(index), "noise")
        rows.append(prompt_row(caption, ids, words, noise, scene=scene, negative=config.negative_prompt))
    return rows


def prompts_from_classes(space: LabelSpace, config: PromptConfig, per_class: int, seed: int) -> list[Row]:
    """A class-balanced prompt set: every class is asked for exactly `per_class` times.

    Example:
        >>> rows = prompts_from_classes(load_label_space("voc"), PromptConfig(classes_per_prompt=(1, 2)), 10, seed=0)
    """
    return prompts_from_mentions(dict.fromkeys(config.class_ids(space), per_class), space, config, seed)


def prompts_from_captions(
    captions: Iterable[str], space: LabelSpace, config: CaptionConfig, seed: int
) -> tuple[list[Row], list[str]]:
    """Prompt rows for the captions that name classes of the space, and the captions left out (none named, or too many).

    Blank lines are passed over. Row i depends on `seed`, its caption and its line number only.
    """
    words = class_words(space, config.words)
    rows, left_out = [], []
    for number, caption in enumerate(line.strip() for line in captions):
        if not caption:
            continue
        ids = classes_in(caption, space)
        if not ids or len(ids) > config.max_classes:
            left_out.append(caption)
            continue
        noise = sample_seed(seed, f"{number}|{caption}", "noise")
        rows.append(prompt_row(caption, ids, words, noise, negative=config.negative_prompt))
    return rows, left_out
