"""The loop of FTMU on scripted clips: templates, lost targets, states, replay, recovery, crossing."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from maskmill.trainers.ftmu import Config
from maskmill.trainers.ftmu.agent import follow
from maskmill.trainers.ftmu.clips import ClipDetections
from maskmill.trainers.ftmu.config import TrackConfig
from maskmill.trainers.ftmu.matching import Template, assign, likeness_scores, overlap_scores
from maskmill.trainers.ftmu.policies import LIKENESS, AlwaysUpdate, Constant, NeverUpdate, Policy, Threshold, drive
from maskmill.trainers.ftmu.state import NUMBERS, Moment, PatchState, SharedState, build_encoder, template_area
from maskmill.trainers.ftmu.tracker import METHODS, Outcome, Tracker
from maskmill.vision.instances import Detections
from maskmill.vision.video import MaskCrop, box_iou, mask_iou
from tests.trainers.clips import BLUE, GREEN, RED, ColourSegmenter, Square, box_of, draw

ENCODER = SharedState()


def track(
    script: Sequence[Sequence[Square]], policy: Policy, config: TrackConfig | None = None, *, keep: bool = False
) -> tuple[list[list[Outcome]], ClipDetections]:
    """Follow the first square of the first frame."""
    clip = ClipDetections([draw(squares) for squares in script], ColourSegmenter(), keep)
    boxes = np.stack([box_of(script[0][0])])
    return list(follow(clip, boxes, policy, ENCODER, config or TrackConfig())), clip


def colour(outcome: Outcome, frame: Sequence[Square]) -> str | None:
    """Which square an outcome lies on."""
    if outcome.mask is None:
        return None
    overlaps = [float(box_iou(outcome.mask.box, box_of(square)[None])[0]) for square in frame]
    return {RED: "red", BLUE: "blue", GREEN: "green"}[frame[int(np.argmax(overlaps))][3]]


def moving(frames: int = 10) -> list[list[Square]]:
    """A red square that wanders, and a blue one far off."""
    return [[(8 + t, 6 + 2 * t, 14, RED), (44, 74, 12, BLUE)] for t in range(frames)]


# --- matching


def detections(boxes: list[list[int]]) -> Detections:
    masks = []
    for x0, y0, x1, y1 in boxes:
        mask = np.zeros((40, 40), np.bool_)
        mask[y0:y1, x0:x1] = True
        mask[y0, x0] = False
        masks.append(MaskCrop.of(mask))
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32), np.full(count, 0.9, np.float32), tuple(masks), np.eye(count, 4, dtype=np.float32)
    )


def test_overlap_is_the_boxes_first_and_half_masks_later() -> None:
    found = detections([[4, 4, 14, 14], [20, 20, 30, 30], [6, 5, 18, 15]])
    image = np.zeros((40, 40, 3), np.uint8)
    template = Template(0, image, np.array([4, 4, 15, 14], np.float32))
    np.testing.assert_allclose(overlap_scores(template, found, 0.5), box_iou(template.box, found.boxes))
    with_mask = Template(0, image, template.box, found.masks[0])
    wanted = [
        0.5 * float(box_iou(template.box, box[None])[0]) + 0.5 * mask_iou(found.masks[0], mask)
        for box, mask in zip(found.boxes, found.masks, strict=True)
    ]
    np.testing.assert_allclose(overlap_scores(with_mask, found, 0.5), wanted, rtol=1e-6)
    with pytest.raises(ValueError, match="0 to 1"):
        overlap_scores(with_mask, found, 1.5)


def test_two_targets_take_one_candidate_only_when_they_are_independent() -> None:
    scores = np.array([[0.9, 0.2], [0.8, 0.1]], np.float32)
    assert assign(scores, 0.05, hungarian=False) == [0, 0]
    assert sorted(p for p in assign(scores, 0.05, hungarian=True) if p is not None) == [0, 1]
    assert assign(scores - 0.9, 0.05, hungarian=True) == [None, None]
    assert assign(np.zeros((2, 0), np.float32), 0.05, hungarian=True) == [None, None]


# --- update and keep


def test_update_replaces_the_whole_template_and_keep_changes_nothing() -> None:
    script = moving()
    clip = ClipDetections([draw(squares) for squares in script], ColourSegmenter())
    tracker = Tracker(clip, np.stack([box_of(script[0][0])]), ENCODER, TrackConfig(patience=5))
    target = tracker.tracks[0]
    before = target.template
    drive(tracker.step(1), NeverUpdate())
    assert target.template is before
    assert target.kept == 1
    outcome = drive(tracker.step(2), AlwaysUpdate())[0]
    after = target.template
    assert target.kept == 0
    assert after.frame == 2
    np.testing.assert_array_equal(after.image, clip.frames[2])
    np.testing.assert_array_equal(after.box, box_of(script[2][0]))
    assert after.mask is outcome.mask
    assert after.descriptor is not None


def test_prediction_is_put_out_whatever_the_agent_says() -> None:
    script = moving(3)
    for policy in (AlwaysUpdate(), NeverUpdate()):
        outcomes, _ = track(script, policy)
        assert [colour(o[0], f) for o, f in zip(outcomes, script, strict=True)] == ["red"] * 3


def test_only_boxes_of_the_first_frame_are_known() -> None:
    script = moving()
    clip = ClipDetections([draw(squares) for squares in script], ColourSegmenter())
    box = box_of(script[0][0])
    tracker = Tracker(clip, box[None], ENCODER, TrackConfig())
    assert tracker.tracks[0].first.mask is not None, "found by the segmenter, from the box"
    np.testing.assert_array_equal(tracker.tracks[0].template.box, box)
    blind = ColourSegmenter()
    blind.detect = lambda image, region=None: Detections.none(3)  # type: ignore[method-assign]
    lone = Tracker(ClipDetections(clip.frames, blind), box[None], ENCODER, TrackConfig())
    assert lone.tracks[0].template.mask is None, "without a detection nothing but the box is known"


# --- lost


def wholes(outcomes: list[list[Outcome]]) -> list[bool]:
    return [frame[0].whole for frame in outcomes]


def test_appearance_runs_when_the_counter_reaches_n_and_once_a_frame() -> None:
    script = moving(9)
    outcomes, clip = track(script, NeverUpdate(), TrackConfig(patience=3, after_rejection="reset"))
    assert wholes(outcomes) == [False, False, False, True, False, False, True, False, False]
    assert clip.calls["whole"] == 2
    outcomes, clip = track(script, NeverUpdate(), TrackConfig(patience=3, after_rejection="keep"))
    assert wholes(outcomes) == [False] * 3 + [True] * 6
    assert clip.calls["whole"] == 6, "the whole frame is segmented once a frame at most"
    outcomes, clip = track(script, AlwaysUpdate(), TrackConfig(patience=3))
    assert clip.calls["whole"] == 0


def test_two_lost_targets_share_one_pass() -> None:
    script = moving(5)
    clip = ClipDetections([draw(squares) for squares in script], ColourSegmenter())
    boxes = np.stack([box_of(square) for square in script[0]])
    list(follow(clip, boxes, NeverUpdate(), ENCODER, TrackConfig(patience=1)))
    assert clip.calls["whole"] == 4


def test_no_patience_is_pure_overlap_and_none_left_is_pure_appearance() -> None:
    script = moving()
    _, clip = track(script, NeverUpdate(), TrackConfig(patience=None))
    assert clip.calls["whole"] == clip.calls["embed"] == 0
    outcomes, clip = track(script, AlwaysUpdate(), TrackConfig(patience=0))
    assert clip.calls["whole"] == len(script) - 1
    assert clip.calls["region"] == 1, "the first frame's, where only the box is known"
    assert {o[0].matcher for o in outcomes[1:]} == {"appearance"}


def test_both_decisions_at_once() -> None:
    script = moving(4)
    config = TrackConfig(actions="joint")
    assert config.choices == 2 * len(METHODS)
    for action in range(config.choices):
        outcomes, clip = track(script, Constant(action), config)
        assert {(o[0].matcher, o[0].updated) for o in outcomes[1:]} == {(METHODS[action // 2], action % 2 == 0)}
        assert clip.calls["whole"] == 3 * (action >= 4)


def test_likeness_follows_colour_where_overlap_follows_place() -> None:
    here: list[list[Square]] = [[(20, 20, 16, RED), (20, 40, 16, BLUE)]]
    swapped: list[list[Square]] = [[(20, 40, 16, RED), (20, 20, 16, BLUE)] for _ in range(2)]

    script = [*here, *swapped]
    for action, wanted in ((1, "blue"), (3, "red")):
        outcomes, _ = track(script, Constant(action), TrackConfig(actions="joint"))
        assert {colour(o[0], f) for o, f in zip(outcomes[1:], swapped, strict=True)} == {wanted}


def leaving() -> list[list[Square]]:
    """Red stands beside blue, is gone for six frames, and comes back at the other side; blue drifts over its place."""
    here: list[list[Square]] = [[(20, 10, 16, RED), (20, 34, 16, BLUE)] for _ in range(4)]
    gone: list[list[Square]] = [[(20, max(34 - 6 * t, 12), 16, BLUE)] for t in range(1, 7)]
    back: list[list[Square]] = [[(40, 74, 16, RED), (20, 12, 16, BLUE)] for _ in range(6)]
    return [*here, *gone, *back]


def test_recovers_within_n_frames_where_always_updating_drifts_away() -> None:
    script, patience = leaving(), 3
    back = 10
    drifting, _ = track(script, AlwaysUpdate(), TrackConfig(patience=patience))
    assert {colour(drifting[t][0], script[t]) for t in range(back, len(script))} == {"blue"}
    rule = Threshold(0.0, LIKENESS)  # 4 cos - 3 > 0: the same colour
    found, _ = track(script, rule, TrackConfig(patience=patience, min_similarity=0.9))
    seen = [colour(found[t][0], script[t]) for t in range(back, len(script))]
    assert "red" in seen[: patience + 2]
    assert set(seen[patience + 2 :]) <= {"red"}


def test_crossing_objects_keep_their_ids_when_their_candidates_are_shared_out() -> None:
    script = [[(20, 8 + 5 * t, 14, RED), (26, 70 - 5 * t, 14, BLUE)] for t in range(12)]
    clip = ClipDetections([draw(squares) for squares in script], ColourSegmenter())
    boxes = np.stack([box_of(square) for square in script[0]])
    last = list(follow(clip, boxes, AlwaysUpdate(), ENCODER, TrackConfig()))[-1]
    assert [colour(outcome, script[-1]) for outcome in last] == ["red", "blue"]


def test_nothing_detected_is_an_empty_mask_and_no_crash() -> None:
    script: list[list[Square]] = [[(20, 10, 16, RED)], *[[] for _ in range(8)]]
    outcomes, clip = track(script, AlwaysUpdate(), TrackConfig(patience=3, search_whole_after=4))
    assert all(frame[0].mask is None for frame in outcomes[1:])
    assert clip.calls["whole"] == 2, "frames without a candidate count as keeps"


# --- states


def moments() -> tuple[Moment, Moment, Moment, Moment]:
    """A moment; the same with another mask; with another template; with other pixels outside box and mask."""
    script = moving(3)
    clip = ClipDetections([draw(squares) for squares in script], ColourSegmenter())
    tracker = Tracker(clip, np.stack([box_of(script[0][0])]), ENCODER, TrackConfig())
    target = tracker.tracks[0]
    match = tracker._by_overlap(clip.detect(1, None))[0]
    assert match is not None
    plain = Moment(1, clip.frames[1], target.template, target.first, target.last, match, None, 0, 0, False)
    smaller = copy.copy(match.mask)
    smaller = MaskCrop(smaller.top, smaller.left, smaller.pixels[: smaller.pixels.shape[0] // 2], smaller.area // 2)
    other_mask = Moment(**{**vars(plain), "match": type(match)(**{**vars(match), "mask": smaller})})
    template = match.template(1, clip.frames[1])
    other_template = Moment(**{**vars(plain), "template": type(template)(**{**vars(template), "score": 0.3})})
    painted = clip.frames[1].copy()
    painted[50:, :20] = 99
    outside = Moment(**{**vars(plain), "image": painted})
    return plain, other_mask, other_template, outside


@pytest.mark.parametrize("state", ["shared", "patches"])
def test_state_follows_mask_and_template_and_nothing_else(state: str) -> None:
    encoder = build_encoder(state, "resnet18" if state == "patches" else "", "random")
    plain, mask, template, outside = (encoder.encode([m])[0] for m in moments())
    assert plain.shape == (encoder.width,)
    assert not np.array_equal(plain, mask), "fails where the mask does not enter"
    assert not np.array_equal(plain, template), "fails where the template does not enter"
    np.testing.assert_array_equal(plain, outside)
    assert np.isfinite(plain).all()
    assert np.abs(build_encoder("shared", "", "").encode(list(moments()))).max() < 8


@pytest.mark.parametrize(("after", "calls"), [("reset", 4), ("keep", 7)])
def test_an_agent_that_says_keep_is_asked_again_after_so_many_keeps(after: str, calls: int) -> None:
    """The actor's second action is "keep": after a look over the whole frame the count begins anew, or goes on."""
    config = TrackConfig.model_validate({"patience": 2, "after_rejection": after})
    outcomes, clip = track(moving(9), Constant(1), config)
    assert clip.calls["whole"] == calls
    assert sum(frame[0].whole for frame in outcomes) == calls
    assert not any(frame[0].updated for frame in outcomes[1:])


