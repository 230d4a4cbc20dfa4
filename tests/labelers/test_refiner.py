"""One refiner behind any labeler: what it changes, what it leaves, and whose hash it is part of."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maskmill.data_contracts import FOR_HASH, IGNORE, Instance, LabelSpace, Reason, check_instances
from maskmill.labelers import LABELERS, Labeler, LabelItem, PseudoLabel, get_labeler, labeler_stamps
from maskmill.labelers import refiner as refiners
from maskmill.labelers.refiner import Refined, with_refiner
from maskmill.labelers.refiner_options import RefinerConfig
from maskmill.vision.batches import Batches
from maskmill.vision.promptable import Call, load_family
from maskmill.vision.promptable.ask import GPU_BATCH, Question, ask, batches_of
from maskmill.vision.promptable.readings import best_reading
from tests.labelers.model_folders import sam, sam2
from tests.trainers import shapes

torch.set_num_threads(1)
SPACE = LabelSpace.from_names(["red", "blue"])


class Fixed(Labeler):
    """Answers what it was given."""

    def __init__(self, *labels: PseudoLabel) -> None:
        self.labels = labels

    def label(self, items: Any) -> list[PseudoLabel]:
        return list(self.labels)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("refiner")
    return {"sam": sam(place / "sam"), "sam2": sam2(place / "sam2")}


def square(height: int = 40, width: int = 56) -> tuple[np.ndarray, np.ndarray]:
    """A red square on green, and its mask."""
    mask = np.zeros((height, width), np.uint8)
    mask[10:30, 14:40] = 1
    image = np.where(mask[..., None] == 1, np.array([200, 30, 30]), np.array([30, 160, 40])).astype(np.uint8)
    return image, mask


def shrunk(mask: np.ndarray) -> PseudoLabel:
    """The mask with its right half forgotten, half sure."""
    own = mask.copy()
    own[:, 27:] = 0
    return PseudoLabel(own, np.full(mask.shape, 150, np.uint8), instances=(Instance.of(1, own == 1, score=0.5),))


@pytest.mark.parametrize("kind", ["crf", "par"])
def test_colours_pull_a_mask_to_its_object(kind: str) -> None:
    image, mask = square()
    ragged = mask.copy()
    ragged[12:28, 36:46] = 1  # spills over the edge
    label = PseudoLabel(ragged, np.full(mask.shape, 160, np.uint8), instances=(Instance.of(1, ragged == 1),))
    engine = with_refiner(Fixed(label), RefinerConfig.model_validate(kind), SPACE)
    (found,) = engine.label([LabelItem("a", image)])
    assert found.mask is not None
    assert (found.mask != mask).mean() < (ragged != mask).mean() / 4
    assert check_instances(found.instances, found.mask, SPACE) is None
    (one,) = found.instances
    assert one.mask is not None
    assert np.array_equal(one.mask, found.mask == 1)


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_an_object_is_what_the_model_says_of_its_box_and_peak(folders: dict[str, Path], family: str) -> None:
    image, _ = shapes.draw_scene(3, 40, 56)
    own = square()[1] == 1
    model = load_family(folders[family], torch.device("cpu"), "fp32")
    config = RefinerConfig(kind="promptable", model=str(folders[family]), agreement=0)
    label = PseudoLabel(own.astype(np.uint8), np.full(own.shape, 255, np.uint8))
    (found,) = with_refiner(Fixed(label), config, SPACE).label([LabelItem("a", image)])
    y, x = np.nonzero(own)
    box = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32)
    peak = np.array([refiners._peak(own)], np.float32)
    (asked,) = ask(model, [Question(image, box, peak)], 1)
    expected = (asked.restored(asked.found[0].logits) > 0).numpy()
    assert found.mask is not None
    assert np.array_equal(found.mask == 1, expected)
    assert expected.any()
    assert found.instances[0].score == pytest.approx(asked.found[0].score, abs=1e-6)
    assert found.detail == "1 of 1 objects redrawn"


def test_what_the_model_takes_for_something_else_stays(folders: dict[str, Path]) -> None:
    image, mask = square()
    label = shrunk(mask)
    config = RefinerConfig(kind="promptable", model=str(folders["sam2"]), agreement=1)
    (found,) = with_refiner(Fixed(label), config, SPACE).label([LabelItem("a", image)])
    assert label.mask is not None
    assert found.mask is not None
    assert np.array_equal(found.mask, label.mask)
    assert found.detail == "0 of 1 objects redrawn"
    assert [one.score for one in found.instances] == [0.5]


def test_undecided_pixels_and_crumbs_stay(folders: dict[str, Path]) -> None:
    image, mask = square()
    own = mask.copy()
    own[0:4] = IGNORE
    own[38, 2:5] = 2
    config = RefinerConfig(kind="promptable", model=str(folders["sam2"]), agreement=1)
    (found,) = with_refiner(Fixed(PseudoLabel(own, np.full(own.shape, 99, np.uint8))), config, SPACE).label(
        [LabelItem("a", image)]
    )
    assert found.mask is not None
    assert np.array_equal(found.mask, own)
    assert found.detail == "0 of 1 objects redrawn", "a crumb is no object"


def test_a_point_on_the_thing_is_asked_with_its_box(folders: dict[str, Path]) -> None:
    image, mask = square()
    model, size = load_family(folders["sam2"], torch.device("cpu"), "fp32"), (40, 56)
    box, peak = np.array([[14, 10, 40, 30]], np.float32), np.array([refiners._peak(mask == 1)], np.float32)
    assert 23 <= peak[0, 0] <= 30
    assert 19 <= peak[0, 1] <= 20
    call = Call(torch.from_numpy(peak)[:, None], torch.ones(1, 1, dtype=torch.int64), torch.from_numpy(box))
    logits, ious = model.decode(model.embed(model.pixels(image)[None])[0], call, size, several=True)
    chosen, _ = best_reading(logits, ious, model.real(logits, size), 1.0)
    torch.testing.assert_close(ask(model, [Question(image, box, peak)], 1)[0].found[0].logits, chosen[0])


def test_shares_are_as_sure_as_the_label() -> None:
    mask, sure = np.array([[0, 1, IGNORE]], np.uint8), np.array([[255, 204, 9]], np.uint8)
    shares = refiners._shares(mask, sure, np.array([0, 1], np.uint8))
    np.testing.assert_allclose(shares[:, 0], [[1, 0.2, 0.5], [0, 0.8, 0.5]], atol=1e-6)


@pytest.mark.parametrize("kind", ["crf", "par"])
def test_an_abstention_and_an_empty_mask_pass(kind: str) -> None:
    image, mask = square()
    nothing = PseudoLabel(np.zeros_like(mask), np.full(mask.shape, 255, np.uint8))
    without = PseudoLabel.abstain(Reason.NO_CLASSES, "none")
    engine = with_refiner(Fixed(nothing, without), RefinerConfig.model_validate(kind), SPACE)
    assert engine.label([LabelItem("a", image), LabelItem("b", image)]) == [nothing, without]


def test_a_space_without_background_keeps_its_undecided_pixels() -> None:
    space = LabelSpace.from_names(["red", "blue"]).model_copy(update={"background_id": None})
    image, mask = square()
    own = np.where(mask == 1, 1, IGNORE).astype(np.uint8)
    engine = Refined(Fixed(PseudoLabel(own, np.full(own.shape, 200, np.uint8))), RefinerConfig(kind="crf"), space)
    (found,) = engine.label([LabelItem("a", image)])
    assert found.mask is not None
    assert set(np.unique(found.mask)) == {1, IGNORE}


def test_photos_are_embedded_together_and_none_depends_on_its_companions(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = square()[1]
    images = [shapes.draw_scene(number, 40, 56 + 4 * number)[0] for number in range(4)]
    masks = [np.pad(mask, [(0, 0), (0, image.shape[1] - mask.shape[1])]) for image in images]
    crumb = np.zeros((40, 56), np.uint8)
    crumb[3, 3] = 1  # too small for an object
    labels = [PseudoLabel(one, np.full(one.shape, 255, np.uint8)) for one in (*masks, crumb)]
    config = RefinerConfig(kind="promptable", model=str(folders["sam2"]), agreement=0)
    given: list[int] = []
    family = type(load_family(folders["sam2"], torch.device("cpu"), "fp32"))
    embed = family.embed
    monkeypatch.setattr(family, "embed", lambda self, pixels: given.append(len(pixels)) or embed(self, pixels))

    def refined(*places: int) -> list[PseudoLabel]:
        engine = with_refiner(Fixed(*(labels[p] for p in places)), config, SPACE)
        assert isinstance(engine, Refined)
        three = replace(engine, batches=Batches(3, "sam2"))
        return three.label([LabelItem(str(p), [*images, images[0]][p]) for p in places])

    together = refined(0, 1, 2, 3, 4)
    assert given == [3, 3], "full batches, and none for a photo without objects"
    assert together[4] is labels[4]
    for place in range(4):
        (alone,) = refined(place)
        assert alone.mask is not None
        assert together[place].mask is not None
        assert np.array_equal(alone.mask, together[place].mask)
        assert np.array_equal(alone.confidence, together[place].confidence)
        assert [one.row() for one in alone.instances] == [one.row() for one in together[place].instances]


def test_a_cpu_asks_photo_by_photo_and_a_gpu_in_batches(folders: dict[str, Path]) -> None:
    family = load_family(folders["sam2"], torch.device("cpu"), "fp32")
    assert batches_of(family).size == 1
    on_gpu = SimpleNamespace(device=torch.device("cuda"))
    assert batches_of(on_gpu).size == GPU_BATCH  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(LABELERS))
def test_a_labeler_without_a_refiner_hashes_as_before(name: str) -> None:
    needed = {"model": "m", "artifact": "a", "support": "s", "class_name": "c", "agent": "g"}
    kind = get_labeler(name).Config
    given = {
        key: value for key, value in needed.items() if key in kind.model_fields and kind.model_fields[key].is_required()
    }
    config = kind.model_validate(given)
    assert "refiner" not in config.model_dump(mode="json", context=FOR_HASH)
    assert "refiner" in config.model_copy(update={"refiner": RefinerConfig(kind="par")}).model_dump(
        mode="json", context=FOR_HASH
    )


def test_a_refiner_stamps_its_version_and_weights(folders: dict[str, Path]) -> None:
    config = get_labeler("clip_cam").Config
    plain = labeler_stamps("clip_cam", config())
    refined = {"kind": "promptable", "model": str(folders["sam2"])}
    more = labeler_stamps("clip_cam", config.model_validate({"refiner": refined}))
    assert more[: len(plain)] == plain
    assert len(more) == len(plain) + 2


def test_a_model_is_asked_for_where_one_is_needed() -> None:
    with pytest.raises(ValueError, match="expected `model`, a folder or hub id"):
        RefinerConfig.model_validate("promptable")


def test_an_inner_labeler_takes_no_refiner() -> None:
    with pytest.raises(ValueError, match=r"cam\.refiner: only the outer labeler's masks are refined"):
        get_labeler("promptable").Config.model_validate({"model": "m", "cam": {"refiner": "crf"}})
