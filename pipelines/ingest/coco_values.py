"""What tools write where COCO has a number: ids as 1.0 or "1", flags as text, sizes as floats or not at all."""

import math
from typing import Any, Literal

from maskmill.data_contracts import storable

YES = frozenset(("1", "1.0", "true", "yes", "y", "t"))
NO = frozenset(("", "0", "0.0", "false", "no", "n", "f", "none", "null"))
COCO_CROWDS = 900_100_000_000  # COCO numbers its own crowds from here on
MAKER = "exported by maskmill"


def identity(value: object) -> str | None:
    """An id as text: 7, 7.0, "7" and "7.0" are one; None for what is no id (null, true, a list, NaN)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        number = _number(value)
        return identity(number) if number is not None else storable(value.strip()) or None
    if isinstance(value, float):
        return str(int(value)) if math.isfinite(value) and value.is_integer() else None
    return str(value)


def _number(text: str) -> int | float | None:
    """The number that a text writes plainly; "007" and "1e3" stay texts."""
    plain = text.strip()
    if plain.removeprefix("-").isdecimal() and plain.isascii():
        return int(plain) if len(plain) < 20 and str(int(plain)) == plain else None
    whole, dot, rest = plain.partition(".")
    return _number(whole) if dot and rest and set(rest) == {"0"} else None


def flag(value: object) -> bool | None:
    """A yes or no as tools write it; None for what is neither. "0" is no."""
    if value is None:
        return False
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in YES else False if word in NO else None
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def length(value: object) -> int | Literal[False] | None:
    """A width or height: a whole number from 1 on, also as float or text; None for not stated (null, 0, -1, "");
    False for what is neither.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = _number(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value != int(value):
        return False
    return int(value) if value > 0 else None if value in (0, -1) else False


def named(note: Any) -> str:
    """How messages name an annotation."""
    number = note.get("id") if isinstance(note, dict) else None
    return f"annotation {storable(str(number))[:40]}" if number is not None else "an annotation without an id"
