"""co_saliency: conformance, whole groups, outliers, classes, refinement, and the command over folders of photos."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from maskmill.data_contracts import IGNORE, PSEUDO_LABEL, Reason, decode_mask, encode_image, list_shards, read_shard
from maskmill.labelers import LabelItem, get_labeler
from maskmill.labelers.co_saliency import Config, CoSaliency, load, stamps
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.pipelines.weak.label_photos import label_photos
from maskmill.trainers.dcfm.predict import GroupMap
from maskmill.trainers.engine import DataConfig
from tests.labelers.conformance import LabelerConformance, difference
from tests.trainers import shapes

torch.set_num_threads(1)

TINY: dict[str, Any] = {
    "encoder_weights": "random",
    "feature_levels": (1, 2, 3),
    "trained_layers": ("blocks.4",),
    "channels": 16,
    "width": 8,
    "members": 3,
    "augment": {"size": 32, "fit": "squash"},
    "steps": 1,
    "runtime": {"device": "cpu", "threads": 1, "progress": False},
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("dcfm")
    data = DataConfig(samples=(shapes.write_scenes(folder / "samples", 3, group_size=3),))
    config = TrainConfig(trainer="dcfm", label_space=shapes.SPACE, data=data, settings=TINY)
    return train(config, str(folder / "run"), str(folder / "artifact"))


class TestCoSaliency(LabelerConformance):
    name = "co_saliency"
    settings: ClassVar = {}

    @pytest.fixture(scope="class", autouse=True)
    def _settings(self, artifact: str) -> None:
        type(self).settings = {"artifact": artifact, "confidence": 0.501}


def item(number: int, group: str | None = "g", *class_ids: int) -> LabelItem:
    return LabelItem(f"{number}", shapes.draw_scene(number)[0], class_ids=class_ids, group=group)


def engine(artifact: str, **settings: Any) -> CoSaliency:
    return load(Config(artifact=artifact, **settings), shapes.SPACE)


def test_a_label_depends_on_its_group_and_on_nothing_else(artifact: str) -> None:
    labeler = engine(artifact)
    group = [item(n) for n in range(4)]
    alone = labeler.label(group)
    mixed = labeler.label([item(9, None), group[2], item(7, "other"), group[0], group[3], item(8, "other"), group[1]])
    for before, after in zip(alone, [mixed[3], mixed[6], mixed[1], mixed[4]], strict=True):
        assert difference(before, after) == 0
    parted = labeler.label(group[:2])
    assert difference(parted[0], alone[0]) > 0, "a smaller group must be able to change a label"


def test_the_class_is_the_groups_common_tag_or_the_first(artifact: str) -> None:
    labeler = engine(artifact, threshold=1e-6)
    tagged = labeler.label([item(0, "g", 2, 3), item(1, "g", 3), item(2, "h", 2), item(3, "h", 3)])
    assert [np.unique(label.mask).tolist() for label in tagged if label.mask is not None] == [[3], [3], [1], [1]]


def test_images_that_disagree_are_left_out_and_the_rest_is_asked_again(
    artifact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labeler = engine(artifact, min_agreement=0.5)
    asked: list[int] = []

    def predict(images: list[Any], config: Any) -> list[GroupMap]:
        asked.append(len(images))
        one = np.zeros(images[0].shape[:2], np.float32)
        return [GroupMap(one, 0.1 if n == 1 and len(images) == 3 else 0.9) for n in range(len(images))]

    monkeypatch.setattr(labeler.predictor, "predict_group", predict)
    found = labeler.label([item(0), item(1), item(2)])
    assert asked == [3, 2]
    assert [label.reason for label in found] == [None, Reason.LOW_CONFIDENCE, None]
    assert "expected agreement with its group of at least 0.5, found 0.10" in str(found[1].detail)


def test_too_little_object_abstains_and_unsure_pixels_stay_open(artifact: str) -> None:
    found = engine(artifact, threshold=0.999, min_area=0.5).label([item(0), item(1)])
    assert {label.reason for label in found} == {Reason.LOW_CONFIDENCE}
    banded = engine(artifact, confidence=0.9999).label([item(0), item(1)])
    assert all(label.mask is not None and (label.mask == IGNORE).all() for label in banded)


@pytest.mark.parametrize("refine", ["par", "crf"])
def test_refinement_changes_maps_and_keeps_them_shares(artifact: str, refine: str) -> None:
    plain, refined = engine(artifact), engine(artifact, refine=refine)
    share = np.linspace(0.2, 0.8, 48 * 56, dtype=np.float32).reshape(48, 56)
    found = refined._refined(item(0), share)
    assert found.shape == share.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert abs(found - plain._refined(item(0), share)).max() > 0.01


def test_only_an_artifact_of_dcfm_will_do(artifact: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train it first"):
        load(Config(artifact=str(tmp_path)), shapes.SPACE)
    with pytest.raises(ValidationError, match="artifact"):
        get_labeler("co_saliency").Config.model_validate({})
    assert len(stamps(Config(artifact=artifact))) == 2
    other = tmp_path / "other"
    shutil.copytree(artifact, other)
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"trainer": "dcfm"', '"trainer": "supervised"'))
    with pytest.raises(ValueError, match="expected an artifact of trainer dcfm, found supervised's"):
        load(Config(artifact=str(other)), shapes.SPACE)


def write_photos(root: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(shapes.draw_scene(number)[0]))


def test_the_command_takes_folders_of_folders(artifact: str, tmp_path: Path) -> None:
    names = ["dogs/1", "dogs/2", "dogs/20261123010857001", "more/cars/a", "more/cars/b", "x", "y"]
    write_photos(tmp_path / "photos", names)
    out = tmp_path / "out"
    arguments = ["label", "co-saliency", "--images", str(tmp_path / "photos"), "--out", str(out), "--model", artifact]
    done = CliRunner().invoke(app, [*arguments, "--name", "thing"])
    assert done.exit_code == 0, done.output
    assert "labelled 7 of 7" in done.output
    assert {str(p.relative_to(out / "masks"))[:-4] for p in (out / "masks").rglob("*.png")} == set(names)
    assert "from what each folder shares" in (out / "index.html").read_text()
    assert '"1": "thing"' in (out / "classes.json").read_text()
    rows = [row for path in list_shards(str(out / "labels")) for row in read_shard(path, PSEUDO_LABEL).to_pylist()]
    assert [row["detail"] for row in rows if "agreement with its group" not in row["detail"]] == []
    dogs, settings = str(tmp_path / "photos" / "dogs"), {"artifact": artifact}
    assert label_photos(dogs, str(tmp_path / "dogs"), shapes.SPACE, "co_saliency", settings, by_folder=True) == {
        "kept": 3
    }
    for name in ("1", "2", "20261123010857001"):
        found = (tmp_path / "dogs" / "masks" / f"{name}.png").read_bytes()
        whole = (out / "masks" / "dogs" / f"{name}.png").read_bytes()
        assert np.array_equal(decode_mask(found), decode_mask(whole)), "other folders must not change a folder's masks"


def test_a_folder_around_another_is_refused_where_its_photos_would_be_torn_apart(
    artifact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskmill.pipelines.weak.label_photos.SHARD_SIZE", 1)
    write_photos(tmp_path / "photos", ["a/1", "a/b/1", "a/c"])
    photos, settings = str(tmp_path / "photos"), {"artifact": artifact}
    with pytest.raises(ValueError, match="folder 'a': expected either photos or folders"):
        label_photos(photos, str(tmp_path / "out"), shapes.SPACE, "co_saliency", settings, by_folder=True)
