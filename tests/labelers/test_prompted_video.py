"""Labeler prompted_video: each family against the library's own streaming, bounded memory, clips in any order."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from typer.testing import CliRunner

from maskmill.data_contracts import LabelSpace, Reason, check_instances
from maskmill.labelers import LabelItem, get_labeler
from maskmill.labelers.prompted_video import PromptedVideo
from maskmill.labelers.prompted_video.sessions import FAMILIES, restore
from maskmill.pipelines.cli.label import app
from maskmill.vision.pretrained import ModelError
from tests.labelers.conformance import LabelerConformance, difference
from tests.labelers.model_folders import VIDEO, sam2
from tests.trainers import shapes

library: Any = transformers  # carries no types
torch.set_num_threads(1)
SIZE = (48, 56)
BOXES = ((1, 5, 5, 30, 30), (2, 20, 10, 50, 40))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder a family, made once."""
    place = tmp_path_factory.mktemp("video")
    return {name: make(place / name) for name, make in VIDEO.items()}


def clip(frames: int, group: str = "a", first: int = 0) -> list[LabelItem]:
    """Frames of one clip; the boxes lie in frame `first`."""
    boxes = np.array(BOXES, np.float32)
    return [
        LabelItem(
            f"{group}{index}",
            shapes.draw_scene(index)[0],
            boxes=boxes if index == first else boxes[:0],
            group=group,
            index=index,
        )
        for index in range(frames)
    ]


class VideoConformance(LabelerConformance):
    """What every family must do, beside what every labeler does."""

    name = "prompted_video"
    family: ClassVar[str]
    processor: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _settings(self, folders: dict[str, Path]) -> None:
        type(self).settings = {"model": str(folders[self.family])}

    @pytest.fixture(scope="class")
    def engine(self, folders: dict[str, Path]) -> PromptedVideo:
        return self.make(folders)

    def make(self, folders: dict[str, Path], space: LabelSpace = shapes.SPACE, **changes: Any) -> PromptedVideo:
        module = get_labeler(self.name)
        made = module.load(module.Config.model_validate({"model": str(folders[self.family]), **changes}), space)
        assert isinstance(made, PromptedVideo)
        return made

    def item(self, number: int, height: int = 48, width: int = 56) -> LabelItem:
        boxes = np.array([[1 + number % 3, 6, 6, 30, 32]], np.float32)
        return LabelItem(f"scene {number}", shapes.draw_scene(number, height, width)[0], boxes=boxes)

    def test_frames_are_those_of_the_librarys_streaming(self, engine: PromptedVideo) -> None:
        """Longer than the memory reaches back: what is dropped on the way is read by nobody."""
        images = [item.image for item in clip(9)]
        video = library.Sam2VideoVideoProcessor(size={"height": 64, "width": 64})
        processor = getattr(library, self.processor)(engine.video.processor, video)
        state = processor.init_video_session(inference_device="cpu", dtype=torch.float32)
        ours = engine.video.start(engine_prompts(engine), SIZE)
        for number, image in enumerate(images):
            inputs = processor(images=Image.fromarray(image), return_tensors="pt")
            if number == 0:
                corners = [[[float(v) for v in row[1:]] for row in BOXES]]
                given = {"input_boxes": corners, "original_size": SIZE, "obj_ids": [0, 1]}
                processor.add_inputs_to_inference_session(state, frame_idx=0, **given)
            with torch.no_grad():
                theirs = engine.video.model(inference_session=state, frame=inputs["pixel_values"][0])
            (masks,) = processor.post_process_masks([theirs.pred_masks], [list(SIZE)], binarize=False)
            logits, scores = ours.step(engine.video.pixels(image))
            own = torch.stack([restore(one, SIZE) for one in logits])
            np.testing.assert_allclose(own.numpy(), masks[:, 0].numpy(), atol=1e-3, rtol=1e-4)
            sure = theirs.object_score_logits.sigmoid().flatten().numpy()
            np.testing.assert_allclose(scores, sure, atol=1e-5)
        assert len(images) > engine.video.reach + 3

    def test_memory_does_not_grow_with_the_clip(self, engine: PromptedVideo) -> None:
        session, held = engine.video.start(engine_prompts(engine), SIZE), []
        for item in clip(12):
            session.step(engine.video.pixels(item.image))
            held.append(sum(t.numel() for t in tensors(vars(session.state))))
        assert held[11] == held[8], "no more after twelve frames than after nine"
        assert not session.state.processed_frames

    def test_objects_are_followed_and_fit_their_labels(self, engine: PromptedVideo) -> None:
        found = engine.label(clip(6))
        shown = [one for one in found if one.mask is not None]
        assert len(shown) >= 3
        for one in shown:
            assert one.mask is not None
            assert check_instances(one.instances, one.mask, self.space) is None

    def test_clips_come_in_any_order(self, engine: PromptedVideo) -> None:
        first, second = clip(4), clip(3, "b")
        mixed = [second[2], first[3], first[0], second[0], first[2], second[1], first[1]]
        found = dict(zip([item.sample_id for item in mixed], engine.label(mixed), strict=True))
        for item, own in zip([*first, *second], [*engine.label(first), *engine.label(second)], strict=True):
            assert difference(found[item.sample_id], own) == 0

    def test_a_frame_knows_nothing_of_those_after_it(self, engine: PromptedVideo) -> None:
        for short, long in zip(engine.label(clip(3)), engine.label(clip(6)), strict=False):
            assert difference(short, long) == 0

    def test_it_begins_where_the_first_prompt_is(self, engine: PromptedVideo) -> None:
        found = engine.label(clip(4, first=2))
        assert [one.reason for one in found[:2]] == [Reason.NO_CLASSES] * 2
        assert "before the first frame" in (found[0].detail or "")
        nothing = engine.label(clip(2, first=9))
        assert [one.reason for one in nothing] == [Reason.NO_CLASSES] * 2

    def test_too_few_objects_are_no_label(self, folders: dict[str, Path]) -> None:
        none = self.make(folders, min_score=0.999999).label(clip(2))
        assert [one.reason for one in none] == [Reason.LOW_CONFIDENCE] * 2
        assert none[0].detail == "0 of 2 objects found"

    def test_half_precision_runs(self, folders: dict[str, Path]) -> None:
        found = self.make(folders, precision="bf16").label(clip(3))
        assert any(one.mask is not None for one in found)


