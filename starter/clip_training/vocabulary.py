"""Every noun gets a place in the space: where a photo of it should land.

- a class, or a noun above classes: the mean of their rows;
- a noun right below a class: that class's row;
- any other visible noun: kernel ridge regression from class rows, with a kernel of (a) the sentence encoder's
  similarity of the definitions, (b) of the names, (c) what the two have in common in WordNet (information content of
  the nearest common ancestor, Resnik 1995). Power and ridge were chosen by leaving one class out, with no photo.
- everyday words and stuff that these rules get wrong: `compositions.yaml`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import torch
import yaml
from torch import Tensor
from torch.nn import functional

from maskmill.starter.clip_training.sentences import SentenceEncoder
from maskmill.starter.clip_training.wordnet import WordNet

DEFINITION, NAME, COMMON_ANCESTOR = 0.7, 0.3, 0.3
POWER = 3
RIDGE = 0.2
#: Above this many classes the mean row of an abstract noun ("entity") says nothing.
MAX_BELOW = 60
MEANINGS = 4
#: WordNet's file of people, most of whom cannot be told apart in a photo.
PEOPLE = 18

Vocabulary = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Placement:
    """Targets of WordNet nouns. `class_ids` and `rows` (1000, 160) are the classifier's; `ids` are all nouns used."""

    wordnet: WordNet
    class_ids: Sequence[str]
    rows: Tensor
    ids: Sequence[str]
    definitions: Tensor
    names: Tensor

    @cached_property
    def class_index(self) -> dict[str, int]:
        return {wnid: index for index, wnid in enumerate(self.class_ids)}

    @cached_property
    def below(self) -> dict[str, list[int]]:
        """Classes at or below each noun that has any."""
        found: dict[str, list[int]] = {}
        for index, wnid in enumerate(self.class_ids):
            for above in self.wordnet.ancestors(wnid):
                found.setdefault(above, []).append(index)
        return found

    @cached_property
    def content(self) -> dict[str, float]:
        """Information content of a noun: 0 for the root, 1 for a single class."""
        n = len(self.class_ids)
        return {wnid: -math.log(len(members) / n) / math.log(n) for wnid, members in self.below.items()}

    def common_ancestors(self, ids: Sequence[str]) -> Tensor:
        """Information content of the nearest common ancestor of each noun and each class: (len(ids), 1000)."""
        out = torch.zeros(len(ids), len(self.class_ids))
        members = {wnid: torch.tensor(rows) for wnid, rows in self.below.items()}
        for row, wnid in enumerate(ids):
            shared = [above for above in self.wordnet.ancestors(wnid) if above in self.content]
            for above in sorted(shared, key=self.content.__getitem__):
                out[row, members[above]] = self.content[above]
        return out

    @cached_property
    def regressed(self) -> dict[str, Tensor]:
        """Kernel ridge regression of every noun in `ids`."""
        at = {wnid: row for row, wnid in enumerate(self.ids)}
        own = [at[wnid] for wnid in self.class_ids]
        definitions, names = self.definitions[own], self.names[own]

        def kernel(ids: Sequence[str], rows: Sequence[int]) -> Tensor:
            similar = DEFINITION * self.definitions[rows] @ definitions.T + NAME * self.names[rows] @ names.T
            return (similar + COMMON_ANCESTOR * self.common_ancestors(ids)).clamp_min(0) ** POWER

        gram = kernel(self.class_ids, own)
        weights = torch.linalg.solve(gram + RIDGE * torch.eye(len(own)), self.rows)
        out: dict[str, Tensor] = {}
        for start in range(0, len(self.ids), 1000):
            part = self.ids[start : start + 1000]
            values = functional.normalize(kernel(part, range(start, start + len(part))) @ weights, dim=1)
            out.update(zip(part, values, strict=True))
        return out

    def of_synset(self, wnid: str) -> tuple[Tensor, bool] | None:
        """Target of one meaning, and whether classes speak for it; None for a meaning that was not encoded."""
        if wnid in self.class_index:
            return self.rows[self.class_index[wnid]], True
        synset, members = self.wordnet.synsets[wnid], self.below.get(wnid, [])
        if members and (synset.visible or len(members) < MAX_BELOW):
            return functional.normalize(self.rows[members].mean(0), dim=0), True
        for parent in synset.parents:
            if parent in self.class_index:
                return self.rows[self.class_index[parent]], True
        return (self.regressed[wnid], False) if wnid in self.regressed else None

    def of_name(self, name: str) -> Tensor | None:
        """Target of a name: of its two most frequent meanings that classes speak for, else of its first visible one."""
        meanings = [
            wnid
            for wnid in self.wordnet.senses.get(name, ())
            if self.wordnet.synsets[wnid].visible or wnid in self.below
        ]
        found = [target for wnid in meanings[:MEANINGS] if (target := self.of_synset(wnid)) is not None]
        known = [target for target, by_class in found if by_class][:2]
        chosen = known or [target for target, _ in found[:1]]
        if not chosen:
            return None
        return functional.normalize(sum((0.5**i * t for i, t in enumerate(chosen)), torch.zeros_like(chosen[0])), dim=0)


