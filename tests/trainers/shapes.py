"""Tiny drawn scenes as contract shards: a red box, a green disc and a blue bar on noise, with every kind of label."""

from pathlib import Path

import numpy as np

from maskmill.data_contracts import (
    DECISION,
    IGNORE,
    PSEUDO_LABEL,
    SAMPLE,
    WEAK_LABEL,
    Contract,
    LabelSpace,
    Uint8Array,
    content_id,
    encode_image,
    encode_mask,
    foreground_ids,
    shard_name,
    write_shard,
)

SPACE = LabelSpace.from_names(["red box", "green disc", "blue bar"], name="shapes")
COLOURS = {1: (220, 40, 40), 2: (40, 200, 60), 3: (50, 70, 230)}
Row = dict[str, object]


def draw_scene(number: int, height: int = 48, width: int = 56) -> tuple[Uint8Array, Uint8Array]:
    """Image uint8 (H, W, 3) and mask uint8 (H, W) with one or two objects; a thin frame of 255 around the mask."""
    rng = np.random.default_rng(number)
    image = rng.integers(90, 150, (height, width, 3)).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    y, x = np.mgrid[:height, :width]
    for class_id in sorted({1 + number % 3, 1 + (number // 3) % 3}):
        cy, cx = rng.integers(12, height - 12), rng.integers(12, width - 12)
        area = {
            1: (abs(y - cy) < 9) & (abs(x - cx) < 9),
            2: (y - cy) ** 2 + (x - cx) ** 2 < 100,
            3: (abs(y - cy) < 4) & (abs(x - cx) < 12),
        }[class_id]
        mask[area] = class_id
        image[area] = COLOURS[class_id]
    mask[[0, -1]] = IGNORE
    return image, mask


def sample_row(number: int, *, group: str | None = None, index: int | None = None, masked: bool = True) -> Row:
    """One SAMPLE row of scene `number`."""
    image, mask = draw_scene(number)
    image_bytes, mask_bytes = encode_image(image), encode_mask(mask)
    return {
        "sample_id": content_id(image_bytes, mask_bytes, group, str(index)),
        "image": {"bytes": image_bytes, "path": None},
        "mask": {"bytes": mask_bytes, "path": None} if masked else None,
        "height": image.shape[0],
        "width": image.shape[1],
        "class_ids": foreground_ids(mask, SPACE),
        "group": group,
        "index": index,
        "provenance": {"source": "drawn", "source_path": f"{number}.png"},
    }


def write_rows(folder: Path, rows: list[Row], contract: Contract, shards: int = 1) -> str:
    """Rows dealt over `shards` shards; returns the folder."""
    for shard in range(shards):
        path = str(folder / shard_name(shard))
        write_shard(
            path, contract.table(rows[shard::shards]), contract, stage="drawn", fingerprint=f"{folder.name}-{shard}"
        )
    return str(folder)


def write_scenes(folder: Path, count: int, *, first: int = 0, shards: int = 1, group_size: int | None = None) -> str:
    """SAMPLE shards of scenes first..first+count-1; with `group_size`, in groups of so many."""
    numbers = range(first, first + count)
    if group_size is None:
        rows = [sample_row(number) for number in numbers]
    else:
        rows = [sample_row(n, group=f"group {n // group_size}", index=n % group_size) for n in numbers]
    return write_rows(folder, rows, SAMPLE, shards)


def write_weak(folder: Path, samples: list[Row]) -> str:
    """WEAK_LABEL of the rows: tags, a scribble through every class (middle row of its pixels), tight boxes."""
    rows: list[Row] = []
    for row in samples:
        number = int(str(row["provenance"]["source_path"]).removesuffix(".png"))  # type: ignore[index]
        _, mask = draw_scene(number)
        scribble, boxes = np.full_like(mask, IGNORE), []
        for class_id in (0, *foreground_ids(mask, SPACE)):
            ys, xs = np.nonzero(mask == class_id)
            middle = ys == int(np.median(ys))
            scribble[ys[middle], xs[middle]] = class_id
            if class_id:
                boxes.append(
                    {"class_id": class_id, "x0": xs.min(), "y0": ys.min(), "x1": xs.max() + 1, "y1": ys.max() + 1}
                )
        rows.append(
            {
                "sample_id": row["sample_id"],
                "class_ids": row["class_ids"],
                "scribble": {"bytes": encode_mask(scribble), "path": None},
                "boxes": boxes,
            }
        )
    return write_rows(folder, rows, WEAK_LABEL)


def write_pseudo(folder: Path, samples: list[Row], *, abstain: int = 0) -> str:
    """PSEUDO_LABEL of the rows: class 1 everywhere with confidence 0.5; the first `abstain` rows have no mask."""
    rows: list[Row] = []
    for position, row in enumerate(samples):
        shape = (int(str(row["height"])), int(str(row["width"])))
        gone = position < abstain
        mask, confidence = np.full(shape, 1, np.uint8), np.full(shape, 128, np.uint8)
        rows.append(
            {
                "sample_id": row["sample_id"],
                "mask": None if gone else {"bytes": encode_mask(mask), "path": None},
                "confidence": None if gone else {"bytes": encode_mask(confidence), "path": None},
                "class_ids": [] if gone else [1],
                "labeler": "drawn",
                "labeler_version": "1",
            }
        )
    return write_rows(folder, rows, PSEUDO_LABEL)


def write_decisions(path: Path, samples: list[Row], kept: int) -> str:
    """DECISION file that keeps the first `kept` rows."""
    rows: list[Row] = [
        {"sample_id": r["sample_id"], "stage": "select", "kept": i < kept, "reason": "kept" if i < kept else "low_asf"}
        for i, r in enumerate(samples)
    ]
    write_shard(str(path), DECISION.table(rows), DECISION, stage="select", fingerprint="d")
    return str(path)
