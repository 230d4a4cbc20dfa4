"""What a person may have meant by a word that is not known."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
MARKS = re.compile(r"[\\`*\[\]|~]|^[#+=-]|(?<=^\d)[.)]|(?<=^\d\d)[.)]")


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


def visible(text: str) -> str:
    """Text that does nothing to a terminal: control characters and marks that turn the direction of writing are shown
    as escapes; line ends and tabs stay.
    """
    return CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def in_markdown(text: str, most: int = 500) -> str:
    """Words from data as one line of Markdown that says them and does nothing else: no heading, link or tag."""
    line = " ".join(visible(text).split())
    line = line if len(line) <= most else f"{line[:most]}…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKS.sub(r"\\\g<0>", line)
