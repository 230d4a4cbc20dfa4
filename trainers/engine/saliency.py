"""The measures of saliency and co-saliency as the field computes them: S, E and F (max, mean, adaptive), MAE."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Uint8Array


class SaliencyMetrics:
    """Means over images, at their own size, of 8-bit maps. `update` image by image, `compute` when done.

    E, F and S see each map stretched by its min and max; MAE sees it raw. The curves of E and F over 256 thresholds are
    averaged over images before their maximum is taken. From `py_sod_metrics`.
    """

    def __init__(self) -> None:
        from py_sod_metrics import MAE, Emeasure, FmeasureHandler, FmeasureV2, Smeasure

        self._s, self._e, self._mae = Smeasure(), Emeasure(), MAE()
        self._f = FmeasureV2({"fm": FmeasureHandler(beta=0.3, with_dynamic=True, with_adaptive=True)})
        self.images = 0

    def update(self, saliency: Uint8Array, mask: Uint8Array, background: int = 0) -> None:
        """Count one image: `saliency` uint8 (H, W), 255 = object; `mask` uint8 (H, W), any id but that of the
        background = object. Pixels that the mask leaves open (255) count as background in both.

        Raises:
            ValueError: sizes or dtypes differ.
        """
        if saliency.shape != mask.shape or saliency.dtype != np.uint8 or mask.dtype != np.uint8:
            raise ValueError(
                f"expected two uint8 maps of one size, found {saliency.dtype} {saliency.shape} and "
                f"{mask.dtype} {mask.shape}; resize the map to the mask"
            )
        saliency = np.where(mask == IGNORE, np.uint8(0), saliency)
        truth = (mask != background) & (mask != IGNORE)
        for measure in (self._s, self._e, self._f):
            measure.step(saliency, truth.astype(np.uint8) * 255)
        self._mae.step(saliency.astype(np.float64) / 255, truth, normalize=False)
        self.images += 1

    def each(self) -> dict[str, list[float]]:
        """S and MAE image by image, in the order of `update`."""
        return {"s": [float(v) for v in self._s.sms], "mae": [float(v) for v in self._mae.maes]}

    def compute(self) -> dict[str, float]:
        """s, E and F as max_, mean_ and adaptive_, mae, and `images`.

        Raises:
            ValueError: no image was counted.
        """
        if not self.images:
            raise ValueError("expected at least one image, found none; ingest groups with masks")
        e, f = self._e.get_results()["em"], self._f.get_results()["fm"]
        return {
            "s": float(self._s.get_results()["sm"]),
            "max_e": float(np.max(e["curve"])),
            "max_f": float(np.max(f["dynamic"])),
            "mean_e": float(np.mean(e["curve"])),
            "mean_f": float(np.mean(f["dynamic"])),
            "adaptive_e": float(e["adp"]),
            "adaptive_f": float(np.mean(f["adaptive"])),
            "mae": float(self._mae.get_results()["mae"]),
            "images": self.images,
        }


def score_maps(saliency: Sequence[Uint8Array], masks: Sequence[Uint8Array]) -> dict[str, float]:
    """The measures of maps and their true masks, in the same order.

    Raises:
        ValueError: their counts differ.
    """
    if len(saliency) != len(masks):
        raise ValueError(f"expected a map for each of {len(masks)} masks, found {len(saliency)}; predict them all")
    metrics = SaliencyMetrics()
    for one, mask in zip(saliency, masks, strict=True):
        metrics.update(one, mask)
    return metrics.compute()


def to_map(share: NDArray[np.float32]) -> Uint8Array:
    """Shares in [0, 1] to 8 bits."""
    rounded: Uint8Array = np.rint(255 * share).astype(np.uint8)
    return rounded
