"""Nouns of WordNet 3.0 as a small graph, read from the database files `data.noun` and `index.noun`.

ImageNet's class ids are WordNet 3.0 offsets (`n01440764` is offset 01440764), so the graph says which of a classifier's
1,000 classes lie below any noun. Debian ships the files as `wordnet-base` (`/usr/share/wordnet`).
File format: wndb(5WN), https://wordnet.princeton.edu/documentation/wndb5wn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

#: Lexicographer files whose nouns can be seen in a photo: animal, artifact, body, food, object, person, phenomenon,
#: plant, possession (coins), shape, substance.
VISIBLE_FILES = frozenset({5, 6, 8, 13, 17, 18, 19, 20, 21, 25, 27})


@dataclass(frozen=True)
class Synset:
    """One noun meaning: its id (`n` + eight digits), names (spaces, lower case), parents' ids and gloss."""

    wnid: str
    names: tuple[str, ...]
    parents: tuple[str, ...]
    gloss: str
    lexfile: int

    @property
    def definition(self) -> str:
        """The gloss without its examples and further clauses."""
        return self.gloss.split(";")[0]

    @property
    def visible(self) -> bool:
        return self.lexfile in VISIBLE_FILES


@dataclass(frozen=True)
class WordNet:
    """All noun synsets by id; the ids of each name from its most to its least frequent meaning; and how many of a
    name's meanings occur in WordNet's tagged text.
    """

    synsets: dict[str, Synset]
    senses: dict[str, tuple[str, ...]]
    frequency: dict[str, int]

    @cached_property
    def children(self) -> dict[str, list[str]]:
        below: dict[str, list[str]] = {wnid: [] for wnid in self.synsets}
        for synset in self.synsets.values():
            for parent in synset.parents:
                below[parent].append(synset.wnid)
        return below

    def descendants(self, wnid: str) -> set[str]:
        """The synset itself and everything below it."""
        return self._closure(wnid, self.children)

    def ancestors(self, wnid: str) -> set[str]:
        """The synset itself and everything above it."""
        return self._closure(wnid, {key: list(value.parents) for key, value in self._above(wnid).items()})

    def _above(self, wnid: str) -> dict[str, Synset]:
        found: dict[str, Synset] = {}
        todo = [wnid]
        while todo:
            current = todo.pop()
            if current not in found:
                found[current] = self.synsets[current]
                todo.extend(self.synsets[current].parents)
        return found

    @staticmethod
    def _closure(start: str, edges: dict[str, list[str]]) -> set[str]:
        seen = {start}
        todo = [start]
        while todo:
            for nxt in edges[todo.pop()]:
                if nxt not in seen:
                    seen.add(nxt)
                    todo.append(nxt)
        return seen


def read_wordnet(folder: Path) -> WordNet:
    """Read `data.noun` and `index.noun` in `folder`.

    Raises:
        FileNotFoundError: if either file is missing.
    """
    for name in ("data.noun", "index.noun"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}: install Debian's wordnet-base or name its folder")
    synsets = dict(_parse_synset(line) for line in _lines(folder / "data.noun"))
    index = [_parse_index(line) for line in _lines(folder / "index.noun")]
    return WordNet(synsets, {name: ids for name, ids, _ in index}, {name: tagged for name, _, tagged in index})


def _lines(path: Path) -> list[str]:
    # The licence text at the top is indented by two blanks; entries are not.
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("  ")]


def _parse_synset(line: str) -> tuple[str, Synset]:
    head, _, gloss = line.partition("|")
    fields = head.split()
    n_words = int(fields[3], 16)
    names = tuple(fields[4 + 2 * i].replace("_", " ").lower() for i in range(n_words))
    pointers = fields[5 + 2 * n_words :]
    parents = tuple(f"n{pointers[i + 1]}" for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i"))
    wnid = f"n{fields[0]}"
    return wnid, Synset(wnid, names, parents, gloss.strip(), int(fields[1]))


def _parse_index(line: str) -> tuple[str, tuple[str, ...], int]:
    fields = line.split()
    n = int(fields[2])
    return fields[0].replace("_", " "), tuple(f"n{offset}" for offset in fields[-n:]), int(fields[-n - 1])
