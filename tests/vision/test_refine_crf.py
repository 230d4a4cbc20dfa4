"""Dense CRF: our mean field against the O(N^2) definition and against pydensecrf."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from maskmill.vision.refine import crf_backend, dense_crf, wrapped_bgr
from maskmill.vision.refine.lattice import Lattice

needs_pydensecrf = pytest.mark.skipif(crf_backend("auto") != "pydensecrf", reason="pydensecrf2 is not installed")


def scene(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A two-colour picture with mild noise, and blurred, noisy probabilities of its two halves and a third class."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = ((y - height / 2) / (height / 3)) ** 2 + ((x - width / 2) / (width / 4)) ** 2 < 1
    image = np.where(inside[..., None], (180, 90, 60), (60, 110, 160)) + rng.integers(-2, 3, (height, width, 3))
    soft = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), min(height, width) / 8)
    scores = np.stack([1 - soft, soft, np.full_like(soft, 0.3)]) + rng.normal(0, 0.1, (3, height, width))
    probs = np.clip(scores, 0.02, None)
    return image.astype(np.uint8), (probs / probs.sum(axis=0)).astype(np.float32)


def kernel(features: np.ndarray) -> np.ndarray:
    """Dense Gaussian kernel with symmetric normalisation, straight from the definition."""
    squares = ((features[:, None] - features[None]) ** 2).sum(axis=-1)
    dense = np.exp(-squares / 2)
    norm = 1 / np.sqrt(dense.sum(axis=1))
    return norm[:, None] * dense * norm[None]


def brute_force(image: np.ndarray, probs: np.ndarray, iterations: int = 10) -> np.ndarray:
    """Mean field with explicit N x N kernels."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    place = np.stack([x, y], axis=-1).reshape(-1, 2).astype(float)
    colour = image.reshape(-1, 3) / 3.0
    pairwise = 3 * kernel(place) + 4 * kernel(np.concatenate([place / 67, colour], axis=1))
    unary = -np.log(np.clip(probs, 1e-5, 1)).reshape(len(probs), -1)
    belief = np.exp(-unary) / np.exp(-unary).sum(axis=0)
    for _ in range(iterations):
        score = -unary + belief @ pairwise
        belief = np.exp(score - score.max(axis=0))
        belief /= belief.sum(axis=0)
    return belief.reshape(probs.shape)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (17, 31), (40, 28)])
def test_mean_field_agrees_with_the_definition(height: int, width: int) -> None:
    image, probs = scene(height, width)
    ours, reference = dense_crf(image, probs, backend="mean_field"), brute_force(image, probs)
    assert (ours.argmax(axis=0) == reference.argmax(axis=0)).mean() >= 0.98
    assert np.abs(ours - reference).mean() < 0.02


def test_smoothness_term_alone_is_the_definition_to_rounding() -> None:
    image, probs = scene(12, 15)
    ours = dense_crf(image, probs, bilateral_weight=0, iterations=3)
    y, x = np.mgrid[:12, :15]
    pairwise = 3 * kernel(np.stack([x, y], axis=-1).reshape(-1, 2).astype(float))
    belief = probs.reshape(3, -1) / probs.reshape(3, -1).sum(axis=0)
    for _ in range(3):
        score = np.log(probs.reshape(3, -1)) + belief @ pairwise
        belief = np.exp(score) / np.exp(score).sum(axis=0)
    assert np.abs(ours.reshape(3, -1) - belief).max() < 2e-3  # taps end at 4 sigma


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
def test_lattice_filters_like_a_gaussian(dims: int) -> None:
    rng = np.random.default_rng(dims)
    points = rng.normal(0, 1.5, (600, dims))
    values = rng.random((600, 2)).astype(np.float32)
    lattice = Lattice(points)
    ones = np.ones((600, 1), dtype=np.float32)
    ours = lattice.filter(values) / lattice.filter(ones)
    dense = np.exp(-((points[:, None] - points[None]) ** 2).sum(axis=-1) / 2)
    exact = dense @ values / dense.sum(axis=1, keepdims=True)
    assert np.abs(ours - exact).mean() < 0.35 * exact.std()
    assert np.corrcoef(ours.ravel(), exact.ravel())[0, 1] > 0.95


def test_lattice_is_linear_and_nearly_symmetric() -> None:
    rng = np.random.default_rng(0)
    lattice = Lattice(rng.normal(0, 2, (200, 3)))
    dense = lattice.filter(np.eye(200, dtype=np.float32))
    values = rng.random((200, 3)).astype(np.float32)
    assert np.allclose(dense @ values, lattice.filter(values), atol=1e-4)
    assert (dense >= 0).all()
    assert np.abs(dense - dense.T).mean() < 0.02 * dense.max()


