"""Class names as words of a prompt: spelled-out compounds, articles, plurals, and finding them again in a caption."""

import re
from functools import lru_cache

from maskmill.data_contracts import LabelClass, LabelSpace

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
IRREGULAR = {
    "person": "people",
    "sheep": "sheep",
    "mouse": "mice",
    "knife": "knives",
    "skis": "skis",
    "scissors": "scissors",
}


def fold(word: str) -> str:
    """Letters and digits only, lower case: "Dining table", "dining-table" and "diningtable" are one word."""
    return "".join(ch for ch in word.lower() if ch.isalnum())


def spelled_out(label: LabelClass) -> str:
    """The class's name as people write it: a synonym with blanks that folds to the name ("dining table"), else the
    name.

    CLIP's renamed prompts ("person with clothes,people,human") are not used: they describe, a generator needs a name.
    """
    for synonym in label.synonyms:
        if " " in synonym and fold(synonym) == fold(label.name):
            return synonym
    return label.name.replace("_", " ")


def class_words(space: LabelSpace, overrides: dict[str, str] | None = None) -> dict[int, str]:
    """Class id to the word that prompts use; `overrides` maps class names to other words ({"aeroplane": "airplane"}).

    Raises:
        KeyError: an override names no class of the space.
    """
    words = {label.id: spelled_out(label) for label in space.classes}
    for name, word in (overrides or {}).items():
        words[space.find(name).id] = word
    return words


def plural(word: str) -> str:
    """Plural of the last word: bus → buses, dining table → dining tables, person → people."""
    head, _, last = word.rpartition(" ")
    if last in IRREGULAR:
        many = IRREGULAR[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        many = last + "es"
    elif re.search(r"[^aeiou]y$", last):
        many = last[:-1] + "ies"
    else:
        many = last + "s"
    return f"{head} {many}".strip()


def counted(word: str, count: int = 1, attribute: str = "") -> str:
    """ "an aeroplane", "a small dog", "three buses"."""
    described = f"{attribute} {word}".strip()
    if count == 1:
        return f"{'an' if described[0] in 'aeiou' else 'a'} {described}"
    return f"{NUMBERS.get(count, str(count))} {f'{attribute} {plural(word)}'.strip()}"


def joined(things: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"


@lru_cache(maxsize=16)
def _finder(space: LabelSpace) -> tuple[re.Pattern[str], dict[str, int]]:
    """One pattern of every name, synonym and plural, longest first: "hot dog" is taken before "dog" can be."""
    table: dict[str, int] = {}
    for label in space.classes:
        for word in (spelled_out(label), label.name, *label.synonyms):
            table.setdefault(word.lower(), label.id)
            table.setdefault(plural(word.lower()), label.id)
    longest_first = sorted(table, key=lambda word: (-len(word), word))
    return re.compile(r"\b(" + "|".join(re.escape(word) for word in longest_first) + r")\b"), table


def classes_in(caption: str, space: LabelSpace) -> list[int]:
    """Ids of the classes that a caption names (by name, synonym or plural), in order of first mention."""
    pattern, table = _finder(space)
    return list(dict.fromkeys(table[found] for found in pattern.findall(caption.lower())))
