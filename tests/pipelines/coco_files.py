"""A COCO file of one or two photos, written from its parts, and what becomes of it."""

from pathlib import Path
from typing import Any

import numpy as np
from ingest_sets import ingest, mask_of, photo, put, put_json
from numpy.typing import NDArray

from maskmill.data_contracts import Instance, LabelSpace, check_instances
from maskmill.pipelines.ingest.coco import CocoSource

SPACE = LabelSpace.from_names(["cat", "dog"])
CATEGORIES: list[Any] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
RING = [3, 4, 15, 4, 15, 10, 3, 10]
DOG = [20, 4, 25, 4, 25, 10, 20, 10]
Mask = NDArray[np.uint8]


def cat(value: int = 1) -> Mask:
    """The mask of RING."""
    mask = np.zeros((20, 30), np.uint8)
    mask[4:10, 3:15] = value
    return mask


def runs(mask: NDArray[Any]) -> dict[str, Any]:
    """A mask as run lengths, column by column."""
    flat = mask.T.ravel() > 0
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]
    counts = [int(n) for n in np.diff(edges)]
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def compressed(mask: NDArray[Any]) -> dict[str, Any]:
    """A mask as COCO's compressed run lengths."""
    from pycocotools import mask as coco

    code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode()}


def image(number: Any = 1, name: str = "a.png", **more: Any) -> dict[str, Any]:
    """An entry of `images`."""
    return {"id": number, "file_name": name, "width": 30, "height": 20, **more}


def note(segmentation: Any = None, number: Any = 1, category: Any = 1, **more: Any) -> dict[str, Any]:
    """An entry of `annotations`, on the first image; RING where nothing is given."""
    given = [RING] if segmentation is None else segmentation
    return {"id": number, "image_id": 1, "category_id": category, "segmentation": given, **more}


def coco(
    root: Path,
    notes: Any,
    images: Any = None,
    categories: Any = None,
    options: dict[str, Any] | None = None,
    **top: Any,
) -> tuple[dict[str, Mask], dict[str, str], list[dict[str, Any]]]:
    """Masks by path, details of rejects by path, and the rows."""
    put(root / "set/images/a.png", photo(1, 20, 30, "PNG"))
    put(root / "set/images/b.png", photo(2, 20, 30, "PNG"))
    document = {
        "images": [image()] if images is None else images,
        "annotations": notes,
        "categories": CATEGORIES if categories is None else categories,
    }
    put_json(root / "set/a.json", document)
    listed = {i.get("file_name") for i in document["images"] if isinstance(i, dict)}
    for name in ("a.png", "b.png"):
        if name not in listed and not (options or {}).get("images"):
            (root / "set/images" / name).unlink()
    run = root / f"run{len(list(root.glob('run*')))}"
    source = CocoSource.model_validate({"root": str(root / "set"), "annotations": "a.json", **(options or {})})
    rows, rejects = ingest(source, run, SPACE)
    for row in rows:
        mask = mask_of(row)
        found = [Instance.read(one, *mask.shape) for one in row["instances"]]
        assert check_instances(found, mask, SPACE) is None
    details = {row["source_path"]: row["detail"] for row in rejects if row["reason"] != "not_read"}
    return {row["provenance"]["source_path"]: mask_of(row) for row in rows}, details, rows