@needs_pydensecrf
@pytest.mark.parametrize("options", [{}, {"gaussian_sxy": 3, "bilateral_sxy": 64, "bilateral_srgb": 5}])
def test_mean_field_agrees_with_pydensecrf(options: dict[str, float]) -> None:
    image, probs = scene(96, 128)
    ours = dense_crf(image, probs, backend="mean_field", **options)
    theirs = dense_crf(image, probs, backend="pydensecrf", **options)
    assert (ours.argmax(axis=0) == theirs.argmax(axis=0)).mean() >= 0.98


@needs_pydensecrf
@pytest.mark.skipif("MASKMILL_DATA" not in os.environ, reason="set MASKMILL_DATA to a folder with davis/")
def test_mean_field_agrees_with_pydensecrf_on_photos() -> None:
    photos = sorted(Path(os.environ["MASKMILL_DATA"], "davis", "JPEGImages").glob("*/*.jpg"))[::240]
    assert photos
    for photo in photos:
        image = np.asarray(Image.open(photo).convert("RGB"))
        coarse = np.random.default_rng(0).random((20, 20, 3)).astype(np.float32)
        probs = cv2.resize(coarse, image.shape[1::-1]).transpose(2, 0, 1)
        probs = probs / probs.sum(axis=0)
        ours, theirs = (dense_crf(image, probs, backend=name) for name in ("mean_field", "pydensecrf"))
        assert (ours.argmax(axis=0) == theirs.argmax(axis=0)).mean() >= 0.98


def test_edges_of_the_image_pull_the_labels() -> None:
    image, probs = scene(60, 80)
    truth = (image[..., 0] > 120).astype(int)
    before = (probs.argmax(axis=0) == truth).mean()
    after = (dense_crf(image, probs).argmax(axis=0) == truth).mean()
    assert after > 0.99 > before


def test_output_is_a_distribution_and_repeats_exactly() -> None:
    image, probs = scene(33, 47)
    first, second = dense_crf(image, probs), dense_crf(image.copy(), probs.copy())
    assert first.shape == probs.shape
    assert first.dtype == np.float32
    assert np.abs(first.sum(axis=0) - 1).max() < 1e-5
    assert first.tobytes() == second.tobytes()


def test_class_order_travels_with_the_result() -> None:
    image, probs = scene(30, 30)
    order = [2, 0, 1]
    assert np.allclose(dense_crf(image, probs[order]), dense_crf(image, probs)[order], atol=1e-4)


@pytest.mark.parametrize("backend", ["mean_field", pytest.param("pydensecrf", marks=needs_pydensecrf)])
def test_without_pairwise_terms_nothing_moves(backend: str) -> None:
    image, probs = scene(10, 12)
    out = dense_crf(image, probs, gaussian_weight=0, bilateral_weight=0, backend=backend)
    assert np.allclose(out, probs, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2)])
def test_tiny_images(shape: tuple[int, int]) -> None:
    image, probs = scene(*shape)
    assert np.isfinite(dense_crf(image, probs)).all()


def test_unnormalised_maps_and_saturated_zeros_are_accepted() -> None:
    image, _ = scene(20, 20)
    probs = np.zeros((2, 20, 20), dtype=np.float32)
    probs[0, :10] = probs[1, 10:] = 1.7
    out = dense_crf(image, probs)
    assert np.isfinite(out).all()


@pytest.mark.parametrize(
    ("image", "probs", "options", "says"),
    [
        (np.zeros((4, 4, 3), np.float32), np.ones((2, 4, 4), np.float32), {}, "uint8"),
        (np.zeros((4, 4, 3), np.uint8), np.ones((2, 4, 5), np.float32), {}, r"\(C, 4, 4\)"),
        (np.zeros((4, 4, 3), np.uint8), np.full((2, 4, 4), np.nan, np.float32), {}, "finite"),
        (np.zeros((4, 4, 3), np.uint8), np.ones((2, 4, 4), np.float32), {"bilateral_srgb": 0}, "positive"),
        (np.zeros((4, 4, 3), np.uint8), np.ones((2, 4, 4), np.float32), {"backend": "best"}, "choose auto"),
    ],
)
def test_wrong_input_is_named(image: np.ndarray, probs: np.ndarray, options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dense_crf(image, probs, **options)


def test_backend_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert crf_backend("mean_field") == "mean_field"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert crf_backend("auto") == "mean_field"
    with pytest.raises(ImportError, match="pydensecrf2"):
        crf_backend("pydensecrf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert crf_backend("auto") == "pydensecrf"


def test_wrapped_bgr_reproduces_the_slip() -> None:
    image = np.array([[[200, 150, 10]]], dtype=np.uint8)
    assert wrapped_bgr(image).tolist() == [[[162, 33, 77]]]  # 10 - 104.008 -> -94 -> 162
