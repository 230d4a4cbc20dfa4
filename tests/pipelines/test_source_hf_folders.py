"""Hugging Face folders: `imagefolder` with metadata, and what `save_to_disk` leaves."""

import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_sets import ingest, label_map, mask_of, photo, put, reasons

from maskmill.data_contracts import LabelSpace, encode_mask
from maskmill.pipelines.ingest import ingest_units
from maskmill.pipelines.ingest.imagefolder import ImagefolderSource
from maskmill.pipelines.ingest.save_to_disk import SaveToDiskSource

PETS = LabelSpace.from_names(["cat", "dog"], "pets")
MASK = encode_mask(label_map())


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        put(path, "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]))
    else:
        put(path, "\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_metadata_pairs_photos_and_masks(tmp_path: Path, suffix: str) -> None:
    put(tmp_path / "set/train/images/a.jpg", photo())
    put(tmp_path / "set/train/masks/a.png", MASK)
    row = {"file_name": "images/a.jpg", "mask_file_name": "masks/a.png", "label": "dog", "text": "a dog"}
    write(tmp_path / f"set/train/metadata{suffix}", [row])
    (sample,), rejects = ingest(ImagefolderSource(root=str(tmp_path / "set")), tmp_path / "run", PETS)
    assert not rejects
    assert sample["provenance"]["source_path"] == "train/images/a.jpg"
    assert (sample["prompt_class_ids"], sample["provenance"]["prompt"]) == ([2], "a dog")
    assert np.array_equal(mask_of(sample), label_map())


def test_rows_that_lie_are_rejects_with_their_line(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        put(tmp_path / f"set/{name}.jpg", photo(ord(name)))
    put(tmp_path / "set/a.png", MASK)
    rows = [
        {"file_name": "a.jpg", "mask_file_name": "a.png"},
        {"file_name": "b.jpg", "mask_file_name": None},
        {"file_name": "gone.jpg", "mask_file_name": "a.png"},
        {"image": "c.jpg"},
        {"file_name": "../secret.jpg", "mask_file_name": "a.png"},
    ]
    write(tmp_path / "set/metadata.jsonl", rows)
    samples, rejects = ingest(ImagefolderSource(root=str(tmp_path / "set")), tmp_path / "run", PETS)
    assert len(samples) == 1
    assert reasons(rejects) == {
        "b.jpg": "missing_mask",
        "metadata.jsonl#3": "missing_image",
        "metadata.jsonl#4": "bad_annotation",
        "metadata.jsonl#5": "missing_image",
        "c.jpg": "not_read",
    }
    assert "metadata.jsonl, line 2" in rejects[0]["detail"]
    assert "there is: image" in next(r["detail"] for r in rejects if r["source_path"] == "metadata.jsonl#4")


def test_folders_are_classes_where_nothing_else_says_so(tmp_path: Path) -> None:
    put(tmp_path / "set/cat/a.jpg", photo())
    put(tmp_path / "set/dog/b.jpg", photo(1))
    samples, _ = ingest(ImagefolderSource(root=str(tmp_path / "set")), tmp_path / "run", PETS)
    assert [(row["prompt_class_ids"], row["mask"]) for row in samples] == [([1], None), ([2], None)]


@pytest.mark.parametrize("data", [b"{", b"[", b"\xff\xff"])
def test_metadata_that_is_none_is_one_reject(tmp_path: Path, data: bytes) -> None:
    put(tmp_path / "set/a.jpg", photo())
    put(tmp_path / "set/metadata.jsonl", data)
    samples, rejects = ingest(ImagefolderSource(root=str(tmp_path / "set")), tmp_path / "run", PETS)
    assert not samples
    assert reasons(rejects) == {"metadata.jsonl": "bad_annotation", "a.jpg": "not_read"}


def saved(root: Path, splits: bool) -> Path:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "mask": datasets.Image(),
            "labels": datasets.List(datasets.ClassLabel(names=["cat", "dog"])),
        }
    )
    rows = {
        "image": [{"bytes": photo(i), "path": None} for i in range(5)],
        "mask": [{"bytes": MASK, "path": None}] * 5,
        "labels": [[0], [1], [0, 1], [], [1]],
    }
    data = datasets.Dataset.from_dict(rows, features=features)
    (datasets.DatasetDict({"train": data}) if splits else data).save_to_disk(str(root))
    return root


@pytest.mark.parametrize("splits", [False, True])
def test_what_save_to_disk_leaves(tmp_path: Path, splits: bool) -> None:
    source = SaveToDiskSource(root=str(saved(tmp_path / "set", splits)), classes="labels")
    samples, rejects = ingest(source, tmp_path / "run", PETS, shard_size=2)
    assert not rejects
    assert [row["image"]["bytes"] for row in samples] == [photo(i) for i in range(5)]
    assert [row["prompt_class_ids"] for row in samples] == [[1], [2], [1, 2], [], [2]]
    assert [(c.name, c.source_id) for c in source.own_space().classes] == [("cat", 0), ("dog", 1)]


def test_broken_arrow_files_and_caches_are_told(tmp_path: Path) -> None:
    root = saved(tmp_path / "set", splits=False)
    whole = (root / "data-00000-of-00001.arrow").read_bytes()
    put(root / "cache-1.arrow", whole)
    put(root / "b/data.arrow", whole[: len(whole) // 2])
    samples, rejects = ingest(SaveToDiskSource(root=str(root)), tmp_path / "run", PETS)
    assert len(samples) == 5
    assert reasons(rejects) == {"b/data.arrow": "bad_annotation", "cache-1.arrow": "not_read"}


def test_a_folder_without_the_columns_says_which_there_are(tmp_path: Path) -> None:
    root = saved(tmp_path / "set", splits=False)
    with pytest.raises(ValueError, match=r"no column \['photo', 'mask'\].*image, mask, labels"):
        ingest_units(SaveToDiskSource(root=str(root), image="photo"), str(tmp_path / "run"))
