"""Does selection pay? The subsets' segmenters side by side, and a sentence that says how sure one may be."""

import math
from dataclasses import dataclass

import numpy as np

from maskmill.pipelines.report.thumbs import data_uri
from maskmill.pipelines.stages.downstream import SubsetResult

SURE = 2.0  # standard errors from 0


@dataclass(frozen=True)
class SubsetRow:
    """A segmenter trained on a subset: metrics 0..1, `spread` of IoU over the classes (SD), overlays as a data URI."""

    words: str
    samples: int
    images: int
    miou: float
    spread: float | None
    dice: float
    pixel_accuracy: float
    overlays: str


def subset_rows(results: list[SubsetResult]) -> list[SubsetRow]:
    """What the page says of each subset."""
    rows = []
    for result in results:
        miou, dice, right = (float(result.metrics[name] or 0.0) for name in ("miou", "dice", "pixel_accuracy"))
        ious = list(_ious(result).values())
        spread = float(np.std(ious, ddof=1)) if len(ious) > 1 else None
        picture = "" if result.overlays is None else data_uri("image/png", result.overlays)
        images = int(result.metrics["images"])
        rows.append(SubsetRow(result.words, result.samples, images, miou, spread, dice, right, picture))
    return rows


def verdict(results: list[SubsetResult]) -> str:
    """Whether what was kept teaches more than as many samples at random, with the spread over the classes; empty
    where one of the two was not trained.
    """
    by_words = {result.words: result for result in results}
    kept, chance = by_words.get("what was kept"), by_words.get("as many at random")
    if kept is None or chance is None:
        return ""
    one, other = _ious(kept), _ious(chance)
    gains = [100 * (one[name] - other[name]) for name in one if name in other]
    if len(gains) < 2:
        return "Too few classes were tested to say how far the difference could be chance."
    mean, error = float(np.mean(gains)), float(np.std(gains, ddof=1)) / math.sqrt(len(gains))
    sure = abs(mean) > SURE * error
    answer = ("Yes" if mean > 0 else "No, it costs") if sure else "It cannot be told from chance"
    better = sum(gain > 0 for gain in gains)
    return (
        f"{answer}: trained on what was kept, the segmenter's IoU is {abs(mean):.1f} points "
        f"{'higher' if mean > 0 else 'lower'} than trained on as many samples at random (mean over {len(gains)} "
        f"classes, standard error {error:.1f}), and higher for {better} of the classes. Each was trained once; another "
        "seed would move the numbers, too."
    )


def _ious(result: SubsetResult) -> dict[str, float]:
    found = result.metrics.get("iou") or {}
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}
