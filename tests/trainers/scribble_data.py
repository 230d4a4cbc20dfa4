"""Shards with scribbles for the trainers on scribbles."""

from pathlib import Path

import numpy as np

from maskmill.data_contracts import (
    SAMPLE,
    WEAK_LABEL,
    LabelSpace,
    content_id,
    encode_image,
    encode_mask,
    load_label_space,
)
from maskmill.trainers.engine import DataConfig
from maskmill.vision.scribbles import simulate_scribble
from tests.trainers import shapes

FOREGROUND = load_label_space("foreground")


def write_scribbled(folder: Path, count: int, space: LabelSpace, shards: int = 1, first: int = 0) -> DataConfig:
    """SAMPLE and WEAK_LABEL shards of drawn scenes with simulated strokes; a space of one class makes all shapes it."""
    samples: list[shapes.Row] = []
    weak: list[shapes.Row] = []
    for number in range(first, first + count):
        image, mask = shapes.draw_scene(number)
        if space.size == 2:
            mask = np.where(mask == 255, mask, (mask > 0).astype(np.uint8)).astype(np.uint8)
        image_bytes, mask_bytes = encode_image(image), encode_mask(mask)
        sample_id = content_id(image_bytes, mask_bytes, None, "None")
        ids = [int(i) for i in np.unique(mask) if i not in (0, 255)]
        samples.append(
            {
                "sample_id": sample_id,
                "image": {"bytes": image_bytes, "path": None},
                "mask": {"bytes": mask_bytes, "path": None},
                "height": mask.shape[0],
                "width": mask.shape[1],
                "class_ids": ids,
                "provenance": {"source": "drawn", "source_path": f"{number}.png"},
            }
        )
        scribble = simulate_scribble(mask, sample_id)
        weak.append(
            {
                "sample_id": sample_id,
                "class_ids": ids,
                "scribble": {"bytes": encode_mask(scribble), "path": None},
            }
        )
    return DataConfig(
        samples=(shapes.write_rows(folder / "samples", samples, SAMPLE, shards),),
        weak=(shapes.write_rows(folder / "weak", weak, WEAK_LABEL, shards),),
    )
