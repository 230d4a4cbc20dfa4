"""nnU-Net's raw layout: cases, channels, names in dataset.json."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from ingest_sets import ingest, mask_of, put_json, reasons

from maskmill.pipelines.ingest.nnunet import NnunetSource


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.5, 1.5, 8, 1.0])), path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    label = np.zeros((8, 6, 2), np.uint8)
    label[2:5, 1:4, :] = 1
    for channel in range(2):
        values = np.random.default_rng(channel).integers(0, 900, (8, 6, 2)).astype(np.int16)
        save(tmp_path / f"set/imagesTr/liver_001_000{channel}.nii.gz", values)
    save(tmp_path / "set/labelsTr/liver_001.nii.gz", label)
    put_json(tmp_path / "set/dataset.json", {"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "CT"}})
    return tmp_path / "set"


@pytest.mark.parametrize("channel", [0, 1])
def test_one_channel_is_read_and_the_other_is_counted(root: Path, tmp_path: Path, channel: int) -> None:
    source = NnunetSource(root=str(root), channel=channel)
    samples, rejects = ingest(source, tmp_path / "run", source.own_space())
    assert [(row["group"], row["index"]) for row in samples] == [("liver_001", 0), ("liver_001", 1)]
    assert (mask_of(samples[0]) == 1).sum() == 9
    assert reasons(rejects) == {f"imagesTr/liver_001_000{1 - channel}.nii.gz": "not_read"}
    assert f"source.channel: {1 - channel}" in rejects[0]["detail"]


def test_names_come_from_the_data(root: Path) -> None:
    assert [(c.id, c.name) for c in NnunetSource(root=str(root)).own_space().classes] == [(1, "liver")]
