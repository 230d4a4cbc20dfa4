"""The ftmu trainer: conformance on clips, first-frame boxes alone, and artifacts that belong to their segmenter."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from maskmill.data_contracts import SAMPLE, Uint8Array, content_id, encode_image, encode_mask
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, Samples
from maskmill.trainers.ftmu import Config
from maskmill.trainers.ftmu.agent import follow
from maskmill.trainers.ftmu.clips import ClipDetections
from maskmill.trainers.ftmu.config import TrackConfig
from maskmill.trainers.ftmu.matching import make_match
from maskmill.trainers.ftmu.policies import AlwaysUpdate, Head
from maskmill.trainers.ftmu.rollout import Episode, TrueClip, open_clips, overlap_with_truth, walk
from maskmill.trainers.ftmu.state import SharedState
from maskmill.trainers.ftmu.train import begin_near_the_best
from maskmill.trainers.registry import load_artifact
from maskmill.vision.video import MaskCrop, RegionConfig
from tests.trainers import shapes
from tests.trainers.clips import BLUE, GREEN, RED, ColourSegmenter, box_of, draw
from tests.trainers.conformance import TrainerConformance
from tests.trainers.test_proposals import SMALL as PROPOSALS

torch.set_num_threads(1)


def clip_rows(clips: int = 2, frames: int = 4, fill_first: bool = False) -> list[shapes.Row]:
    """Clips of a green disc that moves; `fill_first` replaces the first frame's mask by its filled box."""
    rows: list[shapes.Row] = []
    for clip in range(clips):
        for frame in range(frames):
            image, mask = np.full((48, 56, 3), 60 + clip, np.uint8), np.zeros((48, 56), np.uint8)
            y, x = np.mgrid[:48, :56]
            disc = (y - 20 - frame) ** 2 + (x - 16 - 3 * frame) ** 2 < 90
            image[disc], mask[disc] = shapes.COLOURS[2], 2
            if fill_first and frame == 0:
                ys, xs = np.nonzero(disc)
                mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = 2
            data, truth = encode_image(image), encode_mask(mask)
            rows.append(
                {
                    "sample_id": content_id(data, truth, str(clip), str(frame)),
                    "image": {"bytes": data, "path": None},
                    "mask": {"bytes": truth, "path": None},
                    "height": 48,
                    "width": 56,
                    "class_ids": [2],
                    "group": f"clip {clip}",
                    "index": frame,
                    "provenance": {"source": "drawn"},
                }
            )
    return rows


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A proposal segmenter after two steps."""
    folder = tmp_path_factory.mktemp("segmenter")
    data = DataConfig(samples=(shapes.write_rows(folder / "samples", clip_rows(), SAMPLE),))
    settings = {
        **PROPOSALS,
        "steps": 2,
        "batch": 2,
        "precision": "fp32",
        "runtime": {"progress": False, "device": "cpu"},
    }
    config = TrainConfig(trainer="proposals", label_space=shapes.SPACE, data=data, settings=settings)
    return train(config, str(folder / "run"), str(folder / "artifact"))


class TestFtmu(TrainerConformance):
    name = "ftmu"
    settings: ClassVar[dict[str, Any]] = {"length": 4, "hidden": (8,), "lr": 0.05}

    @pytest.fixture(autouse=True, scope="class")
    def _with_segmenter(self, segmenter: str) -> None:
        type(self).settings = {**self.settings, "segmenter": segmenter}

    def write_data(self, folder: Path, shards: int) -> DataConfig:
        return DataConfig(samples=(shapes.write_rows(folder / "samples", clip_rows(), SAMPLE, shards),))

    def check_prediction(self, predictor: Any, images: list[Uint8Array]) -> list[np.ndarray[Any, Any]]:
        found = []
        for image in images:
            height, width = image.shape[:2]
            boxes = np.array([[4, 4, 30, 30]], np.float32)
            frames = list(predictor.track([image, image], boxes))
            assert len(frames) == 2
            assert all(len(frame) == 1 for frame in frames)
            masks = [o.mask.paste((height, width)) for frame in frames for o in frame if o.mask is not None]
            found.append(np.array([masks[-1].sum() if masks else 0.0, len(masks)], np.float64))
        return found


def test_the_first_frames_mask_does_not_leak(tmp_path: Path) -> None:
    masks = []
    for fill in (False, True):
        folder = shapes.write_rows(tmp_path / str(fill), clip_rows(1, 4, fill), SAMPLE)
        samples = Samples.open(DataConfig(samples=(folder,)), str(tmp_path / "cache"))
        clip = open_clips(samples, ColourSegmenter(), 0)["clip 0"]
        episode = Episode(clip, 0, 4, tuple(clip.objects(0)))
        walked = walk([episode], AlwaysUpdate().act, SharedState(), Config(segmenter="x").track, Config(segmenter="x"))
        assert walked.trajectories[0].frames == [1, 2, 3]
        masks.append((walked.j, [state.tolist() for state in walked.trajectories[0].states]))
    assert masks[0] == masks[1]


def test_exploration_begins_near_the_best_single_action(tmp_path: Path) -> None:
    folder = shapes.write_rows(tmp_path / "clips", clip_rows(1, 4), SAMPLE)
    samples = Samples.open(DataConfig(samples=(folder,)), str(tmp_path / "cache"))
    config = Config(segmenter="x", warm_start=2.5)
    actor = Head(SharedState.width, (4,), config.track.choices)
    before = actor.layers[-1].bias.detach().clone()
    begin_near_the_best(actor, open_clips(samples, ColourSegmenter(), 0), SharedState(), config)
    raised = actor.layers[-1].bias.detach() - before
    assert sorted(raised.tolist()) == pytest.approx([0, 0, 0, 0, 0, 2.5], abs=1e-6)
    assert not raised[4:].any(), "never an action that costs a whole frame"


def test_an_absent_object_is_found_by_finding_nothing() -> None:
    none, some = MaskCrop.of(np.zeros((8, 8), np.bool_)), MaskCrop.of(np.ones((8, 8), np.bool_))
    assert overlap_with_truth(None, none, None) == 1.0
    assert overlap_with_truth(none, none, None) == 1.0
    assert overlap_with_truth(some, none, None) == 0.0
    assert overlap_with_truth(None, some, None) == 0.0
    void = np.zeros((8, 8), np.bool_)
    void[:4] = True
    half = np.zeros((8, 8), np.bool_)
    half[4:] = True
    assert overlap_with_truth(MaskCrop.of(half), some, void) == 1.0


def test_objects_of_48_pixels_are_followed_and_smaller_ones_not() -> None:
    labels = np.zeros((20, 20), np.uint8)
    for number, count in ((1, 48), (2, 47), (3, 100), (255, 100)):
        labels.flat[np.flatnonzero(labels == 0)[:count]] = number
    clip = SimpleNamespace(labels=lambda frame: labels, background=0)
    assert TrueClip.objects(clip, 0) == [1, 3]  # type: ignore[arg-type]


def test_candidates_above_half_of_the_best_are_its_rivals() -> None:
    squares = [(10 * n, 10 * n, 8, colour) for n, colour in enumerate((RED, BLUE, GREEN))]
    found = ColourSegmenter().detect(draw(squares))
    match = make_match(found, np.array([0.9, 0.4, 0.5], np.float32), 0)
    assert (match.rivals, match.margin) == (1, pytest.approx(0.4))


def test_the_first_region_is_the_small_one_and_one_lost_object_widens_the_next_to_the_frame() -> None:
    both = [(8, 6, 14, RED), (8, 24, 12, BLUE)]
    frames = [draw(both), draw(both), *[draw(both[:1])] * 5]
    segmenter = ColourSegmenter()
    config = TrackConfig(region=RegionConfig(snap=False, first=0.1), search_whole_after=3, patience=None)
    boxes = np.stack([box_of(square) for square in both])
    outcomes = list(follow(ClipDetections(frames, segmenter), boxes, AlwaysUpdate(), SharedState(), config))
    widths = [96 if region is None else region.width for region in segmenter.regions]
    assert widths[0] < widths[1] < 96
    assert max(widths[:5]) < 96, "up to the third miss"
    assert widths[5:] == [96, 96]
    assert all(frame[0].mask is not None for frame in outcomes)
    assert outcomes[-1][1].mask is None


def run(tmp_path: Path, segmenter: str, **settings: Any) -> str:
    data = DataConfig(samples=(shapes.write_rows(tmp_path / "samples", clip_rows(), SAMPLE),))
    given = {
        "segmenter": segmenter,
        "steps": 2,
        "batch": 2,
        "length": 4,
        "hidden": (8,),
        "precision": "fp32",
        **settings,
    }
    given["runtime"] = {"progress": False, "device": "cpu", "log_every": 1}
    config = TrainConfig(trainer="ftmu", label_space=shapes.SPACE, data=data, val=data, settings=given)
    return train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))


def test_rates_are_logged_and_collapse_is_reported(tmp_path: Path, segmenter: str) -> None:
    path = run(tmp_path, segmenter, track={"actions": "joint"}, warm_start=0.0)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert {"j", "updates", "whole", "entropy", "policy", "value"} <= line.keys()
    assert 0 < line["whole"] < 1, "a share of frames and objects"
    metrics = json.loads((Path(path) / "metrics.json").read_text())
    assert {"j", "update_rate", "whole_rate", "collapsed"} <= metrics.keys()
    assert metrics["train"].keys() == {"j", "update_rate", "whole_rate", "collapsed"}


def test_an_agent_refuses_another_segmenter(tmp_path: Path, segmenter: str) -> None:
    path = run(tmp_path, segmenter)
    config = Path(path) / "config.json"
    config.write_text(config.read_text().replace(load_artifact(segmenter, "cpu").fingerprint, "another"))
    with pytest.raises(ValueError, match="which the agent was trained with"):
        _ = load_artifact(path, "cpu").segmenter


def test_stills_are_refused(tmp_path: Path, segmenter: str) -> None:
    data = DataConfig(samples=(shapes.write_scenes(tmp_path / "scenes", 3),))
    config = TrainConfig(trainer="ftmu", label_space=shapes.SPACE, data=data, settings={"segmenter": segmenter})
    with pytest.raises(ValueError, match="expected clips"):
        train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
