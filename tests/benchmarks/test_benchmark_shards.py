"""Pictures of benchmarks as shards: ids, doubles, and what a row holds."""

from pathlib import Path

import numpy as np

from benchmarks.shards import sample_row, write_rows
from maskmill.data_contracts import LabelSpace, decode_mask, encode_image, pair_id, read_footer, read_shard
from maskmill.data_contracts.schemas import SAMPLE
from tests.trainers import shapes

SPACE = LabelSpace.from_names(["disc", "square", "bar"])


def test_rows_are_written_once_each(tmp_path: Path) -> None:
    image, mask = shapes.draw_scene(0)
    row = sample_row(encode_image(image), mask, SPACE)
    framed = sample_row(encode_image(image), mask, SPACE, "walk", 3)
    folder = write_rows(iter([row, framed, row]), tmp_path / "made")
    found = read_shard(f"{folder}/shard-00000.parquet", SAMPLE).to_pylist()
    assert [(r["group"], r["index"]) for r in found] == [(None, None), ("walk", 3)]
    assert found[0]["sample_id"] == pair_id(encode_image(image), row["mask"]["bytes"]) != found[1]["sample_id"]
    np.testing.assert_array_equal(decode_mask(found[1]["mask"]["bytes"]), mask)
    assert read_footer(f"{folder}/shard-00000.parquet").fingerprint == "made"
