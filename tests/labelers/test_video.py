"""The video labeler: conformance, clips in any order, several objects apart, and when it abstains."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from maskmill.data_contracts import LabelSpace
from maskmill.labelers import LabelItem
from maskmill.labelers.video import Config, VideoLabeler
from maskmill.trainers.ftmu import Config as AgentConfig
from maskmill.trainers.ftmu.agent import Agent
from maskmill.trainers.ftmu.policies import Head
from maskmill.trainers.ftmu.state import NUMBERS
from tests.labelers.conformance import LabelerConformance
from tests.trainers import shapes
from tests.trainers.clips import BLUE, RED, ColourSegmenter, Square, box_of, draw
from tests.trainers.test_ftmu import run, segmenter

__all__ = ["segmenter"]  # a fixture
SPACE = LabelSpace.from_names(["red", "blue"])
torch.set_num_threads(1)


class TestVideo(LabelerConformance):
    name = "video"

    @pytest.fixture(autouse=True, scope="class")
    def _with_agent(self, segmenter: str, tmp_path_factory: pytest.TempPathFactory) -> None:
        settings: ClassVar[dict[str, Any]] = {"agent": run(tmp_path_factory.mktemp("agent"), segmenter)}
        type(self).settings = settings

    def item(self, number: int, height: int = 48, width: int = 56) -> LabelItem:
        image, _ = shapes.draw_scene(number, height, width)
        boxes = np.array([[1 + number % 3, 6, 6, 30, 32]], np.float32)
        return LabelItem(f"scene {number}", image, boxes=boxes, group=f"clip {number}", index=0)


def labeler(**settings: Any) -> VideoLabeler:
    """An agent that has learnt nothing, over the segmenter that finds every colour."""
    config = AgentConfig(segmenter="colours")
    agent = Agent(config, Head(len(NUMBERS), (4,), 2), Head(len(NUMBERS), (4,), 1), "colours")
    agent.__dict__["segmenter"] = ColourSegmenter()
    return VideoLabeler(Config(agent="none", policy="always_update", **settings), SPACE, agent)


def script(frames: int = 6) -> list[list[Square]]:
    return [[(20, 8 + 5 * t, 14, RED), (26, 70 - 5 * t, 14, BLUE)] for t in range(frames)]


def items(squares: list[list[Square]], group: str = "a", first: int = 0) -> list[LabelItem]:
    found = []
    for index, frame in enumerate(squares):
        boxes = np.array([[i + 1, *box_of(s)] for i, s in enumerate(frame)], np.float32)
        empty = np.zeros((0, 5), np.float32)
        boxes = boxes if index == first else empty
        found.append(LabelItem(f"{group}{index}", draw(frame), boxes=boxes, group=group, index=index))
    return found


def test_objects_that_cross_keep_their_ids_and_never_overlap() -> None:
    clip = script(12)
    for label, frame in zip(labeler().label(items(clip)), clip, strict=True):
        assert label.mask is not None
        assert len(label.instances) <= 2
        total = sum(instance.mask.astype(int) for instance in label.instances)
        assert np.max(total) <= 1
        for instance in label.instances:
            np.testing.assert_array_equal(label.mask == instance.class_id, instance.mask)
        red = label.mask == 1
        top, left, side, _ = frame[0]
        assert red[top : top + 4, left : left + side].mean() > 0.9


def test_clips_are_told_apart_and_put_in_order() -> None:
    one, other = items(script(), "a"), items(script()[::-1], "b")
    mixed = [item for pair in zip(one, other, strict=True) for item in pair][::-1]
    found = dict(zip([item.sample_id for item in mixed], labeler().label(mixed), strict=True))
    for clip in (one, other):
        for item, alone in zip(clip, labeler().label(clip), strict=True):
            again = found[item.sample_id]
            assert again.mask is not None
            assert alone.mask is not None
            np.testing.assert_array_equal(again.mask, alone.mask)


def test_abstains_before_the_first_box_without_boxes_and_where_nothing_is_found() -> None:
    late = labeler().label(items(script(), first=2))
    assert [label.mask is None for label in late] == [True, True, False, False, False, False]
    assert late[0].detail == "before the first frame that has a box"
    none = labeler().label(items(script(), first=99))
    assert all(label.reason == "no_classes" for label in none)
    gone: list[list[Square]] = [*script(2), [], []]
    assert [label.reason for label in labeler().label(items(gone))] == [None, None, "low_confidence", "low_confidence"]
    unknown = items(script())
    unknown[0].boxes[0, 0] = 7
    assert "unknown classes [7]" in str(labeler().label(unknown)[0].detail)