@pytest.mark.parametrize("aligned", [True, False])
def test_overlaps_are_taken_where_the_target_was_last_only_if_asked(aligned: bool) -> None:
    """The template of the first frame is kept; the target has moved down and right, by a different way in each."""
    script = [[(8 + 3 * t, 6 + 2 * t, 14, RED), (44, 74, 12, BLUE)] for t in range(4)]
    clip = ClipDetections([draw(squares) for squares in script], ColourSegmenter())
    config = TrackConfig(aligned=aligned, patience=None)
    tracker = Tracker(clip, np.stack([box_of(script[0][0])]), ENCODER, config)
    for frame in (1, 2):
        drive(tracker.step(frame), NeverUpdate())
    assert tracker._shift(tracker.tracks[0]) == ((4, 6) if aligned else (0, 0))
    overlap = float(tracker._overlaps(clip.detect(3, None)).max())
    moved = (2, 3) if aligned else (6, 9)
    shared = (14 - moved[0]) * (14 - moved[1])
    assert overlap == pytest.approx(shared / (2 * 14 * 14 - shared), abs=0.02)


def test_before_any_mask_the_boxes_area_stands_in_for_it() -> None:
    plain = moments()[0]
    box = np.array([10, 5, 30, 25], np.float32)
    bare = Template(0, plain.image, box)
    moment = Moment(**{**vars(plain), "template": bare})
    values = dict(zip(NUMBERS, ENCODER.encode([moment])[0], strict=True))
    assert moment.match is not None
    assert values["growth"] == pytest.approx(np.log(moment.match.mask.area / 400), abs=1e-5)
    assert values["mask_overlap"] == 0


