"""Dense CRF: sharpen class probabilities along the edges of the image, by mean-field inference with Gaussian pairwise
terms.

Source: P. Krähenbühl, V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS
2011. Two backends behind one function: `mean_field`, ours, which always works, and `pydensecrf` (package pydensecrf2,
built from source with a C++ compiler), the one that the published methods used.
"""

from collections.abc import Callable
from functools import partial, reduce

import cv2
import numpy as np
from numpy.typing import NDArray

from maskmill.vision.crf_options import CrfBackend, crf_backend
from maskmill.vision.refine.lattice import Lattice

Float32 = NDArray[np.float32]
Uint8 = NDArray[np.uint8]

CLIP_ES_MEAN_BGR = (104.008, 116.669, 122.675)
MIN_PROBABILITY = 1e-5  # floor under the logarithm of the unary term, as in pydensecrf's unary_from_softmax


def dense_crf(
    image: Uint8,
    probs: Float32,
    *,
    iterations: int = 10,
    gaussian_sxy: float = 1,
    gaussian_weight: float = 3,
    bilateral_sxy: float = 67,
    bilateral_srgb: float = 3,
    bilateral_weight: float = 4,
    backend: CrfBackend = "mean_field",
) -> Float32:
    """Refine `probs` float32 (C, H, W) by `image` uint8 (H, W, 3); returns float32 (C, H, W) that sums to 1 over C.

    Energy: -ln p per pixel, plus a Potts term with kernel gaussian_weight * exp(-|Δxy|²/2 gaussian_sxy²) +
    bilateral_weight * exp(-|Δxy|²/2 bilateral_sxy² - |Δrgb|²/2 bilateral_srgb²), each normalised symmetrically. Widths
    are standard deviations in pixels and in grey levels; a weight of 0 switches a term off. `probs` need not sum to 1
    (CLIP-ES' stacked maps do not). Defaults: CLIP-ES / SDS.

    Raises:
        ValueError: shapes or types that do not fit, an unknown backend, or non-positive widths.
    """
    _check(image, probs, (gaussian_sxy, bilateral_sxy, bilateral_srgb))
    unary = -np.log(np.clip(probs, MIN_PROBABILITY, 1.0, dtype=np.float32))
    gaussian = (gaussian_sxy, gaussian_weight)
    bilateral = (bilateral_sxy, bilateral_srgb, bilateral_weight)
    infer = _pydensecrf if crf_backend(backend) == "pydensecrf" else _mean_field
    return infer(np.ascontiguousarray(image), unary, iterations, gaussian, bilateral)


def _check(image: Uint8, probs: Float32, widths: tuple[float, ...]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"dense_crf: image must be uint8 (H, W, 3), found {image.dtype} {image.shape}")
    if probs.ndim != 3 or probs.shape[1:] != image.shape[:2]:
        raise ValueError(f"dense_crf: probs must be (C, {image.shape[0]}, {image.shape[1]}), found {probs.shape}")
    if not np.isfinite(probs).all():
        raise ValueError("dense_crf: probs holds values that are not finite")
    if min(widths) <= 0:
        raise ValueError(f"dense_crf: kernel widths must be positive, found {widths}")


def _mean_field(
    image: Uint8, unary: Float32, iterations: int, gaussian: tuple[float, float], bilateral: tuple[float, float, float]
) -> Float32:
    """Our own inference: a separable Gaussian for smoothness, the permutohedral lattice for the bilateral term."""
    classes, height, width = unary.shape
    potential = np.ascontiguousarray(unary.reshape(classes, -1).T)  # (N, C)
    terms: list[tuple[float, Callable[[Float32], Float32]]] = []
    if gaussian[1]:
        taps = _gaussian_taps(gaussian[0], max(height, width))
        terms.append((gaussian[1], partial(_smooth, shape=(height, width), taps=taps)))
    if bilateral[2]:
        terms.append((bilateral[2], Lattice(_bilateral_features(image, *bilateral[:2])).filter))
    ones = np.ones((height * width, 1), dtype=np.float32)
    norms: list[Float32] = [np.reciprocal(np.sqrt(kernel(ones))) for _, kernel in terms]

    belief = _softmax(-potential)
    for _ in range(iterations):
        score = -potential
        for (weight, kernel), norm in zip(terms, norms, strict=True):
            score += np.float32(weight) * norm * kernel(norm * belief)
        belief = _softmax(score)
    return np.ascontiguousarray(belief.T).reshape(classes, height, width)


def _smooth(values: Float32, shape: tuple[int, int], taps: Float32) -> Float32:
    """Separable filter of (N, C) on the grid `shape`; nothing lies beyond the border."""
    planes = values.reshape(*shape, -1)
    out = cv2.sepFilter2D(planes, cv2.CV_32F, taps, taps, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(out, dtype=np.float32).reshape(values.shape)


def _bilateral_features(image: Uint8, sxy: float, srgb: float) -> NDArray[np.float64]:
    """(N, 5): position and colour, each in units of its standard deviation."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    return np.concatenate([np.stack([x, y], axis=-1) / sxy, image / srgb], axis=-1).reshape(-1, 5)


def _gaussian_taps(sigma: float, longest: int) -> Float32:
    """One-dimensional Gaussian out to 4 sigma, not normalised (the symmetric normalisation does it)."""
    radius = min(int(np.ceil(4 * sigma)), longest)
    offsets = np.arange(-radius, radius + 1)
    taps: Float32 = np.exp(-(offsets**2) / (2 * sigma**2)).astype(np.float32)
    return taps


def _softmax(scores: Float32) -> Float32:
    """Softmax over the last axis."""
    # Column by column: numpy's own reduction over a last axis of a few classes is several times slower.
    exp: Float32 = np.exp(scores - reduce(np.maximum, scores.T)[:, None])
    exp /= reduce(np.add, exp.T)[:, None]
    return exp


def _pydensecrf(
    image: Uint8, unary: Float32, iterations: int, gaussian: tuple[float, float], bilateral: tuple[float, float, float]
) -> Float32:
    from pydensecrf import densecrf

    classes, height, width = unary.shape
    crf = densecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(classes, -1)))
    if gaussian[1]:
        crf.addPairwiseGaussian(sxy=gaussian[0], compat=gaussian[1])
    if bilateral[2]:
        writable = image.copy()  # it refuses a read-only buffer
        crf.addPairwiseBilateral(sxy=bilateral[0], srgb=bilateral[1], rgbim=writable, compat=bilateral[2])
    return np.asarray(crf.inference(iterations), dtype=np.float32).reshape(classes, height, width)


def wrapped_bgr(image: Uint8) -> Uint8:
    """The image that CLIP-ES hands to its CRF: BGR minus the mean, cast to uint8 so that negative values wrap (10 - 104
    -> 162).

    A slip of the released code which moves the colour edges; callers use it only to reproduce published numbers.
    """
    shifted = image[..., ::-1].astype(np.float32) - np.array(CLIP_ES_MEAN_BGR, dtype=np.float32)
    return np.trunc(shifted).astype(np.int64).astype(np.uint8)
