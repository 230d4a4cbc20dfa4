"""Files of weights that would run code are refused by every loader of single files, and the code does not run."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from maskmill.trainers.ftmu.state import build_encoder as build_state
from maskmill.vision.clip.backbone import load_clip
from maskmill.vision.instances import load_mask_rcnn
from maskmill.vision.model_folders import UnsafeModelError
from maskmill.vision.segmenters import SegmenterConfig, build_segmenter
from maskmill.vision.weight_files import read_safetensors
from maskmill.vision.weights import WeightsError, read_state

LOADERS: dict[str, Callable[[str], object]] = {
    "state": read_state,
    "safetensors": read_safetensors,
    "Mask R-CNN": lambda path: load_mask_rcnn("maskrcnn_resnet50_fpn", path),
    "segmenter": lambda path: build_segmenter(SegmenterConfig(weights=path), 3),
    "trunk": lambda path: build_state("patches", "test_vit", path),
    "clip": lambda path: load_clip("RN50", path),
}


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("form", ["torch", "plain"])
def test_a_file_with_code_is_refused(tmp_path: Path, loader: str, form: str) -> None:
    path, mark = tmp_path / "weights.pt", tmp_path / "ran"
    if form == "torch":
        torch.save({"weight": Payload(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Payload(mark)}))
    with pytest.raises(ValueError, match=r"weights\.pt.*(safetensors|tensors)"):
        LOADERS[loader](str(path))
    assert not mark.exists()


def test_tensors_alone_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    assert read_state(str(tmp_path / "w.pt"))["a"].tolist() == [1, 1]
    torch.save([1, 2], tmp_path / "x.pt")
    with pytest.raises(ValueError, match="weights by name"):
        read_state(str(tmp_path / "x.pt"))
    torch.save({"a": Payload(tmp_path / "ran")}, tmp_path / "y.pt")
    with pytest.raises(UnsafeModelError, match="run code"):
        read_state(str(tmp_path / "y.pt"))


def test_a_folder_with_one_weight_file_is_that_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="one weight file in this folder, found none"):
        read_state(str(tmp_path))
    (tmp_path / "readme.txt").write_text("of other kinds there may be any")
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth")
    assert read_state(str(tmp_path))["a"].tolist() == [1, 1]
    torch.save({"a": torch.ones(2)}, tmp_path / "v.pth")
    with pytest.raises(WeightsError, match=r"found v\.pth, w\.pth"):
        read_state(str(tmp_path))