@pytest.mark.parametrize("box", [[5, -9, 20, 0], [5, -9, 20, -3], [-9, 5, 0, 20], [-9, 5, -3, 20]])
def test_a_template_outside_the_frame_shows_nothing(box: list[int]) -> None:
    image = np.full((30, 40, 3), 200, np.uint8)
    assert not template_area(Template(0, image, np.array(box, np.float32))).any()
    inside = template_area(Template(0, image, np.array([-4, 2, 6, 99], np.float32)))
    assert inside.sum() == 6 * 28


def test_a_template_goes_through_the_trunk_once() -> None:
    passes: list[int] = []

    class Trunk(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            passes.append(len(x))
            return x.mean((2, 3))

    encoder = PatchState(Trunk(), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 3)
    plain, _, template, _ = moments()
    states = encoder.encode([plain, plain, template])
    assert sum(passes) == 5, "three predictions, two templates"
    np.testing.assert_array_equal(states[0], states[1])
    again = encoder.encode([plain])
    np.testing.assert_array_equal(again[0], states[0])
    assert sum(passes) == 6


def test_published_state_has_4096_numbers() -> None:
    config = Config(preset="faithful", segmenter="none", trunk_weights="random")
    encoder = build_encoder(config.state, config.trunk, config.trunk_weights)
    assert encoder.width == 4096
    assert isinstance(encoder, PatchState)
    assert not any(p.requires_grad for p in encoder.trunk.parameters())
    assert (config.lr, config.critic_lr, config.hidden) == (1e-4, 5e-4, (2048, 512))
    assert (config.track.patience, config.track.assignment, config.batch, config.length) == (3, "independent", 20, 10)


def test_shared_state_names_its_numbers() -> None:
    values = dict(zip(NUMBERS, ENCODER.encode([moments()[0]])[0], strict=True))
    assert values["found"] == 1
    assert values["score"] == pytest.approx(0.9)
    assert values["likeness"] == pytest.approx(1, abs=1e-5)
    assert values["moved"] == pytest.approx(5**0.5 / 14, abs=1e-5), "2 right, 1 down, of 14"
    empty = Moment(**{**vars(moments()[0]), "match": None, "missed": 0.5})
    values = dict(zip(NUMBERS, ENCODER.encode([empty])[0], strict=True))
    assert (values["found"], values["missed"]) == (0, 0.5)


# --- replay, resume, cost


def same(a: list[list[Outcome]], b: list[list[Outcome]]) -> bool:
    def key(outcome: Outcome) -> tuple[object, ...]:
        mask = outcome.mask
        pixels = None if mask is None else (mask.top, mask.left, mask.pixels.tobytes())
        return pixels, outcome.score, outcome.matcher, outcome.updated, outcome.whole

    return [[key(o) for o in frame] for frame in a] == [[key(o) for o in frame] for frame in b]


def test_replay_from_stored_detections_equals_a_live_run() -> None:
    script, policy, config = leaving(), Threshold(0.0), TrackConfig(min_similarity=0.9)
    live, _ = track(script, policy, config)
    clip = ClipDetections([draw(squares) for squares in script], ColourSegmenter(), keep=True)
    boxes = np.stack([box_of(script[0][0])])
    first = list(follow(clip, boxes, policy, ENCODER, config))
    counted = clip.calls.copy()
    second = list(follow(clip, boxes, policy, ENCODER, config))
    assert same(live, first)
    assert same(first, second)
    assert clip.calls == counted, "the second walk looks everything up"


def test_going_on_from_stored_tracks_equals_an_uninterrupted_run() -> None:
    script, policy, config = leaving(), Threshold(0.0), TrackConfig(min_similarity=0.9)
    whole, clip = track(script, policy, config)
    boxes = np.stack([box_of(script[0][0])])
    begun = Tracker(clip, boxes, ENCODER, config)
    for frame in range(1, 7):
        drive(begun.step(frame), policy)
    resumed = Tracker(clip, boxes, ENCODER, config)
    resumed.tracks = begun.tracks
    rest = [drive(resumed.step(frame), policy) for frame in range(7, len(script))]
    assert same(rest, whole[7:])


def test_the_loop_looks_at_far_fewer_whole_frames_than_appearance_alone() -> None:
    script = leaving()
    _, alone = track(script, AlwaysUpdate(), TrackConfig(patience=0))
    _, loop = track(script, Threshold(0.0), TrackConfig(patience=3, min_similarity=0.9))
    assert 0 < loop.calls["whole"] < alone.calls["whole"] / 2
    assert set(loop.seconds) >= {"region", "whole", "embed"}


def test_likeness_weighs_looks_quality_and_place() -> None:
    found = detections([[4, 4, 14, 14], [20, 20, 30, 30]])
    looks = np.array([0.6, 0.8, 0, 0], np.float32)
    template = Template(0, np.zeros((40, 40, 3), np.uint8), found.boxes[0], found.masks[0], looks)
    overlaps = overlap_scores(template, found, 0.5)
    np.testing.assert_allclose(likeness_scores(template, found, overlaps), [0.9 * 0.6 * 2, 0.9 * 0.8], rtol=1e-5)
    plain = Template(0, template.image, template.box, template.mask)
    np.testing.assert_allclose(likeness_scores(plain, found, overlaps), [0.9 * 2, 0.9], rtol=1e-5)
