"""The proposals trainer: conformance, which cell answers for what, losses, decoding, and that it learns."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from maskmill.data_contracts import SAMPLE, Uint8Array
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import IMAGENET_MEAN, IMAGENET_STD, DataConfig, Samples
from maskmill.trainers.proposals.losses import assign, generalised_iou, mask_quality, score_loss
from maskmill.trainers.proposals.train import freeze
from maskmill.trainers.proposals.views import CropConfig, PairSource, draw_crop
from maskmill.trainers.registry import load_artifact
from maskmill.vision.instances import (
    DetectConfig,
    Detections,
    MaskRcnn,
    ProposalConfig,
    ProposalNet,
    Proposals,
    ProposalSegmenter,
    decode,
    load_mask_rcnn,
)
from maskmill.vision.video import Region, box_iou, mask_iou
from tests.trainers import shapes
from tests.trainers.conformance import TrainerConformance

torch.set_num_threads(1)
NETWORK = {"encoder": "lcnet_035", "weights": "random", "width": 16, "prototypes": 4, "descriptor": 8}
SMALL: dict[str, Any] = {
    "network": NETWORK,
    "crops": {"side": 32},
    "detect": {"side": 64, "full_side": 64, "patch": 32, "min_score": 0.0, "least": 1},
}


class TestProposals(TrainerConformance):
    name = "proposals"
    settings: ClassVar = SMALL

    def check_prediction(self, predictor: Any, images: list[Uint8Array]) -> list[np.ndarray[Any, Any]]:
        found = []
        for image in images:
            height, width = image.shape[:2]
            whole, part = predictor.detect(image), predictor.detect(image, Region(4, 4, height - 8, width - 8))
            for detections in (whole, part):
                check(detections, (height, width))
            assert all(m.top >= 4 and m.left >= 4 for m in part.masks)
            vectors = predictor.embed(image, np.array([[2, 2, 20, 20], [5, 8, 30, 31]], np.float32))
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
            found.append(np.concatenate([whole.scores, vectors.ravel()]))
        return found


def check(found: Detections, size: tuple[int, int]) -> None:
    """Shapes, order, and that everything lies in the frame."""
    count = len(found)
    assert found.boxes.shape == (count, 4)
    assert found.scores.shape == (count,)
    assert found.descriptors.shape[0] == count
    assert list(found.scores) == sorted(found.scores, reverse=True)
    for box, mask in zip(found.boxes, found.masks, strict=True):
        np.testing.assert_array_equal(box, mask.box)
        assert mask.area == mask.pixels.sum() > 0
        assert box[0] >= 0
        assert box[1] >= 0
        assert box[2] <= size[1]
        assert box[3] <= size[0]


def test_cells_answer_for_the_object_around_them() -> None:
    boxes = torch.tensor([[[0, 0, 64, 64], [32, 32, 48, 48], [0, 0, 0, 0]]], dtype=torch.float32)
    shown = torch.tensor([[True, True, False]])
    slots = assign(boxes, shown, 4, 4)[0].reshape(4, 4)
    assert slots[2, 2] == 1, "where boxes share a cell the smaller wins"
    assert slots[1, 1] == 0
    assert slots[0, 0] == -1, "corners answer for nothing"
    wide = torch.tensor([[[0, 0, 64, 16]]], dtype=torch.float32)  # the first row of cells
    claimed = (assign(wide, torch.tensor([[True]]), 4, 4) == 0).reshape(4, 4)
    assert claimed.nonzero().tolist() == [[0, 1], [0, 2]]
    tiny = torch.tensor([[[1, 1, 3, 3]]], dtype=torch.float32)
    assert (assign(tiny, torch.tensor([[True]]), 4, 4) == 0).sum() == 1, "an object smaller than a cell has one"


def test_box_overlap_loss_and_mask_quality_of_hand_made_cases() -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    b = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    torch.testing.assert_close(generalised_iou(a, b), torch.tensor([1.0, -100 / 300]))
    flat = torch.tensor([[0.0, 0, 20, 4]])
    assert float(generalised_iou(flat, flat)) == 1
    logits, truth = torch.full((1, 4, 4), -5.0), torch.zeros(1, 4, 4)
    logits[:, :, :2], truth[:, :, 1:3] = 5, 1
    assert mask_quality(logits, truth, torch.ones(1, 4, 4)).item() == pytest.approx(4 / 12)
    sure = score_loss(torch.tensor([[9.0, -9.0]]), torch.tensor([[1.0, 0.0]]), 1)
    wrong = score_loss(torch.tensor([[-9.0, 9.0]]), torch.tensor([[1.0, 0.0]]), 1)
    assert sure < 1e-6 < wrong


def test_crops_lie_in_the_frame_and_show_the_centre() -> None:
    rng = np.random.default_rng(0)
    box = np.array([30, 10, 60, 50], np.float32)
    for _ in range(50):
        top, left, height, width = draw_crop(box, (64, 96), CropConfig(), rng)
        assert 0 <= top <= top + height <= 64
        assert 0 <= left <= left + width <= 96
        assert left < 45 < left + width
        assert top < 30 < top + height


def test_pairs_show_one_object_twice_with_its_mask(tmp_path: Path) -> None:
    folder = shapes.write_scenes(tmp_path / "clips", 6, group_size=3)
    samples = Samples.open(DataConfig(samples=(folder,)), str(tmp_path / "cache"))
    source = PairSource(samples, CropConfig(side=64), IMAGENET_MEAN, IMAGENET_STD, 2, 0, 0)
    batch = source(3)
    assert batch["image"].shape == (4, 3, 64, 64)
    assert batch["objects"].shape == (4, 6, 16, 16)
    assert batch["shown"][:, 0].all()
    for shares, box in zip(batch["objects"][:, 0], batch["boxes"][:, 0], strict=True):
        rows, columns = np.nonzero(shares.numpy() > 0.5)
        assert columns.min() * 4 >= box[0] - 4
        assert (columns.max() + 1) * 4 <= box[2] + 4
        assert rows.min() * 4 >= box[1] - 4
        assert (rows.max() + 1) * 4 <= box[3] + 4
    again = source(3)
    assert torch.equal(batch["image"], again["image"])


def test_frozen_stages_have_no_gradient() -> None:
    net = ProposalNet(ProposalConfig(weights="random"))
    freeze(net.encoder, 2)
    trained = [name for name, p in net.encoder.named_parameters() if p.requires_grad]
    assert trained
    assert not any(name.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1")) for name in trained)


def planted(height: int = 8, width: int = 10) -> Proposals:
    """Two prototypes, a left and a right half; two cells that take one each, one cell that repeats the first."""
    prototypes = torch.full((1, 2, height * 4, width * 4), -6.0)
    prototypes[0, 0, :, : width * 2], prototypes[0, 1, :, width * 2 :] = 6.0, 6.0
    scores, coefficients = torch.full((1, height, width), -9.0), torch.zeros(1, 2, height, width)
    for row, column, proto, score in ((4, 2, 0, 2.0), (4, 7, 1, 1.0), (4, 3, 0, 0.5)):
        scores[0, row, column], coefficients[0, proto, row, column] = score, 1.0
    reach = torch.full((1, 4, height, width), 24.0)
    reach[0, 0, 4, 3], reach[0, 2, 4, 3] = 40.0, 8.0  # the same box from the next cell
    return Proposals(scores, reach, coefficients, prototypes, torch.randn(1, 5, height, width))


def test_decoding_cuts_masks_by_boxes_drops_copies_and_maps_back_to_the_frame() -> None:
    region = Region(10, 20, 64, 80)  # half of the input's 128 x 160
    found = decode(planted(), (128, 160), region, DetectConfig(margin=0.0, same=0.7))
    check(found, (100, 120))
    assert len(found) == 2, "the third is a near-copy of the first"
    left, right = np.array([28, 34, 52, 58], np.float32), np.array([68, 34, 92, 58], np.float32)
    assert box_iou(left, found.boxes)[0] > 0.7
    assert box_iou(right, found.boxes)[1] > 0.7
    assert mask_iou(*found.masks) == 0
    padded = decode(planted(), (128, 100), region, DetectConfig(margin=0.0))
    assert len(padded) == 1, "cells of the padding propose nothing"


def test_a_detection_does_not_depend_on_what_was_asked_before() -> None:
    torch.manual_seed(0)
    config = DetectConfig(side=64, full_side=64, min_score=0.0, least=1)
    net = ProposalNet(ProposalConfig.model_validate(NETWORK))
    segmenter = ProposalSegmenter(net, config, IMAGENET_MEAN, IMAGENET_STD, "x", torch.device("cpu"))
    image, other = shapes.draw_scene(1)[0], shapes.draw_scene(2, 90, 40)[0]
    first = segmenter.detect(image, Region(0, 0, 40, 40))
    segmenter.detect(other)
    again = segmenter.detect(image, Region(0, 0, 40, 40))
    np.testing.assert_array_equal(first.scores, again.scores)
    np.testing.assert_array_equal(first.descriptors, again.descriptors)


def test_learns_to_find_the_shapes(tmp_path: Path) -> None:
    rows = [shapes.sample_row(number) for number in range(6)]
    folder = shapes.write_rows(tmp_path / "samples", rows, SAMPLE)
    settings = {
        **SMALL,
        "network": {**NETWORK, "width": 32},
        "crops": {"side": 64, "grow": (0.5, 1.0), "shift": 0.1, "colours": {"flip": 0.0}},
        "encoder_lr_factor": 1.0,
        "frozen_stages": 0,
        "steps": 60,
        "batch": 6,
        "lr": 5e-3,
        "precision": "fp32",
        "runtime": {"threads": 1, "progress": False, "device": "cpu"},
    }
    config = TrainConfig(
        trainer="proposals", label_space=shapes.SPACE, data=DataConfig(samples=(folder,)), settings=settings
    )
    segmenter = load_artifact(train(config, str(tmp_path / "run"), str(tmp_path / "artifact")), "cpu")
    best = []
    for number in range(6):
        image, mask = shapes.draw_scene(number)
        found = segmenter.detect(image)
        for class_id in {int(i) for i in np.unique(mask)} - {0, 255}:
            rows_, columns = np.nonzero(mask == class_id)
            box = np.array([columns.min(), rows_.min(), columns.max() + 1, rows_.max() + 1], np.float32)
            best.append(float(box_iou(box, found.boxes).max(initial=0.0)))
    assert np.mean(best) > 0.4, best


def test_mask_rcnn_answers_as_the_others_do() -> None:
    class Fake(torch.nn.Module):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            masks = torch.zeros(2, 1, *images[0].shape[1:])
            masks[0, 0, 5:15, 6:20] = 0.9
            return [{"masks": masks, "scores": torch.tensor([0.8, 0.7]), "boxes": torch.zeros(2, 4)}]

    found = MaskRcnn(Fake(), "fake").detect(np.zeros((60, 70, 3), np.uint8), Region(10, 10, 40, 50))
    check(found, (60, 70))
    assert found.boxes.tolist() == [[16, 15, 30, 25]], "the empty mask is dropped, the other is moved to the frame"
    with pytest.raises(ValueError, match="expected one of maskrcnn_resnet50_fpn"):
        load_mask_rcnn("maskrcnn")


def test_a_crop_costs_less_than_the_frame_and_mask_rcnn_takes_a_folder(tmp_path: Path) -> None:
    """A crop is seen at twice the frame's scale, and never larger than the frame."""
    sizes: list[tuple[int, ...]] = []

    class Fake(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transform = SimpleNamespace(min_size=(800,), max_size=1333)

        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            sizes.append(self.transform.min_size)
            empty = torch.zeros(0, 1, *images[0].shape[1:])
            return [{"masks": empty, "scores": torch.zeros(0), "boxes": torch.zeros(0, 4)}]

    segmenter = MaskRcnn(Fake(), "fake")
    frame = np.zeros((400, 600, 3), np.uint8)
    for region in (None, Region(0, 0, 80, 80), Region(0, 0, 300, 350), Region(0, 0, 400, 600)):
        segmenter.detect(frame, region)
    assert sizes == [(800,), (320,), (800,), (800,)]
    assert segmenter.model.transform.min_size == (800,)  # type: ignore[union-attr]

    model = load_mask_rcnn("maskrcnn_resnet50_fpn", "random").model
    torch.save(model.state_dict(), tmp_path / "maskrcnn_resnet50_fpn_coco.pth")
    again = load_mask_rcnn("maskrcnn_resnet50_fpn", str(tmp_path))
    assert again.fingerprint == load_mask_rcnn("maskrcnn_resnet50_fpn", str(next(tmp_path.iterdir()))).fingerprint
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.model.parameters(), strict=True))
