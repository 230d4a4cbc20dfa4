"""Seeds that are made wrong on purpose: as many as said, inside boxes alone, and the same for the same seed."""

import numpy as np
import pytest

from benchmarks.wrong_seeds import ARMS, RATES, spoil
from maskmill.data_contracts import IGNORE
from maskmill.labelers import LabelItem
from maskmill.labelers.a2gnn import Config
from maskmill.labelers.a2gnn.boxes import PixelBox
from maskmill.labelers.a2gnn.seeds import Seeds
from maskmill.labelers.a2gnn.view import Task


def task() -> Task:
    labels = np.zeros((64, 96), np.uint8)
    labels[8:56, 8:80] = IGNORE
    labels[20:44, 16:72] = 3
    labels[8:12, 8:80] = 0
    boxes = (PixelBox(3, 8, 8, 56, 80),)
    return Task(LabelItem("a", np.zeros((64, 96, 3), np.uint8)), boxes, (3,), (3,), Seeds(labels))


@pytest.mark.parametrize("rate", RATES)
def test_as_many_seeds_are_wrong_as_said(rate: float) -> None:
    plain, spoilt = task().seeds.labels, spoil(task(), rate, 0).seeds.labels
    wrong = plain != spoilt
    inside = np.zeros(plain.shape, bool)
    inside[8:56, 8:80] = True
    share = wrong.sum() / (inside & (plain != IGNORE)).sum()
    assert rate <= share <= rate + 64 / 1632
    assert not wrong[~inside | (plain == IGNORE)].any()
    assert set(np.unique(spoilt)) <= {0, 3, IGNORE}


def test_which_seeds_depends_on_the_seed_alone() -> None:
    one, again, other = (spoil(task(), 0.2, seed).seeds.labels for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_arms_are_settings_of_the_labeler() -> None:
    for changes in ARMS.values():
        assert Config.model_validate(changes)
