"""Refiners on real photos: how much closer they bring a coarse map to the mask, and how long they take.

The coarse map is the true mask averaged over 16 x 16 pixels, blurred, mixed with noise and stretched to [0, 1]: a class
activation map whose only fault is its resolution. Photos: DAVIS (davis/) and horses (weizmann_horses/). Arms: `coarse`
(no refinement), `mean_field`, `pydensecrf` (where installed), `par`. Metrics: miou (of the foreground, mean over
photos), ms_per_image (one thread), agreement (with mean_field, share of pixels).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Options, Record, is_train_key, parse_options
from maskmill.data_contracts import Uint8Array, decode_image, decode_mask
from maskmill.vision.refine import crf_backend, dense_crf, par

Float32 = NDArray[np.float32]
Refiner = Callable[[Uint8Array, Float32], Float32]


@dataclass(frozen=True)
class Photo:
    """A photo uint8 (H, W, 3) of set `source`, and its foreground bool (H, W)."""

    source: str
    image: Uint8Array
    truth: NDArray[np.bool_]


PHOTOS = {"small": 60, "full": 400}
STRIDE = 16  # of a ViT-B/16
NOISE = 0.1


def photos(folder: Path, limit: int, *, tested_only: bool) -> list[Photo]:
    """Up to `limit` photos, spread evenly over the sets."""
    found = [
        *((image, image.parent.name) for image in sorted((folder / "davis/JPEGImages").glob("*/*.jpg"))),
        *((image, image.stem) for image in sorted((folder / "weizmann_horses/images").glob("*.jpg"))),
    ]
    chosen = [image for image, key in found if not (tested_only and is_train_key(key))]
    if not chosen:
        raise FileNotFoundError(f"{folder}: no photos in davis/JPEGImages or weizmann_horses/images")
    return [_load(image) for image in chosen[:: max(1, len(chosen) // limit)][:limit]]


def _load(path: Path) -> Photo:
    swap = {"JPEGImages": "Annotations", "images": "masks"}
    mask = Path(*(swap.get(part, part) for part in path.parts)).with_suffix(".png")
    foreground = decode_mask(mask.read_bytes(), mask.name)
    name = "davis" if "JPEGImages" in path.parts else "horses"
    return Photo(name, decode_image(path.read_bytes(), path.name), (foreground > 0) & (foreground < 255))


def coarse_map(foreground: NDArray[np.bool_], rng: np.random.Generator) -> Float32:
    """Background and foreground maps float32 (2, H, W): a mask averaged over tokens, blurred, noisy, stretched to [0,
    1].
    """
    height, width = foreground.shape
    tokens = cv2.resize(
        foreground.astype(np.float32), (width // STRIDE, height // STRIDE), interpolation=cv2.INTER_AREA
    )
    small = cv2.GaussianBlur(np.asarray(tokens, dtype=np.float32), (0, 0), 0.7)
    noisy = np.clip(small + rng.normal(0, NOISE * small.max(), small.shape), 0, None).astype(np.float32)
    front = cv2.resize(
        np.clip(noisy / max(float(np.quantile(noisy, 0.98)), 1e-6), 0, 1),
        (width, height),
        interpolation=cv2.INTER_LINEAR,
    )
    return np.stack([1 - front, front]).astype(np.float32)


def refiners() -> dict[str, Refiner]:
    """The arms that run on this machine."""
    arms: dict[str, Refiner] = {
        "coarse": lambda image, probs: probs,
        "mean_field": lambda image, probs: dense_crf(image, probs, backend="mean_field"),
        "par": _par,
    }
    if crf_backend("auto") == "pydensecrf":
        arms["pydensecrf"] = lambda image, probs: dense_crf(image, probs, backend="pydensecrf")
    return arms


def _par(image: Uint8Array, probs: Float32) -> Float32:
    import torch

    picture = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    return np.asarray(par(picture, torch.from_numpy(probs)[None], iterations=20)[0].numpy(), dtype=np.float32)


def measure(refine: Refiner, work: list[Photo], seed: int) -> tuple[dict[str, float], list[NDArray[np.bool_]]]:
    """Metrics of one refiner, and its foregrounds."""
    rng = np.random.default_rng(seed)
    ious: dict[str, list[float]] = {}
    foregrounds, seconds = [], 0.0
    for photo in work:
        probs = coarse_map(photo.truth, rng)
        started = time.perf_counter()
        refined = refine(photo.image, probs)
        seconds += time.perf_counter() - started
        front = refined[1] > refined[0]
        iou = (front & photo.truth).sum() / max(1, (front | photo.truth).sum())
        ious.setdefault(f"miou_{photo.source}", []).append(float(iou))
        foregrounds.append(front)
    means = {name: float(np.mean(found)) for name, found in sorted(ious.items())}
    return {**means, "ms_per_image": 1000 * seconds / len(work)}, foregrounds


def run(options: Options) -> dict[str, object]:
    """Measure all arms for all seeds."""
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    record = Record.open(options)
    folder = options.tested
    if folder is None:
        raise ValueError("refine needs --data")
    work = photos(folder, PHOTOS[options.budget], tested_only=options.test_data is None)
    for seed in options.seeds:
        if all(record.has(arm, seed) for arm in refiners()):
            continue
        results = {arm: measure(refine, work, seed) for arm, refine in refiners().items()}
        ours = results["mean_field"][1]
        for arm, (metrics, fronts) in results.items():
            same = float(np.mean([(a == b).mean() for a, b in zip(fronts, ours, strict=True)]))
            record.add(arm, seed, {**metrics, "agreement": same})
    return record.finish()


def main(argv: Sequence[str] | None = None) -> None:
    run(parse_options("refine", __doc__, argv))


if __name__ == "__main__":
    main()
