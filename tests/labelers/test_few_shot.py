"""few_shot: conformance with and without a trained network, supports, the threshold, abstention, and the command."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from typer.testing import CliRunner

from maskmill.data_contracts import LabelSpace, Reason, Uint8Array, encode_image, encode_mask
from maskmill.labelers import LabelItem, get_labeler
from maskmill.labelers.few_shot.labeler import FewShot, TrainedEngine, best_threshold, centred
from maskmill.labelers.few_shot.support import Exemplar, read_supports, support_stamp
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig
from tests.labelers.conformance import LabelerConformance
from tests.trainers import shapes
from tests.trainers.test_few_shot import SMALL

PRIORS = SMALL["priors"]
LOOSE = {"par_iterations": 2, "min_share": 0.0, "min_peak": 0.0}
TINY: dict[str, Any] = {"class_name": "green disc", "priors": PRIORS, **LOOSE}


def write_support(folder: Path, numbers: tuple[int, ...] = (3, 5), class_id: int = 2) -> str:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        image, mask = shapes.draw_scene(number)
        (folder / "images" / f"{number}.png").write_bytes(encode_image(image))
        (folder / "masks" / f"{number}.png").write_bytes(
            encode_mask(np.where(mask == class_id, 255, 0).astype(np.uint8))
        )
    return str(folder)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("trained")
    data = DataConfig(samples=(shapes.write_scenes(folder / "samples", 8),))
    runtime = {"threads": 1, "progress": False, "device": "cpu"}
    settings = {**SMALL, "steps": 2, "batch": 2, "scl": True, "precision": "fp32", "runtime": runtime}
    config = TrainConfig(trainer="few_shot", label_space=shapes.SPACE, data=data, settings=settings)
    return train(config, str(folder / "run"), str(folder / "artifact"))


class TestTrainingFree(LabelerConformance):
    name = "few_shot"
    settings: ClassVar = TINY

    @pytest.fixture(scope="class", autouse=True)
    def supported(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        type(self).settings = {**TINY, "support": write_support(tmp_path_factory.mktemp("support"))}

    def test_the_map_follows_the_supports(self, tmp_path: Path) -> None:
        """Supports of another class give another map of the same image."""
        image = shapes.draw_scene(4, 64, 64)[0]
        other = {**self.settings, "support": write_support(tmp_path, (1, 2), 1)}
        discs, boxes = (map_of(image, settings) for settings in (self.settings, other))
        assert np.abs(discs - boxes).max() > 0.05


class TestTrained(LabelerConformance):
    name = "few_shot"
    settings: ClassVar = {}

    @pytest.fixture(scope="class", autouse=True)
    def supported(self, artifact: str, tmp_path_factory: pytest.TempPathFactory) -> None:
        support = write_support(tmp_path_factory.mktemp("support"))
        type(self).settings = {**TINY, "support": support, "artifact": artifact}

    def test_the_network_decides(self) -> None:
        module = get_labeler("few_shot")
        labeler = module.load(module.Config.model_validate(self.settings), shapes.SPACE)
        assert isinstance(labeler, FewShot)
        assert isinstance(labeler.engine, TrainedEngine)


def map_of(image: Uint8Array, settings: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    module = get_labeler("few_shot")
    labeler = module.load(module.Config.model_validate(settings), shapes.SPACE)
    assert isinstance(labeler, FewShot)
    found = labeler.engine.map(image)
    assert found is not None
    return found


def test_supports_are_pairs_and_their_files_count(tmp_path: Path) -> None:
    folder = write_support(tmp_path / "a")
    found = read_supports(folder)
    assert [e.name for e in found] == ["3", "5"]
    assert all(set(np.unique(e.mask).tolist()) == {0, 1} for e in found), "white is the class in a black and white mask"
    stamp = support_stamp(folder)
    write_support(tmp_path / "a", (7,))
    assert support_stamp(folder) != stamp
    ids = np.zeros((48, 56), np.uint8)
    ids[:9], ids[-1] = 7, 255
    (tmp_path / "a" / "masks" / "3.png").write_bytes(encode_mask(ids))
    assert set(np.unique(read_supports(folder)[0].mask).tolist()) == {0, 1, 255}, "beside other ids, 255 is ignore"


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: (f / "masks" / "3.png").unlink(), FileNotFoundError, "expected its mask"),
        (lambda f: (f / "masks" / "3.png").write_bytes(encode_mask(np.zeros((48, 56), np.uint8))), ValueError, "none"),
        (lambda f: (f / "masks" / "3.png").write_bytes(encode_mask(np.ones((8, 8), np.uint8))), ValueError, "size"),
    ],
)
def test_broken_supports_are_said(tmp_path: Path, spoil: Any, error: type[Exception], message: str) -> None:
    write_support(tmp_path)
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        read_supports(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="expected folders images/ and masks/"):
        read_supports(str(tmp_path / "nowhere"))


def test_a_class_that_the_space_lacks(tmp_path: Path) -> None:
    module = get_labeler("few_shot")
    config = module.Config.model_validate({**TINY, "support": write_support(tmp_path)})
    with pytest.raises(ValueError, match="add it to the label space"):
        module.load(config, LabelSpace.from_names(["zebra"]))


def test_a_threshold_becomes_one_half() -> None:
    map_ = np.array([[0.0, 0.3, 0.6, 0.8, 1.0]], np.float32)
    np.testing.assert_allclose(centred(map_, 0.6), [[0.0, 0.25, 0.5, 0.75, 1.0]], atol=1e-6)


def test_the_threshold_is_tried_on_the_other_supports() -> None:
    """A map that is right from 0.7 on; a lone support has nothing to try it on."""
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15] = 1
    map_ = np.where(mask == 1, 0.8, 0.6).astype(np.float32)
    supports = [Exemplar(str(n), np.zeros((20, 20, 3), np.uint8), mask) for n in range(3)]
    seen: list[int] = []

    def map_of(image: Uint8Array, shots: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
        seen.append(len(shots))
        return map_

    assert 0.6 < best_threshold(map_of, supports, [None] * 3, 0.65) <= 0.8  # type: ignore[list-item]
    assert seen == [2, 2, 2]
    assert best_threshold(map_of, supports[:1], [None], 0.4) == 0.4  # type: ignore[list-item]


@pytest.mark.parametrize("limit", ["min_share", "min_peak"])
def test_photos_without_the_class_are_left_out(tmp_path: Path, limit: str) -> None:
    module = get_labeler("few_shot")
    config = module.Config.model_validate({**TINY, "support": write_support(tmp_path), limit: 0.999})
    found = module.load(config, shapes.SPACE).label([LabelItem("a", shapes.draw_scene(0)[0])])[0]
    assert found.reason is Reason.NO_CLASSES
    assert "green disc" in str(found.detail)


def test_the_command_writes_masks_and_a_page(tmp_path: Path) -> None:
    support = write_support(tmp_path / "support")
    (tmp_path / "photos").mkdir()
    for number in (10, 11):
        (tmp_path / "photos" / f"{number}.png").write_bytes(encode_image(shapes.draw_scene(number)[0]))
    priors = f"priors={{model: {PRIORS['model']}, match_side: 64, text_side: 64}}"
    options = [part for pair in (priors, "min_share=0", "min_peak=0") for part in ("--set", pair)]
    where = ["--support", support, "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["label", "few-shot", *where, "--class", "green disc", *options])
    assert result.exit_code == 0, result.output
    assert "labelled 2 of 2" in result.output
    assert {p.name for p in (tmp_path / "out" / "masks").iterdir()} == {"10.png", "11.png"}
    assert (tmp_path / "out" / "index.html").is_file()
    missing = CliRunner().invoke(app, ["label", "few-shot", *where[2:], "--support", "nowhere", "--class", "x"])
    assert missing.exit_code != 0
    assert "images/ and masks/" in missing.output.replace("\n", " ")
