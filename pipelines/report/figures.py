"""Figures drawn as inline SVG; colours come from the page's style, so that they follow light and dark."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 340, 170
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 22, 26

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """Where a score was cut: one value, or a range where strata have their own."""

    reason: str
    low: float
    high: float

    @property
    def label(self) -> str:
        one = math.isclose(self.low, self.high, rel_tol=1e-4)
        return f"{self.low:.3g}" if one else f"{self.low:.3g} to {self.high:.3g}"


def histogram(kept: FloatArray, rejected: FloatArray, thresholds: list[Threshold], bins: int = 36) -> str:
    """Stacked histogram of a score, kept below rejected, with its thresholds, as an SVG element.

    The axis covers 99.5 % of the values (outliers are counted in the last bar) and every threshold.
    """
    values = np.concatenate([kept, rejected])
    if not np.isfinite(values).any():
        return ""
    low, high = axis(values, thresholds)
    edges = np.linspace(low, high, bins + 1)
    lower, _ = np.histogram(np.clip(kept[np.isfinite(kept)], low, high), edges)
    upper, _ = np.histogram(np.clip(rejected[np.isfinite(rejected)], low, high), edges)
    top = max(1, int((lower + upper).max()))
    parts = [f'<svg class="figure" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="histogram">']
    parts += _axes(low, high, top)
    parts += _bars(lower, upper, top)
    parts += [_cut(t, low, high) for t in thresholds if math.isfinite(t.low) and math.isfinite(t.high)]
    return "".join([*parts, "</svg>"])


def axis(values: FloatArray, thresholds: list[Threshold]) -> tuple[float, float]:
    """Lowest and highest place of a histogram's axis; some of the values must be finite."""
    values = values[np.isfinite(values)]
    cuts = [edge for t in thresholds for edge in (t.low, t.high) if math.isfinite(edge)]
    low = min([float(np.quantile(values, 0.0025)), *cuts])
    high = max([float(np.quantile(values, 0.9975)), *cuts])
    if 0 <= low < 0.25 * high:
        low = 0.0
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside [low, high], about `count` of them."""
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * n, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _x(value: float, low: float, high: float) -> float:
    return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def _axes(low: float, high: float, top: int) -> list[str]:
    base = HEIGHT - BOTTOM
    parts = [f'<text class="tick" x="{LEFT - 6}" y="{TOP + 4}" text-anchor="end">{top:,}</text>']
    parts.append(f'<text class="tick" x="{LEFT - 6}" y="{base + 3}" text-anchor="end">0</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base + 0.5}" y2="{base + 0.5}"/>')
    for value in ticks(low, high):
        x = _x(value, low, high)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{base + 16}" text-anchor="middle">{value:g}</text>')
    return parts


def _bars(lower: NDArray[np.int64], upper: NDArray[np.int64], top: int) -> list[str]:
    base, span = HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP
    width = (WIDTH - LEFT - RIGHT) / len(lower)
    parts = []
    for number, (kept, rejected) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True)):
        x, y = LEFT + number * width, float(base)
        for name, count in (("kept", kept), ("rejected", rejected)):
            if count:
                tall = count / top * span
                y -= tall
                box = f'x="{x + 0.5:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{tall:.1f}"'
                parts.append(f'<rect class="bar-{name}" {box}><title>{count} {name}</title></rect>')
    return parts


def _cut(threshold: Threshold, low: float, high: float) -> str:
    x0, x1, base = _x(threshold.low, low, high), _x(threshold.high, low, high), HEIGHT - BOTTOM
    if x1 - x0 > 1:
        band = f'<rect class="band" x="{x0:.1f}" y="{TOP}" width="{x1 - x0:.1f}" height="{base - TOP}"/>'
    else:
        band = f'<line class="cut" x1="{x0:.1f}" x2="{x0:.1f}" y1="{TOP - 6}" y2="{base}"/>'
    middle = (x0 + x1) / 2
    anchor = "start" if middle < WIDTH / 4 else "end" if middle > WIDTH * 3 / 4 else "middle"
    place = f'x="{middle:.1f}" y="{TOP - 9}" text-anchor="{anchor}"'
    return f'{band}<text class="cut-label" {place}>{threshold.label}</text>'
