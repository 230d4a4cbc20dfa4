"""Names of classes that come with the data: ClassLabel numbers, label files, and `label_space: from_source`."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_sets import ingest, label_map, photo

from maskmill.data_contracts import LabelSpace, encode_mask
from maskmill.pipelines.ingest.hf_parquet import HfParquetSource

PETS = LabelSpace.from_names(["cat", "dog"], "pets")
LABEL = {"names": ["cat", "dog"], "_type": "ClassLabel"}


@pytest.mark.parametrize(
    ("feature", "cell", "wanted"),
    [
        ({"feature": LABEL, "_type": "List"}, [0, 1], [1, 2]),
        ({"feature": LABEL, "_type": "Sequence"}, [1], [2]),
        ([LABEL], [1], [2]),
        (LABEL, 1, [2]),
        (LABEL, -1, []),
        ({"names": ["dog", "cat"], "_type": "ClassLabel"}, 0, [2]),
        ({"dtype": "int64", "_type": "Value"}, 1, [1]),
        (None, [2], [2]),
    ],
)
def test_class_label_numbers_are_names(tmp_path: Path, feature: object, cell: object, wanted: list[int]) -> None:
    rows = [{"image": photo(), "mask": encode_mask(label_map()), "labels": cell}]
    info = {"info": {"features": {"labels": feature} if feature else {}}}
    (tmp_path / "set").mkdir()
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, tmp_path / "set/x.parquet")
    (row,), _ = ingest(HfParquetSource(root=str(tmp_path / "set"), classes="labels"), tmp_path / "run", PETS)
    assert row["prompt_class_ids"] == wanted


def test_a_class_label_number_without_a_name_is_told(tmp_path: Path) -> None:
    rows = [{"image": photo(), "mask": encode_mask(label_map()), "labels": [2]}]
    info = {"info": {"features": {"labels": {"feature": LABEL, "_type": "List"}}}}
    (tmp_path / "set").mkdir()
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, tmp_path / "set/x.parquet")
    _, (lost,) = ingest(HfParquetSource(root=str(tmp_path / "set"), classes="labels"), tmp_path / "run", PETS)
    assert "0..1 (cat, dog), found 2" in lost["detail"]
