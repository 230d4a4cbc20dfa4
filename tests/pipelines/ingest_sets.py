"""Tiny data sets on disk and the way from a source to its rows: for the tests of ingest."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskmill.data_contracts import DECISION, SAMPLE, LabelSpace, Uint8Array, decode_mask, encode_mask, load_label_space
from maskmill.data_contracts import read_shard as read
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.ingest import Source, ingest_stage, ingest_units
from maskmill.pipelines.ingest.folder import FolderSource

Row = dict[str, Any]
VOC = load_label_space("voc")


def photo(seed: int = 0, height: int = 12, width: int = 16, kind: str = "JPEG") -> bytes:
    """A random picture as file bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def label_map(value: int = 1, height: int = 12, width: int = 16) -> Uint8Array:
    """Background with a rectangle of one class."""
    mask = np.zeros((height, width), np.uint8)
    mask[3:9, 4:11] = value
    return mask


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def make_folder(root: Path, stems: list[str], value: int = 1) -> Path:
    """images/ and masks/ with one sound pair a stem; every photo differs."""
    for number, stem in enumerate(stems):
        put(root / f"images/{stem}.jpg", photo(number))
        put(root / f"masks/{stem}.png", encode_mask(label_map(value)))
    return root


def folder_source(root: Path, **options: object) -> FolderSource:
    """A folder with options as a config gives them."""
    return FolderSource.model_validate({"root": str(root), **options})


def ingest(source: Source, run: Path, space: LabelSpace = VOC, shard_size: int = 4) -> tuple[list[Row], list[Row]]:
    """Run a source through the stage; samples and rejects, in order. Checks that every entry is accounted for."""
    units = ingest_units(source, str(run), shard_size)
    reports = map_units(ingest_stage(source, space), units)
    samples: list[Row] = []
    rejects: list[Row] = []
    for report in reports:
        kept, lost = (
            read(report.unit.outputs[0], SAMPLE).to_pylist(),
            read(report.unit.outputs[1], DECISION).to_pylist(),
        )
        found = Counter(row["reason"] for row in lost) + Counter({"kept": len(kept)})
        assert +Counter(report.counts) == found
        assert sum(report.counts.values()) == int(report.unit.stamps[1].split("+")[1])
        samples += kept
        rejects += lost
    return samples, rejects


def mask_of(row: Row) -> Uint8Array:
    return decode_mask(row["mask"]["bytes"])


def details(rejects: list[Row]) -> dict[str, str]:
    """What is said of each reject, by its path."""
    return {str(row["source_path"]): str(row["detail"]) for row in rejects}


def reasons(rejects: list[Row]) -> dict[str, str]:
    """Reason by source path."""
    return {row["source_path"]: row["reason"] for row in rejects}


def put_json(path: Path, value: object) -> Path:
    return put(path, json.dumps(value))
