"""Labeler promptable: each family against the library's own processor, model and post-processing; one class each."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from maskmill.data_contracts import Reason, check_instances
from maskmill.labelers import LabelItem, get_labeler
from maskmill.labelers.promptable import Promptable
from maskmill.vision.promptable import FAMILIES, Call, family_class
from tests.labelers.conformance import LabelerConformance, difference
from tests.labelers.model_folders import PROMPTABLE
from tests.trainers import shapes

torch.set_num_threads(1)
SIZES = ((48, 56), (90, 40), (3, 5), (7, 3), (64, 64))
BOX = (4.0, 6.0, 30.0, 28.0)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder a family, made once."""
    place = tmp_path_factory.mktemp("promptable")
    return {name: make(place / name) for name, make in PROMPTABLE.items()}


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


class PromptableConformance(LabelerConformance):
    """What every family must do, beside what every labeler does."""

    name = "promptable"
    family: ClassVar[str]
    processor: ClassVar[str]

    @pytest.fixture(scope="class")
    def engine(self, folders: dict[str, Path]) -> Promptable:
        return self.make(folders)

    def make(self, folders: dict[str, Path], **changes: Any) -> Promptable:
        settings = {"model": str(folders[self.family]), "tags": "none", **changes}
        module = get_labeler(self.name)
        made = module.load(module.Config.model_validate(settings), self.space)
        assert isinstance(made, Promptable)
        return made

    @pytest.fixture(autouse=True)
    def _settings(self, folders: dict[str, Path]) -> None:
        type(self).settings = {"model": str(folders[self.family]), "tags": "none"}

    def item(self, number: int, height: int = 48, width: int = 56) -> LabelItem:
        """Boxes of what the scene shows, and a point in the first."""
        image, mask = shapes.draw_scene(number, height, width)
        rows = []
        for class_id in (int(i) for i in np.unique(mask) if i in self.space.by_id):
            y, x = np.nonzero(mask == class_id)
            rows.append([class_id, x.min(), y.min(), x.max() + 1, y.max() + 1])
        boxes = np.array(rows, np.float32)
        points = np.array([[boxes[0][0], *((boxes[0][1:3] + boxes[0][3:5]) // 2)]], np.float32)
        return LabelItem(f"scene {number}", image, boxes=boxes, points=points)

    def library(self, engine: Promptable, image: np.ndarray, several: bool = True, **asked: Any) -> tuple[Any, Any]:
        """Masks bool (P, M, H, W) and scores (P, M) as the library's own road gives them."""
        processor = getattr(transformers, self.processor)(engine.family.processor)
        inputs = processor(images=Image.fromarray(image), return_tensors="pt", **asked)
        sizes = {k: inputs.pop(k) for k in ("original_sizes", "reshaped_input_sizes") if k in inputs}
        inputs = {k: v.float() if v.dtype == torch.float64 else v for k, v in inputs.items()}
        with torch.no_grad():
            found = engine.family.model(**inputs, multimask_output=several)
        masks = processor.post_process_masks(found.pred_masks, *sizes.values())[0]
        return masks.numpy(), found.iou_scores[0].numpy()

    @pytest.mark.parametrize("size", [(48, 56), (90, 40), (64, 64), (40, 41)])
    def test_masks_are_those_of_the_library(self, engine: Promptable, size: tuple[int, int]) -> None:
        image = photo(*size)
        corners = [[2.5, 3.0, 30.0, 28.5], [0.0, 0.0, float(size[1]), float(size[0])], [5.0, 5.0, 6.0, 6.0]]
        masks, ious = self.library(engine, image, input_boxes=[corners])
        embedding = engine.family.embed(engine.family.pixels(image)[None])[0]
        call = Call(boxes=torch.tensor(corners))
        logits, scores = engine.family.decode(embedding, call, size, several=True)
        np.testing.assert_allclose(scores.numpy(), ious, atol=1e-4)
        for number in range(len(corners)):
            for reading in range(logits.shape[1]):
                own = engine.family.restore(logits[number, reading], size).numpy() > 0
                assert own.shape == size
                assert (own != masks[number, reading]).mean() < 0.002

    def test_points_are_those_of_the_library(self, engine: Promptable) -> None:
        image, at = photo(48, 56), [[[20.0, 10.0], [3.0, 40.0]], [[50.0, 2.0], [0.0, 0.0]]]
        masks, ious = self.library(engine, image, input_points=[at], input_labels=[[[1, 0], [1, 1]]])
        call = Call(torch.tensor(at), torch.tensor([[1, 0], [1, 1]]))
        embedding = engine.family.embed(engine.family.pixels(image)[None])[0]
        logits, scores = engine.family.decode(embedding, call, (48, 56), several=True)
        np.testing.assert_allclose(scores.numpy(), ious, atol=1e-4)
        own = np.stack([[engine.family.restore(one, (48, 56)).numpy() > 0 for one in row] for row in logits])
        assert (own != masks).mean() < 0.002
        assert 0.02 < own.mean() < 0.98, "the masks say something"

    @pytest.mark.parametrize("size", [*SIZES, (1000, 17)])
    def test_coordinates_are_those_of_the_library(self, engine: Promptable, size: tuple[int, int]) -> None:
        boxes = [[0.0, 0.0, float(size[1]), float(size[0])], [0.5, 1.0, 2.0, 2.5]]
        processor = getattr(transformers, self.processor)(engine.family.processor)
        image = Image.fromarray(np.repeat(photo(*size)[:, :, :1], 3, axis=2))
        options = {"input_data_format": "channels_last"} if 3 in size or 1 in size else {}
        inputs = processor(images=image, input_boxes=[boxes], return_tensors="pt", **options)
        ours = Call(boxes=torch.tensor(boxes)).scaled(engine.family.factor(size)).boxes
        assert ours is not None
        np.testing.assert_allclose(ours.numpy(), inputs["input_boxes"][0].numpy(), atol=0.01)

    def test_prompts_of_an_image_share_a_call_and_an_embedding(
        self, engine: Promptable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        family, seen, embedded = type(engine.family), list[int](), list[int]()
        decode, embed = family.decode, family.embed

        def decoded(self: Any, embedding: Any, call: Call, size: Any, *, several: bool) -> Any:
            seen.append(len(call))
            return decode(self, embedding, call, size, several=several)

        def embedding(self: Any, pixels: torch.Tensor) -> Any:
            embedded.append(len(pixels))
            return embed(self, pixels)

        monkeypatch.setattr(family, "decode", decoded)
        monkeypatch.setattr(family, "embed", embedding)
        boxes = np.array([[1 + i % 3, i, i, i + 12, i + 9] for i in range(9)], np.float32)
        found = engine.label([LabelItem("many", photo(48, 56), boxes=boxes)])[0]
        assert (seen, embedded) == ([9], [1])
        assert found.mask is not None
        assert len(found.instances) + int((found.detail or "0 ").split()[0]) == 9

    def test_instances_fit_the_label_and_the_best_score_owns_a_pixel(self, engine: Promptable) -> None:
        found = engine.label([self.item(n) for n in range(4)])
        for one in found:
            if one.mask is None:
                continue
            assert check_instances(one.instances, one.mask, self.space) is None
            best = max(one.instances, key=lambda i: i.score or 0)
            assert best.mask is not None
            assert (one.mask[best.mask] == best.class_id).all()

    def test_batches_give_what_single_images_give(self, folders: dict[str, Path], engine: Promptable) -> None:
        items = [self.item(0), self.item(1, 90, 40), self.item(2, 40, 80), self.item(3)]
        batched = self.make(folders, batch=3).label(items)
        for a, b in zip(batched, engine.label(items), strict=True):
            assert difference(a, b) < 0.02

    def test_half_precision_is_close(self, folders: dict[str, Path], engine: Promptable) -> None:
        half, image, call = self.make(folders, precision="bf16"), photo(48, 56), Call(boxes=torch.tensor([BOX]))
        found = []
        for model in (half, engine):
            embedding = model.family.embed(model.family.pixels(image)[None])[0]
            logits, scores = model.family.decode(embedding, call, (48, 56), several=True)
            assert logits.dtype == scores.dtype == torch.float32
            found.append(logits)
        assert half.family.model.dtype == torch.bfloat16
        assert float((found[0] - found[1]).norm() / found[1].norm()) < 0.3
        assert half.label([self.item(0)])[0].mask is not None

    def test_empty_and_odd_prompts(self, engine: Promptable) -> None:
        image = photo(48, 56)
        odd = np.array(
            [[1, 5, 5, 6, 6], [2, 55, 47, 56, 48], [3, -4, -4, 9, 9], [1, 200, 5, 220, 9], [9, 0, 0, 4, 4]], np.float32
        )
        assert len(engine.prompts([LabelItem("o", image, boxes=odd)])[0]) == 3, "one lies outside, one has no class"
        found = engine.label(
            [LabelItem("o", image, boxes=odd), LabelItem("n", image), LabelItem("f", image, boxes=odd[3:])]
        )
        assert found[0].mask is not None or found[0].reason is Reason.LOW_CONFIDENCE
        assert [one.reason for one in found[1:]] == [Reason.NO_CLASSES] * 2

    @pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 2), (1, 900), (900, 1)])
    def test_tiny_and_thin_images(self, engine: Promptable, size: tuple[int, int]) -> None:
        boxes = np.array([[1, 0, 0, size[1], size[0]]], np.float32)
        found = engine.label([LabelItem("t", photo(*size), boxes=boxes)])[0]
        assert found.mask is None or found.mask.shape == size

    def test_shapes_hold_on_the_meta_device(self, engine: Promptable) -> None:
        family = type(engine.family)
        with torch.device("meta"):
            model = getattr(transformers, family.model_class)(engine.family.model.config).eval()
        shadow = family(model, engine.family.processor)
        embedding = shadow.embed(torch.zeros(2, 3, 64, 64, device="meta"))[1]
        logits, scores = shadow.decode(embedding, Call(boxes=torch.zeros(5, 4)), (48, 56), several=True)
        assert logits.device.type == "meta"
        assert tuple(scores.shape) == (5, 3)
        assert logits.shape[:2] == (5, 3)

    def test_missing_weights_are_refused(self, folders: dict[str, Path], tmp_path: Path) -> None:
        import shutil

        from safetensors.torch import load_file, save_file

        from maskmill.vision.pretrained import ModelError

        folder = Path(shutil.copytree(folders[self.family], tmp_path / "m"))
        state = load_file(folder / "model.safetensors")
        gone = next(name for name in state if "mask_decoder.iou_prediction_head" in name)
        del state[gone]
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match="1 missing"):
            family_class(folder).load(folder, "cpu", "fp32")


class TestSam(PromptableConformance):
    family = "sam"
    processor = "SamProcessor"


class TestSamHq(PromptableConformance):
    family = "sam_hq"
    processor = "SamHQProcessor"


class TestSam2(PromptableConformance):
    family = "sam2"
    processor = "Sam2Processor"


class TestEdgeTam(PromptableConformance):
    family = "edgetam"
    processor = "Sam2Processor"


class TestSam3Tracker(PromptableConformance):
    family = "sam3_tracker"
    processor = "Sam3TrackerProcessor"


def test_every_family_has_a_class_here() -> None:
    tested = {cls.family for cls in PromptableConformance.__subclasses__()}
    assert set(FAMILIES.values()) == {FAMILIES[name] for name in tested}