class TestSam2Video(VideoConformance):
    family = "sam2_video"
    processor = "Sam2VideoProcessor"

    def test_points_are_prompts_too(self, engine: PromptedVideo) -> None:
        first = LabelItem("p", shapes.draw_scene(0)[0], points=np.array([[1, 20, 20], [0, 3, 3]], np.float32))
        assert engine.label([first])[0].reason in (None, Reason.LOW_CONFIDENCE)

    def test_the_command_takes_a_model_in_place_of_an_agent(self, folders: dict[str, Path], tmp_path: Path) -> None:
        (tmp_path / "clip").mkdir()
        for index, item in enumerate(clip(3)):
            Image.fromarray(item.image).save(tmp_path / "clip" / f"{index}.png")
        (tmp_path / "boxes.json").write_text('[{"name": "box", "box": [5, 5, 30, 30]}]')
        words = ["video", "--clip", str(tmp_path / "clip"), "--boxes", str(tmp_path / "boxes.json")]
        words += ["--out", str(tmp_path / "o")]
        done = CliRunner().invoke(app, [*words, "--model", str(folders[self.family])])
        assert done.exit_code == 0, done.output
        assert len(list((tmp_path / "o" / "masks").glob("*.png"))) == 3
        assert CliRunner().invoke(app, words).exit_code == 2, "neither a model nor an agent"

    def test_a_model_of_single_images_is_refused(self, tmp_path: Path) -> None:
        module = get_labeler("prompted_video")
        with pytest.raises(ModelError, match="clips from a first frame"):
            module.load(module.Config.model_validate({"model": str(sam2(tmp_path / "m"))}), shapes.SPACE)


class TestEdgeTamVideo(VideoConformance):
    family = "edgetam_video"
    processor = "Sam2VideoProcessor"


class TestSam3TrackerVideo(VideoConformance):
    family = "sam3_tracker_video"
    processor = "Sam3TrackerVideoProcessor"


def engine_prompts(engine: PromptedVideo) -> Any:
    from maskmill.labelers.promptable.prompts import item_prompts

    return item_prompts(clip(1)[0], engine.space)


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors inside of dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [one for part in inner for one in tensors(part)]


def test_every_family_has_a_class_here() -> None:
    tested = {cls.family for cls in VideoConformance.__subclasses__()}
    assert set(FAMILIES.values()) == {FAMILIES[name] for name in tested}