def nouns_to_place(wordnet: WordNet, class_ids: Sequence[str], imagenet21k: Sequence[str]) -> list[str]:
    """The classes, the visible meanings of all nouns that occur in tagged text, then the rest of ImageNet-21k."""
    first = list(class_ids)
    common = [
        wnid
        for name, senses in wordnet.senses.items()
        if wordnet.frequency.get(name, 0) and name.count(" ") <= 1 and name.isascii()
        for wnid in senses[:3]
    ]
    rest = [wnid for wnid in imagenet21k if wnid in wordnet.synsets]
    visible = (w for w in [*common, *rest] if wordnet.synsets[w].visible and wordnet.synsets[w].lexfile != PEOPLE)
    return list(dict.fromkeys([*first, *visible]))


def place(wordnet: WordNet, class_ids: Sequence[str], rows: Tensor, ids: Sequence[str]) -> Placement:
    """Encode the definitions and names of `ids`."""
    encoder = SentenceEncoder()
    synsets = [wordnet.synsets[wnid] for wnid in ids]
    definitions = encoder.encode([f"{', '.join(s.names[:3])}: {s.definition}" for s in synsets])
    return Placement(wordnet, class_ids, rows, ids, definitions, encoder.encode([s.names[0] for s in synsets]))


def build_vocabulary(placement: Placement, looks: Mapping[str, Tensor]) -> Vocabulary:
    """Texts and unit targets (160,) in groups: `hand`, `core` (class names), `full` (their name lists and definitions),
    `common` (other nouns that occur in tagged text), `broad` (all other nouns).

    Args:
        looks: region prototypes, see regions.py.
    """
    wordnet = placement.wordnet
    hand = compose(placement, looks)
    core: dict[str, list[Tensor]] = {}
    full: dict[str, Tensor] = {}
    for wnid, row in zip(placement.class_ids, placement.rows, strict=True):
        synset = wordnet.synsets[wnid]
        for name in synset.names:
            core.setdefault(name, []).append(row)
        for text in (", ".join(synset.names), ", ".join(synset.names[:2]), " ".join(synset.names[:2])):
            full[text] = row
        full[synset.definition.lower()] = row
    names = dict.fromkeys(name for wnid in placement.ids for name in wordnet.synsets[wnid].names)
    others = {name: t for name in names if name not in core and name not in hand and _is(t := placement.of_name(name))}
    return {
        "hand": hand,
        "core": {name: functional.normalize(torch.stack(rows).sum(0), dim=0) for name, rows in core.items()},
        "full": full,
        "common": {name: t for name, t in others.items() if wordnet.frequency.get(name, 0)},
        "broad": others,
    }


def _is(target: Tensor | None) -> TypeGuard[Tensor]:
    return target is not None


def compose(placement: Placement, looks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The words of `compositions.yaml`.

    Raises:
        ValueError: a class or part that does not exist; the message names the words it stands for.
    """
    rows_by_name: dict[str, Tensor] = {}
    for wnid, row in zip(placement.class_ids, placement.rows, strict=True):
        for name in placement.wordnet.synsets[wnid].names:
            rows_by_name.setdefault(name, row)
    out: dict[str, Tensor] = {}
    for entry in yaml.safe_load((Path(__file__).parent / "compositions.yaml").read_text()):
        total = torch.zeros(placement.rows.shape[1])
        for part, weight in entry["parts"].items():
            try:
                total = total + weight * _part(part, entry, placement, looks, rows_by_name, out)
            except KeyError as error:
                raise ValueError(f"compositions.yaml, words {entry['words']}: no {error} in part {part!r}") from error
        target = functional.normalize(total, dim=0)
        out.update(dict.fromkeys((str(word) for word in entry["words"]), target))
    return out


def _part(
    part: str,
    entry: Mapping[str, Any],
    placement: Placement,
    looks: Mapping[str, Tensor],
    rows_by_name: Mapping[str, Tensor],
    words: Mapping[str, Tensor],
) -> Tensor:
    kind, _, name = part.partition(":")
    if kind == "classes":
        return functional.normalize(torch.stack([rows_by_name[c] for c in entry["classes"]]).mean(0), dim=0)
    if kind == "class":
        return rows_by_name[name]
    if kind == "region":
        return looks[name]
    if kind == "word":
        return words[name]
    wnid = placement.wordnet.senses[name][0]
    if kind == "below":
        return functional.normalize(placement.rows[placement.below[wnid]].mean(0), dim=0)
    raise KeyError(kind)
