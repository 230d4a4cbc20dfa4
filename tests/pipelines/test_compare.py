"""Pseudo-labels against true masks: mIoU with undecided pixels left out or missed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskmill.data_contracts import (
    PSEUDO_LABEL,
    SAMPLE,
    Instance,
    LabelSpace,
    encode_image,
    encode_mask,
    write_shard,
)
from maskmill.labelers.base import PseudoLabel
from maskmill.pipelines.stages.compare import CompareConfig, compare_labels

SPACE = LabelSpace.from_names(["cat", "dog"])


def shards(
    root: Path, truths: list[np.ndarray], labels: list[np.ndarray | PseudoLabel | None], objects: bool = False
) -> CompareConfig:
    samples, rows = [], []
    for index, (truth, label) in enumerate(zip(truths, labels, strict=True)):
        image = encode_image(np.zeros((*truth.shape, 3), np.uint8))
        samples.append(
            {
                "sample_id": f"{index:032d}",
                "image": {"bytes": image, "path": None},
                "mask": {"bytes": encode_mask(truth), "path": None},
                "height": truth.shape[0],
                "width": truth.shape[1],
                "class_ids": [],
                "prompt_class_ids": None,
                "provenance": {},
                "instances": [Instance.of(int(i), truth == i).row() for i in np.unique(truth) if i]
                if objects
                else None,
            }
        )
        label = label if isinstance(label, PseudoLabel) else PseudoLabel(label)
        rows.append(label.row(f"{index:032d}", "x", "1", SPACE))
    given = {"stage": "test", "fingerprint": "1", "config_hash": "", "inputs": ()}
    write_shard(str(root / "samples" / "a.parquet"), SAMPLE.table(samples), SAMPLE, **given)
    write_shard(str(root / "labels" / "a.parquet"), PSEUDO_LABEL.table(rows), PSEUDO_LABEL, **given)
    return CompareConfig(samples=str(root / "samples"), labels=str(root / "labels"), label_space=SPACE)


def test_undecided_pixels_are_left_out_or_missed(tmp_path: Path) -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
    label = np.array([[0, 0, 1, 255], [0, 1, 1, 1]], np.uint8)
    config = shards(tmp_path, [truth, truth], [label, None])
    found = compare_labels(config)
    assert found["images"] == 1
    assert found["undecided"] == pytest.approx(1 / 7)
    assert found["iou"] == pytest.approx({"background": 3 / 4, "cat": 2 / 3})
    missed = compare_labels(config.model_copy(update={"undecided": "wrong"}))
    assert missed["iou"] == pytest.approx({"background": 3 / 4, "cat": 2 / 4})
    assert missed["miou"] == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_labels_of_other_samples_are_an_error(tmp_path: Path) -> None:
    config = shards(tmp_path, [np.zeros((2, 2), np.uint8)], [None])
    with pytest.raises(ValueError, match="found none"):
        compare_labels(config)


def test_objects_are_judged_by_average_precision_and_ranked_by_confidence(tmp_path: Path) -> None:
    """Of two cats of a label the right one is the surer one; a sample whose label shows none has its own missed."""
    truth = np.zeros((8, 16), np.uint8)
    truth[2:6, 2:6] = 1
    label, sure = truth.copy(), np.where(truth == 1, 200, 255).astype(np.uint8)
    label[0:2, 10:14], sure[0:2, 10:14] = 1, 100
    cats = [Instance.of(1, (label == 1) & half) for half in (np.arange(16) > 8, np.arange(16) <= 8)]
    shown = PseudoLabel(label, sure, instances=tuple(cats))
    found = compare_labels(shards(tmp_path / "one", [truth], [shown], objects=True))
    assert found["ap50"] == pytest.approx(1)
    assert found["ap_class"] == {"cat": pytest.approx(1)}
    half = compare_labels(shards(tmp_path / "two", [truth, truth], [shown, np.zeros_like(truth)], objects=True))
    assert half["ap50"] == pytest.approx(51 / 101)
    given = PseudoLabel(label, sure, instances=(replace(cats[0], score=0.9), replace(cats[1], score=0.3)))
    assert compare_labels(shards(tmp_path / "three", [truth], [given], objects=True))["ap50"] == pytest.approx(0.5)
    for name, labels, objects in (("four", [shown], False), ("five", [label], True)):
        assert "ap" not in compare_labels(shards(tmp_path / name, [truth], labels, objects))
