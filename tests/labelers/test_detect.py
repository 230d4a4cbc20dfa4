"""Labeler detect: each family against the library's own processor, model and post-processing; one class each."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image

from maskmill.data_contracts import IGNORE, LabelSpace, Reason
from maskmill.labelers import LabelItem, get_labeler
from maskmill.labelers.detect import Detector, Found
from maskmill.labelers.detect.config import Config
from maskmill.labelers.detect.families import FAMILIES, Text, family_class
from maskmill.vision.batches import Batches
from maskmill.vision.pretrained import ModelError
from tests.labelers.conformance import LabelerConformance
from tests.labelers.model_folders import DETECTORS
from tests.trainers import shapes

torch.set_num_threads(1)
library: Any = tf  # carries no types
NAMES = [shapes.SPACE.by_id[i].name for i in shapes.SPACE.ids]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder a family, made once."""
    place = tmp_path_factory.mktemp("detectors")
    return {name: make(place / name) for name, make in DETECTORS.items()}


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


class DetectorConformance(LabelerConformance):
    """What every family must do, beside what every labeler does."""

    name = "detect"
    family: ClassVar[str]
    least: ClassVar[float] = 0.5

    @pytest.fixture(scope="class")
    def engine(self, folders: dict[str, Path]) -> Detector:
        return self.make(folders)

    def make(self, folders: dict[str, Path], space: LabelSpace = shapes.SPACE, **changes: Any) -> Detector:
        module = get_labeler(self.name)
        settings = {"model": str(folders[self.family]), "threshold": self.least, **changes}
        made = module.load(module.Config.model_validate(settings), space)
        assert isinstance(made, Detector)
        return made

    @pytest.fixture(autouse=True)
    def _settings(self, folders: dict[str, Path]) -> None:
        type(self).settings = {"model": str(folders[self.family])}

    def item(self, number: int, height: int = 48, width: int = 56) -> LabelItem:
        return LabelItem(f"scene {number}", shapes.draw_scene(number, height, width)[0])

    def library(self, engine: Detector, image: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Boxes (Q, 4) in the photo's pixels and scores (Q, C) of the class names, as the library's road has them."""
        raise NotImplementedError

    @pytest.mark.parametrize("size", [(48, 56), (90, 40), (30, 80)])
    def test_boxes_and_scores_are_those_of_the_library(self, engine: Detector, size: tuple[int, int]) -> None:
        image = photo(*size)
        names = [engine.family.template.replace("{}", name) for name in NAMES]
        texts = engine.family.texts(names, engine.family.words)
        pixels = engine.family.pixels(image)[None]
        wide, high = engine.family.extent(size)
        for (step, text), (boxes, scores) in zip(texts, self.library(engine, image), strict=True):
            own, sure = engine.family.scores(pixels, text)
            assert sure.shape[-1] == len(step)
            np.testing.assert_allclose(own[0].numpy() * [wide, high, wide, high], boxes, atol=0.05)
            np.testing.assert_allclose(sure[0].numpy(), scores, atol=1e-4)

    def test_boxes_lie_in_the_photo_and_apart(self, engine: Detector) -> None:
        for item, found in zip(
            items := [self.item(0), self.item(1, 90, 40), self.item(2, 30, 80)], engine.detect(items), strict=True
        ):
            height, width = item.image.shape[:2]
            for one in found:
                x0, y0, x1, y1 = one.box
                assert 0 <= x0 < x1 <= width
                assert 0 <= y0 < y1 <= height
                assert one.score > self.least
            assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
            for a in found:
                for b in found:
                    assert a is b or a.class_id != b.class_id or iou(a, b) <= 0.5 + 1e-4

    def test_something_is_found(self, engine: Detector) -> None:
        assert sum(len(found) for found in engine.detect([self.item(n) for n in range(4)])) > 4

    def test_tags_say_what_is_looked_for(self, engine: Detector) -> None:
        tagged = LabelItem("t", self.item(0).image, class_ids=(2,))
        assert {one.class_id for one in engine.detect([tagged])[0]} <= {2}

    def test_a_label_is_boxes_without_masks(self, engine: Detector) -> None:
        item = self.item(1)
        label, found = engine.label([item])[0], engine.detect([item])[0]
        assert label.mask is not None
        assert [one.box for one in label.instances] == [one.box for one in found]
        assert all(one.runs is None for one in label.instances)
        assert set(np.unique(label.mask)) <= {0, IGNORE}
        assert np.array_equal(label.confidence, np.where(label.mask == IGNORE, 0, 255))
        row = label.row("a", "detect", "1", shapes.SPACE)
        assert [one["score"] for one in row["instances"]] == [round(one.score, 6) for one in found]

    def test_batches_give_what_single_images_give(self, folders: dict[str, Path], engine: Detector) -> None:
        items = [self.item(0), self.item(1, 90, 40), self.item(2), self.item(3), self.item(4)]
        for a, b in zip(self.make(folders, batch=3).detect(items), engine.detect(items), strict=True):
            assert [one.class_id for one in a] == [one.class_id for one in b]
            np.testing.assert_allclose([one.box for one in a], [one.box for one in b], atol=0.1)

    def test_half_precision_runs(self, folders: dict[str, Path], engine: Detector) -> None:
        half = self.make(folders, precision="bf16")
        image = photo(48, 56)
        texts = engine.family.texts(NAMES, engine.family.words)
        pixels = engine.family.pixels(image)[None]
        (boxes, scores), (_, other) = half.family.scores(pixels, texts[0][1]), engine.family.scores(pixels, texts[0][1])
        assert boxes.dtype == scores.dtype == torch.float32
        assert float((scores.amax(1) - other.amax(1)).abs().mean()) < 0.15

    def test_long_label_spaces_are_asked_in_parts(self, folders: dict[str, Path]) -> None:
        space = LabelSpace.from_names([f"{a} {b}" for a in ("red", "green", "blue") for b in ("box", "disc", "bar")])
        engine = self.make(folders, space, words=4)
        texts = engine._texts(space.ids)
        assert [i for step, _ in texts for i in step] == list(range(9))
        assert max(len(step) for step, _ in texts) <= 4
        assert all(isinstance(one, Found) for one in engine.detect([self.item(0)])[0])

    @pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 900)])
    def test_tiny_and_thin_images(self, engine: Detector, size: tuple[int, int]) -> None:
        label = engine.label([LabelItem("t", photo(*size))])[0]
        assert label.mask is None or label.mask.shape == size

    def test_nothing_found_is_an_abstention(self, folders: dict[str, Path]) -> None:
        label = self.make(folders, threshold=0.999999).label([self.item(0)])[0]
        assert label.reason is Reason.NO_CLASSES


def iou(a: Found, b: Found) -> float:
    wide = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    high = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    shared = max(wide, 0) * max(high, 0)
    areas = [(one.box[2] - one.box[0]) * (one.box[3] - one.box[1]) for one in (a, b)]
    return shared / (sum(areas) - shared)


class TestGroundingDino(DetectorConformance):
    family = "grounding-dino"

    def library(self, engine: Detector, image: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        processor = library.GroundingDinoProcessor(engine.family.processor, engine.family.tokenizer)
        inputs = processor(images=Image.fromarray(image), text=[NAMES], return_tensors="pt")
        with torch.no_grad():
            found = engine.family.model(**inputs)
        p = found.logits[0].sigmoid()
        words = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
        assert words == ["[CLS]", "red", "box", ".", "green", "disc", ".", "blue", "bar", ".", "[SEP]"]
        scores = torch.stack([p[:, [1, 2]].amax(1), p[:, [4, 5]].amax(1), p[:, [7, 8]].amax(1)], dim=1)
        (done,) = processor.post_process_grounded_object_detection(found, threshold=0, target_sizes=[image.shape[:2]])
        return [(done["boxes"].numpy(), scores.numpy())]

    def test_names_have_no_dots_and_no_capitals(self, engine: Detector) -> None:
        ((_, text),) = engine.family.texts(["Red  box.", "disc"], 9)
        words = engine.family.tokenizer.convert_ids_to_tokens(text.inputs["input_ids"][0])
        assert words == ["[CLS]", "red", "box", ".", "disc", ".", "[SEP]"]
        assert text.places == ((1, 2), (4,))

    def test_a_text_holds_what_the_model_has_room_for(self, engine: Detector) -> None:
        steps = [list(step) for step, _ in engine.family.texts(["red red red red red red"] * 5, 16)]
        assert steps == [[0, 1, 2], [3, 4]], "24 tokens: three names of six with a dot each, and two specials"
        with pytest.raises(ModelError, match="at most 24 tokens"):
            engine.family.texts(["red " * 30], 16)


class TestMmGroundingDino(TestGroundingDino):
    family = "mm-grounding-dino"
    least = 0.3


class TestOwlv2(DetectorConformance):
    family = "owlv2"
    least = 0.3

    def library(self, engine: Detector, image: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        processor = library.Owlv2Processor(engine.family.processor, engine.family.tokenizer)
        texts = [[f"a photo of a {name}" for name in NAMES]]
        options = {"padding": "max_length", "max_length": 32, "truncation": True}
        inputs = processor(images=Image.fromarray(image), text=texts, return_tensors="pt", **options)
        with torch.no_grad():
            found = engine.family.model(**inputs)
        (done,) = processor.post_process_grounded_object_detection(found, threshold=0, target_sizes=[image.shape[:2]])
        return [(done["boxes"].numpy(), found.logits[0].sigmoid().numpy())]

    def test_parts_give_what_one_text_gives(self, folders: dict[str, Path], engine: Detector) -> None:
        items = [self.item(n) for n in range(3)]
        for a, b in zip(self.make(folders, words=1).detect(items), engine.detect(items), strict=True):
            assert a
            np.testing.assert_allclose([one.score for one in a], [one.score for one in b], atol=1e-4)


class TestSam3(DetectorConformance):
    family = "sam3"
    least = 0.3

    def library(self, engine: Detector, image: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        answers = []
        processor = library.Sam3Processor(engine.family.processor, engine.family.tokenizer)
        for name in NAMES:
            inputs = processor(images=Image.fromarray(image), text=name, return_tensors="pt")
            size = inputs.pop("original_sizes").tolist()
            with torch.no_grad():
                found = engine.family.model(**inputs)
            (done,) = processor.post_process_object_detection(found, threshold=0, target_sizes=size)
            answers.append((done["boxes"].numpy(), done["scores"].numpy()[:, None]))
        return answers


def test_every_family_has_a_class_here() -> None:
    tested = {cls.family for cls in (TestGroundingDino, TestMmGroundingDino, TestOwlv2, TestSam3)}
    assert set(FAMILIES.values()) == {FAMILIES[name] for name in tested}


def test_boxes_are_chosen_cut_and_counted() -> None:
    """A photo of 50 x 60 in the corner of a square of 100: copies, padding and whatever hangs over its border."""
    stub: Any = SimpleNamespace(threshold=0.3, same_boxes=False)
    shown = [[0, 0, 0.2, 0.2], [0, 0, 0.2, 0.21], [0.4, 0.3, 0.9, 0.8], [0.7, 0.1, 0.9, 0.3], [0.3, 0, 0.4, 0.1]]
    scores = torch.tensor([0.8, 0.9, 0.7, 0.95, 0.2])[:, None]
    answers = [(torch.tensor(shown), scores, torch.tensor([2]))]

    def chosen(**changes: Any) -> list[tuple[float, ...]]:
        engine = Detector(Config(model="m", **changes), shapes.SPACE, stub, Batches(1, "m"))
        return [tuple(round(v) for v in one.box) for one in engine._chosen(answers, (100.0, 100.0), (50, 60))]

    assert chosen() == [(0, 0, 20, 21), (40, 30, 60, 50)]
    assert chosen(most=1) == [(0, 0, 20, 21)]
    assert len(chosen(nms=1.0, threshold=0.1)) == 4


def test_another_model_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"boxes from class names \(grounding-dino.*found 'bert'"):
        family_class(tmp_path)


def test_a_text_is_repeated_for_each_image() -> None:
    from maskmill.labelers.detect.families.base import _repeated

    assert _repeated(Text({"a": torch.zeros(2, 3)}).inputs["a"], 4).shape == (8, 3)
