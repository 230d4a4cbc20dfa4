"""24 samples that formats trip over, as a run folder in which all are kept."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.shards import sample_row
from maskmill.data_contracts import DECISION, IGNORE, SAMPLE, Instance, LabelSpace, Uint8Array, write_shard

SPACE = LabelSpace.model_validate(
    {"name": "hard", "classes": [{"id": i, "name": n} for i, n in ((1, "cat"), (2, "dog"), (200, "elk"), (254, "fox"))]}
)
SHARD = "shard-00000.parquet"
Bool = NDArray[np.bool_]


def squares(*parts: tuple[int, int, int, int, int], size: tuple[int, int] = (40, 50)) -> Uint8Array:
    """A mask of rectangles (value, y0, y1, x0, x1), later ones on top."""
    mask = np.zeros(size, np.uint8)
    for value, y0, y1, x0, x1 in parts:
        mask[y0:y1, x0:x1] = value
    return mask


def masks(seed: int = 0) -> dict[str, Uint8Array]:
    """The label maps by name, uint8 (H, W)."""
    rng = np.random.default_rng(seed)
    big, hole, island = (1, 4, 36, 5, 45), (0, 10, 30, 12, 38), (1, 15, 25, 20, 30)
    ring = squares((1, 0, 40, 0, 50), (0, 1, 39, 1, 49))
    noise = np.where(rng.random((41, 43)) < 0.5, rng.choice(SPACE.ids, (41, 43)), 0).astype(np.uint8)
    return {
        "hole": squares(big, hole),
        "hole with an island": squares(big, hole, island),
        "island of another class with a hole": squares(big, hole, (2, 15, 25, 20, 30), (0, 18, 21, 23, 26)),
        "two holes and one at a corner": squares(big, (0, 6, 10, 8, 12), (0, 20, 30, 30, 40), (0, 30, 33, 40, 43)),
        "hole filled by another class": squares(big, (2, 10, 30, 12, 38)),
        "frame": ring,
        "touching instances": squares((1, 5, 30, 5, 20), (1, 5, 30, 20, 35)),
        "three touching instances": squares((1, 5, 15, 5, 45), (2, 15, 25, 5, 45), (1, 25, 35, 5, 45)),
        "overlapping instances": squares((1, 5, 30, 5, 30), (2, 10, 20, 20, 40)),
        "touching at a corner": squares((1, 5, 15, 5, 15), (1, 15, 25, 15, 25)),
        "ignored border": squares((IGNORE, 3, 33, 3, 43), (1, 5, 30, 5, 40)),
        "ignored hole": squares(big, (IGNORE, 10, 30, 12, 38)),
        "all ignored": np.full((12, 13), IGNORE, np.uint8),
        "one pixel": squares((1, 20, 21, 25, 26)),
        "pixels in the corners": squares((1, 0, 1, 0, 1), (2, 39, 40, 49, 50), (1, 0, 1, 49, 50)),
        "lines of one pixel": np.maximum(2 * np.eye(30, dtype=np.uint8), squares((1, 3, 4, 0, 25), size=(30, 30))),
        "1x1": np.full((1, 1), 1, np.uint8),
        "1x1 negative": np.zeros((1, 1), np.uint8),
        "7x333": np.tile(np.repeat(np.array([0, 1, 200], np.uint8), 111), (7, 1)),
        "333x7": np.repeat(np.array([254, 0, 1], np.uint8), 111)[:, None].repeat(7, axis=1),
        "ids 200 and 254": squares((200, 2, 20, 2, 30), (254, 15, 38, 25, 48)),
        "noise of all classes": noise,
        "full frame": np.full((20, 21), 2, np.uint8),
        "negative": np.zeros((30, 31), np.uint8),
    }


def instances(name: str, mask: Uint8Array) -> list[Instance] | None:
    """The objects of samples in which they are told apart."""

    def area(*part: int) -> Bool:
        return squares((1, *part), size=mask.shape) > 0  # type: ignore[arg-type]

    if name == "touching instances":
        return [Instance.of(1, area(5, 30, 5, 20)), Instance.of(1, area(5, 30, 20, 35))]
    if name == "three touching instances":
        return [Instance.of(i, area(y, y + 10, 5, 45)) for i, y in ((1, 5), (2, 15), (1, 25))]
    if name == "overlapping instances":
        return [Instance.of(1, area(5, 30, 5, 30)), Instance.of(2, area(10, 20, 20, 40))]
    return None


def photo(shape: tuple[int, ...], seed: int, kind: str) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def make_run(folder: Path, seed: int = 0) -> dict[str, Uint8Array]:
    """Write the run; masks by sample id. JPEG and PNG photos take turns."""
    rows: list[dict[str, Any]] = []
    truth: dict[str, Uint8Array] = {}
    for number, (name, mask) in enumerate(masks(seed).items()):
        row = sample_row(photo(mask.shape, 100 * seed + number, ("JPEG", "PNG")[number % 2]), mask, SPACE)
        row["provenance"] |= {"source_path": name}
        if (objects := instances(name, mask)) is not None:
            row["instances"] = [one.row() for one in objects]
        rows.append(row)
        truth[row["sample_id"]] = mask
    write_shard(f"{folder}/samples/{SHARD}", SAMPLE.table(rows), SAMPLE, stage="ingest", fingerprint="samples")
    verdict = {"stage": "select", "kept": True, "reason": "kept", "shard": SHARD}
    decisions = DECISION.table([{"sample_id": i, **verdict} for i in sorted(truth)])
    write_shard(f"{folder}/decisions.parquet", decisions, DECISION, stage="select", fingerprint="decisions")
    return truth
