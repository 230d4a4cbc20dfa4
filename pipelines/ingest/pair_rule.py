"""The `pair` pattern: one regular expression that says which photo and which masks belong together by their names."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

MOST_NAMES = 100  # photos and masks that a pattern is guessed from
GROUPS = frozenset(("key", "key2", "image", "mask", "class"))


@dataclass(frozen=True)
class Match:
    """What a name says: its key, which side it is on ("image", "mask", or "" for either), and the class it names."""

    key: str
    side: str
    word: str | None


@dataclass(frozen=True)
class PairRule:
    """`pattern` must fit a whole name without suffix (with its folders, if it holds a "/"). Its groups: `key` (and
    `key2`) is what photo and mask have in common; `image` and `mask` are what only one of them has; `class` is the
    class of a mask, a name or an id.
    """

    pattern: str

    def __post_init__(self) -> None:
        groups = set(self._compiled.groupindex)
        if "key" not in groups or groups - GROUPS:
            found = f"groups {sorted(groups)}" if groups else "no named group"
            raise ValueError(
                f"pair: expected the named group `key`, and perhaps key2, image, mask, class, found {found} in "
                f"{self.pattern!r}, e.g. (?P<key>.+)_(?:(?P<image>img)|(?P<mask>gt))"
            )

    @cached_property
    def _compiled(self) -> "re.Pattern[str]":
        return compiled(self.pattern, "pair")

    def match(self, stem: str) -> Match | None:
        """What the stem says; None where it does not fit."""
        folder, slash, name = stem.rpartition("/")
        whole = "/" in self.pattern
        found = self._compiled.fullmatch(stem if whole else name)
        if found is None:
            return None
        groups = found.groupdict()
        key = (groups["key"] or "") + (groups.get("key2") or "")
        side = next((side for side in ("image", "mask") if groups.get(side) is not None), self._other_side())
        return Match(unicodedata.normalize("NFC", key if whole else f"{folder}{slash}{key}"), side, groups.get("class"))

    def _other_side(self) -> str:
        """The side of a name that has neither mark, where the pattern marks one side only."""
        marks = {"image", "mask"} & set(self._compiled.groupindex)
        return "" if len(marks) != 1 else "mask" if marks == {"image"} else "image"


def compiled(pattern: str, option: str) -> "re.Pattern[str]":
    """The pattern that an option gives.

    Raises:
        ValueError: it is no regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{option}: expected a regular expression, found {pattern!r}: {error}") from error


BY_FOLDER = "(?P<key>.+)/[^/]+"  # a folder a sample, whatever the files in it are called


def guess_pattern(photos: Iterable[str], masks: Iterable[str]) -> str | None:
    """A pattern that pairs most of these stems, which differ by what stands before, behind or inside of what they have
    in common; None where there is none.
    """
    left, right = list(photos)[:MOST_NAMES], list(masks)[: 3 * MOST_NAMES]
    votes = Counter(edit for photo in left for mask in right if (edit := _edit(photo, mask)) is not None)
    ordered = sorted(votes, key=lambda edit: (-votes[edit], len(edit[1]) + len(edit[2]), edit))
    often = [edit for edit in ordered[:10] if votes[edit] > 1 or min(len(left), len(right)) == 1]
    for pattern in (*map(_pattern, often), BY_FOLDER):
        if 2 * _paired(PairRule(pattern), left, right) >= len(left):
            return pattern
    return None


def _edit(photo: str, mask: str) -> tuple[str, str, str] | None:
    """("start", "end" or "middle", what the photo has there, what the mask has there), for names in one folder."""
    if photo.rpartition("/")[0] != mask.rpartition("/")[0] or photo == mask:
        return None
    one, two = photo.rsplit("/", 1)[-1], mask.rsplit("/", 1)[-1]
    edit = _inserted(one, two) or _at_an_end(one, two)
    if edit is None:
        return None
    numbers = [re.findall(r"\d+", part) for part in edit[1:]]
    return None if all(numbers) and numbers[0] != numbers[1] else edit  # two numbers are two samples


def _inserted(one: str, two: str) -> tuple[str, str, str] | None:
    """What stands before the number that both names end in, where only one of them has something there."""
    tail = re.search(r"\d*$", one)
    number = tail.group() if tail is not None else ""
    short, long = sorted((one, two), key=len)
    head = short[: len(short) - len(number)]
    if not number or not head or not (long.startswith(head) and long.endswith(number)):
        return None
    middle = long[len(head) : len(long) - len(number)]
    if not any(letter.isalpha() for letter in middle) or not short.endswith(number):
        return None
    return ("middle", middle, "") if long == one else ("middle", "", middle)


def _at_an_end(one: str, two: str) -> tuple[str, str, str] | None:
    start, end = _common(one, two), _common(one[::-1], two[::-1])
    if start >= end:
        cut = next((n for n in range(start, 0, -1) if _is_seam(one, n) and _is_seam(two, n)), 0)
        return ("end", one[cut:], two[cut:]) if cut else None
    cut = next((n for n in range(end, 0, -1) if _is_seam(one, len(one) - n) and _is_seam(two, len(two) - n)), 0)
    return ("start", one[: len(one) - cut], two[: len(two) - cut]) if cut else None


def _is_seam(name: str, at: int) -> bool:
    """Whether a name may be cut there: neither inside a word nor inside a number."""
    around = name[max(at - 1, 0) : at + 1]
    return not 0 < at < len(name) or not (around.isalpha() or around.isdigit())


def _common(one: str, two: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def _pattern(edit: tuple[str, str, str]) -> str:
    place, image, mask = edit[0], re.escape(edit[1]), re.escape(edit[2])
    sides = f"(?:(?P<image>{image})|(?P<mask>{mask}))" if image and mask else ""
    sides = sides or (f"(?P<image>{image})?" if image else f"(?P<mask>{mask})?")
    if place == "middle":
        return f"(?P<key>.+?){sides}(?P<key2>\\d+)"
    return f"(?P<key>.+?){sides}" if place == "end" else f"{sides}(?P<key>.+)"


def _paired(rule: PairRule, photos: Sequence[str], masks: Sequence[str]) -> int:
    """Photos that get masks of their own; 0 where two photos would share one key."""
    there = {match.key for stem in masks if (match := rule.match(stem)) is not None and match.side != "image"}
    keys = [match.key for stem in photos if (match := rule.match(stem)) is not None and match.side != "mask"]
    return sum(key in there for key in keys) if len(set(keys)) == len(keys) else 0
