"""What a person may have meant by a word that is not known."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


def close_to(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Known words that look like `word`, in any spelling of case, blanks, hyphens and underscores, best first.

    >>> close_to("adb", ["abd", "weclip"])
    ['abd']
    """
    folded = {_fold(name): name for name in known}
    return [folded[match] for match in get_close_matches(_fold(word), folded, n=count, cutoff=0.6)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "abd"?` where something known looks like `word`, else nothing: to be put behind a message."""
    found = close_to(word, known, count=2)
    return f"; did you mean {' or '.join(repr(name) for name in found)}?" if found else ""


def _fold(word: str) -> str:
    return re.sub(r"[\s_-]+", "_", word.strip().casefold())
