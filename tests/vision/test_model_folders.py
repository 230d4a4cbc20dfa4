"""Model folders that bring code are refused by every loader, before a library opens them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from maskmill.generators.loading import resolve_model
from maskmill.vision.clip.backbone import load_clip
from maskmill.vision.model_folders import UnsafeModelError, check_model_folder
from maskmill.vision.starter import starter_path

TINY = Path(__file__).parents[1] / "data" / "tiny_clip"
FILES = {
    "modeling_x.py": b"raise SystemExit",
    "unet/pipeline.py": b"raise SystemExit",
    "open_clip_pytorch_model.bin": b"\x80\x04.",
    "weights.PKL": b"\x80\x04.",
    "unet/model.ckpt": b"\x80\x04.",
    "lib.so": b"\x7fELF",
    "config.json": json.dumps({"auto_map": {"AutoModel": "x.Y"}}).encode(),
    "unet/config.json": json.dumps({"a": [{"auto_map": {"AutoModel": "x.Y"}}]}).encode(),
    "tokenizer_config.json": json.dumps({"trust_remote_code": True}).encode(),
}


LOADERS: dict[str, Callable[[str], object]] = {
    "clip": load_clip,
    "diffusers": resolve_model,
    "check": lambda folder: check_model_folder(Path(folder)),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("loader", LOADERS)
def test_a_folder_that_brings_code_is_refused(tmp_path: Path, name: str, loader: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(FILES[name])
    with pytest.raises(UnsafeModelError, match=name.rpartition("/")[2]):
        LOADERS[loader](str(folder))


@pytest.mark.parametrize("name", ["clip", "generator"])
def test_the_models_that_ship_are_weights_and_settings(name: str) -> None:
    check_model_folder(Path(starter_path(name)))
