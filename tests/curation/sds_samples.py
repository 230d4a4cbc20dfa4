"""Small Sample tables of random pictures, and the tiny random CLIP that scores them."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from maskmill.curation.sds import SdsConfig, score_table
from maskmill.data_contracts import (
    SAMPLE,
    LabelSpace,
    Uint8Array,
    content_id,
    encode_image,
    encode_mask,
    foreground_ids,
)
from maskmill.vision.clip import load_clip

TINY = str(Path(__file__).parents[1] / "data" / "tiny_clip")
SPACE = LabelSpace.from_names(["cat", "dog", "horse", "bus"])


def config(**options: object) -> SdsConfig:
    """Mended mode on the tiny CLIP, at the temperature of OpenAI's weights, without the slow CRF."""
    base = {"preset": "mended", "model": TINY, "temperature": 0.01, "refine": "none", "confidence": 0.3}
    return SdsConfig.model_validate({**base, **options})


def image_of(seed: int, height: int = 64, width: int = 64) -> Uint8Array:
    """Smooth random colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((-(-height // 4), -(-width // 4), 1), np.uint8))[:height, :width]


def mask_of(class_ids: tuple[int, ...], height: int = 64, width: int = 64) -> Uint8Array:
    """One vertical bar per class on background."""
    mask = np.zeros((height, width), np.uint8)
    bar = width // (2 * len(class_ids) + 1)
    for position, class_id in enumerate(class_ids):
        mask[4:-4, (2 * position + 1) * bar : (2 * position + 2) * bar] = class_id
    return mask


def table(
    pairs: list[tuple[Uint8Array, tuple[int, ...] | Uint8Array]], prompts: list[list[int] | None] | None = None
) -> pa.Table:
    """A Sample table; the second of each pair is a mask, or the classes to draw one of."""
    rows = []
    for index, (image, given) in enumerate(pairs):
        mask = given if isinstance(given, np.ndarray) else mask_of(given, *image.shape[:2])
        image_bytes, mask_bytes = encode_image(image), encode_mask(mask)
        rows.append(
            {
                "sample_id": content_id(image_bytes, mask_bytes, None, str(index)),
                "image": {"bytes": image_bytes, "path": None},
                "mask": {"bytes": mask_bytes, "path": None},
                "height": mask.shape[0],
                "width": mask.shape[1],
                "class_ids": foreground_ids(mask, SPACE),
                "prompt_class_ids": prompts[index] if prompts else None,
                "provenance": {},
            }
        )
    return SAMPLE.table(rows)


def score(samples: pa.Table, seed: int = 0, **options: object) -> pa.Table:
    """`score_table` with the tiny CLIP; `batch_size`, `micro_batch` and `workers` among the options go to it."""
    names = ("batch_size", "micro_batch", "workers")
    speed = {name: options.pop(name) for name in names if name in options}
    return score_table(samples, config(**options), SPACE, seed, backbone=load_clip(TINY), **speed)  # type: ignore[arg-type]
