"""Colours of outcomes: the same one for a reason in every run, and told apart in grey and by people who see no hues."""

import colorsys

from maskmill.data_contracts import Reason
from maskmill.pipelines.core.ledger import KEPT

PATTERNS = ("plain", "rising", "falling", "dots", "level")  # classes of report.css
GREYS = (0.28, 0.56, 0.40, 0.68, 0.34, 0.62)  # luma; what follows in the list of reasons is never close
HUES = (228, 22, 352, 46, 282, 322)  # those that look well in these greys
TURN = 31  # degrees further with each pattern
KEPT_LUMA = 0.47
SATURATION = 0.62


def reason_colour(reason: str) -> str:
    """`#rrggbb` of a reason. It depends on the reason alone; reasons that this version does not know are grey."""
    if reason == KEPT:
        return _hex(168, 0.70, KEPT_LUMA)
    place = _place(reason)
    if place is None:
        return "#8a8d94"
    number, round_of = place % len(GREYS), place // len(GREYS)
    return _hex((HUES[number] + TURN * round_of) % 360, SATURATION, GREYS[number])


def reason_pattern(reason: str) -> str:
    """The pattern that lies over the colour; with its grey it belongs to one reason alone."""
    place = _place(reason)
    return PATTERNS[0] if place is None or reason == KEPT else PATTERNS[place // len(GREYS) % len(PATTERNS)]


def luma(colour: str) -> float:
    """How bright `#rrggbb` prints in grey, 0..1 (Rec. 601)."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _place(reason: str) -> int | None:
    """Number of a reason counted from the last one: selection's, which stand beside each other most, come first."""
    known = [r.value for r in Reason if r is not Reason.KEPT]
    return None if reason not in known else len(known) - 1 - known.index(reason)


def _hex(hue: float, saturation: float, wanted: float) -> str:
    """The colour of a hue that prints in the grey `wanted`, found by halving the range of its lightness."""
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        if luma(_rgb(hue, middle, saturation)) < wanted:
            low = middle
        else:
            high = middle
    return _rgb(hue, low, saturation)


def _rgb(hue: float, lightness: float, saturation: float) -> str:
    red, green, blue = colorsys.hls_to_rgb(hue / 360, lightness, saturation)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
