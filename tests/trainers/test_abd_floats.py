"""Grey values of more than 8 bits, from a file of floats through samples, views, training and prediction."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from maskmill.data_contracts import ContractError, decode_image, load_label_space, read_shard
from maskmill.data_contracts.images import decode_floats, encode_floats, encode_image
from maskmill.data_contracts.schemas import SAMPLE
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.volumes import to_grey
from maskmill.pipelines.ingest.volumes_h5 import H5Source
from maskmill.pipelines.stages.evaluate_volumes import VolumesConfig, evaluate_volumes
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.abd.config import Config
from maskmill.trainers.abd.predict import AbdPredictor
from maskmill.trainers.abd.views import TwoViews
from maskmill.trainers.engine import DataConfig, Samples

ACDC = load_label_space("acdc")
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
UNET = {"architecture": "ssl4mis_unet", "weights": "random"}


def slices(patient: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(3, 32, 32) in 0..1, fine steps within a few values of 8 bits."""
    ramp = np.linspace(0.2, 0.21, 32 * 32).reshape(32, 32)
    return np.stack([ramp + 0.1 * number + 0.01 * patient for number in range(3)]).astype(np.float32)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("deep")
    for patient in (1, 2):
        label = np.zeros((3, 32, 32), np.uint8)
        label[:, 8:20, 8:24] = patient
        with h5py.File(folder / f"patient00{patient}.h5", "w") as file:
            file["image"], file["label"] = slices(patient), label
    source = H5Source(root=str(folder), slice_axis=0, deep=True)
    out = folder / "out"
    list(map_units(ingest_stage(source, ACDC), ingest_units(source, str(out), shard_size=8)))
    return str(out / "samples")


def opened(samples: str, folder: Path, **settings: Any) -> Samples:
    return Samples.open(DataConfig(samples=(samples,)), str(folder), **settings)


def test_a_source_keeps_floats_and_eight_bits_are_read_as_ever(samples: str, tmp_path: Path) -> None:
    found = opened(samples, tmp_path)
    deep = replace(found, floats=True)
    for position, info in enumerate(found.infos):
        wanted = slices(int(str(info.group)[-1]))[int(info.index or 0)]
        floats = deep.example(position).image
        assert floats.dtype == np.float32
        assert floats.shape == (32, 32, 3)
        np.testing.assert_allclose(floats[..., 2] / 255, wanted, atol=1e-7)
        bytes_ = found.example(position).image
        assert bytes_.dtype == np.uint8
        np.testing.assert_allclose(bytes_[..., 0] / 255, wanted, atol=1 / 250)
    assert to_grey(slices(1), (0.2, 0.21), "x", deep=True).dtype == np.float32
    assert to_grey(slices(1), (0.0, 2.0), "x", deep=True).max() == pytest.approx(float(slices(1).max()) / 2)


def test_images_of_other_depths_as_floats() -> None:
    grey = np.array([[0, 0.125, 1]], np.float32)
    assert decode_floats(encode_floats(grey))[0, :, 1].tolist() == [0, 31.875, 255]
    assert decode_image(encode_floats(grey[:, :2]))[0, :, 2].tolist() == [0, 32], "1 is white for all"
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 1, 65535]], np.uint16)).save(buffer, format="PNG")
    np.testing.assert_allclose(decode_floats(buffer.getvalue())[0, :, 1], [0, 1 / 257, 255], rtol=1e-6)
    colours = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(decode_floats(encode_image(colours)), colours.astype(np.float32))
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0.5, -3.0]], np.float32)).save(buffer, format="TIFF")
    with pytest.raises(ContractError, match="8 or 16 bits, or shares"):
        decode_floats(buffer.getvalue())


@pytest.mark.parametrize("geometry", ["augment", "released"])
def test_views_are_not_rounded(samples: str, tmp_path: Path, geometry: str) -> None:
    """Neither the weak view nor the strong one, wherever its hole is."""
    found = replace(opened(samples, tmp_path), floats=True)
    augment = {"size": 32, "fit": "native", "scale": (1.0, 1.0), "flip": 0.0}
    config = Config.model_validate({"augment": augment, "geometry": geometry, "cutout": 1.0})
    view = TwoViews(config, *PLAIN, 0, with_mask=True)
    values = np.unique(found.example(0).image / np.float32(255))
    rng = np.random.default_rng(3)
    item = view(found.example(0), rng)
    weak, strong, hole = item["weak"].numpy(), item["strong"].numpy(), item["hole"].numpy()
    assert np.isin(weak[:, weak[0] > 0], values).all()
    assert len(np.unique(weak)) > 500
    assert len(np.unique(strong[0][~hole])) > 250, "brightness and contrast go without steps, too"
    assert hole.any()
    assert strong[0][hole].max() > strong[0][~hole].max()


def test_trained_and_tested_on_floats(samples: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the artifact's own word; one of bytes is asked with bytes."""
    runtime = {"threads": 1, "progress": False, "device": "cpu"}
    seen: list[np.dtype[Any]] = []
    predict = AbdPredictor.predict

    def asked(self: AbdPredictor, images: Any, config: Any = None) -> Any:
        seen.extend(image.dtype for image in images)
        return predict(self, images, config)

    monkeypatch.setattr(AbdPredictor, "predict", asked)
    for floats in (True, False):
        settings = {
            "host": "supervised",
            "network": UNET,
            "augment": {"size": 32, "fit": "squash"},
            "steps": 1,
            "batch": 2,
            "precision": "fp32",
            "float_images": floats,
            "test_zoom": "nearest" if floats else "smooth",
            "runtime": runtime,
        }
        data = DataConfig(samples=(samples,))
        config = TrainConfig(trainer="abd", label_space=ACDC, data=data, val=data, settings=settings)
        path = train(config, str(tmp_path / f"{floats}/run"), str(tmp_path / f"{floats}/artifact"))
        assert (np.dtype(np.float32) in seen) == floats, "validation"
        seen.clear()
        assert evaluate_volumes(VolumesConfig(artifact=path, samples=samples, device="cpu"))["volumes"] == 2
        assert len(seen) == 6
        assert set(seen) == {np.dtype(np.float32 if floats else np.uint8)}
        seen.clear()


def test_rows_of_deep_samples_hold_floats(samples: str) -> None:
    (path,) = Path(samples).glob("*.parquet")
    for row in read_shard(str(path), SAMPLE, ["image"]).to_pylist():
        assert Image.open(io.BytesIO(row["image"]["bytes"])).mode == "F"
